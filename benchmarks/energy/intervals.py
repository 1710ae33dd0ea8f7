"""How much wider than held-out operators' errors an interval of a model's joules has to be."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from benchmarks.energy.phases import CountedPhase, by_clock
from calib.cards.energy.fitted import Energy
from calib.cards.energy.fitting import LEVEL, OF_PHASES


def factors(phases: Sequence[CountedPhase], energy: Energy) -> np.ndarray:
    """[n] by which the operators' width would just have held each phase; 0 where the width of idle
    watts is enough."""
    of_operators = energy.width / OF_PHASES
    found = np.zeros(len(phases))
    for i, one in enumerate(phases):
        exact = replace(energy, width=0.0)
        held = by_clock(one, exact)
        middle, beyond = held.joules, max(held.low - one.joules, one.joules - held.high, 0.0)
        if not beyond:
            continue
        busy_w = energy.idle_w * min(one.kernel_s, one.wall_s)
        busy = middle - energy.idle_w * one.wall_s + busy_w
        sign = 1 if one.joules > middle else -1
        found[i] = sign * np.log1p(sign * beyond / busy) / of_operators
    return found


def needed(some: np.ndarray) -> float:
    """The factor within which 90% lie, as split-conformal takes it."""
    place = min(int(np.ceil((len(some) + 1) * LEVEL)), len(some)) - 1
    return float(np.sort(some)[place])


def held_by_others(phases: Sequence[CountedPhase], found: np.ndarray) -> float:
    """The share of phases that the factor of the other models' phases holds."""
    models = np.array([one.model for one in phases])
    inside = [f <= needed(found[models != m]) for f, m in zip(found, models, strict=True)]
    return float(np.mean(inside))
