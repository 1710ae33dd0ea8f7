"""The picture of a comparison: before and after, with their intervals, on one axis of time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from calib.compare.runs import FASTER, GONE, NEW, SLOWER, UNKNOWN, WITHIN, Comparison
from calib.report.pictures.canvas import FAINT, INK, canvas
from calib.report.record import known
from calib.report.units import seconds

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = {
    SLOWER: "#d55e00",
    FASTER: "#009e73",
    WITHIN: "#0072b2",
    UNKNOWN: "#0072b2",
    NEW: "#cc79a7",
    GONE: "#cc79a7",
}
MOST_OPERATORS = 14


def comparison_picture(found: Comparison, names: tuple[str, str]) -> Figure:
    """Components above, the operators that changed most below."""
    operators = found.operators.head(MOST_OPERATORS)
    labels = [list(found.components["name"]), [label(r) for r in operators.to_dict("records")]]
    counts = [max(len(some), 1) for some in labels]
    height = 1.5 + 0.3 * sum(counts)
    left = min(0.05 + 0.0095 * max(len(text) for some in labels for text in some), 0.45)
    title = f"{names[0]} (grey) and {names[1]}: {found.basis}"
    figure, panels = canvas(title, height, tuple(map(float, counts)), left, apart=0.25)
    for axes, table, texts in zip(panels, (found.components, operators), labels, strict=True):
        draw(axes, table, texts)
    panels[-1].set_xlabel("seconds, with intervals; orange slower, green faster beyond them")
    return figure


def label(row: dict[Any, Any]) -> str:
    module = ".".join(str(row["module"]).split(".")[-2:])
    return f"{row['phase']} {module} {row['kind']}"[-46:]


def draw(axes: Axes, table: pd.DataFrame, labels: list[str]) -> None:
    places = np.arange(len(table))[::-1]
    for place, row in zip(places, table.to_dict("records"), strict=True):
        colour = COLOURS[row["change"]]
        for side, ink, shift in (("before", FAINT, 0.14), ("after", colour, -0.14)):
            value, low, high = (row[f"{side}_{name}"] for name in ("s", "low_s", "high_s"))
            if known(value) and value > 0:
                axes.plot([value], [place + shift], "o", color=ink, ms=5)
                if known(low) and known(high):
                    ends = [max(low, value / 1e3), high]
                    axes.plot(ends, [place + shift] * 2, color=ink, lw=1.4)
        if known(row["ratio"]):
            end = np.nanmax([row["before_high_s"], row["after_high_s"], row["after_s"]])
            text = f"{row['ratio'] - 1:+.0%}"
            axes.annotate(
                text,
                (end, place),
                (5, 0),
                textcoords="offset points",
                fontsize=8.5,
                va="center",
                color=INK,
            )
    axes.set_xscale("log")
    axes.set_yticks(places, labels)
    axes.set_ylim(-0.7, len(table) - 0.3)
    axes.margins(x=0.12)
    axes.tick_params(axis="y", length=0)
    axes.xaxis.set_major_formatter(lambda value, _: seconds(value))
    axes.grid(axis="x", color=FAINT, alpha=0.25, lw=0.6)
