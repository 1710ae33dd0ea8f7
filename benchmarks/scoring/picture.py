"""Error against the number of samples, all methods; and on cards of which there is no sample."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from benchmarks.scoring.cases import BOTH, BUDGETS, SIX, TITLES
from benchmarks.scoring.score import CHOSEN, OURS, RANDOM

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INK, FAINT = "#222222", "#8a8a8a"
STYLES = {
    (OURS, CHOSEN): ("calib, chosen samples", "#d55e00", "o", "-"),
    (OURS, RANDOM): ("calib, random samples", "#d55e00", "o", ":"),
    ("boosted trees", CHOSEN): ("boosted trees, chosen samples", "#0072b2", "s", "-"),
    ("boosted trees", RANDOM): ("boosted trees, random samples", "#0072b2", "s", ":"),
    ("boosted trees, clock cycles", RANDOM): ("boosted trees, clock cycles", "#56b4e9", "D", ":"),
    ("nearest neighbours", RANDOM): ("nearest neighbours", "#009e73", "^", ":"),
    ("constant efficiency", RANDOM): ("constant efficiency", "#cc79a7", "v", ":"),
    ("roofline", RANDOM): ("datasheet roofline", "#8a8a8a", "x", ":"),
}
"""(method, selection) -> name, colour (Okabe and Ito), marker, line. ``all`` belongs to both."""
TICKS = (1, 2, 5, 10, 20, 50, 100, 200, 400)
TABLES = ("gemm", "context_attention", "generation_attention")


def draw(table: pd.DataFrame, noise: pd.DataFrame, path: Path) -> None:
    """``table``: :func:`benchmarks.scoring.report.summary`; ``noise``: engines' disagreement."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 11.5), layout="constrained")
    grid = figure.add_gridspec(3, 3, height_ratios=(1, 1, 0.9))
    for i, card in enumerate(BOTH):
        for j, name in enumerate(TABLES):
            _against_samples(figure.add_subplot(grid[i, j]), table, noise, name, card)
    _unseen(figure.add_subplot(grid[2, :]), table)
    handles: dict[str, Any] = {}
    for axes in figure.axes:
        for handle, text in zip(*axes.get_legend_handles_labels(), strict=True):
            handles.setdefault(text, handle)
    figure.legend(
        handles.values(), handles.keys(), loc="outside lower center", ncols=4, frameon=False
    )
    figure.suptitle("Mean error on groups of shapes that were held out whole", color=INK, size=13)
    figure.savefig(path, dpi=110)


def _scale(axes: Axes, low: float, high: float) -> None:
    axes.set_yscale("log")
    shown = [t for t in TICKS if low / 1.3 <= t <= high * 1.3]
    axes.set_yticks(shown, [f"{t}%" for t in shown])
    axes.set_yticks([], minor=True)
    axes.grid(True, axis="y", color="#e6e6e6", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _against_samples(
    axes: Axes, table: pd.DataFrame, noise: pd.DataFrame, name: str, card: str
) -> None:
    budgets = list(reversed(BUDGETS))  # 100, 300, 1000, all
    cases = [f"{name}-{card}-{'all' if b is None else b}" for b in budgets]
    rows = table.set_index(["case", "method", "selection"])
    drawn: list[float] = []
    for (method, selection), (text, colour, marker, line) in STYLES.items():
        keys = [(c, method, selection if "all" not in c else RANDOM) for c in cases]
        means = [rows["mean"].get(key, np.nan) for key in keys]
        if np.isnan(means[:-1]).all():
            continue
        spread = np.nan_to_num([rows["spread"].get(key, np.nan) for key in keys])
        axes.errorbar(
            range(len(cases)),
            means,
            yerr=spread,
            label=text,
            color=colour,
            marker=marker,
            linestyle=line,
            markersize=5,
            linewidth=1.6 if line == "-" else 1.1,
            capsize=2,
            elinewidth=0.9,
        )
        drawn += [m for m in means if np.isfinite(m)]
    axes.set_xticks(range(len(cases)), ["all" if b is None else f"{b:,}" for b in budgets])
    axes.set_title(f"{TITLES[name]}, {card}", size=10.5, color=INK, loc="left")
    axes.set_xlabel("samples learned from", size=9)
    apart = noise[(noise["card"] == card) & (noise["table"] == name)]
    if len(apart):
        axes.axhspan(
            100 * apart["mean"].min(),
            100 * apart["mean"].max(),
            color="#f0e442",
            alpha=0.45,
            linewidth=0,
            label="two engines disagree by",
        )
    if drawn:
        _scale(axes, min(drawn), max(drawn))


def _unseen(axes: Axes, table: pd.DataFrame) -> None:
    """GEMM on each card left out, without and with a hundred samples of it."""
    rows = table.set_index(["case", "method", "selection"])["mean"]
    drawn: list[float] = []
    for k, ((method, selection), (text, colour, marker, _)) in enumerate(STYLES.items()):
        for x, card in enumerate(SIX):
            offset = (k - len(STYLES) / 2) * 0.045
            none = rows.get((f"gemm-{card}-0-transfer", method, RANDOM), np.nan)
            some = rows.get((f"gemm-{card}-100-transfer", method, selection), np.nan)
            if selection == RANDOM and np.isfinite(none):
                axes.plot(x + offset - 0.2, none, marker, color=colour, markersize=6, label=text)
            if np.isfinite(some):
                axes.plot(x + offset + 0.25, some, marker, color=colour, markersize=6, label=text)
            drawn += [v for v in (none, some) if np.isfinite(v)]
    places = [x + shift for x in range(len(SIX)) for shift in (-0.22, 0.23)]
    axes.set_xticks(places, ["no sample", "100 samples"] * len(SIX), size=7.5)
    axes.set_xticks(range(len(SIX)), [f"\n{card}" for card in SIX], minor=True, size=9.5)
    axes.tick_params(axis="x", which="minor", length=0)
    axes.set_xlim(-0.5, len(SIX) - 0.5)
    axes.set_title(
        "GEMM on a card that was left out, learned from five others", loc="left", size=10.5
    )
    if drawn:
        _scale(axes, min(drawn), max(drawn))
