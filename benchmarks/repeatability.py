"""The same sweep twice on this machine's CPU: how far its samples agree, raw and probe-normalised.

    python -m benchmarks.repeatability                    # about two minutes on two cores
    python -m benchmarks.repeatability --stores A B C     # sweeps of one machine, stored before

Two sweeps of the same shapes of the design, one after the other, each into a store of its own; or
every two of some stores, whose sweeps began with the same design. The difference of two samples of
one shape is |ln(a / b)|; normalised, both are first brought to the machine's typical speed by the
probes around their blocks (:func:`calib.fit.drift_corrected`).

``fitted``, where there are three stores: exponents of the two probes a kind, told by what a third
store's fit leaves over (:func:`exponents`). It is tried here and used nowhere.
"""

from __future__ import annotations

import argparse
import itertools
import json
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from calib.measure.allocator import keep_freed_memory

if TYPE_CHECKING:
    from calib.hardware import Hardware
    from calib.samples import Sample

LIMITS = {"spread": 0.01, "cap_s": 0.15, "least": 9, "most": 50}
"""Those of ``sweep=quick``."""
SIZES = (0.0, 1e-4, 1e-3, np.inf)
"""Edges of the classes of an operator's time [s]."""
LONGEST_S = 0.02
"""Floor [s] of the longest shape."""
PRIOR = 0.2
"""Standard deviation of an exponent about the blend's, before the residuals are seen."""
_LEAST_FOR_EXPONENTS = 40
PROBES = ["log_flops", "log_bandwidth"]


def this_cpu() -> Hardware:
    """This machine, its peaks probed now."""
    from calib.hardware import load_hardware
    from calib.host import detect_host, with_probes
    from calib.measure.probes import peaks

    probed = peaks()
    return with_probes(load_hardware("cpu"), detect_host(), probed.peak_flops, probed.bandwidth)


def measure(count: int, budget_s: float, folder: Path, hardware: Hardware) -> list[list[Sample]]:
    """The samples of two sweeps."""
    from calib.hardware import floor
    from calib.host import detect_host
    from calib.measure.cpu import CpuInstrument
    from calib.measure.design import design
    from calib.measure.sweep import Point, State, Sweep
    from calib.samples import SampleStore

    shapes = design(0, lambda op: float(floor(op, hardware)) < LONGEST_S)
    points = [Point(op, cache) for op, cache in itertools.islice(shapes, count)]

    def same(state: State) -> Iterator[Point]:
        return iter(points)

    instrument, stores = CpuInstrument(), []
    for number in (1, 2):
        store = SampleStore(folder / str(number), "cpu", detect_host().device)
        sweep = Sweep(instrument, store, budget_s, instrument.rule(LIMITS))
        sweep.run([], same)
        stores.append(store.samples())
    return stores


def frame(stores: Sequence[Sequence[Sample]], hardware: Hardware) -> pd.DataFrame:
    """One row a sample: ``store``, ``shape`` (a number), ``kind``, raw and normalised seconds, and
    the logarithm of what each probe reached."""
    from calib.fit import drift_corrected, kind_of

    samples = [
        (number, s)
        for number, store in enumerate(stores)
        for s in store
        if s.status == "ok" and s.probe_flops and s.probe_bandwidth
    ]
    shapes: dict[object, int] = {}
    rows = [
        {
            "store": number,
            "shape": shapes.setdefault((s.op, s.cache), len(shapes)),
            "kind": kind_of(s.op),
            "raw": s.median,
            "log_flops": np.log(s.probe_flops),
            "log_bandwidth": np.log(s.probe_bandwidth),
            "sample": s,
        }
        for number, s in samples
    ]
    normalised = drift_corrected([s for _, s in samples], hardware)
    return pd.DataFrame(rows).assign(norm=normalised)


