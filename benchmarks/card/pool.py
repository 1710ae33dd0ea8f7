"""Shapes drawn at random, measured through torch on a card: what a fit is judged by.

    python -m benchmarks.card.pool --out <folder>                # 1,000 shapes, about a minute
    python -m benchmarks.card.pool --out <folder> --seconds 30   # a piece; the next goes on

Drawn over the ranges of the sweep's domains (reach 4), domains by their shares, every dimension by
itself and log-uniform, until each kind has its number. ``pool.parquet`` holds the samples.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from calib.errors import CalibError
from calib.hardware.datasheet import Hardware, floor
from calib.measure.allocator import keep_freed_memory
from calib.measure.clock import StopRule
from calib.samples.files import write_samples
from model.ops import Operator

COUNT: Mapping[str, int] = {
    "matmul": 280,
    "attention": 240,
    "conv2d": 110,
    "grouped_matmul": 80,
    "norm": 70,
    "elementwise": 90,
    "copy": 50,
    "softmax": 30,
    "gather": 30,
    "reduction": 20,
}
"""Shapes of each kind; those of an H200 of 2026-11-27 were drawn so, from this seed."""
SEED = 20261127
LONG_S = 0.02
"""A shape whose floor [s] is longer is left out."""
RULE = StopRule(0.01, 0.12, 10, 60)


def at_random(
    hardware: Hardware, seed: int = SEED, count: Mapping[str, int] = COUNT
) -> Iterator[tuple[Operator, str]]:
    """Operators, each once, with the cache state of its domain, until every kind has its number."""
    import numpy as np

    from calib.measure.sweep.domains import domains

    rng, some = np.random.default_rng(seed), domains(4)
    shares = np.array([domain.share for domain in some])
    left, found = dict(count), set()
    while sum(left.values()):
        domain = some[rng.choice(len(some), p=shares / shares.sum())]
        op = domain.at_random(rng)
        short = float(floor(op, hardware)) < LONG_S
        if left.get(op.operator, 0) and short and op not in found:
            found.add(op)
            left[op.operator] -= 1
            yield op, domain.cache


def measure(
    instrument: Any,
    folder: Path,
    hardware: Hardware,
    device: str,
    seconds: float,
    seed: int = SEED,
    kinds: Collection[str] = tuple(COUNT),
    clock: Callable[[], float] = time.time,
) -> tuple[int, list[Any]]:
    """(samples taken now, all that ``folder`` holds); ``seconds``: for all pieces together."""
    from calib.hardware.versions import versions
    from calib.measure.sweep.plan import Point
    from calib.measure.sweep.sweep import Sweep
    from calib.samples.store import SampleStore

    drawn = at_random(hardware, seed)
    points = [Point(op, cache) for op, cache in drawn if op.operator in kinds]
    instrument.implementations = ("torch",)
    store = SampleStore(folder / "pool", hardware.name, device)
    if not store.samples():
        instrument.prove(point.op for point in points)
    rule = instrument.rule(RULE)
    sweep = Sweep(instrument, store, seconds, rule, versions(True), clock=clock)
    taken = sweep.run([], lambda state: iter(points))
    samples = store.samples()
    if samples:
        write_samples(folder / "pool.parquet", samples)
    return taken, samples


def main(arguments: list[str] | None = None) -> int:
    keep_freed_memory()
    from calib.steps.target import find_target, open_instrument

    parser = argparse.ArgumentParser(prog="python -m benchmarks.card.pool", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=90.0, help="for all pieces together")
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--kinds", default="", help="of these alone, by comma; the same draws")
    options = parser.parse_args(arguments)
    target = find_target(None, Path("none"), "run")
    if not target.on_card:
        raise CalibError("pool: no CUDA device: expected one (benchmarks.pool measures a CPU)")
    instrument = open_instrument(target)
    given = (options.out, target.hardware, target.device, options.seconds, options.seed)
    kinds = frozenset(options.kinds.split(",")) if options.kinds else frozenset(COUNT)
    if unknown := kinds - set(COUNT):
        parser.error(f"--kinds {','.join(sorted(unknown))}: expected of {','.join(COUNT)}")
    taken, samples = measure(instrument, *given, kinds)
    print(f"{taken} samples taken, {len(samples)} stored of {sum(COUNT.values())} shapes")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
