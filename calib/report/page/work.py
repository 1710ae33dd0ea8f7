"""Where the time goes: components, the module tree, operators by kind and one by one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from calib.report.layers.tree import Branch
from calib.report.lines import BOUND_BY
from calib.report.page.cells import (
    BY,
    Cell,
    Column,
    Grid,
    Row,
    at_least,
    bytes_cell,
    count_cell,
    error_cell,
    flops_cell,
    how_cell,
    interval_cell,
    longest,
    readable,
    sentence,
    share_cell,
    time_cell,
    words_cell,
)
from calib.report.page.certainty import operator_cell
from calib.report.record import TOTAL, RunRecord, known
from calib.report.units import UNKNOWN, counted, efficiency, seconds

if TYPE_CHECKING:
    import pandas as pd

DEAREST = 60
"""Operators of the table; ``estimates.parquet`` has them all."""
FIRST = 12
"""Of them that are shown before a reader asks for more."""

WALL = Column("wall", "until the device is done, the time that it waits for the host included")
KERNELS = Column("kernels", "the time in which the device computes")
WAITING = Column("waiting", "wall less kernels: the device waits for the host, or for a launch")
MEASURED = Column("measured", "by the clock, as it was")
ERROR = Column("error", "of the estimate; the machine's drift is taken out of the clock")
FLOOR = Column("floor", "the least time that FLOPs and bytes allow at the peaks", spare=True)
SHARE = Column("share", "of all kernels' time")


def component_grid(record: RunRecord) -> Grid:
    """A row a part of the run; a bar of its wall time, kernels and waiting."""
    columns = (
        Column("part", words=True),
        WALL,
        MEASURED,
        ERROR,
        Column("kernels and waiting", words=True),
        KERNELS,
        WAITING,
        Column("interval", "90%, of the wall time", spare=True),
        Column("bound by", words=True),
        Column("known", words=True, spare=True),
    )
    rows = record.components.to_dict("records")
    most = longest([r["estimate_s"] for r in rows if r["component"] != TOTAL])
    return Grid(columns, tuple(_component(row, most) for row in rows)).without_empty()


def _component(row: dict[Any, Any], most: float) -> Row:
    wall, kernels, whole = row["estimate_s"], row["kernel_s"], row["component"] == TOTAL
    waiting = max(wall - kernels, 0.0)
    bars = () if whole else (("kernels", kernels / most), ("waiting", waiting / most))
    return Row(
        (
            words_cell(readable(row["component"])),
            time_cell(wall),
            time_cell(row["measured_s"]),
            error_cell(row["error"]),
            Cell("", bars=bars),
            time_cell(kernels),
            time_cell(waiting or None),
            interval_cell(row["low_s"], row["high_s"]),
            words_cell(BOUND_BY.get(row["limited_by"], UNKNOWN)),
            how_cell(row["provenance"]),
        ),
        mark="total" if whole else "",
    )


def module_grid(record: RunRecord, tree: list[Branch], times: bool) -> Grid:
    """The folded tree; a bar of its part of the whole. Without ``times`` its costs only."""
    columns = (
        Column("module", words=True),
        WALL,
        MEASURED,
        ERROR,
        KERNELS,
        Column("share", "of the whole's wall time" if times else "of all bytes moved"),
        FLOOR,
        Column("weights", spare=True),
        Column("FLOPs", spare=True),
        Column("bytes", "read and written", spare=True),
    )
    of = tree[0].costs["wall_s" if times else "bytes"] or 1.0
    wall = record.clock_of_modules != "kernels"
    rows = tuple(_module(branch, of, times, wall) for branch in tree)
    return Grid(columns, rows, tree=True).without_empty()


def _module(branch: Branch, of: float, times: bool, wall: bool) -> Row:
    """``wall``: what was measured is wall time, not that of the kernels alone."""
    costs = branch.costs
    shown = costs["wall_s" if times else "bytes"]
    steady = costs["steady_s"]
    share = shown / of if shown is not None else None
    said = costs["wall_s" if wall else "estimate_s"]
    error = said / steady - 1 if steady and said is not None else None
    name = branch.name + (f" {BY}{branch.count}" if branch.count > 1 else "")
    time = time_cell if times else (lambda value: Cell(UNKNOWN))
    return Row(
        (
            Cell(name, name, branch.class_name),
            time(costs["wall_s"]),
            time(costs["measured_s"]),
            error_cell(error if times else None),
            time(costs["estimate_s"]),
            share_cell(share, bar=True),
            time(costs["roofline_s"]),
            bytes_cell(costs["weight_bytes"]),
            at_least(flops_cell(costs["flops"]), branch.at_least),
            at_least(bytes_cell(costs["bytes"]), branch.at_least),
        ),
        id=branch.id,
        parent=branch.parent or "",
        depth=branch.depth,
        leaf=not branch.children,
    )


def kind_grid(operators: pd.DataFrame) -> Grid:
    """Sums by kind, the dearest first; efficiency: floor over kernels."""
    summed = ["calls", "flops", "bytes", "roofline_s", "estimate_s"]
    sums = operators.groupby("kind", sort=False)[summed].sum(min_count=1)
    sums = sums.sort_values(["estimate_s", "bytes"], ascending=False)
    clock = operators[operators["steady_s"].notna()]
    seconds_of = (
        clock.groupby("kind")[["estimate_s", "measured_s", "steady_s"]].sum().to_dict("index")
    )
    whole = sums["estimate_s"].sum() or 1.0
    columns = (
        Column("kind", words=True),
        KERNELS,
        MEASURED,
        ERROR,
        SHARE,
        FLOOR,
        Column("efficiency", "floor over kernels"),
        Column("calls", spare=True),
        Column("FLOPs", spare=True),
        Column("bytes", spare=True),
    )
    rows = []
    for kind, row in sums.to_dict("index").items():
        seen = seconds_of.get(kind, {})
        error = seen["estimate_s"] / seen["steady_s"] - 1 if seen.get("steady_s") else None
        share = row["estimate_s"] / whole if known(row["estimate_s"]) else None
        cells = (
            words_cell(readable(kind)),
            time_cell(row["estimate_s"]),
            time_cell(seen.get("measured_s")),
            error_cell(error),
            share_cell(share, bar=True),
            time_cell(row["roofline_s"]),
            share_cell(efficiency(row)),
            count_cell(row["calls"]),
            flops_cell(row["flops"]),
            bytes_cell(row["bytes"]),
        )
        rows.append(Row(cells))
    return Grid(columns, tuple(rows)).without_empty()


def operator_grid(operators: pd.DataFrame) -> Grid:
    """The dearest operators, a row a shape and phase."""
    columns = (
        Column("operator", words=True),
        Column("phase", words=True),
        KERNELS,
        MEASURED,
        ERROR,
        SHARE,
        FLOOR,
        Column("efficiency", "floor over kernels"),
        Column("interval", "90%, of the kernels", spare=True),
        Column("calls", spare=True),
        Column("known", words=True),
    )
    whole = operators["estimate_s"].sum() or 1.0
    shown = operators.head(DEAREST).to_dict("records")
    rows = tuple(_operator(row, whole) for row in shown)
    return Grid(columns, rows, first=FIRST).without_empty()


def _operator(row: dict[Any, Any], whole: float) -> Row:
    return Row(
        (
            operator_cell(row),
            words_cell(row["phase"]),
            time_cell(row["estimate_s"]),
            time_cell(row["measured_s"]),
            error_cell(row["error"]),
            share_cell(row["estimate_s"] / whole if known(row["estimate_s"]) else None),
            time_cell(row["roofline_s"]),
            share_cell(efficiency(row)),
            interval_cell(row["low_s"], row["high_s"]),
            count_cell(row["calls"]),
            how_cell(row["provenance"]),
        )
    )


def phase_words(record: RunRecord) -> str:
    """ "Decode is 16 passes of 5.84 ms (797 launches each)": what the parts are made of."""
    if record.timeline is None:
        return ""
    texts = []
    for row in record.timeline.to_dict("records"):
        many = "1 pass" if row["passes"] == 1 else f"{row['passes']:,} passes"
        texts.append(
            f"{readable(row['phase'])} is {many} of {seconds(row['wall_s'])} "
            f"({counted(row['launches'], 'launch')})"
        )
    return sentence("; ".join(texts)) + "."
