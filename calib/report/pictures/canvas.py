"""What every picture is drawn on and with: panels, axes, colours."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


INK, FAINT, BAND = "#222222", "#8a8a8a", "#56b4e9"

KINDS = {
    "matmul": ("#0072b2", "o"),
    "grouped_matmul": ("#d55e00", "s"),
    "attention": ("#e69f00", "^"),
    "conv2d": ("#009e73", "D"),
    "norm": ("#cc79a7", "v"),
    "elementwise": ("#56b4e9", "P"),
    "softmax": ("#b8a800", "X"),
    "copy": ("#7a5195", "<"),
    "gather": ("#6b6b6b", ">"),
    "reduction": ("#8c564b", "p"),
    "other": ("#a0a0a0", "*"),
}
"""Colour and marker of each kind of operator; one that is not here is drawn as ``other``."""

PARTS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#d55e00", "#56b4e9", "#b8a800", "#7a5195")

WIDTH, DPI = 8.4, 120

WHISKER: dict[str, Any] = {"fmt": "none", "ecolor": INK, "elinewidth": 1.2, "capsize": 3}


def canvas(
    title: str,
    height: float,
    rows: tuple[float, ...] = (1.0,),
    left: float = 0.1,
    apart: float = 0.08,
) -> tuple[Figure, list[Axes]]:
    """A figure of ``height`` inches with a panel a row, of the given relative heights, ``apart`` by
    a part of one.

    Margins are fixed: measuring the texts to find them would take as long as drawing.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, height), facecolor="white")
    FigureCanvasAgg(figure)
    margins = {"left": left, "right": 0.975, "top": 1 - 0.42 / height, "bottom": 0.52 / height}
    grid = figure.add_gridspec(len(rows), 1, height_ratios=rows, hspace=apart, **margins)
    panels = [figure.add_subplot(grid[i]) for i in range(len(rows))]
    figure.text(0.012, 1 - 0.25 / height, title, fontsize=11, color=INK, fontweight="bold")
    for axes in panels:
        axes.spines[["top", "right"]].set_visible(False)
        axes.spines[["left", "bottom"]].set_color(FAINT)
        axes.tick_params(colors=INK, labelsize=9)
    return figure, panels


def logarithmic(axes: Axes, x: bool = True, y: bool = True) -> None:
    """Decades, each with a tick and a plain text: minor ticks and typesetting take long to draw."""
    from matplotlib.ticker import FuncFormatter, NullLocator

    for wanted, axis, name in ((x, axes.xaxis, "x"), (y, axes.yaxis, "y")):
        if wanted:
            axes.set(**{f"{name}scale": "log"})
            axis.set_minor_locator(NullLocator())
            axis.set_major_formatter(FuncFormatter(lambda value, _: power_of_ten(value)))


def power_of_ten(value: float) -> str:
    """1e-12 -> "10\u207b\u00b9\u00b2", 100 -> "100"; what is near 1 is written out."""
    exponent = round(math.log10(value))
    if -3 < exponent < 4:
        return f"{value:g}"
    return "10" + str(exponent).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))


def beside(axes: Axes, text: str, x: float, y: float, **style: Any) -> None:
    """A text to the right of where a bar ends."""
    style = {"fontsize": 9, "color": INK, "va": "center", **style}
    axes.annotate(text, (x, y), (6, 0), textcoords="offset points", **style)


def legend(axes: Axes, loc: str, columns: int = 1) -> None:
    """What bands and markers mean; kinds in the order of ``KINDS``."""
    handles, labels = axes.get_legend_handles_labels()
    order = sorted(
        range(len(labels)), key=lambda i: list(KINDS).index(labels[i]) if labels[i] in KINDS else -1
    )
    names = [labels[i].replace("_", " ") for i in order]
    style: dict[str, Any] = {"loc": loc, "fontsize": 8.5, "framealpha": 0.9, "edgecolor": "none"}
    shown = axes.legend([handles[i] for i in order], names, ncols=columns, **style)
    for handle in shown.legend_handles:
        if handle is not None and hasattr(handle, "set_sizes"):
            handle.set_sizes([28])
            handle.set_alpha(0.9)
