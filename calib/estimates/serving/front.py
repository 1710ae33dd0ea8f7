"""Of many points: which none beats, the largest batch within limits, and what tokens cost."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

LOAD = ["isl", "osl"]
"""Columns of what is asked of a server: points with another load are not compared."""
_MILLION, _HOUR = 1e6, 3600.0


@dataclass(frozen=True)
class Limits:
    """The most that a token and the first one may take [s], and what a card costs an hour; None:
    nothing is said."""

    tpot: float | None = None
    ttft: float | None = None
    per_hour: float | None = None


def pareto(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """[n] whether no other point has as much of both and more of one; of equal ones the first."""
    order = np.lexsort((-y, -x))
    best = np.maximum.accumulate(y[order])
    kept = np.ones(len(x), dtype=bool)
    kept[1:] = y[order][1:] > best[:-1]
    found = np.zeros(len(x), dtype=bool)
    found[order] = kept
    return found


def judged(rows: pd.DataFrame, limits: Limits) -> pd.DataFrame:
    """``rows`` with ``within`` the limits, on the ``front`` of those that are, and
    ``cost_per_million``, of output tokens (null without a price)."""
    within = np.ones(len(rows), dtype=bool)
    for column, most in (("tpot_s", limits.tpot), ("ttft_s", limits.ttft)):
        if most is not None:
            within &= (rows[column] <= most).to_numpy()
    front = np.zeros(len(rows), dtype=bool)
    for _, where in rows[within].groupby(LOAD).indices.items():
        at = np.flatnonzero(within)[where]
        user, card = (rows[f"tokens_per_s_{of}"].to_numpy()[at] for of in ("user", "card"))
        front[at] = pareto(user, card)
    a_token = np.nan if limits.per_hour is None else limits.per_hour / _HOUR
    return rows.assign(
        within=within, front=front, cost_per_million=a_token / rows["tokens_per_s_card"] * _MILLION
    )


def largest(rows: pd.DataFrame) -> pd.DataFrame:
    """Of each load and layout the row with most requests at a time within the limits, the most
    tokens a second a card first."""
    some = rows[rows["within"]]
    last = some.sort_values("concurrency").groupby([*LOAD, "layout"], sort=False).tail(1)
    order = [*LOAD, "tokens_per_s_card"]
    return last.sort_values(order, ascending=[True, True, False]).reset_index(drop=True)
