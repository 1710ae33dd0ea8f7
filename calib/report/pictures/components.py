"""Time by component: by the roofline, as calibrated and as measured."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from calib.report.pictures.canvas import INK, PARTS, WHISKER, beside, canvas
from calib.report.record import TOTAL, RunRecord, known
from calib.report.units import TIMES, pick, seconds

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def components_picture(record: RunRecord) -> tuple[Figure, str]:
    """Stacked bars: by the roofline, as calibrated and as measured."""
    parts = record.components[record.components["component"] != TOTAL]
    bars = {"roofline": "roofline_s", "calibrated": "estimate_s"}
    total = record.total
    if known(total["measured_s"]):
        bars["measured"] = "measured_s"
    longest = max(
        float(total[column]) for column in (*bars.values(), "high_s") if known(total[column])
    )
    factor, unit = pick(longest, TIMES)
    figure, (axes,) = canvas("Time by component", 1.6 + 0.7 * len(bars))
    for y, column in enumerate(bars.values()):
        draw_stack(axes, y, (parts[column].astype(float) / factor).tolist())
        beside(axes, seconds(total[column]), total[column] / factor, y, fontweight="bold")
    label_stacks(axes, factor, longest)
    whisker = draw_interval(axes, total, factor, y=list(bars).index("calibrated"))
    axes.set_yticks(range(len(bars)), list(bars))
    axes.set_ylim(len(bars) - 0.5, -0.95)
    axes.set_xlim(0, longest / factor * 1.13)
    axes.set_xlabel(f"time [{unit}]")
    axes.tick_params(axis="y", length=0, labelsize=10)
    names = parts["component"].tolist()
    handles = axes.patches[: len(names)]
    axes.legend(handles, names, loc="upper left", ncols=len(names), frameon=False, fontsize=9)
    caption = "Time of each component"
    if whisker:
        caption += "; the whisker is the interval of the calibrated total"
    return figure, caption + "."


def draw_stack(axes: Axes, y: int, values: list[float]) -> None:
    left = 0.0
    for index, value in enumerate(values):
        colour = PARTS[index % len(PARTS)]
        axes.barh(y, value, left=left, color=colour, height=0.58, edgecolor="white", lw=0.8)
        left += value


def label_stacks(axes: Axes, factor: float, longest: float) -> None:
    """The time of every part that is wide enough to hold it."""
    for part in axes.patches:
        x, y, width, height = part.get_path().get_extents(part.get_patch_transform()).bounds
        if width * factor > 0.08 * longest:
            colour = "white" if luminance(part.get_facecolor()) < 0.25 else INK
            style: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": 8.5}
            axes.text(x + width / 2, y + height / 2, seconds(width * factor), color=colour, **style)


def luminance(colour: Any) -> float:
    """Relative luminance of an sRGB colour (WCAG 2.1), 0 black to 1 white."""
    linear = [((c + 0.055) / 1.055) ** 2.4 for c in colour[:3]]
    return float(np.dot(linear, (0.2126, 0.7152, 0.0722)))


def draw_interval(axes: Axes, total: dict[str, Any], factor: float, y: int) -> bool:
    """A whisker above the calibrated bar, where an interval is known."""
    if not (known(total["low_s"]) and known(total["high_s"])) or total["low_s"] == total["high_s"]:
        return False
    value, low, high = (total[c] / factor for c in ("estimate_s", "low_s", "high_s"))
    axes.errorbar([value], [y - 0.38], xerr=[[value - low], [high - value]], **WHISKER)
    return True
