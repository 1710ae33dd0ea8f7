"""The table in the terminal: what the formulas, the calibration and the clock say, side by side."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TextIO

from calib.report.energy import energy_lines
from calib.report.lines import (
    BOUND_BY,
    bare_lines,
    limit_lines,
    memory_lines,
    timeline_lines,
    unknown_lines,
)
from calib.report.record import GROWS, RunRecord, known
from calib.report.units import (
    UNKNOWN,
    figure,
    flops,
    interval,
    least,
    nbytes,
    percent,
    seconds,
)

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

WIDTH = 100
"""Columns to write where nothing says how many there are."""
NARROWEST = 80
"""The least that is written: a table of fewer would lose what it is about."""
KNOWN_BY = "known by"
SHORT = {"interpolated": "interp.", "extrapolated": "extrap.", "transferred": "transf."}
"""How a time is known, where a table is too wide for the word."""
EXPENDABLE = (
    *("bytes", "FLOPs", "tokens/s a user", "interval before", "bound by", "roofline"),
    KNOWN_BY,
)
"""What a table that is still too wide loses, in this order: a figure cut short would be wrong.
``report.md`` has them all."""
ERROR_HEADERS = {
    "error": "error",
    "error_unseen": "error unseen",
    "roofline_error": "roofline error",
}
ERRORS = ("error", "error_unseen")
"""Errors shown in the terminal: of the estimate, and of one by a fit that never saw this model's
own shapes. The roofline's follows in words, since a third column would not fit."""


@dataclass(frozen=True)
class Cells:
    """A table of texts; the first ``left`` columns are words, the others numbers."""

    headers: tuple[str, ...]
    rows: list[tuple[str, ...]]
    left: int = 1

    def without(self, header: str) -> Cells:
        """The same with no column of that name."""
        keep = [i for i, name in enumerate(self.headers) if name != header]
        rows = [tuple(row[i] for i in keep) for row in self.rows]
        return Cells(tuple(self.headers[i] for i in keep), rows, self.left)

    def shortened(self) -> Cells:
        """The same with how a time is known in short."""
        if KNOWN_BY not in self.headers:
            return self
        at = self.headers.index(KNOWN_BY)
        rows = [(*row[:at], SHORT.get(row[at], row[at]), *row[at + 1 :]) for row in self.rows]
        return Cells(self.headers, rows, self.left)


def print_report(record: RunRecord, stream: TextIO | None = None) -> None:
    """Print the run's tables and remarks to ``stream``, by default the standard output."""
    from rich.text import Text

    console = wide_console(stream or sys.stdout)
    console.print(Text(headline(record), style="bold"))
    if not record.has_room:
        print_cells(cost_cells(record), console, last_is_total=True)
        for remark in (*memory_lines(record), *limit_lines(record), *caveats(record)):
            console.print(Text(remark))
        return
    print_cells(component_cells(record), console, last_is_total=True)
    print_cells(figure_cells(record), console)
    roofline = record.total.get("roofline_error")
    if known(roofline):
        console.print(f"The plain roofline is {percent(roofline, signed=True)} off in total.")
    for remark in remarks(record):
        console.print(Text(remark))


def print_member(name: str, record: RunRecord) -> None:
    """One line of one of many runs: its time, or that it does not fit; of one without a ``name``
    nothing."""
    if not name:
        return
    total, memory = record.total, record.memory
    if memory and not memory["fits"]:
        needs, has = nbytes(memory["needed_bytes"]), nbytes(memory["memory_bytes"])
        told = f"does not fit, needs {needs} of {has}"
    elif not record.timed:
        told = f"{flops(total['flops'])}, {nbytes(total['bytes'])}"
    else:
        told = seconds(total["estimate_s"])
        span = interval(total["low_s"], total["high_s"])
        told += f" ({span})" if span != UNKNOWN else ""
    print(f"{name}: {told}", flush=True)


def wide_console(out: TextIO) -> Console:
    from rich.console import Console

    return Console(file=out, width=columns(out), highlight=False, markup=False)


def columns(out: TextIO) -> int:
    """Of the terminal behind ``out``, or as many as COLUMNS says."""
    asked = out.isatty() or "COLUMNS" in os.environ
    found = shutil.get_terminal_size((WIDTH, 24)).columns if asked else WIDTH
    return max(NARROWEST, found)


def print_cells(cells: Cells, console: Console | None = None, last_is_total: bool = False) -> None:
    """Print a table, by default to the standard output, less what is too wide and expendable."""
    console = console or wide_console(sys.stdout)
    whole = cells
    if too_wide(cells, console):
        cells = cells.shortened()
    for header in EXPENDABLE:
        if too_wide(cells, console):
            cells = cells.without(header)
    width, console.width = console.width, max(console.width, needed(cells, console))
    console.print(_table(cells, last_is_total))  # wider than the terminal sooner than cut
    console.width = width
    if KNOWN_BY in whole.headers and KNOWN_BY not in cells.headers:
        at = whole.headers.index(KNOWN_BY)
        console.print(known_in_words((row[0], row[at]) for row in whole.rows))


