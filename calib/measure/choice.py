"""Which shapes to measure next: those that take most uncertainty away from all candidates.

Every candidate carries a variance v_j, of its log seconds. Measuring candidate i also tells of its
neighbours: with correlation r_ij, a kernel over log shape, the variance that it takes away is

    gain_i = sum_j w_j v_j r_ij^2 / cost_i

(Cohn's criterion for active learning, with the handed-in spread in place of one model's algebra).
After i is chosen, v_j shrinks by (1 - r_ij^2), so a batch never holds clones, and a lone corner
that stands for nobody waits. With v = 1 everywhere this is a space-filling design of the
candidates: that is the start, when no fit exists. Later v comes from a function,
``uncertainty(ops)``, that the caller hands in; nothing here knows the fit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from model.ops import Operator

Uncertainty = Callable[[Sequence[Operator]], np.ndarray]
"""Operators -> [n] spread (standard deviation) of the natural logarithm of their seconds."""

_MOST_REFERENCES = 2000
"""Candidates that a gain is summed over: a sample of so many stands for all."""


def choose(
    candidates: Sequence[Operator],
    measured: Sequence[Operator],
    count: int,
    uncertainty: Uncertainty | np.ndarray | None = None,
    *,
    weights: np.ndarray | None = None,
    cost: np.ndarray | None = None,
    seed: int = 0,
) -> list[int]:
    """Indices into ``candidates`` of the next ``count`` to measure, the most useful first.

    Candidates and ``measured`` are of one kind. ``uncertainty``: the function, or what it
    said of the candidates; None until there is a fit.
    ``weights`` [n]: how much the candidate matters as a shape to be predicted; ``cost`` [n]: what
    measuring it takes. Candidates that are measured already are never chosen.
    """
    points = coordinates([*candidates, *measured])
    points, known = points[: len(candidates)], points[len(candidates) :]
    done = set(measured)
    free = np.array([op not in done for op in candidates], dtype=bool)
    spread = uncertainty(candidates) if callable(uncertainty) else uncertainty
    return choose_rows(
        points, known, count, spread, weights=weights, cost=cost, free=free, seed=seed
    )


def choose_rows(
    points: np.ndarray,
    known: np.ndarray,
    count: int,
    spread: np.ndarray | None = None,
    *,
    weights: np.ndarray | None = None,
    cost: np.ndarray | None = None,
    free: np.ndarray | None = None,
    seed: int = 0,
) -> list[int]:
    """The rule over coordinates: ``points`` [n, d] candidates, ``known`` [m, d] measured.

    ``spread`` [n]: what a fit to the known is unsure by; None: no fit yet, and the known take away
    what the rule would have them take. ``free`` [n]: False for what must not be chosen.
    """
    n = len(points)
    weights = np.ones(n) if weights is None else np.asarray(weights, dtype=float)
    open_ = np.ones(n, dtype=bool) if free is None else free.copy()
    rng = np.random.default_rng(seed)
    references = rng.permutation(n)[:_MOST_REFERENCES]
    length = _length(points[references], len(known) + count)
    shared = _squared_correlation(points, points[references], length)  # [n, references]
    variance = np.ones(len(references)) if spread is None else spread[references] ** 2
    if spread is None and len(known):
        told = _squared_correlation(known, points[references], length)  # [m, references]
        variance = variance * np.prod(1 - told, axis=0)
    variance = variance * weights[references]
    price = 1.0 if cost is None else np.asarray(cost, dtype=float)
    chosen: list[int] = []
    while len(chosen) < min(count, n) and open_.any():
        gain = np.where(open_, shared @ variance / price, -np.inf)
        best = int(np.argmax(gain))
        chosen.append(best)
        open_[best] = False
        variance = variance * (1 - shared[best])
    return chosen


def coordinates(ops: Sequence[Operator]) -> np.ndarray:
    """[n, d] logarithms of the shape, of FLOPs and of bytes, flags and labels as 0 or 1.

    Each column that varies is scaled to unit deviation; the others are left out.
    """
    names = sorted({name for op in ops for name in vars(op)})
    columns = [_log([op.flops for op in ops]), _log([op.bytes for op in ops])]
    for name in names:
        values = [vars(op).get(name) for op in ops]
        labels = sorted({v for v in values if isinstance(v, str)})
        if labels:
            columns += [np.array([v == label for v in values], dtype=float) for label in labels]
        else:
            columns.append(_log([0 if v is None else v for v in values]))
    rows = np.stack(columns, axis=1)
    deviation = rows.std(axis=0)
    varies = deviation > 1e-9
    return np.asarray((rows - rows.mean(axis=0))[:, varies] / deviation[varies])


def _log(values: Sequence[float]) -> np.ndarray:
    return np.asarray(np.log(np.maximum(np.array(values, dtype=float), 0.5)))


def _length(points: np.ndarray, count: int) -> float:
    """The reach of one sample when ``count`` of them share all ``points`` evenly.

    The median distance to the neighbour up to which a point would be the nearest sample.
    """
    some = points[:500]
    rank = min(max(1, round(len(points) / max(count, 1))), len(points) - 1)
    distance = np.sqrt(_squared_distance(some, points))
    reach = float(np.median(np.partition(distance, rank, axis=1)[:, rank]))
    return reach if reach > 0 else 1.0


def _squared_correlation(a: np.ndarray, b: np.ndarray, length: float) -> np.ndarray:
    """[len(a), len(b)] squares of a Gaussian kernel."""
    return np.asarray(np.exp(-_squared_distance(a, b) / length**2))


def _squared_distance(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    squared = (a**2).sum(1)[:, None] + (b**2).sum(1)[None] - 2 * a @ b.T
    return np.asarray(np.maximum(squared, 0.0))
