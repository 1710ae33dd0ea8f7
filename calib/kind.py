"""The fit of one kind of operator: physics, a smooth process, trees, and how sure they are.

    log time = prior + near * (s * process + t * trees) + base's learned part      [log cycles]

``prior`` is physics (:mod:`calib.prior`), ``process`` changes smoothly (:mod:`calib.residual`),
``trees`` come in steps (:mod:`calib.trees`); s and t are the shares of the two that predict
held-out groups best. ``base`` is a fit of other devices, where there is one: its physics is the
start, and what it learned is carried over. ``near`` is 1 within the sampled range and falls to 0
with the distance from it: outside, the physics takes over without a jump.

Everything is chosen on groups of shapes that are held out whole. Their errors, in units of the
predicted spread, scale the interval (split-conformal; Lei et al., JASA 113, 2018).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from calib.features import Features
from calib.prior import Prior, columns_of, fit_prior
from calib.residual import MOST_EXACT, Residual, fit_lengths, fit_residual
from calib.trees import Growth, Trees, bin_edges, bins_of, fit_trees, mean_of, sum_of

CONFIDENCE = 0.9
_MARGIN = float(np.log(1.25))
"""A shape within a quarter of the sampled range's edge still counts as inside."""
_REACH = float(np.log(4.0))
"""Distance from the sampled range, in log, at which what was learned counts for a third."""
_LEAST_FOR_TREES = 60
_CHUNK = 16_384


