"""The roofline: operators by arithmetic intensity and rate."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from calib.report.pictures.canvas import INK, KINDS, canvas, legend, logarithmic
from calib.report.record import RunRecord, known
from calib.report.units import percent

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


NEGLIGIBLE = 1e-5
"""Part of the time below which an operator is not drawn on the roofline."""


def roofline_picture(record: RunRecord, distinct: pd.DataFrame) -> tuple[Figure, str]:
    """FLOP/s over FLOP/byte; area of a point: its part of the time."""
    column, how = ("measured_s", "measured") if record.clocked else ("estimate_s", "predicted")
    whole = distinct[column].sum()
    shown = distinct[(distinct["flops"] > 0) & (distinct["bytes"] > 0)]
    shown = shown[shown[column] > NEGLIGIBLE * whole]
    figure, (axes,) = canvas(f"Roofline of {record.hardware['name']}: operators as {how}", 4.8)
    logarithmic(axes)
    axes.set_xlabel("arithmetic intensity [FLOP/byte]")
    axes.set_ylabel("rate [FLOP/s]")
    x, y = shown["flops"] / shown["bytes"], shown["flops"] / shown[column]
    area = 14 + 450 * np.sqrt(shown[column] / whole)
    for kind, rows in shown.groupby("kind", sort=False):
        colour, marker = KINDS.get(str(kind), KINDS["other"])
        style: dict[str, Any] = {"color": colour, "marker": marker, "alpha": 0.6, "linewidths": 0}
        axes.scatter(x[rows.index], y[rows.index], s=area[rows.index], label=kind, **style)
    draw_roofs(axes, record, sorted(set(shown["dtype"])), x, y)
    legend(axes, loc="lower right")
    rest = percent(1 - shown[column].sum() / whole)
    return figure, (
        f"Each point is an operator of one shape at its {how} rate; the larger, the more of the "
        f"time it takes. Operators without arithmetic, and those below {NEGLIGIBLE:.3%} of the "
        f"time, are left out: {rest} of the time. Above the roof may lie causal attention, whose "
        "FLOPs count masked work and whose time does not, and what is read from the L2."
    )


def draw_roofs(axes: Axes, record: RunRecord, dtypes: list[str], x: Any, y: Any) -> None:
    """The line of the bandwidth and one of each dtype's peak."""
    hardware = record.hardware
    bandwidth, peaks = hardware["bandwidth"], hardware["peak_flops"]
    roofs = {d: peaks[d] for d in dtypes if known(peaks.get(d))}
    roofs.setdefault("pointwise", hardware["cuda_core_flops"])
    top = max(roofs.values())
    left, right = min(x.min(), 0.1) / 2, max(x.max(), top / bandwidth * 4) * 3
    axes.set_xlim(left, right)
    axes.set_ylim(min(y.min() / 3, left * bandwidth), top * 4)
    slope = np.array([left, top / bandwidth])
    axes.plot(slope, slope * bandwidth, color=INK, lw=1.3, zorder=1)
    for rate, names in by_rate(roofs).items():
        axes.plot([rate / bandwidth, right], [rate, rate], color=INK, lw=1.3, zorder=1)
        above = rate == top  # the others below their line, since cards have roofs a factor 2 apart
        axes.text(
            right,
            rate * 1.12 if above else rate / 1.15,
            f"{', '.join(names)}: {rate / 1e12:.4g} TFLOP/s ",
            ha="right",
            va="bottom" if above else "top",
            fontsize=8.5,
            color=INK,
        )
    at = np.sqrt(left * top / bandwidth)
    axes.text(
        at,
        at * bandwidth * 1.5,
        f"{bandwidth / 1e9:.4g} GB/s",
        fontsize=8.5,
        color=INK,
        rotation=slope_angle(axes),
        rotation_mode="anchor",
        ha="center",
    )


def by_rate(roofs: dict[str, float]) -> dict[float, list[str]]:
    """Names that share a rate share a line."""
    found: dict[float, list[str]] = {}
    for name, rate in roofs.items():
        found.setdefault(rate, []).append(name)
    return found


def slope_angle(axes: Axes) -> float:
    """Degrees on the page of a line of slope 1 in the data, both axes logarithmic."""
    low, high = axes.transData.transform([(1.0, 1.0), (10.0, 10.0)])
    return float(np.degrees(np.arctan2(high[1] - low[1], high[0] - low[0])))