def known_in_words(rows: Iterable[tuple[str, str]]) -> str:
    """ "known by: transferred (SAM, CLIP), interpolated (decode)", of a table that has no room for
    the column. ``rows``: a name, and how its time is known."""
    names: dict[str, dict[str, None]] = {}
    for name, how in rows:
        names.setdefault(how, {})[name] = None
    if len(names) == 1:
        return f"{KNOWN_BY}: all {next(iter(names))}"
    return f"{KNOWN_BY}: " + ", ".join(f"{how} ({', '.join(of)})" for how, of in names.items())


def too_wide(cells: Cells, console: Console) -> bool:
    return needed(cells, console) > console.width


def needed(cells: Cells, console: Console) -> int:
    """Columns that a table takes where nothing of it is cut."""
    from rich.measure import Measurement

    unlimited = console.options.update(width=10 * console.width)
    return Measurement.get(console, unlimited, _table(cells)).maximum


def headline(record: RunRecord) -> str:
    how = f"{record.implementation}, {record.execution}"
    return f"{record.model}, {record.workload['name']} on {record.place} ({how})"


def component_cells(record: RunRecord, errors: tuple[str, ...] = ERRORS) -> Cells:
    """Columns of the clock and errors where something was measured; else the time of the kernels
    alone, what bounds the component and how its estimate is known.

    ``errors``: which errors, if they are known, out of the keys of ``ERROR_HEADERS``.
    """
    rows = record.components.to_dict("records")
    shown = [c for c in errors if any(known(r.get(c)) for r in rows)] if record.measured else []
    last = [ERROR_HEADERS[c] for c in shown] if record.measured else [KNOWN_BY]
    headers = ["component", "FLOPs", "bytes", "roofline", "calibrated", "interval"]
    headers += ["measured"] if record.measured else ["kernels", "bound by"]
    return Cells((*headers, *last), [_component(row, shown, record.measured) for row in rows])


def cost_cells(record: RunRecord) -> Cells:
    """What needs no time: of what does not fit there is none."""
    cells = component_cells(record)
    return Cells(cells.headers[:3], [row[:3] for row in cells.rows])


def _component(row: dict[Any, Any], errors: list[str], measured: bool) -> tuple[str, ...]:
    if measured:
        last = [seconds(row["measured_s"]), *(percent(row[c], signed=True) for c in errors)]
    else:
        last = [
            seconds(row["kernel_s"]),
            BOUND_BY.get(row["limited_by"], UNKNOWN),
            str(row["provenance"]),
        ]
    return (
        str(row["component"]),
        least(flops(row["flops"]), row.get("at_least")),
        least(nbytes(row["bytes"]), row.get("at_least")),
        seconds(row["roofline_s"]),
        seconds(row["estimate_s"]),
        interval(row["low_s"], row["high_s"]),
        *last,
    )


def figure_cells(record: RunRecord) -> Cells:
    """Without the column of the clock where nothing was measured."""
    headers = ("for the user", "roofline", "calibrated", "interval", "measured")
    rows: list[tuple[str, ...]] = [
        (
            str(row["name"]),
            figure(row["roofline"], row["unit"]),
            figure(row["estimate"], row["unit"]),
            interval(row["low"], row["high"], row["unit"]),
            figure(row["measured"], row["unit"]),
        )
        for row in record.figures.to_dict("records")
    ]
    cells = Cells(headers, rows)
    return cells if record.measured else cells.without("measured")


def remarks(record: RunRecord) -> list[str]:
    """What a reader must know beside the numbers: the machine's drift, a limit's answer, the run's
    notes."""
    found = [*unsteady(record), *unknown_lines(record), *bare_lines(record)]
    found += timeline_lines(record) + energy_lines(record)
    found += memory_lines(record) + limit_lines(record)
    return found + list(record.notes)


def caveats(record: RunRecord) -> list[str]:
    """Of them those that no other part of a document says: what bounds a phase and whether it fits
    stand in its answer."""
    said = [note for note in record.notes if GROWS not in note]
    return [*unsteady(record), *unknown_lines(record), *bare_lines(record), *said]


def unsteady(record: RunRecord) -> list[str]:
    """How the machine drifted, and whether its times can be believed."""
    found, measurement = [], record.measurement or {}
    if known(measurement.get("drift")):
        drift = percent(measurement["drift"])
        raw = percent(measurement.get("raw_total_error"), signed=True)
        found.append(
            f"The machine drifted by {drift} while it was measured; measured times are "
            f"probe-normalised (raw error of the total: {raw})."
        )
    if measurement.get("unstable"):
        apart = measurement.get("spread")
        why = f"its repeats lie {percent(apart)} apart; " if apart else ""
        found.append(f"This run is unstable: {why}repeat it on a machine that does nothing else.")
    return found


def _table(cells: Cells, last_is_total: bool = False) -> Table:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    for index, header in enumerate(cells.headers):
        text = header.replace(" ", "\n", 1) if index else header
        table.add_column(
            Text(text), justify="left" if index < cells.left else "right", no_wrap=True
        )
    for index, row in enumerate(cells.rows):
        total = last_is_total and index == len(cells.rows) - 1
        if total:
            table.add_section()
        table.add_row(*(Text(c) for c in row), style="bold" if total else "")
    return table
