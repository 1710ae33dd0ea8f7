"""The same sweep twice on this machine's CPU: how far its samples agree, raw and probe-normalised.

    python -m benchmarks.repeatability                    # about two minutes on two cores
    python -m benchmarks.repeatability --stores A B C     # sweeps of one machine, stored before

Two sweeps of the same shapes of the design, one after the other, each into a store of its own; or
every two of some stores, whose sweeps began with the same design. The difference of two samples of
one shape is |ln(a / b)|; normalised, both are first brought to the machine's typical speed by the
probes around their blocks, and the visits to a shape taken together (:mod:`calib.samples.drift`).
Beside it: by the blend of both probes also where inputs are found in cache; of the first visit
alone.
"""

from __future__ import annotations

import argparse
import itertools
import json
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from calib.measure.allocator import keep_freed_memory
from calib.measure.clock import StopRule

if TYPE_CHECKING:
    from calib.hardware.datasheet import Hardware
    from calib.samples.sample import Sample

RULE = StopRule(0.01, 0.15, 9, 50)
"""Those of ``sweep=quick``."""
SIZES = (0.0, 1e-4, 1e-3, np.inf)
"""Edges of the classes of an operator's time [s]."""
LONGEST_S = 0.02
"""Floor [s] of the longest shape."""
COLUMNS = {"raw": "raw", "norm": "normalised", "blend": "blend", "single": "one visit"}


def this_cpu() -> Hardware:
    """This machine, its peaks probed now."""
    from calib.hardware.datasheet import load_hardware
    from calib.hardware.host import detect_host, with_probes
    from calib.measure.probes import peaks

    probed = peaks()
    return with_probes(load_hardware("cpu"), detect_host(), probed.peak_flops, probed.bandwidth)


def measure(count: int, budget_s: float, folder: Path, hardware: Hardware) -> list[list[Sample]]:
    """The samples of two sweeps."""
    from calib.hardware.datasheet import floor
    from calib.hardware.host import detect_host
    from calib.measure.cpu import CpuInstrument
    from calib.measure.sweep.design import design
    from calib.measure.sweep.plan import Point, State
    from calib.measure.sweep.sweep import Sweep
    from calib.samples.store import SampleStore

    shapes = design(0, lambda op: float(floor(op, hardware)) < LONGEST_S)
    points = [Point(op, cache) for op, cache in itertools.islice(shapes, count)]

    def same(state: State) -> Iterator[Point]:
        return iter(points)

    instrument, stores = CpuInstrument(), []
    for number in (1, 2):
        store = SampleStore(folder / str(number), "cpu", detect_host().device)
        sweep = Sweep(instrument, store, budget_s, instrument.rule(RULE))
        sweep.run([], same)
        stores.append(store.samples())
    return stores


def frame(stores: Sequence[Sequence[Sample]], hardware: Hardware) -> pd.DataFrame:
    """One row a shape of a store: ``store``, ``shape`` (a number), ``kind``, and its seconds:
    those of ``COLUMNS``."""
    from calib.fit.calibration import kind_of
    from calib.samples.drift import drift_corrected, typical, visits

    numbered = [(number, s) for number, store in enumerate(stores) for s in store]
    numbered = [(n, s) for n, s in numbered if s.status == "ok" and s.probe_flops]
    samples, of = [s for _, s in numbered], np.array([number for number, _ in numbered])
    blended = [replace(s, cache="cold") for s in samples]
    seconds = {
        "raw": np.array([s.expected for s in samples]),
        "blend": drift_corrected(blended, hardware),
        "norm": drift_corrected(samples, hardware),
    }
    shapes: dict[object, int] = {}
    parts = []
    for number in range(len(stores)):
        rows = np.flatnonzero(of == number)
        some = [samples[i] for i in rows]
        places = visits(some)
        firsts = [some[at[0]] for at in places]
        known = {n: typical(s[rows], places) for n, s in seconds.items()}
        known["single"] = seconds["norm"][rows][[at[0] for at in places]]
        keys = [shapes.setdefault((s.op, s.cache), len(shapes)) for s in firsts]
        kinds = [kind_of(s.op) for s in firsts]
        parts.append(pd.DataFrame(known).assign(store=number, shape=keys, kind=kinds))
    return pd.concat(parts)


def pairs(shapes: pd.DataFrame) -> pd.DataFrame:
    """One row a shape that two stores have: its time [s] and the differences."""
    parts = []
    for a, b in itertools.combinations(shapes["store"].unique(), 2):
        first, second = (shapes[shapes["store"] == number] for number in (a, b))
        both = first.merge(second, on="shape")
        found = {n: np.abs(np.log(both[f"{n}_x"] / both[f"{n}_y"])) for n in COLUMNS}
        seconds = np.sqrt(both["raw_x"] * both["raw_y"])
        parts.append(pd.DataFrame(found).assign(kind=both["kind_x"], seconds=seconds))
    return pd.concat(parts)


def summary(rows: pd.DataFrame) -> pd.DataFrame:
    """Median and 90th percentile of the differences, by time and, above 1 ms, by kind."""
    names = {1: "under 0.1 ms", 2: "0.1 to 1 ms", 3: "over 1 ms"}
    rows = rows.assign(size=np.digitize(rows["seconds"], SIZES[:-1]))
    parts = {names[size]: some for size, some in rows.groupby("size")}
    long = rows[rows["seconds"] > 1e-3]
    parts |= {f"over 1 ms, {k}": some for k, some in long.groupby("kind") if len(some) >= 5}
    figures = [
        {"operators": name, "pairs": len(some)}
        | {
            f"{title} {label}": some[column].quantile(share)
            for column, title in COLUMNS.items()
            for label, share in (("median", 0.5), ("p90", 0.9))
        }
        for name, some in parts.items()
    ]
    return pd.DataFrame(figures)


def main() -> None:
    keep_freed_memory()
    from calib.samples.files import read_samples

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shapes", type=int, default=400)
    parser.add_argument("--budget", type=float, default=60.0, help="seconds a sweep may take")
    parser.add_argument("--out", type=Path, default=None, help="keep the samples here")
    parser.add_argument("--stores", type=Path, nargs="*", default=[], help="measure nothing")
    chosen = parser.parse_args()
    hardware = this_cpu()
    if chosen.stores:
        stores = [read_samples(folder) for folder in chosen.stores]
    else:
        with tempfile.TemporaryDirectory() as scratch:
            folder = chosen.out or Path(scratch)
            stores = measure(chosen.shapes, chosen.budget, folder, hardware)
    rows = pairs(frame(stores, hardware))
    print(summary(rows).to_string(index=False, float_format="{:.1%}".format))
    long = rows[rows["seconds"] > 1e-3]
    figures = {f"{n}_median_over_1ms": round(float(long[n].median()), 4) for n in COLUMNS}
    print(json.dumps({"pairs": len(rows), **figures}))


if __name__ == "__main__":
    main()
