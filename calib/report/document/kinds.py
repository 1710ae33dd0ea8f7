"""Operators by kind: what their kernels take, by formulas, calibration and clock."""

from __future__ import annotations

from typing import Any

from calib.report.page.cells import readable
from calib.report.record import RunRecord
from calib.report.terminal import Cells
from calib.report.units import UNKNOWN, efficiency, flops, least, nbytes, percent, seconds


def kind_cells(record: RunRecord, times: bool = True) -> Cells:
    """Sums by kind, the costliest first; efficiency: floor over kernels. Without ``times`` costs
    only."""
    executed = record.executions
    operators = record.operators.assign(calls=executed)
    columns = ["calls", "flops", "bytes", "roofline_s", "estimate_s"]
    sums = operators.groupby("kind", sort=False)[columns].sum(min_count=1)
    whole = sums["estimate_s"].sum(skipna=False) or 1
    ordered = sums.sort_values(["estimate_s", "bytes"], ascending=False).to_dict("index")
    at_least = kinds_not_known(record)
    clock, ours = (measured_by_kind(record), triton_by_kind(record)) if times else ({}, {})
    rows = []
    for kind, row in ordered.items():
        costs = (f"{row['calls']:,.0f}", flops(row["flops"]), nbytes(row["bytes"]))
        known = [costs[0], *(least(text, kind in at_least) for text in costs[1:])]
        time = _times(row, whole) if times else []
        kept = [*clock.get(str(kind), []), *time[1:], *ours.get(str(kind), []), *known]
        rows.append((readable(kind), *time[:1], *kept))
    headers = ["kind", *(["kernels"] if times else []), *(["measured", "error"] if clock else [])]
    headers += ["share", "efficiency"] if times else []
    headers += [*(["by Triton"] if ours else []), "calls", "FLOPs", "bytes"]
    return Cells(tuple(headers), rows)


def _times(row: dict[Any, Any], whole: float) -> list[str]:
    """Kernels, their share of all, and the floor's share of them."""
    estimate = row["estimate_s"]
    return [seconds(estimate), percent(estimate / whole), percent(efficiency(row))]


def kinds_not_known(record: RunRecord) -> set[str]:
    """Kinds that hold an operator which no rule knows."""
    operators = record.operators
    some = operators[operators["unknown"]] if "unknown" in operators else operators[:0]
    return set(some["kind"])


def triton_by_kind(record: RunRecord) -> dict[str, list[str]]:
    """Time of the same operators by our Triton kernels; of a kind that they do not all have, none.

    Empty where the card has no samples of them.
    """
    operators = record.operators
    if operators["triton_s"].isna().all():
        return {}
    sums = operators.groupby("kind")["triton_s"].apply(lambda s: s.sum(skipna=False))
    return {str(kind): [seconds(value)] for kind, value in sums.items()}


def measured_by_kind(record: RunRecord) -> dict[str, list[str]]:
    """Time and error of the operators that have a measured time; empty where none has. Errors are
    against steady times, as everywhere."""
    operators = record.operators[record.operators["measured_s"].notna()]
    if operators.empty:
        return {}
    # estimate / (1 + error) is the steady time, and all of a phase were slowed down alike.
    slower = operators["measured_s"] * (1 + operators["error"].astype(float))
    slower = (slower / operators["estimate_s"]).groupby(operators["phase"]).transform("median")
    operators = operators.assign(steady_s=operators["measured_s"] / slower.fillna(1.0))
    sums = operators.groupby("kind")[["estimate_s", "measured_s", "steady_s"]].sum()
    kinds = {str(k): [UNKNOWN, UNKNOWN] for k in record.operators["kind"].unique()}
    for kind, row in sums.to_dict("index").items():
        error = row["estimate_s"] / row["steady_s"] - 1 if row["steady_s"] else None
        kinds[str(kind)] = [seconds(row["measured_s"]), percent(error, signed=True)]
    return kinds