@dataclass(frozen=True)
class KindFit:
    """The fit of one (implementation, kind, dtype).

    ``low``, ``high``: the sampled range of every smooth column; ``spread``: trees of the logarithm
    of the held-out error, None where the process tells its own; ``quantile``: what scales the
    spread to the interval; ``outside``: half-width of the prior's error alone; ``at_least``: no
    interval is narrower; ``transferred``: no sample is of the device itself.
    """

    prior: Prior
    process: Residual | None
    trees: Trees | None
    spread: Trees | None
    process_share: float
    trees_share: float
    quantile: float
    outside: float
    low: dict[str, float]
    high: dict[str, float]
    transferred: bool = False
    at_least: float = 0.0
    base: KindFit | None = None

    def log_seconds(self, x: Features) -> tuple[np.ndarray, np.ndarray]:
        """[n] predicted log seconds and [n] half-width of the interval, in log."""
        starts = range(0, len(x), _CHUNK)
        if len(starts) <= 1:
            return self._log_seconds(x)
        from concurrent.futures import ThreadPoolExecutor

        with ThreadPoolExecutor() as pool:
            parts = pool.map(lambda i: self._log_seconds(x.rows(slice(i, i + _CHUNK))), starts)
            centre, half = zip(*parts, strict=True)
        return np.concatenate(centre), np.concatenate(half)

    def _log_seconds(self, x: Features) -> tuple[np.ndarray, np.ndarray]:
        learned, spread, distance = self._learned(x)
        near = _near(distance)
        centre = self.prior.log_cycles(x) + learned - np.log(x.clock_hz)
        half = near * self.quantile * spread + (1 - near) * self.outside * (1 + distance)
        return centre, np.maximum(half, self.at_least)

    def learned(self, x: Features) -> np.ndarray:
        """[n] what is added to the prior, in log."""
        return self._learned(x)[0]

    def _learned(self, x: Features) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The part beyond the prior, its spread, and the distance from the sampled range."""
        learned, spread, distance = np.zeros(len(x)), np.zeros(len(x)), self.distance(x)
        if self.process is not None:
            mean, spread = self.process.predict(x)
            learned = learned + self.process_share * mean
        if self.trees is not None:
            learned = learned + self.trees_share * _answers(self.trees, x)
        if self.spread is not None:
            spread = np.exp(_answers(self.spread, x))
        learned = _near(distance) * learned
        return learned + (self.base.learned(x) if self.base else 0.0), spread, distance

    def distance(self, x: Features) -> np.ndarray:
        """[n] how far outside the sampled range, in log: the sum over the smooth columns."""
        far = np.zeros(len(x))
        for name in x.smooth_names:
            low, high = self.low.get(name, 0.0), self.high.get(name, 0.0)
            values = x.columns[name]
            far += np.maximum(np.maximum(low - values, values - high), 0.0)
        return far

    def inside(self, x: Features) -> np.ndarray:
        """[n] whether every smooth column lies within the sampled range, or close to it."""
        inside = np.ones(len(x), dtype=bool)
        for name in x.smooth_names:
            low, high = self.low.get(name, 0.0), self.high.get(name, 0.0)
            values = x.columns[name]
            inside &= (values >= low - _MARGIN) & (values <= high + _MARGIN)
        return inside


def _near(distance: np.ndarray) -> np.ndarray:
    return np.asarray(np.exp(-((distance / _REACH) ** 2)))


def _answers(trees: Trees, x: Features) -> np.ndarray:
    return trees.predict(x.matrix(trees.names).T)


@dataclass(frozen=True)
class HeldOut:
    """Of each sample: log seconds by a fit without its fold, and the spread it stated."""

    centre: np.ndarray
    spread: np.ndarray


def fit_kind(
    x: Features, seconds: np.ndarray, folds: np.ndarray, base: KindFit | None = None
) -> tuple[KindFit, HeldOut]:
    """Fit ``seconds`` [n]; ``folds`` [n] numbers the parts held out together, -1 what never is."""
    y = np.log(seconds) + np.log(x.clock_hz) - (base.learned(x) if base else 0.0)
    start = base.prior if base else None
    prior = fit_prior(x, y, start)
    blind = y - _held_out_priors(x, y, folds, start, prior)
    left = y - prior.log_cycles(x)
    process, smooth, deviation = _smooth(x, left, blind, folds)
    names = columns_of(x, prior)
    trees, steps = _steps(x, names, left, folds)
    scored = folds >= 0
    shares = _shares(blind[scored], smooth[scored], steps[scored])
    error = blind - shares[0] * smooth - shares[1] * steps
    spread, widths = _spread(x, names, error, deviation, folds)
    fitted = KindFit(
        prior=prior,
        process=process if shares[0] or spread is None else None,
        trees=trees if shares[1] else None,
        spread=spread,
        process_share=shares[0],
        trees_share=shares[1],
        quantile=conformal((np.abs(error) / widths)[scored]),
        outside=conformal(np.abs(blind[scored])),
        low={n: float(x.columns[n].min()) for n in x.smooth_names},
        high={n: float(x.columns[n].max()) for n in x.smooth_names},
        base=base,
    )
    return fitted, HeldOut(np.log(seconds) - error, widths)


def _parts(folds: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """(held out, learned from), masks [n] for each fold; none where nothing would be left."""
    parts = [(folds == number, folds != number) for number in np.unique(folds[folds >= 0])]
    return [(test, train) for test, train in parts if train.any()]


def _held_out_priors(
    x: Features, y: np.ndarray, folds: np.ndarray, start: Prior | None, like: Prior
) -> np.ndarray:
    """[n] log cycles by priors that never saw the fold; the floor where there is no other."""
    blind = np.maximum(x.log_compute, x.log_memory)
    for test, train in _parts(folds):
        part = fit_prior(x.rows(train), y[train], start, like.costs)
        blind[test] = part.log_cycles(x.rows(test))
    return blind


def _smooth(
    x: Features, left: np.ndarray, blind: np.ndarray, folds: np.ndarray
) -> tuple[Residual | None, np.ndarray, np.ndarray | None]:
    """The process; [n] its held-out mean and, where it tells one, its held-out spread."""
    mean, spread = np.zeros(len(left)), np.ones(len(left))
    if len(left) > _MOST_FOR_PROCESS:
        return None, mean, None
    lengths = fit_lengths(x, left)
    for test, train in _parts(folds):
        part = fit_residual(lengths, x.rows(train), blind[train])
        mean[test], spread[test] = part.predict(x.rows(test))
    process = fit_residual(lengths, x, left)
    return process, mean, spread if len(left) <= MOST_EXACT else None


def _steps(
    x: Features, names: tuple[str, ...], left: np.ndarray, folds: np.ndarray
) -> tuple[Trees | None, np.ndarray]:
    """The forest and [n] held-out answers.

    Each fold has a forest that is blind to it; together they are their mean. Where some samples are
    never held out, one forest grows on those first and on all of them then.
    """
    blind, parts = np.zeros(len(left)), _parts(folds)
    if len(left) < _LEAST_FOR_TREES or not parts:
        return None, blind
    rows = x.matrix(names).T
    edges = bin_edges(rows)
    binned, forests = bins_of(rows, edges), []
    is_one = bool(np.any(folds < 0))
    growth = _MANY if is_one else _SOME if len(left) > _MOST_FOR_PROCESS else _FEW
    for i, (test, train) in enumerate(parts):
        forest = fit_trees(names, binned[:, train], edges, left[train], growth, i)
        blind[test] = forest.predict(rows[:, test])
        forests.append(forest)
    if not is_one:
        return mean_of(forests), blind
    after = left - forests[0].predict(rows)
    return sum_of(forests[0], fit_trees(names, binned, edges, after, _AFTER, 1)), blind


_MOST_FOR_PROCESS = 3000
_FEW = Growth(trees=150, rate=0.1, depth=4, row_share=0.7)
_SOME = Growth(trees=150, rate=0.2, depth=6)
_MANY = Growth(trees=500, rate=0.2, depth=8, row_share=0.4)
_AFTER = Growth(trees=60, rate=0.2, depth=8, row_share=0.4)
_OF_SPREAD = Growth(trees=60, rate=0.15, depth=4)
_SHARES = np.linspace(0, 1, 11)


def _shares(left: np.ndarray, smooth: np.ndarray, steps: np.ndarray) -> tuple[float, float]:
    """The shares of process and trees with the least held-out mean absolute error."""
    if not np.any(steps):
        return 1.0, 0.0
    pairs = [(a, b) for a in _SHARES for b in _SHARES if a + b <= 1.0 + 1e-9]
    if not np.any(smooth):
        pairs = [(0.0, 1.0)]
    errors = [np.abs(left - a * smooth - b * steps).mean() for a, b in pairs]
    best = pairs[int(np.argmin(errors))]
    return float(best[0]), float(best[1])


_LEAST_ERROR = 1e-3


def _spread(
    x: Features,
    names: tuple[str, ...],
    error: np.ndarray,
    deviation: np.ndarray | None,
    folds: np.ndarray,
) -> tuple[Trees | None, np.ndarray]:
    """Trees of the logarithm of the held-out error, where the process tells no spread.

    [n] spreads by trees that never saw the sample.
    """
    if deviation is not None:
        return None, deviation
    held = np.flatnonzero(folds >= 0)
    rows = x.matrix(names).T[:, held]
    edges, target = bin_edges(rows), np.log(np.abs(error[held]) + _LEAST_ERROR)
    binned, forests, widths = bins_of(rows, edges), [], np.ones(len(error))
    halves = folds[held] if len(np.unique(folds[held])) > 1 else np.arange(len(held)) % 5
    for test, train in _parts(halves):
        forest = fit_trees(names, binned[:, train], edges, target[train], _OF_SPREAD)
        widths[held[test]] = np.exp(forest.predict(rows[:, test]))
        forests.append(forest)
    return mean_of(forests), widths


def conformal(scores: np.ndarray) -> float:
    """The finite-sample quantile of held-out scores; the largest where they are too few."""
    rank = min(int(np.ceil((len(scores) + 1) * CONFIDENCE)), len(scores))
    return float(np.sort(scores)[rank - 1])
