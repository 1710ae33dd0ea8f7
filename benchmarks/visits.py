"""Few shapes visited often, or more shapes visited seldom: held-out error at one cost, on a CPU.

    python -m benchmarks.pool --out DIR ...                  # twice, until it holds eight visits
    python -m benchmarks.visits --samples DIR --seeds 8

Of each kind a quarter of the groups is held out, their times known by all visits. A fit sees so
many shapes drawn from the rest, each by so many of its visits, drawn too.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.learning_curve import CPU_KINDS, OfGroups, estimate
from calib.fit.fitting import fit
from calib.hardware.datasheet import Hardware
from calib.samples.drift import drift_corrected, typical, visits
from calib.samples.files import read_samples
from calib.samples.sample import Sample

DESIGNS = ((240, 1), (120, 2), (80, 3), (240, 2), (160, 3), (120, 4), (60, 8), (240, 8))
"""(shapes, visits to each): three at 240 visits in all, four at 480, and all that is known."""


def pool_of(samples: Sequence[Sample], hardware: Hardware) -> list[list[Sample]]:
    """Of each shape: what all visits tell together, then the visits, all at one machine speed."""
    seconds, places = drift_corrected(samples, hardware), visits(samples)
    plain = [
        replace(s, seconds=[t], probe_flops=None, probe_bandwidth=None)
        for s, t in zip(samples, seconds, strict=True)
    ]
    known = typical(seconds, places)
    return [
        [replace(plain[rows[0]], seconds=[float(t)]), *(plain[i] for i in rows)]
        for rows, t in zip(places, known, strict=True)
    ]


def errors(
    shapes: Sequence[Sequence[Sample]], hardware: Hardware, seed: int
) -> list[dict[str, object]]:
    """One row a design: its error on held-out groups, against all visits and against one."""
    rng, of = np.random.default_rng(seed), {some[0].op: some[1:] for some in shapes}
    pool, held = OfGroups([some[0] for some in shapes])(seed)
    truth = np.array([s.median for s in held])
    once = np.array([of[s.op][rng.integers(len(of[s.op]))].median for s in held])
    rows: list[dict[str, object]] = []
    for count, most in DESIGNS:
        seen = [of[s.op][i] for s in pool[:count] for i in rng.permutation(len(of[s.op]))[:most]]
        foretold = estimate(fit(seen, hardware), held)["estimate_s"].to_numpy()
        off, noisy = np.abs(foretold / truth - 1), np.abs(foretold / once - 1)
        figures = {"median": np.median(off), "mean": off.mean(), "against one": np.median(noisy)}
        rows.append({"shapes": count, "visits": most, **figures})
    return rows


def main() -> None:
    from benchmarks.repeatability import this_cpu

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=8, help="how many")
    chosen = parser.parse_args()
    hardware = this_cpu()
    stored = [s for s in read_samples(chosen.samples) if s.status == "ok"]
    for kind in CPU_KINDS:
        shapes = pool_of([s for s in stored if s.op.operator == kind], hardware)
        rows = [row for seed in range(chosen.seeds) for row in errors(shapes, hardware, seed)]
        table = pd.DataFrame(rows).groupby(["shapes", "visits"], sort=False)
        print(kind, table.agg(["mean", "sem"]).to_string(float_format="{:.1%}".format), sep="\n")


if __name__ == "__main__":
    main()
