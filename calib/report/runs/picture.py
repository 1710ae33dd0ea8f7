"""The picture of a sweep: what varies along an axis, or a bar a run where that is no number.

Colours are those of :mod:`calib.report.pictures.of_run`: one a value of what varies first, and a
marker and a dash a combination of the rest.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from calib.report.pictures.canvas import FAINT, INK, PARTS, WHISKER, beside, canvas
from calib.report.record import known
from calib.report.runs.table import COSTS, NUMBERS, varied
from calib.report.units import TIMES, digits, flops, nbytes, pick, seconds

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FAR_APART = 20
"""Largest over smallest value above which an axis is logarithmic."""
MOST_BANDS = 4
"""Lines of a panel above which their intervals would hide one another."""
LEGEND: dict[str, Any] = {"fontsize": 8, "framealpha": 0.85, "edgecolor": "none"}
KERNELS, HOST = PARTS[0], PARTS[5]
HEAD = 0.12
"""Free part of a panel's axis, above the highest point and for the text beside the longest bar."""


def cost_picture(table: pd.DataFrame) -> Figure:
    """``table``: a row a run, as ``calib.report.runs.table.runs_table`` makes it."""
    axis = next((n for n in NUMBERS if has_lines(table, n)), None)
    return lines_picture(table, axis) if axis else bars_picture(table)


def has_lines(table: pd.DataFrame, axis: str) -> bool:
    """Whether there are runs that differ in ``axis`` alone."""
    others = [n for n in varied(table) if n != axis]
    return bool((table.groupby(others)[axis] if others else table[[axis]]).nunique().max() > 1)


def known_costs(table: pd.DataFrame) -> list[str]:
    """Of what is known of any run: what does not fit its card has no time."""
    return [c for c in COSTS if table[c].map(known).any()]


def subject(table: pd.DataFrame) -> str:
    """What all runs have in common: "deepseek_ocr, ocr_tiny, eager, 383 GFLOP"."""
    alike = [n for n in ("model", "workload", "hardware", "execution") if table[n].nunique() == 1]
    words = [str(table[n].iloc[0]) for n in alike]
    words += [f"batch {table['batch'].iloc[0]}"] if table["batch"].nunique() == 1 else []
    for cost, text in (("flops", flops), ("io_bytes", nbytes)):
        found = set(table[cost].map(text))
        words += found if len(found) == 1 else []
    return ", ".join(words)


# A bar a run


def bars_picture(table: pd.DataFrame) -> Figure:
    """A bar a run, the shortest time on top; without times bytes and FLOPs, the fewest bytes on
    top."""
    costs = known_costs(table)
    costs = ["wall_s"] if "wall_s" in costs else costs
    table = table.sort_values(costs[0], ascending=False, ignore_index=True, na_position="first")
    names = varied(table) or ["run"]
    labels = [label(names, row) for row in table[names].to_dict("records")]
    left = min(0.03 + 0.0105 * max(map(len, labels)), 0.4)
    height = 0.8 + len(costs) * (0.6 + 0.32 * len(table))
    figure, panels = canvas(subject(table), height, (1.0,) * len(costs), left, apart=0.4)
    for axes, cost in zip(panels, costs, strict=True):
        axes.set_yticks(range(len(table)), labels)
        axes.set_ylim(-0.6, len(table) - 0.4 + 0.9 * (cost == "wall_s"))
        axes.tick_params(axis="y", length=0)
        draw_times(axes, table) if cost == "wall_s" else draw_amounts(axes, table, cost)
    return figure


def label(names: list[str], row: dict[Any, Any]) -> str:
    """ "rtx5090, graph, batch 8": names speak for themselves, numbers do not."""
    words = (
        f"{n.replace('_', ' ')} {row[n]}" if n in (*NUMBERS, "run", "logits") else str(row[n])
        for n in names
    )
    return ", ".join(words)


