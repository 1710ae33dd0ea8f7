"""What ``mode=serve`` found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from calib.report.units import seconds

if TYPE_CHECKING:
    import pandas as pd

SHOWN = 20
"""Points of a front in a table, evenly spread; the Parquet file has all."""
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
    def none(self) -> str:
        """That no configuration keeps the limits, and the least that any takes."""
        names = {"tpot": "token", "ttft": "first token"}
        least = (
            f"the fastest {names[k]} takes {seconds(float(self.rows[f'{k}_s'].min()))}"
            for k, v in self.limits.items()
            if v is not None
        )
        return f"None has {self.asked}: {', '.join(least)}."

    @property
    def summary(self) -> str:
        within = int(self.rows["within"].sum())
        text = f"{self.tried:,} configurations, {len(self.rows):,} fit"
        return text + (f", {within:,} with {self.asked}" if self.asked else "")


def thinned(rows: pd.DataFrame, most: int = SHOWN) -> pd.DataFrame:
    """At most so many rows, evenly, both ends among them."""
    if len(rows) <= most:
        return rows
    return rows.iloc[np.unique(np.linspace(0, len(rows) - 1, most).round().astype(int))]


def loads(rows: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """("1024 in, 512 out", its rows) of each load."""
    return [(f"{i:,} in, {o:,} out", some) for (i, o), some in rows.groupby(LOAD)]
