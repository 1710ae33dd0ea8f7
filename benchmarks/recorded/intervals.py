"""How far errors of operators hang together: what SAMPLED of ``sums`` is fitted to.

Signed errors of a phase's operators, summed by kind, and the phases' own, are taken to be normal
with the deviation that the formula of :mod:`calib.estimates.sums` gives for those numbers. The
likeliest pair on a grid is kept, among those whose intervals hold nine tenths of the phases; each
model is one observation of weight one (its phases share their shapes). Coverage by leaving out each
model in turn says what it is worth elsewhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from benchmarks.recorded.estimates import PAIR
from calib.cards.corrected import NORMAL
from calib.estimates.sums import Ends
from calib.fit.calibration import MEASURED
from calib.fit.plan import CONFIDENCE

GRID = np.round(np.arange(0.0, 1.01, 0.05), 2)
Pair = tuple[float, float]
FEWEST = 50
"""Operators of a kind that are asked by themselves."""


@dataclass(frozen=True)
class Phase:
    """``error_s``: estimate less clock, of ``parts`` by kind and of the whole, and whose ends."""

    model: str
    ends: Ends
    parts: list[tuple[np.ndarray, float]]
    whole: float

    def halves(self, rows: np.ndarray | slice, known: Pair) -> float:
        return float(np.mean(self.ends.distances(rows, known)))


def phases_of(operators: pd.DataFrame, phases: pd.DataFrame, way: str) -> list[Phase]:
    found = []
    rows = phases[phases["way"] == way].set_index(list(PAIR))
    for key, some in operators[operators["way"] == way].groupby(list(PAIR), sort=False):
        ours = some[some["estimate_s"] > 0].reset_index(drop=True)
        off = (ours["estimate_s"] - ours["measured_s"]).to_numpy(dtype=float)
        kinds = ours["kind"].to_numpy()
        parts = []
        for kind in dict.fromkeys(kinds):
            mine = np.flatnonzero((kinds == kind) & np.isfinite(off))
            if len(mine):
                parts.append((mine, float(off[mine].sum())))
        row = rows.loc[key]
        whole = float(row["kernel_estimate_s"] - row["kernel_s"])
        found.append(Phase(str(key[0]), Ends(ours), parts, whole))  # type: ignore[index]
    return found


def unlikelihood(phase: Phase, known: Pair) -> float:
    """Minus the log likelihood, less a constant: the mean over kinds, and the whole."""
    parts = [_one(error, phase.halves(rows, known)) for rows, error in phase.parts]
    return float(np.mean(parts)) + _one(phase.whole, phase.halves(slice(None), known))


def _one(error: float, half: float) -> float:
    """Of Student's t with four degrees: some kinds are missed by many times their interval."""
    scale = max(half, 1e-9) / NORMAL
    return float(np.log(scale) + 2.5 * np.log1p((error / scale) ** 2 / 4))


PAIRS = [(float(w), float(b)) for w in GRID for b in GRID if b <= w]
"""Kinds hang together less than the shapes of one."""


def fitted(costs: np.ndarray, held: np.ndarray, models: Sequence[str]) -> Pair:
    """The likeliest of ``PAIRS`` by ``costs`` [phases, pairs] among those by which enough phases
    ``held`` [phases, pairs], else among those by which most did; every model counts as one."""
    weights = np.array([1 / models.count(m) for m in models])
    coverage = held.mean(axis=0)
    enough = coverage >= min(CONFIDENCE, float(coverage.max()))
    return PAIRS[int(np.argmin(np.where(enough, weights @ costs, np.inf)))]


def holds(phase: Phase, known: Pair) -> bool:
    below, above = phase.ends.distances(slice(None), known)
    return bool(-above <= phase.whole <= below)


def described(operators: pd.DataFrame, phases: pd.DataFrame, way: str) -> str:
    """One line: the fitted numbers, and how many phases hold, by all and without their model."""
    some = phases_of(operators, phases, way)
    costs = np.array([[unlikelihood(p, pair) for pair in PAIRS] for p in some])
    held = np.array([[holds(p, pair) for pair in PAIRS] for p in some])
    models = [p.model for p in some]
    known, blind = fitted(costs, held, models), []
    for phase in some:
        others = [i for i, m in enumerate(models) if m != phase.model]
        if others:
            theirs = [models[i] for i in others]
            blind.append(holds(phase, fitted(costs[others], held[others], theirs)))
    inside = np.mean([holds(p, known) for p in some])
    return (
        f"intervals of sums ({way}): within a kind {known[0]:.2f}, between kinds {known[1]:.2f}; "
        f"{inside:.1%} of phases hold, {np.mean(blind):.1%} by numbers of the other models"
    )


def in_model(operators: pd.DataFrame, way: str) -> str:
    """One line: by how much operators whose very shapes were sampled differ within a model (log),
    for nine tenths of their time, by kind; what IN_MODEL of ``calib.fit.fitting`` is."""
    known = (operators["way"] == way) & (operators["provenance"] == MEASURED)
    some = operators[known & (operators["measured_s"] > 0) & (operators["estimate_s"] > 0)]
    off = np.log(some["measured_s"].astype(float) / some["estimate_s"].astype(float)).abs()
    if some.empty:
        return f"measured by itself, within a model ({way}): no operator of the phases"
    shown = [f"all {_most(off, some['measured_s']):.2f}"]
    for kind, rows in some.groupby("kind"):
        if len(rows) >= FEWEST:
            shown.append(f"{kind} {_most(off[rows.index], rows['measured_s']):.2f}")
    return f"measured by itself, within a model ({way}): {', '.join(shown)}"


def _most(off: pd.Series, seconds: pd.Series) -> float:
    """What nine tenths of the ``seconds`` lie within."""
    order = np.argsort(off.to_numpy())
    share = np.cumsum(seconds.to_numpy()[order]) / seconds.sum()
    return float(off.to_numpy()[order][np.searchsorted(share, CONFIDENCE)])
