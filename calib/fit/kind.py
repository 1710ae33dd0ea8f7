"""The fit of one kind of operator: physics, a smooth process, trees, and how sure they are.

    log time = prior + near * (s * process + t * trees) + base's learned part      [log cycles]

``prior`` is physics (:mod:`calib.fit.physics.prior`), ``process`` changes smoothly
(:mod:`calib.fit.residual`),
``trees`` come in steps (:mod:`calib.fit.trees`); s and t are the shares of the two that predict
held-out groups best. ``base`` is a fit of other devices, where there is one: its physics is the
start, and what it learned is carried over. ``near`` is 1 within the sampled range and falls to 0
with the distance from it: outside, the physics takes over without a jump.

Everything is chosen on groups of shapes that are held out whole. Their errors, in units of the
predicted spread, scale the interval (split-conformal; Lei et al., JASA 113, 2018).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from calib.fit.lessons import Lessons
from calib.fit.physics.bounds import Bounds, fit_bounds
from calib.fit.physics.features import Features
from calib.fit.physics.prior import Prior, columns_of, fit_prior
from calib.fit.plan import HeldOut, Plan, conformal, over_devices, plan_of
from calib.fit.residual import (
    MOST_EXACT,
    Left,
    Residual,
    fit_lengths,
    fit_residual,
    tamed,
)
from calib.fit.trees import Growth, Trees, answers, bin_edges, bins_of, fit_trees, mean_of, sum_of

_MARGIN = float(np.log(1.25))
"""A shape within a quarter of the sampled range's edge still counts as inside."""

_REACH = float(np.log(4.0))
"""Distance from the sampled range, in log, at which what was learned counts for a third."""

_FARTHEST = 4 * _REACH
"""Distance beyond which an interval no longer widens: by then it says that nobody knows."""

_LEAST_FOR_TREES = 60

_CHUNK = 65_536


