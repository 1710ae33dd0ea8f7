"""Which shapes to measure next: drawn where the fit is unsure, and spread over the space of shapes.

The candidates stand for the shapes that will be asked for, so a fit learns most from a sample of
them, thinned where it is sure and denser where it is not. Candidate i gets a chance

    p_i ~ spread_i (1 - exp(-(d_i / reach)^2))

of the spread that the fit tells for it and of its distance d_i to the nearest shape measured, the
chances sum to the number wanted, and the local pivotal method draws: neighbours contest their
chances until each is taken or left, so that a shape that is taken leaves less for those beside it.
(Neyman, J. R. Stat. Soc. 97, 1934: samples in proportion to the spread are the best estimate of a
sum; Grafström, Lundström and Schelin, Biometrics 68, 2012: the draw.)

Taking the largest spread instead, or what lowers the sum of all spreads most, was no better than
drawing at random (``docs/learning_curve.md``): it leaves the distribution of what is asked for.

With equal spreads this is an even design over the candidates: that is the start, when no fit
exists. Later the spread comes from a function, ``uncertainty(ops)``, that the caller hands in;
nothing here knows the fit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from model.ops import Operator

Uncertainty = Callable[[Sequence[Operator]], np.ndarray]
"""Operators -> [n] spread (standard deviation) of the natural logarithm of their seconds."""

_NEIGHBOURS = 8
"""Nearest candidates among which a rival is looked for; where all are decided, in the next pass."""
_LEAST_CHANCE = 1e-9
"""Of the largest: what is left to a candidate that the fit is quite sure of."""
_MOST_ASKED = 500
"""Points that a median is taken over."""
_DECIDED = 1e-7
"""A chance as near as this to 0 or 1 is 0 or 1."""


def choose(
    candidates: Sequence[Operator],
    measured: Sequence[Operator],
    count: int,
    uncertainty: Uncertainty | np.ndarray | None = None,
    *,
    seed: int = 0,
) -> list[int]:
    """Indices into ``candidates`` of the next ``count`` to measure; fewer where no more are left.

    Candidates are of one kind; those that are ``measured`` already are never chosen.
    ``uncertainty``: the function, or what it said of the candidates; None until there is a fit.
    Every prefix of the answer is spread over the space too, so measuring may stop anywhere.
    """
    if not candidates:
        return []
    done = set(measured)
    free = np.array([op not in done for op in candidates], dtype=bool)
    spread = uncertainty(candidates) if callable(uncertainty) else uncertainty
    points = coordinates([*candidates, *measured])
    points, known = points[: len(candidates)], points[len(candidates) :]
    return choose_rows(points, count, spread, known=known, free=free, seed=seed)


def choose_rows(
    points: np.ndarray,
    count: int,
    spread: np.ndarray | None = None,
    *,
    known: np.ndarray | None = None,
    free: np.ndarray | None = None,
    seed: int = 0,
) -> list[int]:
    """The rule over coordinates: ``points`` [n, d]; a pure function of its arguments.

    ``spread`` [n]: what a fit is unsure by; None: the same everywhere. ``known`` [m, d]: measured.
    ``free`` [n]: False for what must not be chosen.
    """
    rng = np.random.default_rng(seed)
    rows = np.arange(len(points)) if free is None else np.flatnonzero(free)
    weights = np.ones(len(points)) if spread is None else np.asarray(spread, dtype=float)
    if known is not None and len(known) and len(points):
        weights = weights * distinctness(points, known, count)
    taken = pivotal(points[rows], chances(weights[rows], min(count, len(rows))), rng)
    return [int(rows[i]) for i in _spread_out(points[rows], taken, rng)]


def distinctness(points: np.ndarray, known: np.ndarray, count: int) -> np.ndarray:
    """[n] from 0, at a shape that is known, to 1, beyond its reach.

    The reach of one is the distance to the neighbour up to which a point would be nearest to it if
    the known and ``count`` more shared all points evenly: a median over the points.
    """
    from scipy.spatial import KDTree

    rank = min(max(1, round(len(points) / (len(known) + count))), len(points) - 1)
    tree = KDTree(points)
    reach = np.median(tree.query(points[:_MOST_ASKED], [rank + 1])[0])
    nearest = KDTree(known).query(points)[0]
    return np.asarray(1 - np.exp(-((nearest / (reach if reach > 0 else 1.0)) ** 2)))


def chances(weights: np.ndarray, count: int) -> np.ndarray:
    """[n] in proportion to ``weights``, none above 1, their sum ``count`` (at most n)."""
    largest = weights.max(initial=0.0)
    weights = np.maximum(weights / largest, _LEAST_CHANCE) if largest else np.ones(len(weights))
    sure = np.zeros(len(weights), dtype=bool)
    while not sure.all():
        left = count - sure.sum()
        chance = np.where(sure, 1.0, weights * left / weights[~sure].sum())
        if not np.any(above := ~sure & (chance >= 1.0)):
            return np.asarray(chance)
        sure |= above
    return np.ones(len(weights))


def pivotal(points: np.ndarray, chance: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Rows that are taken when neighbours contest: ``points`` [n, d], ``chance`` [n].

    A contest of two leaves one of them decided and keeps the sum and the expectation of both: the
    local pivotal method. As many rows are taken as the chances sum to.
    """
    from scipy.spatial import KDTree

    chance = chance.copy()
    while len(open_ := np.flatnonzero(_undecided(chance))) > 1:
        near = KDTree(points[open_]).query(points[open_], min(len(open_), _NEIGHBOURS + 1))[1]
        for row in rng.permutation(len(open_)):
            one = open_[row]
            if _undecided(chance[one]):
                rivals = (other for other in open_[near[row]] if other != one)
                other = next((r for r in rivals if _undecided(chance[r])), None)
                if other is not None:
                    chance[one], chance[other] = _contest(chance[one], chance[other], rng)
    return np.flatnonzero(chance > 0.5)


def _undecided(chance: np.ndarray) -> np.ndarray:
    return (chance > _DECIDED) & (chance < 1 - _DECIDED)


def _contest(a: float, b: float, rng: np.random.Generator) -> tuple[float, float]:
    """The chances after it: one has none left, or, where they sum to more than 1, is sure."""
    both = a + b
    if both < 1:
        return (0.0, both) if rng.random() * both < b else (both, 0.0)
    return (1.0, both - 1) if rng.random() * (2 - both) < 1 - b else (both - 1, 1.0)


def _spread_out(points: np.ndarray, rows: np.ndarray, rng: np.random.Generator) -> list[np.integer]:
    """``rows`` in an order in which the first half, quarter, ... are spread out as all are."""
    if len(rows) <= 1:
        return list(rows)
    half = pivotal(points[rows], chances(np.ones(len(rows)), len(rows) // 2), rng)
    first = np.isin(np.arange(len(rows)), half)
    return _spread_out(points, rows[first], rng) + list(rng.permutation(rows[~first]))


def coordinates(ops: Sequence[Operator]) -> np.ndarray:
    """[n, d] logarithms of the shape, of FLOPs and of bytes, flags and labels as 0 or 1.

    Each column that varies is scaled to unit deviation; the others are left out, but for one.
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
    varies[0] = True
    return np.asarray((rows - rows.mean(axis=0))[:, varies] / np.maximum(deviation[varies], 1e-9))


def _log(values: Sequence[float]) -> np.ndarray:
    return np.asarray(np.log(np.maximum(np.array(values, dtype=float), 0.5)))
