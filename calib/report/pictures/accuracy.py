"""Estimates beside the clock, or by kind where there was none."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from calib.report.pictures.canvas import (
    BAND,
    FAINT,
    INK,
    KINDS,
    WHISKER,
    beside,
    canvas,
    legend,
    logarithmic,
)
from calib.report.units import TIMES, percent, pick, seconds

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def against_the_clock(distinct: pd.DataFrame) -> tuple[Figure, str]:
    """Seconds estimated over seconds measured, of one execution; below, their ratio."""
    shown = distinct[(distinct["measured_s"] > 0) & (distinct["estimate_s"] > 0)]
    each = shown[["measured_s", "estimate_s", "low_s", "high_s"]].div(shown["count"], axis=0)
    ratio = each.div(each["measured_s"], axis=0).assign(measured_s=each["measured_s"])
    span = np.array([each.min().min() / 1.6, each.max().max() * 1.6])
    across = each["measured_s"].min() / 1.6, each["measured_s"].max() * 1.6
    upwards = each[["estimate_s", "low_s", "high_s"]]
    title = "Estimated against measured: each operator, one execution"
    figure, panels = canvas(title, 6.2, (1.5, 1.0))
    for axes, points, line in zip(panels, (each, ratio), (span, np.ones(2)), strict=True):
        logarithmic(axes, y=axes is panels[0])
        draw_bands(axes, span, line)
        draw_points(axes, points, shown["kind"])
        axes.set_xlim(*across)
    panels[0].set_ylim(upwards.min().min() / 1.6, upwards.max().max() * 1.6)
    panels[0].set_ylabel("estimated [s]")
    panels[0].tick_params(labelbottom=False)
    off = np.abs(ratio["estimate_s"] - 1)
    reach = float(np.clip(1.1 * off.quantile(0.98), 0.4, 2))
    panels[1].set_ylim(max(0, 1 - reach), 1 + reach)
    panels[1].set_ylabel("estimated / measured")
    panels[1].set_xlabel("measured [s]")
    legend(panels[0], loc="upper left", columns=2)
    beyond = int((off > reach).sum())

    def of_time(within: float) -> str:
        return percent(shown["measured_s"][off <= within].sum() / shown["measured_s"].sum())

    return figure, (
        f"{percent((off <= 0.1).mean())} of {len(shown)} distinct operators are within 10% of the "
        f"clock, {percent((off <= 0.2).mean())} within 20%; by time that is {of_time(0.1)} and "
        f"{of_time(0.2)}. Whiskers: the estimate's interval."
        + (f" {beyond} lie beyond the lower panel." if beyond else "")
    )


def draw_bands(axes: Axes, span: Any, line: Any) -> None:
    """10% and 20% about the line of perfect estimates."""
    for width, alpha in ((0.2, 0.18), (0.1, 0.3)):
        low, high = line * (1 - width), line * (1 + width)
        label = f"within {width:.0%}"
        axes.fill_between(span, low, high, color=BAND, alpha=alpha, lw=0, label=label, zorder=0)
    axes.plot(span, line, color=INK, lw=0.8, zorder=1)


def draw_points(axes: Axes, points: pd.DataFrame, kinds: pd.Series) -> None:
    """Estimates with their intervals, a colour and a marker a kind."""
    axes.vlines(
        points["measured_s"], points["low_s"], points["high_s"], color=FAINT, lw=0.7, alpha=0.5
    )
    for kind, rows in points.groupby(kinds, sort=False):
        colour, marker = KINDS.get(str(kind), KINDS["other"])
        style: dict[str, Any] = {"color": colour, "marker": marker, "alpha": 0.85, "linewidths": 0}
        axes.scatter(rows["measured_s"], rows["estimate_s"], s=22, label=kind, zorder=2, **style)


def by_kind(distinct: pd.DataFrame) -> tuple[Figure, str]:
    """Time estimated for each kind with the interval, where there is no clock to compare to."""
    columns = ["estimate_s", "low_s", "high_s"]
    table = distinct.groupby("kind")[columns].sum().sort_values("estimate_s")
    factor, unit = pick(table["high_s"].max(), TIMES)
    title = "Estimated time by kind of operator (nothing was measured)"
    figure, (axes,) = canvas(title, 4.2, left=0.16)
    where, value = np.arange(len(table)), table["estimate_s"] / factor
    colours = [KINDS.get(str(k), KINDS["other"])[0] for k in table.index]
    axes.barh(where, value, color=colours, height=0.62)
    if (table["low_s"] < table["high_s"]).any():
        ends = [value - table["low_s"] / factor, table["high_s"] / factor - value]
        axes.errorbar(value, where, xerr=ends, **WHISKER)
    for y, (seconds_each, high) in enumerate(
        zip(table["estimate_s"], table["high_s"], strict=True)
    ):
        beside(axes, seconds(seconds_each), high / factor, y)
    axes.set_yticks(where, [str(k).replace("_", " ") for k in table.index])
    axes.set_xlabel(f"time [{unit}]")
    axes.set_xlim(0, table["high_s"].max() / factor * 1.14)
    axes.tick_params(axis="y", length=0)
    return figure, "Kernels by kind of operator, with the interval of each sum."