@dataclass(frozen=True)
class KindFit:
    """The fit of one (implementation, kind, dtype).

    ``low``, ``high``: the sampled range of every smooth column; ``spread``: trees of the logarithm
    of the held-out error, None where the process tells its own; ``quantile``: what scales the
    spread to the interval; ``outside``: half-width of the prior's error alone; ``at_least``: no
    interval is narrower; ``transferred``: no sample is of the device itself; ``bounds``: what no
    estimate leaves, neither end of its interval.
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
    bounds: Bounds | None = None

    def log_ends(self, x: Features) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """[n] log seconds, and both ends of the interval, within the bounds of the kind."""
        centre, half = self.log_seconds(x)
        if self.bounds is None:
            return centre, centre - half, centre + half
        least, most = self.bounds.of(x)
        centre = np.clip(centre, least, most)
        return centre, np.maximum(centre - half, least), np.minimum(centre + half, most)

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
        beyond = self.outside * (1 + np.minimum(distance, _FARTHEST))
        half = near * self.quantile * spread + (1 - near) * beyond
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
        forests = [forest for forest in (self.trees, self.spread) if forest is not None]
        found = answers(lambda names: x.matrix(names).T, forests)
        if self.trees is not None:
            learned = learned + self.trees_share * found[0]
        if self.spread is not None:
            spread = np.exp(found[-1])
        learned = _near(distance) * learned
        return learned + (self.base.learned(x) if self.base else 0.0), spread, distance

    def distance(self, x: Features) -> np.ndarray:
        """[n] how far outside the sampled range, in log: the sum over the smooth columns."""
        far = np.zeros(len(x))
        for name in x.smooth_names:
            low, high = self._sampled(name)
            values = x.columns[name]
            far += np.maximum(np.maximum(low - values, values - high), 0.0)
        return far

    def _sampled(self, name: str) -> tuple[float, float]:
        """The range of a column. A label that all samples have is not missed where another's is
        there instead: whether it is among the columns hangs on what else is asked."""
        low = 0.0 if "=" in name else self.low.get(name, 0.0)
        return low, self.high.get(name, 0.0)

    def inside(self, x: Features) -> np.ndarray:
        """[n] whether every smooth column lies within the sampled range, or close to it."""
        inside = np.ones(len(x), dtype=bool)
        for name in x.smooth_names:
            low, high = self._sampled(name)
            values = x.columns[name]
            inside &= (values >= low - _MARGIN) & (values <= high + _MARGIN)
        return inside


def _near(distance: np.ndarray) -> np.ndarray:
    return np.asarray(np.exp(-((distance / _REACH) ** 2)))


def fit_kind(
    x: Features,
    seconds: np.ndarray,
    plan: Plan,
    base: KindFit | None = None,
    lessons: Lessons | None = None,
) -> tuple[KindFit, HeldOut]:
    """Fit ``seconds`` [n] as ``plan`` says.

    ``base``: a fit of other devices to start from; ``lessons``: what they teach of correcting it
    by at most ``MOST_EXACT`` samples.
    """
    y = np.log(seconds) + np.log(x.clock_hz) - (base.learned(x) if base else 0.0)
    start = base.prior if base else None
    prior = fit_prior(x.rows(plan.learned), y[plan.learned], start)
    left, names = y - prior.log_cycles(x), columns_of(x, prior)
    blind, without = _held_out_priors(x, y, plan, start, prior)
    parts = plan.parts(len(y))
    scored = parts >= 0 if plan.held_out else np.ones(len(y), dtype=bool)
    targets = without if plan.over_devices else [left] * len(without)
    if lessons:
        process, trees, smooth, steps, deviation = _corrected(x, left, blind, plan, lessons)
    else:
        process, smooth, deviation = _smooth(x, left, blind, plan)
        trees, steps = _steps(x, names, left, targets, plan)
    shares = (1.0, 1.0) if lessons else _shares(blind[scored], smooth[scored], steps[scored])
    error = blind - shares[0] * smooth - shares[1] * steps
    spread, widths = _spread(x, names, trees, error, deviation, parts, plan.over_devices)
    scores = np.abs(error / widths)[scored]
    fitted = KindFit(
        prior=prior,
        process=process if shares[0] or spread is None else None,
        trees=trees if shares[1] else None,
        spread=spread,
        process_share=shares[0],
        trees_share=shares[1],
        quantile=over_devices(scores, parts[scored]) if plan.over_devices else conformal(scores),
        outside=conformal(np.abs(blind[scored])),
        low={n: float(x.columns[n].min()) for n in x.smooth_names},
        high={n: float(x.columns[n].max()) for n in x.smooth_names},
        base=base,
        bounds=fit_bounds(
            x, np.log(seconds) + np.log(x.clock_hz), conformal(np.abs(blind[scored]))
        ),
    )
    return fitted, HeldOut(np.log(seconds) - error, widths, shares[1] * steps)


def _held_out_priors(
    x: Features, y: np.ndarray, plan: Plan, start: Prior | None, like: Prior
) -> tuple[np.ndarray, list[np.ndarray]]:
    """What priors that never saw a part leave: [n] of the part each is asked for, and [n] of all.

    Where no pair asks for a sample, what the floor leaves.
    """
    blind, without = y - np.maximum(x.log_compute, x.log_memory), []
    for asked, learned in plan.held_out:
        part = fit_prior(x.rows(learned), y[learned], start, like.costs)
        left = y - part.log_cycles(x)
        blind[asked] = left[asked]
        without.append(left)
    return blind, without


def _smooth(
    x: Features, left: np.ndarray, blind: np.ndarray, plan: Plan
) -> tuple[Residual | None, np.ndarray, np.ndarray | None]:
    """The process; [n] its held-out mean and, where it tells one, its held-out spread."""
    mean, spread, learned = np.zeros(len(left)), np.ones(len(left)), plan.learned
    if len(learned) > _MOST_FOR_PROCESS:
        return None, mean, None
    none = np.zeros((len(left), 0))
    if len(left) < _LEAST_FOR_TREES:
        left, blind = tamed(left), tamed(blind)
    lengths = fit_lengths([Left(x, left, none).rows(learned)])
    for asked, rest in plan.held_out:
        part, _ = fit_residual(lengths, Left(x, blind, none).rows(rest))
        mean[asked], spread[asked] = part.predict(x.rows(asked))
    process, _ = fit_residual(lengths, Left(x, left, none).rows(learned))
    return process, mean, spread if len(left) <= MOST_EXACT else None


def _corrected(
    x: Features, left: np.ndarray, blind: np.ndarray, plan: Plan, lessons: Lessons
) -> tuple[Residual | None, Trees | None, np.ndarray, np.ndarray, np.ndarray | None]:
    """By ``lessons``: process and trees; [n] held-out means of both, and held-out spread."""
    smooth, steps, spread = np.zeros(len(left)), np.zeros(len(left)), np.ones(len(left))
    columns = lessons.columns(x)
    for asked, rest in plan.held_out:
        part, coefficients = fit_residual(lessons.lengths, Left(x, blind, columns).rows(rest))
        smooth[asked], spread[asked] = part.predict(x.rows(asked))
        steps[asked] = columns[asked] @ coefficients
    known = Left(x, left, columns).rows(plan.learned)
    process, coefficients = fit_residual(lessons.lengths, known)
    return process, lessons.trees(coefficients), smooth, steps, spread


def _steps(
    x: Features, names: tuple[str, ...], left: np.ndarray, targets: list[np.ndarray], plan: Plan
) -> tuple[Trees | None, np.ndarray]:
    """The forest for ``left`` and [n] held-out answers, each part's from its own of ``targets``.

    Each part has a forest that is blind to it; together they are their mean. Where some samples are
    never held out, one forest grows on those first and on all of them then. Where parts are
    devices, one grows on all: a forest without the likest device is a poor guess.
    """
    blind, learned = np.zeros(len(left)), plan.learned
    if len(learned) < _LEAST_FOR_TREES or not plan.held_out:
        return None, blind
    rows = x.matrix(names).T
    edges = bin_edges(rows[:, learned])
    binned, forests = bins_of(rows, edges), []
    is_one = not plan.over_devices and bool(np.any(plan.parts(len(left)) < 0))
    is_varied = plan.over_devices and len(plan.held_out) >= _VARIED
    many = _OVER_DEVICES if is_varied else _SOME
    growth = _MANY if is_one else many if len(left) > _MOST_FOR_PROCESS else _FEW
    for i, (asked, rest) in enumerate(plan.held_out):
        forest = fit_trees(names, binned[:, rest], edges, targets[i][rest], growth, i)
        blind[asked] = forest.predict(rows[:, asked])
        forests.append(forest)
    if plan.over_devices:
        all_, target = binned[:, learned], left[learned]
        seeds = range(_FORESTS_OVER_DEVICES)
        return mean_of([fit_trees(names, all_, edges, target, growth, s) for s in seeds]), blind
    if not is_one:
        return mean_of(forests), blind
    after = left - forests[0].predict(rows)
    second = fit_trees(names, binned, edges, after, _AFTER, 1)
    return sum_of([forests[0], second], [1.0, 1.0]), blind


_MOST_FOR_PROCESS = 3000

_FEW = Growth(trees=150, rate=0.1, depth=5, row_share=0.7, column_share=0.5)

_SOME = Growth(trees=150, rate=0.2, depth=6)

_VARIED = 4
_OVER_DEVICES = Growth(trees=150, rate=0.1, depth=6, column_share=0.15)
"""Of so many devices and more, each tree asks a few columns: what one of them means on some devices
it need not mean on the next. Of products of six cards a mean error of 8.9 instead of 9.0%, of
expert layers of four a median of 6.3 instead of 6.7%; of attention of two or three it is worse."""

_MANY = Growth(trees=800, rate=0.1, depth=8, row_share=1.0)

_AFTER = Growth(trees=60, rate=0.2, depth=8, row_share=1.0)

_OF_SPREAD = Growth(trees=60, rate=0.15, depth=4)

_OF_SPREAD_OVER_DEVICES = Growth(trees=40, rate=0.1, depth=3)

_FORESTS_OVER_DEVICES = 3

_SHARES = np.linspace(0, 1, 11)


def _shares(left: np.ndarray, smooth: np.ndarray, steps: np.ndarray) -> tuple[float, float]:
    """The shares of process and trees with the least held-out mean absolute error."""
    pairs = [(a, b) for a in _SHARES for b in _SHARES if a + b <= 1.0 + 1e-9]
    if not np.any(steps):
        pairs = [(a, 0.0) for a in _SHARES]
    elif not np.any(smooth):
        pairs = [(0.0, 1.0)]
    errors = [np.abs(left - a * smooth - b * steps).mean() for a, b in pairs]
    best = pairs[int(np.argmin(errors))]
    return float(best[0]), float(best[1])


_LEAST_ERROR = 1e-3

_LEAST_ERROR_OVER_DEVICES = 0.03
"""Added to an error before its logarithm is taken: about its own size where it is smallest."""


def _spread(
    x: Features,
    names: tuple[str, ...],
    trees: Trees | None,
    error: np.ndarray,
    deviation: np.ndarray | None,
    parts: np.ndarray,
    is_over_devices: bool,
) -> tuple[Trees | None, np.ndarray]:
    """Trees of the logarithm of the held-out error, where the process tells no spread.

    [n] spreads by trees that never saw the sample; their thresholds are those of ``trees``, so that
    an estimate looks a row up once. Over devices the trees are few and shallow: where one device
    was hard to foretell need not be where the next is.
    """
    if deviation is not None:
        return None, deviation
    least = _LEAST_ERROR_OVER_DEVICES if is_over_devices else _LEAST_ERROR
    growth = _OF_SPREAD_OVER_DEVICES if is_over_devices else _OF_SPREAD
    held = np.flatnonzero(parts >= 0)
    rows = x.matrix(names).T[:, held]
    edges = trees.edges if trees else bin_edges(rows)
    target = np.log(np.abs(error[held]) + least)
    binned, forests, widths = bins_of(rows, edges), [], np.ones(len(error))
    several = len(np.unique(parts[held])) > 1
    for asked, rest in plan_of(parts[held] if several else np.arange(len(held)) % 5).held_out:
        forest = fit_trees(names, binned[:, rest], edges, target[rest], growth)
        widths[held[asked]] = np.exp(forest.predict(rows[:, asked]))
        forests.append(forest)
    return mean_of(forests), widths
