"""Tokens a second a card over tokens a second a user: every configuration, and the front."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from calib.report.pictures.canvas import FAINT, INK, PARTS, canvas, logarithmic
from calib.report.serving.found import loads, thinned

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from calib.report.serving.found import Front

POINTS = 5000
"""Drawn of all configurations; more would hide one another."""
APART = 0.88
"""A name stands at most here from the one before, so that both can be read."""


def front_picture(front: Front) -> Figure:
    """A line a load; a layout's name where the front comes to it."""
    from matplotlib.ticker import LogLocator

    figure, (axes,) = canvas(front.title, 5.2)
    logarithmic(axes)
    axes.set_xlabel("tokens a second a user (1 / time per token)")
    axes.set_ylabel("tokens a second a card")
    some = thinned(front.rows, POINTS)
    grey: dict[str, Any] = {"color": FAINT, "alpha": 0.25, "linewidths": 0, "s": 5}
    axes.scatter(some["tokens_per_s_user"], some["tokens_per_s_card"], **grey)
    for i, (name, rows) in enumerate(loads(front.best)[: len(PARTS)]):
        style: dict[str, Any] = {"color": PARTS[i], "marker": ".", "markersize": 3, "lw": 1.5}
        axes.plot(rows["tokens_per_s_user"], rows["tokens_per_s_card"], label=name, **style)
        if i == 0:
            _named(axes, rows)
    most = front.limits.get("tpot")
    if most:
        axes.axvline(1 / most, color=INK, lw=1, ls="--")
    for axis in (axes.xaxis, axes.yaxis):  # a front spans a decade or two
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.set_major_formatter(lambda value, _: f"{value:,g}")
    axes.legend(loc="lower left", fontsize=8.5, framealpha=0.9, edgecolor="none")
    return figure


def _named(axes: Axes, rows: Any) -> None:
    """The layout where it changes along the front, where there is room."""
    changes = rows[rows["layout"] != rows["layout"].shift()]
    before = float("inf")
    for row in changes.groupby("layout", sort=False).head(1).to_dict("records"):
        at = (row["tokens_per_s_user"], row["tokens_per_s_card"])
        if at[0] > APART * before:
            continue
        before = at[0]
        style: dict[str, Any] = {"fontsize": 8, "color": INK, "textcoords": "offset points"}
        axes.annotate(row["layout"], at, (5, 4), **style)
