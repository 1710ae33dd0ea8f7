"""Tables of the page: texts to read and values to sort by, before a template draws them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from calib.report.record import known
from calib.report.units import UNKNOWN, flops, grouped, interval, least, nbytes, percent, seconds

DASH, BY = "\N{EN DASH}", "\N{MULTIPLICATION SIGN}"
HOW = {
    "measured": "this very shape was timed on this device",
    "interpolated": "fitted, within what was sampled on this device",
    "extrapolated": "fitted, beyond what was sampled on this device",
    "transferred": "fitted to samples of other devices",
    "roofline": "nothing but the peaks is known: a lower bound, save of links",
    "unknown": "no time is known",
}
"""What each provenance means."""


@dataclass(frozen=True)
class Column:
    """``hint``: what its head means; ``words``: text, to the left; ``spare``: left out where the
    screen is narrow."""

    head: str
    hint: str = ""
    words: bool = False
    spare: bool = False


@dataclass(frozen=True)
class Cell:
    """``value``: what the column is sorted by. ``bars``: parts of a bar, (class, share of the
    longest)."""

    text: str
    value: float | str | None = None
    hint: str = ""
    mark: str = ""
    bars: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True)
class Row:
    """``id``, ``parent``: of a tree; ``depth`` from 0. ``mark``: a class for its looks."""

    cells: tuple[Cell, ...]
    id: str = ""
    parent: str = ""
    depth: int = 0
    leaf: bool = True
    mark: str = ""


@dataclass(frozen=True)
class Grid:
    """``first``: rows that are shown before a reader asks for all; None: all."""

    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    tree: bool = False
    first: int | None = None
    classes: str = field(default="")

    def without_empty(self) -> Grid:
        """The same less the columns in which nothing is known."""
        keep = [i for i, c in enumerate(self.columns) if c.words or self._filled(i)]
        rows = tuple(
            Row(tuple(r.cells[i] for i in keep), r.id, r.parent, r.depth, r.leaf, r.mark)
            for r in self.rows
        )
        columns = tuple(self.columns[i] for i in keep)
        return Grid(columns, rows, self.tree, self.first, self.classes)

    def _filled(self, column: int) -> bool:
        return any(r.cells[column].text != UNKNOWN or r.cells[column].bars for r in self.rows)


def plain(value: float) -> str:
    """Three digits, or all of them before the point: 1.23, 15,822."""
    return grouped(value)


def number(value: Any) -> float | None:
    return float(value) if known(value) else None


def time_cell(value: Any) -> Cell:
    return Cell(seconds(value), number(value))


def flops_cell(value: Any) -> Cell:
    return Cell(flops(value), number(value))


def bytes_cell(value: Any) -> Cell:
    return Cell(nbytes(value), number(value))


def at_least(cell: Cell, is_least: Any) -> Cell:
    """A quantity of which some part is not known."""
    return replace(cell, text=least(cell.text, is_least))


def count_cell(value: Any) -> Cell:
    return Cell(f"{value:,.0f}" if known(value) else UNKNOWN, number(value))


def share_cell(value: Any, bar: bool = False) -> Cell:
    """A fraction; with a bar of its length."""
    text = "<0.1%" if known(value) and 0 < value < 0.0005 else percent(value)
    return Cell(text, number(value), bars=(("kernels", value),) if bar and value else ())


def error_cell(value: Any) -> Cell:
    """Marked where it is above a tenth."""
    mark = "off" if known(value) and abs(value) > 0.1 else ""
    return Cell(percent(value, signed=True), abs(value) if known(value) else None, mark=mark)


def span(low: Any, high: Any, unit: str = "s") -> str:
    """Both ends in one unit, with the dash of a range; unknown where they are the same."""
    text = interval(low, high, unit)
    return text if text == UNKNOWN else text.replace("-", DASH)


def interval_cell(low: Any, high: Any) -> Cell:
    width = float(high) - float(low) if known(low) and known(high) else None
    return Cell(span(low, high), width)


def how_cell(provenance: Any) -> Cell:
    name = str(provenance)
    return Cell(name, list(HOW).index(name) if name in HOW else None, HOW.get(name, ""), name)


def words_cell(text: str, hint: str = "") -> Cell:
    return Cell(text, text, hint)


def readable(name: Any) -> str:
    """ "grouped_matmul" -> "grouped matmul"."""
    return str(name).replace("_", " ")


def sentence(text: str) -> str:
    """With a capital first letter, the rest as it is."""
    return text[:1].upper() + text[1:]


def longest(values: Sequence[Any]) -> float:
    return max((float(v) for v in values if known(v)), default=0.0) or 1.0
