"""The front in words: the terminal's tables and ``front.md``."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from calib.report.record import known
from calib.report.serving.found import SHOWN, Front, loads, thinned
from calib.report.terminal import KNOWN_BY, Cells, print_cells, wide_console
from calib.report.units import UNKNOWN, grouped, interval, seconds

if TYPE_CHECKING:
    import pandas as pd

HEADS = (
    *("layout", "requests", "tokens/s a user", "tokens/s a card", "per token", "interval"),
    *("first token", "cost a million", KNOWN_BY),
)


def cells_of(rows: pd.DataFrame) -> Cells:
    table: list[tuple[str, ...]] = [
        (
            str(row["layout"]),
            f"{row['concurrency']:,}",
            grouped(row["tokens_per_s_user"]),
            grouped(row["tokens_per_s_card"]),
            seconds(row["tpot_s"]),
            interval(row["tpot_low_s"], row["tpot_high_s"]),
            seconds(row["ttft_s"]),
            grouped(row["cost_per_million"]) if known(row["cost_per_million"]) else UNKNOWN,
            str(row["provenance"]),
        )
        for row in rows.to_dict("records")
    ]
    found = Cells(HEADS, table)
    priced = any(known(value) for value in rows["cost_per_million"])
    return found if priced else found.without("cost a million")


def print_front(front: Front) -> None:
    from rich.text import Text

    console = wide_console(sys.stdout)
    said = [front.title, front.summary]
    said += [front.none] if front.best.empty else []
    for line in said:
        console.print(Text(line))
    for name, some in loads(front.best):
        console.print(Text(f"{name}: the front"))
        print_cells(cells_of(thinned(some, 10)), console)
    for note in front.notes:
        console.print(Text(note))


def front_markdown(front: Front, picture: bool) -> str:
    parts = [f"# {front.title}", f"{front.summary}."]
    if picture:
        parts.append("![tokens a second a card over tokens a second a user](front.png)")
    if front.best.empty:
        parts.append(front.none)
    for name, some in loads(front.best):
        parts += [f"## {name}", "No other configuration is better in both:", _table(thinned(some))]
        if len(some) > SHOWN:
            parts.append(f"{SHOWN} of {len(some):,} points; `front.parquet` has all.")
        of_layouts = dict(loads(front.largest)).get(name)
        if front.asked and of_layouts is not None:
            parts += [f"The most requests of each layout with {front.asked}, of those tried:"]
            parts.append(_table(of_layouts))
    return "\n\n".join([*parts, "## Notes", *front.notes]) + "\n"


def _table(rows: pd.DataFrame) -> str:
    cells = cells_of(rows)
    rule = ["---", *["--:"] * (len(cells.headers) - 1)]
    lines: list[Any] = [cells.headers, rule, *cells.rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
