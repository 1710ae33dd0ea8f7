"""Three pictures of a run, drawn with matplotlib's objects: no window, no global state.

Colours are those of Okabe and Ito, told apart by the colour-blind; kinds differ in shape as well.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from calib.report.pictures.accuracy import against_the_clock, by_kind
from calib.report.pictures.canvas import DPI
from calib.report.pictures.components import components_picture
from calib.report.pictures.roofline import roofline_picture
from calib.report.record import RunRecord

if TYPE_CHECKING:
    import pandas as pd


def draw_pictures(record: RunRecord, folder: Path) -> list[tuple[str, str]]:
    """Write the three pictures into ``folder``; returns (file name, caption) of each."""
    operators = record.operators
    if record.clocked:  # an operator that the clock did not see has no place beside it
        operators = operators[operators["measured_s"].notna()]
    distinct = distinct_operators(operators)
    drawn = (
        ("roofline.png", *roofline_picture(record, distinct)),
        ("accuracy.png", *against_the_clock(distinct))
        if record.clocked
        else ("kinds.png", *by_kind(distinct)),
        ("components.png", *components_picture(record)),
    )
    for name, figure, _ in drawn:
        figure.savefig(folder / name, dpi=DPI, pil_kwargs={"compress_level": 1})
    return [(name, caption) for name, _, caption in drawn]


def distinct_operators(operators: pd.DataFrame) -> pd.DataFrame:
    """One row an operator of one shape: sums over the model, and how often it runs.

    An interval that is not known is none: it ends where it starts, at the estimate.
    """
    summed = ["count", "flops", "bytes", "estimate_s", "low_s", "high_s", "measured_s"]
    table = operators.assign(
        low_s=operators["low_s"].astype(float).fillna(operators["estimate_s"]),
        high_s=operators["high_s"].astype(float).fillna(operators["estimate_s"]),
        measured_s=operators["measured_s"].astype(float),
    )
    return (
        table.groupby(["phase", "kind", "shape", "dtype"], sort=False)[summed].sum().reset_index()
    )
