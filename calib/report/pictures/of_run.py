"""Three pictures of a run, drawn with matplotlib's objects: no window, no global state.

Colours are those of Okabe and Ito, told apart by the colour-blind; kinds differ in shape as well.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from calib.report.record import TOTAL, RunRecord, known
from calib.report.units import TIMES, percent, pick, seconds

if TYPE_CHECKING:
    import pandas as pd
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
NEGLIGIBLE = 1e-5
"""Part of the time below which an operator is not drawn on the roofline."""


def draw_pictures(record: RunRecord, folder: Path) -> list[tuple[str, str]]:
    """Write the three pictures into ``folder``; returns (file name, caption) of each."""
    operators = record.operators
    if record.measured:  # an operator that the clock did not see has no place beside it
        operators = operators[operators["measured_s"].notna()]
    distinct = distinct_operators(operators)
    drawn = (
        ("roofline.png", *roofline_picture(record, distinct)),
        ("accuracy.png", *(against_the_clock if record.measured else by_kind)(distinct)),
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


def roofline_picture(record: RunRecord, distinct: pd.DataFrame) -> tuple[Figure, str]:
    """FLOP/s over FLOP/byte; area of a point: its part of the time."""
    column, how = ("measured_s", "measured") if record.measured else ("estimate_s", "predicted")
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
    return (
        figure,
        "Nothing was measured in this run, so these are estimates by kind of operator.",
    )


def beside(axes: Axes, text: str, x: float, y: float, **style: Any) -> None:
    """A text to the right of where a bar ends."""
    style = {"fontsize": 9, "color": INK, "va": "center", **style}
    axes.annotate(text, (x, y), (6, 0), textcoords="offset points", **style)


def components_picture(record: RunRecord) -> tuple[Figure, str]:
    """Stacked bars: by the roofline, as calibrated and as measured."""
    parts = record.components[record.components["component"] != TOTAL]
    bars = {"roofline": "roofline_s", "calibrated": "estimate_s"}
    if record.measured:
        bars["measured"] = "measured_s"
    total = record.total
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