def draw_times(axes: Axes, table: pd.DataFrame) -> None:
    """Kernels, the wait for the host, the interval of both; a roofline is said to be a bound."""
    ends = ["wall_s", "wall_low_s", "wall_high_s", "predicted_s"]
    factor, unit = pick(table[ends].max().max(), TIMES)
    wall, low, high, kernels = (table[c].to_numpy(dtype=float) / factor for c in ends)
    bound = (table["provenance"] == "roofline").to_numpy()  # which has no interval
    low = np.where(np.isnan(low) | bound, wall, low)
    high = np.where(np.isnan(high) | bound, wall, high)
    where, apart = np.arange(len(table)), np.nanmax(wall) / np.nanmin(wall) > FAR_APART
    if apart:  # a bar has no beginning on a logarithmic axis
        axes.set_xscale("log")
        axes.plot(wall, where, "o", color=KERNELS, ms=6)
        plain_ticks(axes.xaxis, 1.0, unit)
    else:
        axes.barh(where, kernels, color=KERNELS, height=0.62, label="kernels")
        rest = np.maximum(wall - kernels, 0)
        if (rest > 0.01 * wall).any():
            axes.barh(
                where, rest, left=kernels, color=HOST, height=0.62, label="waiting for the host"
            )
            axes.legend(loc="upper right", ncols=2, fontsize=8.5, frameon=False)
    sure, fits = ~bound, fitting(table)
    ends_of = [(wall - low)[sure], (high - wall)[sure]]
    axes.errorbar(wall[sure], where[sure], xerr=ends_of, **WHISKER)
    reach = max(np.nanmax(high), np.nanmax(wall))
    ends_x = (np.nanmin(low) / 1.3, reach * 2) if apart else (0.0, reach * (1 + 1.6 * HEAD))
    for y, value in enumerate(wall):
        text = seconds(value * factor) + (", a lower bound" if bound[y] else "")
        if np.isnan(value):
            text = "no time is known" if fits[y] else "does not fit"
        elif not fits[y]:
            text += ", does not fit"
        beside(axes, text, np.nanmax([value, high[y], ends_x[0]]), y)
    axes.set_xlim(*ends_x)
    axes.set_xlabel(f"time [{unit}], with its interval")


def draw_amounts(axes: Axes, table: pd.DataFrame, cost: str) -> None:
    name, scale = COSTS[cost]
    factor, unit = pick(table[cost].max(), scale)
    values = table[cost].to_numpy(dtype=float) / factor
    axes.barh(range(len(table)), values, color=KERNELS, height=0.62)
    for y, value in enumerate(values):
        beside(axes, digits(value), value, y)
    axes.set_xlim(0, values.max() * (1 + HEAD))
    axes.set_xlabel(f"{name} [{unit}]")


# Lines over a number


