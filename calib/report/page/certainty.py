"""How good the estimate is: what its interval is made of, the shapes known worst, the fits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from calib.report.page.cells import (
    Cell,
    Column,
    Grid,
    Row,
    count_cell,
    error_cell,
    how_cell,
    interval_cell,
    readable,
    share_cell,
    time_cell,
    words_cell,
)
from calib.report.record import RunRecord, known

if TYPE_CHECKING:
    import pandas as pd

WORST = 8
"""Rows of the table of operators known worst."""


@dataclass(frozen=True)
class Certainty:
    """The width of the whole's interval [s], and its parts: kernels by themselves, and what the
    host and the gaps between kernels add."""

    width_s: float
    kernels_s: float

    @property
    def host_s(self) -> float:
        return max(self.width_s - self.kernels_s, 0.0)

    @property
    def host_share(self) -> float:
        return self.host_s / self.width_s


def certainty_of(record: RunRecord) -> Certainty | None:
    """None where no interval is known. Kernels: the widths of the phases, added up."""
    total, roots = record.total, record.modules[record.modules["path"] == ""]
    width = total["high_s"] - total["low_s"]
    kernels = float((roots["high_s"] - roots["low_s"]).sum())
    if not known(width) or not width > 0:
        return None
    return Certainty(float(width), min(kernels, float(width)))


def widths(operators: pd.DataFrame) -> pd.DataFrame:
    """Operators by the width of their interval [s], the widest first; none without one."""
    table = operators.assign(width_s=operators["high_s"] - operators["low_s"])
    return table[table["width_s"] > 0].sort_values("width_s", ascending=False, ignore_index=True)


def worst_known(operators: pd.DataFrame) -> dict[str, Any] | None:
    """The operator whose time is known worst: by its error, where the clock says it, else by the
    width of its interval."""
    table = widths(operators)
    return {str(k): v for k, v in table.iloc[0].items()} if len(table) else None


def worst_grid(operators: pd.DataFrame, most: int = WORST) -> Grid:
    columns = (
        Column("operator", words=True),
        Column("phase", words=True, spare=True),
        Column("kernels", "time of all its calls"),
        Column("interval", "90%"),
        Column("ends", "how far they lie from the estimate"),
        Column("known", words=True),
    )
    rows = []
    for row in widths(operators).head(most).to_dict("records"):
        estimate = row["estimate_s"]
        ends = (row["low_s"] / estimate - 1, row["high_s"] / estimate - 1) if estimate else (0, 0)
        rows.append(
            Row(
                (
                    operator_cell(row),
                    words_cell(row["phase"]),
                    time_cell(estimate),
                    interval_cell(row["low_s"], row["high_s"]),
                    Cell(f"{100 * ends[0]:+.0f}% … {100 * ends[1]:+.0f}%", ends[1] - ends[0]),
                    how_cell(row["provenance"]),
                )
            )
        )
    return Grid(columns, tuple(rows))


def operator_cell(row: dict[Any, Any]) -> Cell:
    """Its kind and shape; where it runs as a hint."""
    return words_cell(f"{readable(row['kind'])} {row['shape']}".strip(), str(row["where"]))


def clock_grid(operators: pd.DataFrame) -> Grid | None:
    """The operators whose estimate is furthest from the clock, by seconds; None: not measured."""
    table = operators[operators["error"].notna()]
    if table.empty:
        return None
    off = (table["estimate_s"] - table["steady_s"]).abs()
    table = table.loc[off.sort_values(ascending=False).index].head(WORST)
    columns = (
        Column("operator", words=True),
        Column("phase", words=True, spare=True),
        Column("estimate", "time of all its calls"),
        Column("measured"),
        Column("error", "of the estimate, drift taken out of the clock"),
        Column("known", words=True),
    )
    rows = [
        Row(
            (
                operator_cell(row),
                words_cell(row["phase"]),
                time_cell(row["estimate_s"]),
                time_cell(row["measured_s"]),
                error_cell(row["error"]),
                how_cell(row["provenance"]),
            )
        )
        for row in table.to_dict("records")
    ]
    return Grid(columns, tuple(rows))


def fit_grid(record: RunRecord) -> Grid | None:
    """Held-out errors of the fits that the estimate rests on; None: there are none."""
    if record.fits.empty:
        return None
    columns = (
        Column("fit", words=True),
        Column("timed with", words=True, spare=True),
        Column("samples", spare=True),
        Column("groups", "of like shapes; each was held out whole", spare=True),
        Column("median error", "on shapes that the fit did not see"),
        Column("90th percentile"),
        Column("roofline's", "median error of the plain roofline on the same shapes"),
        Column("in interval", "share of held-out shapes whose time lies in the 90% interval"),
    )
    rows = []
    for row in record.fits.to_dict("records"):
        rows.append(
            Row(
                (
                    words_cell(f"{readable(row['kind'])}, {row['dtype']}"),
                    words_cell(str(row["implementation"])),
                    count_cell(row["samples"]),
                    count_cell(row["groups"]),
                    share_cell(row["median_error"]),
                    share_cell(row["p90_error"]),
                    share_cell(row["roofline_median_error"]),
                    share_cell(row["coverage"]),
                )
            )
        )
    return Grid(columns, tuple(rows))
