"""What a comparison says, in plain text within 100 columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.recorded.estimates import PAIR
from benchmarks.recorded.ways import OVER, OWN, ROOFLINE, SHIPS, UNSEEN

BEFORE = "before"
COLUMNS = (ROOFLINE, BEFORE, SHIPS, OWN, OVER, UNSEEN)
NAME_WIDTH = 32


def lines(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns as wide as they need; the first to the left, the others to the right."""
    widths = [max(len(r[i]) for r in [headers, *rows]) for i in range(len(headers))]
    rule = "-" * (sum(widths) + 2 * (len(widths) - 1))
    listed = [headers, *rows]
    text = [
        "  ".join(
            c.ljust(w) if i == 0 else c.rjust(w)
            for i, (c, w) in enumerate(zip(r, widths, strict=True))
        )
        for r in listed
    ]
    return "\n".join(line.rstrip() for line in [text[0], rule, *text[1:]])


def percent(value: float | None, sign: bool = True) -> str:
    if value is None or not np.isfinite(value):
        return "-"
    return f"{value:+.1%}" if sign else f"{value:.1%}"


def milliseconds(value: float | None) -> str:
    return "-" if value is None or not np.isfinite(value) else f"{value * 1e3:.3g}"


def named(key: Sequence[str]) -> str:
    return " ".join(key)[:NAME_WIDTH]


def by_way(phases: pd.DataFrame, clock: str, before: Mapping[Any, float]) -> pd.DataFrame:
    """[phases, ways] signed errors of ``<clock>_estimate_s``; ``before``: earlier estimates."""
    error = phases[f"{clock}_estimate_s"].astype(float) / phases[f"{clock}_s"].astype(float) - 1
    known = phases.assign(error=error)[phases[f"{clock}_s"].notna()]
    keys = list(dict.fromkeys(zip(*(known[name] for name in PAIR), strict=True)))
    index = (
        pd.MultiIndex.from_tuples(keys, names=PAIR)
        if keys
        else pd.MultiIndex.from_arrays([[], [], []], names=PAIR)
    )
    columns = {
        way: some.set_index(list(PAIR))["error"] for way, some in known.groupby("way", sort=False)
    }
    first = known.drop_duplicates(list(PAIR)).set_index(list(PAIR))[f"{clock}_s"]
    columns[BEFORE] = pd.Series({k: before.get(k, np.nan) / first.loc[k] - 1 for k in keys})
    return pd.DataFrame({way: columns.get(way, np.nan) for way in COLUMNS}, index=index)


def kernel_table(phases: pd.DataFrame, before: Mapping[Any, float]) -> str:
    """The kernels' time of each phase and its errors, then their mean, median and largest."""
    errors = by_way(phases, "kernel", before)
    clock = phases.drop_duplicates(list(PAIR)).set_index(list(PAIR))
    rows = [
        [named(key), milliseconds(clock.at[key, "kernel_s"])]
        + [percent(errors.at[key, way]) for way in COLUMNS]
        + [percent(clock.at[key, "matched"], sign=False)]
        for key in errors.index
    ]
    size = errors.abs()
    for name, found in (("mean", size.mean()), ("median", size.median()), ("worst", size.max())):
        label = f"{name} |error| of {len(errors)} phases"
        rows.append([label, "", *(percent(found[way], sign=False) for way in COLUMNS), ""])
    return lines(["kernels by the profiler", "ms", *COLUMNS, "matched"], rows)


def interval_table(phases: pd.DataFrame) -> str:
    """Of the phases' 90% intervals: how many hold the clock, and how wide they are."""
    rows = [interval_row(way, phases[phases["way"] == way]) for way in (SHIPS, OWN, OVER, UNSEEN)]
    return lines(["90% intervals of kernels", "phases", "hold", "+- median", "+- widest"], rows)


def interval_row(name: str, some: pd.DataFrame, clock: str = "kernel", of: str = "") -> list[str]:
    """``of``: what the names of the columns of both ends begin with."""
    low, high = (some[f"{of}{end}_s"].astype(float) for end in ("low", "high"))
    known = some[(high > low) & some[f"{clock}_s"].notna()]
    low, high, seconds = low[known.index], high[known.index], known[f"{clock}_s"].astype(float)
    half = (high - low) / 2 / known[f"{clock}_estimate_s"]
    return [
        *(
            name,
            str(len(known)),
            percent(((low <= seconds) & (seconds <= high)).mean(), sign=False),
        ),
        *(percent(half.median(), sign=False), percent(half.max(), sign=False)),
    ]


def graph_table(phases: pd.DataFrame, before: Mapping[Any, float]) -> str:
    """A replayed graph, by what ships and over own samples."""
    clock = phases.drop_duplicates(list(PAIR)).set_index(list(PAIR))
    errors = by_way(phases, "graph", before)
    shown = (BEFORE, SHIPS, OVER)
    rows = [
        [named(key), milliseconds(clock.at[key, "graph_s"])]
        + [percent(errors.at[key, way]) for way in shown]
        for key in errors.index
    ]
    means = [percent(errors[way].abs().mean(), sign=False) for way in shown]
    label = f"mean |error| of {len(errors)} phases"
    return lines(["replayed as a graph", "ms", *shown], [*rows, [label, "", *means]])


