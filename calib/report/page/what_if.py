"""The table *what if*: cases beside the run, in times, tokens a second and how it is known."""

from __future__ import annotations

from typing import Any

from calib.report.page.cells import (
    Cell,
    Column,
    Grid,
    Row,
    bytes_cell,
    how_cell,
    span,
    time_cell,
    words_cell,
)
from calib.report.record import RunRecord, known
from calib.report.units import UNKNOWN, digits, nbytes

ASKED, CARD = "asked", "card"
DIFFERS = 0.03
"""Part of a rate that a case must change to be called better or worse."""


def what_if_grid(record: RunRecord) -> Grid | None:
    """None where the run has no such table."""
    if record.alternatives is None or record.alternatives.empty:
        return None
    rows = record.alternatives.to_dict("records")
    decodes = any(known(row.get("token_s")) for row in rows)
    columns = (
        Column("what if", words=True),
        Column("to first token" if decodes else "a pass", "90% interval where a pointer rests"),
        Column("per output token", "90% interval where a pointer rests"),
        Column("tokens/s" if decodes else "inputs/s", "of all sequences together"),
        Column("against now", "the same, as a factor"),
        Column("memory", "that it needs"),
        Column("known", words=True),
    )
    now = rows[0].get("rate")
    return Grid(columns, tuple(_row(row, now) for row in rows)).without_empty()


def _row(row: dict[Any, Any], now: Any) -> Row:
    rate = row.get("rate")
    return Row(
        (
            words_cell(name_of(row)),
            _time(row, "first"),
            _time(row, "token"),
            _rate(rate),
            _factor(row, rate, now),
            bytes_cell(row["needed_bytes"] or None),
            _how(row),
        ),
        mark="now" if row["group"] == ASKED else "",
    )


def _rate(rate: Any) -> Cell:
    return Cell(digits(rate), float(rate)) if known(rate) else Cell(UNKNOWN)


def name_of(row: dict[Any, Any]) -> str:
    if row["group"] == CARD:
        return f"on {row['name']}"
    if row["group"] == "limit" and known(row.get("rate")):
        return f"{row['name']}: batch {row['batch']:,}"
    return str(row["name"])


def _time(row: dict[Any, Any], name: str) -> Cell:
    cell = time_cell(row.get(f"{name}_s"))
    between = span(row.get(f"{name}_low_s"), row.get(f"{name}_high_s"))
    return Cell(cell.text, cell.value, "" if between == UNKNOWN else between)


def _factor(row: dict[Any, Any], rate: Any, now: Any) -> Cell:
    if row["group"] == ASKED or not (known(rate) and known(now)):
        return Cell(UNKNOWN)
    factor = rate / now
    mark = "better" if factor > 1 + DIFFERS else "worse" if factor < 1 - DIFFERS else ""
    return Cell(f"{digits(factor)}x", factor, mark=mark)


def _how(row: dict[Any, Any]) -> Cell:
    """How its time is known, or why there is none."""
    if not row["fits"]:
        return Cell(f"does not fit {nbytes(row['memory_bytes'])}", mark="bad-word")
    if not known(row.get("provenance")):
        return words_cell(str(row["why"]))
    return how_cell(row["provenance"])


def first_that_fits(record: RunRecord) -> str:
    """What a run that does not fit could be instead, in words; nothing where no case fits."""
    if record.alternatives is None:
        return ""
    fitting = [row for row in record.alternatives.to_dict("records") if row["fits"]]
    return ", ".join(name_of(row) for row in fitting)
