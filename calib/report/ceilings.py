"""What the device reaches at best, measured, beside its datasheet: a table of the report."""

from __future__ import annotations

from typing import Any

from calib.report.record import RunRecord, known
from calib.report.terminal import Cells
from calib.report.units import UNKNOWN, flops, nbytes, percent, seconds

INTRODUCTION = (
    "Measured on random data. The share is that of the datasheet (of a CPU: of its probes); the "
    "last column that of what the matrix units could do at the clock that was measured."
)
HEADERS = ("ceiling", "measured", "datasheet", "share", "SM clock", "of the clock's peak")


def ceiling_cells(rows: list[dict[Any, Any]]) -> Cells:
    """One row a figure, with the fields of ``calib.samples.ceilings.Ceiling``."""
    shown: list[tuple[str, ...]] = [
        (
            str(row["name"]),
            rate(row["measured"], row["unit"]),
            rate(row["datasheet"], row["unit"]),
            percent(row["share"]),
            clock(row["clock_hz"]),
            percent(row["clock_share"]),
        )
        for row in rows
    ]
    return Cells(HEADERS, shown)


def rate(value: Any, unit: str) -> str:
    """FLOP/s, bytes/s or seconds with a prefix."""
    if unit == "s":
        return seconds(value)
    text = flops(value) if unit == "FLOP/s" else nbytes(value)
    return text if text == UNKNOWN else f"{text}/s"


def clock(value: Any) -> str:
    return f"{value / 1e6:.0f} MHz" if known(value) else UNKNOWN


def ceiling_rows(record: RunRecord) -> list[dict[Any, Any]]:
    return [] if record.ceilings is None else record.ceilings.to_dict("records")
