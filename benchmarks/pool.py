"""Shapes drawn at random, measured clean on this machine's CPU: candidates for the learning curve.

    python -m benchmarks.pool --out DIR --seconds 230 --visits 4      # a piece
    python -m benchmarks.pool --out DIR --seconds 460 --visits 8      # goes on where that ended

Of each kind ``COUNT`` operators in bfloat16, every dimension drawn by itself, log-uniform over the
ranges of the sweep's domains (``calib.measure.sweep.domains``), domains by their shares: what
sampling at random means. Each is visited as often as asked, passes over all of them apart in time.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from calib.measure.allocator import keep_freed_memory

if TYPE_CHECKING:
    from model.ops import Operator

KINDS = ("matmul", "attention", "conv2d")
COUNT = 340
MOST_FLOPS, MOST_BYTES = 1.5e10, 2.5e8
"""Of a shape: about 20 ms of two cores. In figures, so that all pieces have the same shapes."""


def at_random(kind: str, seed: int) -> Iterator[tuple[Operator, str]]:
    """Endless: operators of ``kind`` in bfloat16, each with the cache state of its domain."""
    from calib.measure.sweep.domains import domains

    rng, known = np.random.default_rng(seed), domains()
    shares = np.array([d.share for d in known])
    found = set()
    while True:
        domain = known[rng.choice(len(known), p=shares / shares.sum())]
        op = domain.at_random(rng)
        wanted = op.operator == kind and vars(op)["dtype"] == "bfloat16"
        short = op.flops < MOST_FLOPS and op.bytes < MOST_BYTES
        if wanted and short and op not in found:
            found.add(op)
            yield op, domain.cache


def main() -> None:
    keep_freed_memory()
    from benchmarks.repeatability import RULE
    from calib.hardware.host import detect_host
    from calib.measure.cpu import CpuInstrument
    from calib.measure.sweep.plan import Point
    from calib.measure.sweep.sweep import Sweep
    from calib.samples.store import SampleStore

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=230.0, help="for all pieces together")
    parser.add_argument("--visits", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    instrument = CpuInstrument()
    rule = instrument.rule(RULE)  # of one visit, as in a sweep
    instrument.visits = chosen.visits
    shapes = (itertools.islice(at_random(kind, chosen.seed), COUNT) for kind in KINDS)
    points = [
        Point(op, cache) for op, cache in itertools.chain.from_iterable(zip(*shapes, strict=True))
    ]
    store = SampleStore(chosen.out / "cpu", "cpu", detect_host().device)
    sweep = Sweep(instrument, store, chosen.seconds, rule, stretch_share=1.0)
    taken = sweep.run([], lambda state: iter(points))
    print(f"{taken} samples taken, {len(points)} shapes, {len(store.samples())} samples stored")


if __name__ == "__main__":
    main()