def wall_table(phases: pd.DataFrame, before: Mapping[Any, float]) -> str:
    """The eager wall, then the same at lengths that were seen, and what the clock said of the
    phase a second time; means apart by whether the host's costs are known."""
    clock = phases.drop_duplicates(list(PAIR)).set_index(list(PAIR))
    errors, again = by_way(phases, "wall", before), by_way(phases, "again", {})
    twice = clock["while_s"].astype(float) / clock["wall_s"].astype(float) - 1
    shown = (BEFORE, SHIPS, OVER)
    rows = []
    for key in errors.index:
        known = key in again.index
        rows.append(
            [named(key), "own" if clock.at[key, "known_host"] else "other"]
            + [milliseconds(clock.at[key, "wall_s"])]
            + [percent(errors.at[key, way]) for way in shown]
            + [milliseconds(clock.at[key, "again_s"] if known else None)]
            + [percent(again.at[key, OVER] if known else None), percent(twice[key])]
        )
    for host, some in (("own", clock["known_host"]), ("other", ~clock["known_host"].astype(bool))):
        keys = [key for key in errors.index if some[key]]
        if keys:
            seen = again.loc[[key for key in keys if key in again.index], OVER]
            means = [errors.loc[keys, way].abs().mean() for way in shown]
            last = ["", *(percent(v.abs().mean(), sign=False) for v in (seen, twice[keys]))]
            label = f"mean |error| of {len(keys)} phases"
            rows.append([label, host, "", *(percent(m, sign=False) for m in means), *last])
    headers = ["eager wall", "host", "ms", *shown, "again ms", OVER, "clock twice"]
    return lines(headers, rows)


def new_length_table(phases: pd.DataFrame) -> str:
    """What a new length takes by the clock: steps over new ones less the round over seen ones that
    ran just before, of one speed of the host; beside what the record's sample of it says."""
    some = phases[(phases["way"] == OVER) & phases["again_s"].notna() & phases["while_s"].notna()]
    rows = [
        [named([row[name] for name in PAIR])]
        + [milliseconds(row[c]) for c in ("again_s", "while_s")]
        + [milliseconds(row["while_s"] - row["again_s"]), milliseconds(row["new_length_s"])]
        for row in some.to_dict("records")
    ]
    return lines(["a new length", "seen ms", "new, just after", "more", "estimate"], rows)


def wall_interval_table(phases: pd.DataFrame) -> str:
    """As ``interval_table``, of the eager wall on the host whose costs are known."""
    some = phases[(phases["way"] == OVER) & phases["known_host"].astype(bool)]
    rows = [interval_row(OVER, some, "wall", "wall_")]
    return lines(["90% intervals of the wall", "phases", "hold", "+- median", "+- widest"], rows)


def operator_table(kinds: Sequence[Mapping[str, Any]]) -> str:
    """The pool by folds of groups."""
    rows = [
        [one["kind"], str(one["n"])]
        + [percent(one[c], sign=False) for c in ("median", "p90", "coverage", "ships", "roofline")]
        for one in kinds
    ]
    headers = ["pool by folds of groups", "n", "median", "p90", "90% hold", "ships", "roofline"]
    return lines(headers, rows)


def where_table(operators: pd.DataFrame, way: str) -> str:
    """Of each phase the kinds: recorded, and estimate less recorded [microseconds, share]."""
    some = operators[operators["way"] == way]
    rows = []
    for key, phase in some.groupby(list(PAIR), sort=False):
        whole = phase["measured_s"].sum()
        kinds = phase.groupby("kind")[["measured_s", "estimate_s"]].sum()
        kinds["off"] = kinds["estimate_s"] - kinds["measured_s"]
        order = kinds["off"].abs().sort_values(ascending=False).index
        for i, kind in enumerate(order[:WHERE]):
            clock, off = kinds.at[kind, "measured_s"], kinds.at[kind, "off"]
            rows.append(
                [named(key) if i == 0 else "", str(kind), f"{clock * 1e6:.0f}"]
                + [f"{off * 1e6:+.0f}", percent(off / clock if clock else None)]
                + [percent(off / whole)]
            )
    headers = [f"where the error is ({way})", "kind", "us", "off us", "of kind", "of phase"]
    return lines(headers, rows)


WHERE = 5
"""Kinds of a phase that are shown, those that are off the most first."""


def worst_table(operators: pd.DataFrame, way: str, count: int) -> str:
    """Equal operators of a phase together, those that are off by most of the phase first."""
    some = operators[(operators["way"] == way) & operators["measured_s"].notna()].copy()
    whole = some.groupby(list(PAIR))["measured_s"].transform("sum")
    some["share"] = (some["estimate_s"] - some["measured_s"]) / whole
    keys = [*PAIR, "kind", "shape", "dtype"]
    sums = some.groupby(keys, sort=False)[["count", "measured_s", "estimate_s", "share"]].sum()
    worst = sums.loc[sums["share"].abs().sort_values(ascending=False).index[:count]]
    rows = [
        [named(key[:3]), f"{key[3]} {key[4]}"[:34], f"{one['count']:.0f}"]
        + [f"{one[c] / max(one['count'], 1) * 1e6:.4g}" for c in ("measured_s", "estimate_s")]
        + [percent(one["share"])]
        for key, (_, one) in zip(worst.index, worst.iterrows(), strict=True)
    ]
    return lines([f"worst ({way})", "operator", "n", "us", "estimate", "of phase"], rows)