def lines_picture(table: pd.DataFrame, axis: str) -> Figure:
    """A panel a cost over ``axis``; a line is of runs that differ in ``axis`` alone, and where
    something else changes nothing of a cost, its lines are one."""
    costs, names = known_costs(table), [n for n in varied(table) if n != axis]
    figure, panels = canvas(subject(table), 1.2 + 2.5 * len(costs), (1.0,) * len(costs), left=0.13)
    misfits = False
    for axes, cost in zip(panels, costs, strict=True):
        matter = [n for n in names if matters(table, cost, n, [axis, *names])]
        groups = list(table.groupby(matter, sort=False)) if matter else [((), table)]
        bands = cost == "wall_s" and len(groups) <= MOST_BANDS
        for found, some in groups:
            values, rows = dict(zip(matter, found, strict=True)), some.sort_values(axis)
            style = line_style(table, names, values)
            axes.plot(rows[axis], rows[cost], label=label(matter, values), **style)
            misfits |= draw_misfits(axes, rows, axis, cost, style)
            if bands and known(rows["wall_high_s"].max()):
                ends = rows["wall_low_s"], rows["wall_high_s"]
                axes.fill_between(rows[axis], *ends, color=style["color"], alpha=0.1, lw=0)
        scale_axes(axes, table, axis, [cost, "wall_low_s", "wall_high_s"] if bands else [cost])
        axes.tick_params(labelbottom=axes is panels[-1])
        if matter:
            axes.legend(loc="best", ncols=1 + len(groups) // 7, **LEGEND)
    for axes in panels[:-1]:  # the last has every run
        axes.set_xlim(panels[-1].get_xlim())
    panels[-1].set_xlabel(NUMBERS[axis] + (" (hollow: does not fit)" if misfits else ""))
    return figure


def draw_misfits(
    axes: Axes, rows: pd.DataFrame, axis: str, cost: str, style: dict[str, Any]
) -> bool:
    """Costs of runs that do not fit are hollow; whether there are any."""
    some = rows[~fitting(rows) & rows[cost].notna().to_numpy()]
    if not some.empty:
        hollow = {**style, "ls": "", "mfc": "white", "ms": 6.5, "zorder": 3}
        axes.plot(some[axis], some[cost], **hollow)
    return not some.empty


def fitting(table: pd.DataFrame) -> np.ndarray:
    """[runs] False where a run is known not to fit its device's memory."""
    known_fits = table["fits"].tolist() if "fits" in table else [None] * len(table)
    return np.array([fits is not False for fits in known_fits], dtype=bool)


def matters(table: pd.DataFrame, cost: str, name: str, names: list[str]) -> bool:
    """Whether runs alike in all ``names`` but ``name`` differ in ``cost``."""
    others = [n for n in names if n != name]
    return bool((table.groupby(others, dropna=False)[cost].nunique() > 1).any())


def line_style(table: pd.DataFrame, names: list[str], values: dict[str, Any]) -> dict[str, Any]:
    """A colour for the first of ``names``, marker and dash for the others; ink where ``values``
    says nothing of the first."""
    place, rest, stride = {}, 0, 1
    for name in names:
        place[name] = list(table[name].unique()).index(values[name]) if name in values else 0
    for name in names[1:]:
        rest, stride = rest + stride * place[name], stride * table[name].nunique()
    coloured = names and names[0] in values
    return {
        "color": PARTS[place[names[0]] % len(PARTS)] if coloured else INK,
        "marker": "os^Dv"[rest % 5],
        "ls": ("-", "--", ":", "-.")[rest % 4],
        "ms": 4.5,
        "lw": 1.3,
    }


def scale_axes(axes: Axes, table: pd.DataFrame, axis: str, drawn: list[str]) -> None:
    """Limits a little beyond what is ``drawn``, the cost first; ticks in units of people, and at
    every point across."""
    from matplotlib.ticker import NullLocator

    axes.grid(color=FAINT, alpha=0.25, lw=0.6)
    low, high = float(table[drawn].min().min()), float(table[drawn].max().max())
    name, scale = COSTS[drawn[0]]
    factor, unit = pick(high, scale)
    axes.set_ylabel(f"{name} [{unit}]")
    if high / low > FAR_APART:
        axes.set_yscale("log")
        axes.set_ylim(low / 1.4, high * 1.4)
    else:
        axes.set_ylim(0, high * (1 + HEAD))
    plain_ticks(axes.yaxis, factor, unit)
    places = sorted(table[axis].unique())
    if places[-1] / places[0] > 4:
        axes.set_xscale("log")
    if len(places) <= 12:
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xticks(places, [f"{p:,}" for p in places])
    else:
        plain_ticks(axes.xaxis, 1.0, "")


def plain_ticks(axis: Any, factor: float, unit: str) -> None:
    """Numbers in ``unit``, which is ``factor`` of the axis's own; 1, 2, 5 on a logarithmic one."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    if axis.get_scale() == "log":
        axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value / factor:,g}"))
