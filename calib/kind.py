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
from calib.prior import Prior, fit_prior
from calib.residual import Residual, fit_lengths, fit_residual
from calib.trees import Trees, bin_edges, fit_trees, mean_of

CONFIDENCE = 0.9
_MARGIN = float(np.log(1.25))
"""A shape within a quarter of the sampled range's edge still counts as inside."""
_REACH = float(np.log(4.0))
"""Distance from the sampled range, in log, at which what was learned counts for a third."""
_LEAST_FOR_TREES, _LEAST_FOR_SHARES = 60, 30
_CHUNK = 16_384


@dataclass(frozen=True)
class KindFit:
    """The fit of one (implementation, kind, dtype).

    ``low``, ``high``: the sampled range of every smooth column; ``spread``: trees of the logarithm
    of the held-out error, None where the process tells its own; ``quantile``: what scales the
    spread to the interval; ``outside``: half-width of the prior's error alone; ``transferred``:
    no sample is of the device itself.
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
        return centre, near * self.quantile * spread + (1 - near) * self.outside * (1 + distance)

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
    """Fit ``seconds`` [n]; ``folds`` [n] numbers the parts that are held out together."""
    y = np.log(seconds) + np.log(x.clock_hz) - (base.learned(x) if base else 0.0)
    start = base.prior if base else None
    prior = fit_prior(x, y, start)
    blind = y - _held_out_priors(x, y, folds, start)
    left = y - prior.log_cycles(x)
    process, smooth, deviation = _smooth(x, left, blind, folds)
    trees, steps = _steps(x, left, folds)
    shares = _shares(blind, smooth, steps)
    error = blind - shares[0] * smooth - shares[1] * steps
    spread, widths = _spread(x, error, deviation, folds)
    fitted = KindFit(
        prior=prior,
        process=process,
        trees=trees,
        spread=spread,
        process_share=shares[0],
        trees_share=shares[1],
        quantile=conformal(np.abs(error) / widths),
        outside=conformal(np.abs(blind)),
        low={n: float(x.columns[n].min()) for n in x.smooth_names},
        high={n: float(x.columns[n].max()) for n in x.smooth_names},
        base=base,
    )
    return fitted, HeldOut(np.log(seconds) - error, widths)


def _held_out_priors(
    x: Features, y: np.ndarray, folds: np.ndarray, start: Prior | None
) -> np.ndarray:
    """[n] log cycles by priors that never saw the fold."""
    blind = np.empty_like(y)
    for number in np.unique(folds):
        test, train = folds == number, folds != number
        if not train.any():  # a single group: nothing to learn from
            return np.maximum(x.log_compute, x.log_memory)
        blind[test] = fit_prior(x.rows(train), y[train], start).log_cycles(x.rows(test))
    return blind


def _smooth(
    x: Features, left: np.ndarray, blind: np.ndarray, folds: np.ndarray
) -> tuple[Residual, np.ndarray, np.ndarray | None]:
    """The process; [n] its held-out mean and, where it tells one, its held-out spread."""
    lengths = fit_lengths(x, left)
    mean, spread = np.zeros(len(left)), np.ones(len(left))
    for number in np.unique(folds):
        test, train = folds == number, folds != number
        if train.any():
            part = fit_residual(lengths, x.rows(train), blind[train])
            mean[test], spread[test] = part.predict(x.rows(test))
    process = fit_residual(lengths, x, left)
    return process, mean, spread if process.inverse.size else None


def _steps(x: Features, left: np.ndarray, folds: np.ndarray) -> tuple[Trees | None, np.ndarray]:
    """A forest a fold, each blind to its own; together they are the mean. [n] held-out answers."""
    names, numbers = tuple(sorted(x.columns)), np.unique(folds)
    blind = np.zeros(len(left))
    if len(left) < _LEAST_FOR_TREES or len(numbers) < 2:
        return None, blind
    rows = x.matrix(names).T.astype(np.float32)
    edges, forests = bin_edges(rows), []
    many = len(left) > 3000
    for number in numbers:
        test, train = folds == number, folds != number
        forest = fit_trees(
            names,
            rows[:, train],
            left[train],
            200,
            rate=0.15 if many else 0.08,
            depth=6 if many else 4,
            row_share=0.5 if many else 0.7,
            seed=int(number),
            edges=edges,
        )
        blind[test] = forest.predict(rows[:, test])
        forests.append(forest)
    return mean_of(forests), blind


_SHARES = np.linspace(0, 1, 11)


def _shares(left: np.ndarray, smooth: np.ndarray, steps: np.ndarray) -> tuple[float, float]:
    """The shares of process and trees with the least held-out mean absolute error."""
    if not np.any(steps):
        return 1.0, 0.0
    if len(left) < _LEAST_FOR_SHARES:
        return 0.5, 0.5
    pairs = [(a, b) for a in _SHARES for b in _SHARES if a + b <= 1.0 + 1e-9]
    errors = [np.abs(left - a * smooth - b * steps).mean() for a, b in pairs]
    best = pairs[int(np.argmin(errors))]
    return float(best[0]), float(best[1])


_LEAST_ERROR = 1e-3


def _spread(
    x: Features, error: np.ndarray, deviation: np.ndarray | None, folds: np.ndarray
) -> tuple[Trees | None, np.ndarray]:
    """Trees of the logarithm of the held-out error, where the process tells no spread."""
    if deviation is not None:
        return None, deviation
    names = tuple(sorted(x.columns))
    rows = x.matrix(names).T.astype(np.float32)
    target, edges = np.log(np.abs(error) + _LEAST_ERROR), bin_edges(rows)
    blind, forests = np.zeros(len(error)), []
    for number in np.unique(folds):
        test, train = folds == number, folds != number
        forest = fit_trees(
            names, rows[:, train], target[train], 20, depth=4, edges=edges, seed=int(number)
        )
        blind[test] = forest.predict(rows[:, test])
        forests.append(forest)
    return mean_of(forests), np.exp(blind)


def conformal(scores: np.ndarray) -> float:
    """The finite-sample quantile of held-out scores; the largest where they are too few."""
    rank = min(int(np.ceil((len(scores) + 1) * CONFIDENCE)), len(scores))
    return float(np.sort(scores)[rank - 1])