def pairs(samples: pd.DataFrame, hardware: Hardware) -> pd.DataFrame:
    """One row a shape that two stores have: its time [s] and the differences."""
    numbers = list(samples["store"].unique())
    known = {n: exponents(samples.query("store == @n"), hardware) for n in numbers[2:] and numbers}
    parts = []
    for a, b in itertools.combinations(numbers, 2):
        both = samples.query("store == @a").merge(samples.query("store == @b"), on="shape")
        found = {n: np.log(both[f"{n}_x"] / both[f"{n}_y"]) for n in ("raw", "norm")}
        if known:
            third = next(known[n] for n in numbers if n not in (a, b))
            speed = np.stack([both[f"{p}_x"] - both[f"{p}_y"] for p in PROBES], axis=1)
            of_kind = np.array([third.get(kind, np.zeros(2)) for kind in both["kind_x"]])
            found["fitted"] = found["norm"] - (of_kind * speed).sum(axis=1)
        parts.append(
            pd.DataFrame({n: np.abs(v) for n, v in found.items()}).assign(
                kind=both["kind_x"], seconds=np.sqrt(both["raw_x"] * both["raw_y"])
            )
        )
    return pd.concat(parts)


def exponents(samples: pd.DataFrame, hardware: Hardware) -> dict[str, np.ndarray]:
    """Kind -> [2] what its seconds do with the two probes beside the blend, of one store.

    A ridge regression, robust (Huber's weights), of what a fit to one half of the groups leaves
    over on the other half.
    """
    left = left_over(list(samples["sample"]), hardware)
    found = {}
    for kind, rows in samples.assign(left=left).dropna(subset="left").groupby("kind"):
        if len(rows) < _LEAST_FOR_EXPONENTS:
            continue
        x = (rows[PROBES] - rows[PROBES].mean()).to_numpy()
        y = (rows["left"] - rows["left"].median()).to_numpy()
        slope = np.zeros(2)
        for _ in range(20):
            error = y - x @ slope
            scale = 1.4826 * np.median(np.abs(error))
            weights = 1 / np.maximum(np.abs(error) / scale, 1.0) / scale**2
            normal = (x * weights[:, None]).T @ x + np.eye(2) / PRIOR**2
            slope = np.linalg.solve(normal, (x * weights[:, None]).T @ y)
        found[str(kind)] = slope
    return found


def left_over(samples: Sequence[Sample], hardware: Hardware) -> np.ndarray:
    """[n] ln(normalised seconds / estimate) by a fit that never saw the sample's group."""
    from dataclasses import replace

    from calib.fit import drift_corrected, fit, group_of

    groups = np.array([group_of(s) for s in samples])
    half = np.isin(groups, np.unique(groups)[::2])
    log_seconds, left = np.log(drift_corrected(samples, hardware)), np.full(len(samples), np.nan)
    for side in (True, False):
        others = [s for s, h in zip(samples, half, strict=True) if h != side]
        asked = np.flatnonzero(half == side)
        known = replace(fit(others, hardware), measured={})
        hot = [samples[i].cache == "hot" for i in asked]
        table = known.estimate([samples[i].op for i in asked], hot=hot)
        estimate = table["estimate_s"].where(table["high_s"].notna())
        left[asked] = log_seconds[asked] - np.log(estimate)
    return left


def summary(rows: pd.DataFrame) -> pd.DataFrame:
    """Median and 90th percentile of the differences, by time and, above 1 ms, by kind."""
    names = {1: "under 0.1 ms", 2: "0.1 to 1 ms", 3: "over 1 ms"}
    rows = rows.assign(size=np.digitize(rows["seconds"], SIZES[:-1]))
    parts = {names[size]: some for size, some in rows.groupby("size")}
    long = rows[rows["seconds"] > 1e-3]
    parts |= {f"over 1 ms, {k}": some for k, some in long.groupby("kind") if len(some) >= 5}
    titles = {"raw": "raw", "norm": "normalised", "fitted": "fitted"}
    figures = [
        {"operators": name, "pairs": len(some)}
        | {
            f"{title} {label}": some[column].quantile(share)
            for column, title in titles.items()
            if column in some
            for label, share in (("median", 0.5), ("p90", 0.9))
        }
        for name, some in parts.items()
    ]
    return pd.DataFrame(figures)


def main() -> None:
    keep_freed_memory()
    from calib.samples import read_samples

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
    rows = pairs(frame(stores, hardware), hardware)
    print(summary(rows).to_string(index=False, float_format="{:.1%}".format))
    long = rows[rows["seconds"] > 1e-3]
    figures = {f"{n}_median_over_1ms": round(float(long[n].median()), 4) for n in ("raw", "norm")}
    print(json.dumps({"pairs": len(rows), **figures}))


if __name__ == "__main__":
    main()
