"""What ``mode=serve`` found: ``front.parquet``, ``front.md``, a picture, the terminal's table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from calib.report.record import known
from calib.report.terminal import Cells, print_cells
from calib.report.units import UNKNOWN, digits, interval, seconds
from calib.report.write import forget, renamed_at_the_end

if TYPE_CHECKING:
    import pandas as pd

FILES = ("front.parquet", "front.md", "front.png")
SHOWN = 20
"""Points of a front in a table, evenly spread; the Parquet file has all."""
HEADS = (
    *("layout", "requests", "tokens/s a user", "tokens/s a card", "per token", "interval"),
    *("first token", "cost a million", "known by"),
)
LOAD = ["isl", "osl"]


@dataclass(frozen=True)
class Front:
    """``rows``: all configurations that memory holds, ``largest``: of each layout the one with most
    requests within the ``limits`` [s]; ``tried``: configurations in all; ``notes``: what the times
    hold and leave out."""

    title: str
    rows: pd.DataFrame
    largest: pd.DataFrame
    limits: Mapping[str, float | None]
    tried: int
    notes: tuple[str, ...] = ()

    @property
    def best(self) -> pd.DataFrame:
        """The points that no other beats, the fastest for a user first."""
        some = self.rows[self.rows["front"]]
        return some.sort_values([*LOAD, "tokens_per_s_user"], ascending=[True, True, False])

    @property
    def asked(self) -> str:
        """The limits in words; empty without one."""
        names = {"tpot": "a token", "ttft": "the first token"}
        parts = [f"{names[k]} within {seconds(v)}" for k, v in self.limits.items() if v is not None]
        return ", ".join(parts)

    @property
    def summary(self) -> str:
        within = int(self.rows["within"].sum())
        text = f"{self.tried:,} configurations, {len(self.rows):,} fit"
        return text + (f", {within:,} with {self.asked}" if self.asked else "")


def cells_of(rows: pd.DataFrame) -> Cells:
    table: list[tuple[str, ...]] = [
        (
            str(row["layout"]),
            f"{row['concurrency']:,}",
            digits(row["tokens_per_s_user"]),
            digits(row["tokens_per_s_card"]),
            seconds(row["tpot_s"]),
            interval(row["tpot_low_s"], row["tpot_high_s"]),
            seconds(row["ttft_s"]),
            digits(row["cost_per_million"]) if known(row["cost_per_million"]) else UNKNOWN,
            str(row["provenance"]),
        )
        for row in rows.to_dict("records")
    ]
    found = Cells(HEADS, table)
    priced = any(known(value) for value in rows["cost_per_million"])
    return found if priced else found.without("cost a million")


def thinned(rows: pd.DataFrame, most: int = SHOWN) -> pd.DataFrame:
    """At most so many rows, evenly, both ends among them."""
    if len(rows) <= most:
        return rows
    return rows.iloc[np.unique(np.linspace(0, len(rows) - 1, most).round().astype(int))]


def loads(rows: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """("1024 in, 512 out", its rows) of each load."""
    return [(f"{i:,} in, {o:,} out", some) for (i, o), some in rows.groupby(LOAD)]


def print_front(front: Front) -> None:
    print(front.title)
    print(front.summary)
    if front.best.empty:
        print(f"None has {front.asked}.")
    for name, some in loads(front.best):
        print(f"{name}: the front")
        print_cells(cells_of(thinned(some, 10)))
    for note in front.notes:
        print(note)


def front_markdown(front: Front, picture: bool) -> str:
    parts = [f"# {front.title}", f"{front.summary}."]
    if picture:
        parts.append("![tokens a second a card over tokens a second a user](front.png)")
    if front.best.empty:
        parts.append(f"None has {front.asked}.")
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


def write_front(front: Front, folder: Path, pictures: bool = True, html: bool = True) -> list[Path]:
    """Raises ``ReportError`` for a folder that cannot be written."""
    with renamed_at_the_end(folder) as (staging, written):
        front.rows.to_parquet(staging / "front.parquet", index=False)
        if pictures and not front.best.empty:
            from calib.report.pictures.front import front_picture

            front_picture(front).savefig(staging / "front.png", dpi=120)
        text = front_markdown(front, pictures and not front.best.empty)
        (staging / "front.md").write_text(text, encoding="utf-8")
    forget(folder, written)
    return written
