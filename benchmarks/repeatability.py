"""The same sweep twice on this machine's CPU: how far its samples agree, raw and probe-normalised.

    python -m benchmarks.repeatability            # about two minutes on two cores

Two sweeps of the same shapes of the design, one after the other, each into a store of its own. The
difference of two samples of one shape is |ln(a / b)|; normalised, both are first brought to the
machine's typical speed by the probes around their blocks (:func:`calib.fit.drift_corrected`).
"""

from __future__ import annotations

import argparse
import itertools
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from calib.measure.allocator import keep_freed_memory

LIMITS = {"spread": 0.01, "cap_s": 0.15, "least": 9, "most": 50}
"""Those of ``sweep=quick``."""
SIZES = (0.0, 1e-4, 1e-3, np.inf)
"""Edges of the classes of an operator's time [s]."""
LONGEST_S = 0.02
"""Floor [s] of the longest shape."""


def measure(count: int, budget_s: float, folder: Path) -> pd.DataFrame:
    """One row a shape that both sweeps have: kind, seconds and normalised seconds of each."""
    keep_freed_memory()
    from calib.fit import drift_corrected, kind_of
    from calib.hardware import floor, load_hardware
    from calib.host import detect_host, with_probes
    from calib.measure.cpu import CpuInstrument
    from calib.measure.design import design
    from calib.measure.probes import peaks
    from calib.measure.sweep import Point, State, Sweep
    from calib.samples import SampleStore

    probed, host = peaks(), detect_host()
    hardware = with_probes(load_hardware("cpu"), host, probed.peak_flops, probed.bandwidth)
    shapes = design(0, lambda op: float(floor(op, hardware)) < LONGEST_S)
    points = [Point(op, cache) for op, cache in itertools.islice(shapes, count)]

    def same(state: State) -> Iterator[Point]:
        return iter(points)

    instrument, samples = CpuInstrument(), []
    for number in (1, 2):
        store = SampleStore(folder / str(number), "cpu", host.device)
        sweep = Sweep(instrument, store, budget_s, instrument.rule(LIMITS))
        sweep.run([], same)
        samples += [(number, s) for s in store.samples() if s.seconds]
    seconds = drift_corrected([s for _, s in samples], hardware)
    rows = [
        {
            "sweep": n,
            "kind": kind_of(s.op),
            "op": s.op,
            "cache": s.cache,
            "raw": s.median,
            "norm": v,
        }
        for (n, s), v in zip(samples, seconds, strict=True)
    ]
    table = pd.DataFrame(rows).set_index(["kind", "op", "cache", "sweep"]).unstack("sweep")
    return table.dropna()


def differences(table: pd.DataFrame) -> pd.DataFrame:
    """|ln(a / b)| of each shape, raw and normalised, with the time of the operator [s]."""
    found = {n: np.abs(np.log(table[n, 1] / table[n, 2])) for n in ("raw", "norm")}
    seconds = np.sqrt(table["raw", 1] * table["raw", 2])
    return pd.DataFrame({"seconds": seconds, **found}).reset_index()


def summary(rows: pd.DataFrame) -> pd.DataFrame:
    """Median and 90th percentile of the differences, by time and, above 1 ms, by kind."""
    names = {1: "under 0.1 ms", 2: "0.1 to 1 ms", 3: "over 1 ms"}
    rows = rows.assign(size=np.digitize(rows["seconds"], SIZES[:-1]))
    parts = {names[size]: some for size, some in rows.groupby("size")}
    long = rows[rows["seconds"] > 1e-3]
    parts |= {f"over 1 ms, {k}": some for k, some in long.groupby("kind") if len(some) >= 5}
    figures = [
        {
            "operators": name,
            "shapes": len(some),
            "raw median": some["raw"].median(),
            "raw p90": some["raw"].quantile(0.9),
            "normalised median": some["norm"].median(),
            "normalised p90": some["norm"].quantile(0.9),
        }
        for name, some in parts.items()
    ]
    return pd.DataFrame(figures)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shapes", type=int, default=400)
    parser.add_argument("--budget", type=float, default=60.0, help="seconds a sweep may take")
    parser.add_argument("--out", type=Path, default=None, help="keep the samples here")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        table = measure(chosen.shapes, chosen.budget, chosen.out or Path(scratch))
    rows = differences(table)
    print(summary(rows).to_string(index=False, float_format="{:.1%}".format))
    long = rows[rows["seconds"] > 1e-3]
    figures = {f"{n}_median_over_1ms": round(float(long[n].median()), 4) for n in ("raw", "norm")}
    print(json.dumps({"shapes": len(rows), **figures}))


if __name__ == "__main__":
    main()
