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
    interval_cell,
    plain,
    time_cell,
    words_cell,
)
from calib.report.record import RunRecord, known
from calib.report.units import UNKNOWN, nbytes

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
        Column("first token" if decodes else "a pass", "90% interval where a pointer rests"),
        Column("per token", "90% interval where a pointer rests"),
        Column("interval", "90%, of the same", spare=True),
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
            _ends(row, "token" if known(row.get("token_s")) else "first"),
            _rate(rate),
            _factor(row, rate, now),
            bytes_cell(row["needed_bytes"] or None),
            _how(row),
        ),
        mark="now" if row["group"] == ASKED else "",
    )


def _ends(row: dict[Any, Any], name: str) -> Cell:
    return interval_cell(row.get(f"{name}_low_s"), row.get(f"{name}_high_s"))


def _rate(rate: Any) -> Cell:
    return Cell(plain(rate), float(rate)) if known(rate) else Cell(UNKNOWN)


def name_of(row: dict[Any, Any]) -> str:
    if row["group"] == CARD:
        return f"on {row['name']}"
    if row["group"] == "limit" and known(row.get("rate")):
        return f"{row['name']}: batch {row['batch']:,}"
    return str(row["name"])


def _time(row: dict[Any, Any], name: str) -> Cell:
    cell, between = time_cell(row.get(f"{name}_s")), _ends(row, name).text
    return Cell(cell.text, cell.value, "" if between == UNKNOWN else between)


def _factor(row: dict[Any, Any], rate: Any, now: Any) -> Cell:
    if row["group"] == ASKED or not (known(rate) and known(now)):
        return Cell(UNKNOWN)
    factor = rate / now
    mark = "better" if factor > 1 + DIFFERS else "worse" if factor < 1 - DIFFERS else ""
    text = f"{factor:.2f}" if factor < 10 else plain(factor)
    return Cell(f"{text}x", factor, mark=mark)


def _how(row: dict[Any, Any]) -> Cell:
    """How its time is known, or why there is none."""
    if not row["fits"]:
        return Cell(f"does not fit in {nbytes(row['memory_bytes'])}", mark="bad-word")
    if not known(row.get("provenance")):
        return words_cell(str(row["why"]))
    return how_cell(row["provenance"])


def token_seconds(record: RunRecord, name: str) -> float | None:
    """Of the case of that name, a decode step, or a pass where nothing is decoded; None: no such
    case."""
    if record.alternatives is None:
        return None
    rows = record.alternatives[record.alternatives["name"] == name].to_dict("records")
    times = (row.get(column) for row in rows for column in ("token_s", "first_s"))
    return next((float(time) for time in times if time is not None and known(time)), None)


def what_fits(record: RunRecord) -> str:
    """What a run that does not fit could be instead, in words; nothing where no case fits."""
    if record.alternatives is None:
        return ""
    fitting = [
        row
        for row in record.alternatives.to_dict("records")
        if row["fits"] and row["group"] != ASKED
    ]
    return ", ".join(name_of(row) for row in fitting)
