"""The comparison in one picture."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from benchmarks.recorded.text import by_way, named
from benchmarks.recorded.ways import OVER, SHIPS, UNSEEN

INK, GRID = "#333333", "#dddddd"
COLOURS = {SHIPS: "#2a6f97", OVER: "#e07a3f", UNSEEN: "#8f5fa8"}


def draw(path: Path, phases: pd.DataFrame, pool: pd.DataFrame, before: Mapping[Any, float]) -> Path:
    """Left: error of each phase's kernels, in percent. Right: each shape of the pool, estimate by
    the other folds over its measured time, against that time."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    errors = by_way(phases, "kernel", before)
    figure, (left, right) = plt.subplots(1, 2, figsize=(12, 1.6 + 0.3 * len(errors)), dpi=110)
    for way, colour in COLOURS.items():
        left.scatter(errors[way] * 100, range(len(errors)), s=34, color=colour, label=way)
    left.set_yticks(range(len(errors)), [named(key) for key in errors.index], fontsize=8)
    left.invert_yaxis()
    left.axvspan(-8, 8, color="#f0f0f0", zorder=0)
    left.axvline(0, color=INK, linewidth=0.8)
    left.set_xlabel("kernels' time: estimate over profiler, less 1 [%]; grey: within 8")
    left.legend(frameon=False, fontsize=8)
    for kind, some in pool.groupby("kind"):
        ratio = some["estimate_s"] / some["measured_s"]
        right.scatter(some["measured_s"] * 1e6, ratio, s=9, alpha=0.7, label=str(kind))
    right.axhline(1, color=INK, linewidth=0.8)
    right.set(xscale="log", yscale="log", xlabel="pool: measured [microseconds]")
    right.set_ylabel("estimate by the other folds / measured")
    right.legend(frameon=False, fontsize=7, ncols=2)
    for axes in (left, right):
        axes.grid(color=GRID, linewidth=0.6)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.tight_layout()
    figure.savefig(path)
    plt.close(figure)
    return path
