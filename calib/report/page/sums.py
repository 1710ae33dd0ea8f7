"""Operators that are one: the same shape wherever it runs in a phase, summed."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING

from calib.report.record import RunRecord

if TYPE_CHECKING:
    import pandas as pd

BY = ["phase", "kind", "shape", "dtype"]
SUMMED = ["calls", "flops", "bytes", "roofline_s", "estimate_s", "low_s", "high_s", "measured_s"]


def distinct(record: RunRecord) -> pd.DataFrame:
    """One row an operator of one shape and phase, seconds of the whole workload, the dearest first.

    ``where``: the paths it runs at, numbers of layers folded; ``provenance``: of its first row,
    since one shape is known in one way. ``measured_s`` is null where a part was not matched;
    ``error``: estimate over clock with the drift out, of the rows that have one.
    """
    table = record.operators.assign(
        calls=record.executions,
        measured_s=record.operators["measured_s"].astype(float),
        low_s=record.operators["low_s"].astype(float).fillna(record.operators["estimate_s"]),
        high_s=record.operators["high_s"].astype(float).fillna(record.operators["estimate_s"]),
    )
    table["steady_s"] = table["estimate_s"] / (1 + table["error"].astype(float))
    groups = table.groupby(BY, sort=False)
    found = groups[[*SUMMED, "steady_s"]].sum(min_count=1)
    for clock in ("measured_s", "steady_s"):
        found[clock] = found[clock].where(groups[clock].count() == groups.size())
    found["error"] = found["estimate_s"] / found["steady_s"] - 1
    found["provenance"] = groups["provenance"].first()
    found["bound"] = groups["bound"].first()
    found["where"] = groups["path"].agg(lambda paths: ", ".join(folded(paths)))
    order = ["estimate_s", "bytes"]
    return found.reset_index().sort_values(order, ascending=False, ignore_index=True)


def folded(paths: Iterable[str], most: int = 3) -> list[str]:
    """Paths with the numbers of layers left out, each once, the first ones by name."""
    names = list(dict.fromkeys(re.sub(r"\.\d+(?=\.|$)", ".*", path) or "(root)" for path in paths))
    more = len(names) - most
    return names[:most] + ([f"{more} more"] if more > 0 else [])
