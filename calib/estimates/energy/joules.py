"""Joules of rows of operators, so that sums over rows are those of a module, a phase, the whole.

With idle and share as in :mod:`calib.cards.energy.fitted`, of a row that holds ``wall_s`` of the
phase's wall time

    joules = idle * wall_s + share of the phase * above idle of the row's executions

so the watts of a card that waits for its host lie where the waiting lies. The ends of an interval
add up too: by the width of the fit on what the card does while it is busy, by that of idle watts
and of the wall time on the rest.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from calib.cards.energy.fitted import Energy
from calib.estimates.energy.power import Power
from calib.estimates.sums import JOULES

if TYPE_CHECKING:
    import pandas as pd


def with_joules(operators: pd.DataFrame, power: Power | None) -> pd.DataFrame:
    """``operators`` with the columns ``calib.estimates.sums.JOULES``; null where ``power``, that of
    their rows, is None."""
    if power is None:
        return operators.assign(**dict.fromkeys(JOULES, float("nan")))
    above = power.above(operators["estimate_s"].to_numpy(dtype=float))
    found = operators.assign(**dict.fromkeys(JOULES, float("nan")))
    for _, rows in operators.groupby("phase", sort=False):
        at = operators.index.get_indexer(rows.index)
        seconds = {n: rows[n].to_numpy(dtype=float) for n in SECONDS}
        parts = of_phase(above[at], seconds, power.energy)
        for name, joules in zip(JOULES, parts, strict=True):
            found.loc[rows.index, name] = joules
    return found


SECONDS = ("estimate_s", "wall_s", "wall_low_s", "wall_high_s")


def of_phase(
    above: np.ndarray, seconds: Mapping[str, np.ndarray], energy: Energy
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """[rows] each: joules, and the ends of their interval; null where wall time is. ``above``
    [rows]: joules above idle, no ceiling; ``seconds``: ``SECONDS``, of one phase."""
    wall_s, idle_w = seconds["wall_s"], energy.idle_w
    drawn = above * energy.drawn(above.sum(), wall_s.sum())
    joules = drawn + idle_w * wall_s
    busy = drawn + idle_w * np.minimum(seconds["estimate_s"], wall_s)
    unsure = idle_w * energy.idle_width * wall_s
    below = -np.expm1(-energy.width) * busy + unsure
    beyond = np.expm1(energy.width) * busy + unsure
    low = joules - below - idle_w * (wall_s - seconds["wall_low_s"])
    high = joules + beyond + idle_w * (seconds["wall_high_s"] - wall_s)
    return joules, np.maximum(low, 0.0), high


def energy_use(
    operators: pd.DataFrame, energy: Energy, decoded: int, batch: int, request: str
) -> dict[str, Any] | None:
    """What a user asks, of all passes; None where no joules are known.

    ``decoded``: tokens that the decode phase yields, 0 where there is none; ``batch``: requests;
    ``request``: what one is called. ``idle_share``: of the joules, what runs while no kernel does.
    """
    total = operators[JOULES].sum(skipna=False)
    if not np.isfinite(total["joules"]):
        return None
    wall_s, waits_s = operators["wall_s"].sum(), operators["idle_s"].sum()
    tokens = operators.loc[operators["phase"] == DECODE, JOULES].sum(skipna=False)
    found = {
        "joules": float(total["joules"]),
        "joules_low": float(total["joules_low"]),
        "joules_high": float(total["joules_high"]),
        "watts": float(total["joules"] / wall_s),
        "idle_w": energy.idle_w,
        "idle_share": float(energy.idle_w * waits_s / total["joules"]),
        "request": request,
        "operators_counted": energy.operators,
        "median_error": energy.median_error,
    }
    each = {"request": total / batch}
    each |= {"token": tokens / decoded} if decoded else {}
    return found | {
        f"{name}_a_{what}": float(one[name]) for what, one in each.items() for name in JOULES
    }


DECODE = "decode"
