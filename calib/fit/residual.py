"""What changes smoothly beyond the physics: a Gaussian process over the logarithm of the shape.

It reverts to zero, hence to the prior, with the distance from what was sampled. Up to a few hundred
samples each is a point of the process, and its spread widens with the distance from them. Of more
samples the process keeps the points that lie farthest apart and fits their weights to all (the
subset of regressors; Quinonero-Candela and Rasmussen, JMLR 6, 2005); it then tells no spread.

Its length scales, variance and noise are those that make the residuals likeliest. They may be the
residuals of several devices, which then share these numbers and nothing else: what each says of
its own shapes tells how a residual changes, not what it is elsewhere. Columns may stand beside the
process, each with a coefficient of its own that is drawn from a common normal distribution.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from calib.fit.physics.features import Features, concatenate

MOST_EXACT = 400
"""More samples than these are summarised by ``_POINTS`` of them."""
_POINTS = 160


@dataclass(frozen=True)
class Residual:
    """A fitted process. ``points`` [p, d] in length scales; ``inverse`` [p, p], or empty."""

    names: tuple[str, ...]
    centre: np.ndarray
    scale: np.ndarray
    points: np.ndarray
    weights: np.ndarray
    inverse: np.ndarray
    variance: float
    noise: float

    def predict(self, x: Features) -> tuple[np.ndarray, np.ndarray]:
        """[n] mean and [n] standard deviation of the log residual, noise included.

        The deviation is that of the process far from all points where it tells no spread.
        """
        rows = ((x.matrix(self.names) - self.centre) / self.scale).astype(np.float32)
        across = self.variance * matern(rows, self.points.astype(np.float32))  # [n, p]
        mean = across @ self.weights
        known = np.einsum("ij,ij->i", across @ self.inverse, across) if self.inverse.size else 0.0
        variance = np.maximum(self.variance - known, 0.0) + self.noise
        return mean, np.sqrt(np.broadcast_to(variance, len(x)))


@dataclass(frozen=True)
class Lengths:
    """What a process over ``names`` is before it sees a sample: scales, variance, noise.

    ``weight``: variance of the coefficient of a column that stands beside the process.
    """

    names: tuple[str, ...]
    centre: np.ndarray
    scale: np.ndarray
    variance: float
    noise: float
    weight: float = 0.0


@dataclass(frozen=True)
class Left:
    """What was left of one device's samples: log ``residual`` [n], and ``columns`` [n, c]."""

    x: Features
    residual: np.ndarray
    columns: np.ndarray

    def rows(self, keep: np.ndarray) -> Left:
        return Left(self.x.rows(keep), self.residual[keep], self.columns[keep])


def tamed(residual: np.ndarray) -> np.ndarray:
    """``residual`` [n] of few samples, none farther from the median than ``_FARTHEST`` deviations,
    as half of them tell one.

    A library that now and then takes a kernel of three times its like tells nothing of the next
    shape, and among thirty samples would stretch the process between them.
    """
    middle = np.median(residual)
    deviation = max(1.4826 * float(np.median(np.abs(residual - middle))), _LEAST_DEVIATION)
    most = _FARTHEST * deviation
    return np.asarray(np.clip(residual, middle - most, middle + most))


_FARTHEST, _LEAST_DEVIATION = 5.0, 0.05


def matern(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Matern kernel of smoothness 5/2 between rows of ``a`` and of ``b``, in length scales."""
    distance = np.sqrt(5 * _squared(a, b))
    return np.asarray((1 + distance + distance**2 / 3) * np.exp(-distance))


def _squared(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Squared distance between rows of ``a`` and of ``b``."""
    squared = (a**2).sum(1)[:, None] + (b**2).sum(1)[None] - 2 * a @ b.T
    return np.asarray(np.maximum(squared, 0.0))


def fit_lengths(devices: Sequence[Left]) -> Lengths:
    """What is shared by ``devices``; of the smooth columns those that vary."""
    everything = concatenate([d.x for d in devices])
    names = tuple(n for n in everything.smooth_names if np.ptp(everything.columns[n]) > 0)
    rows = everything.matrix(names)
    centre = rows.mean(0) if names else np.zeros(0)
    spread = rows.std(0) if names else np.ones(0)
    scaled = [(d.x.matrix(names) - centre) / spread for d in devices]
    lengths, variance, noise, weight = _likeliest(scaled, devices)
    return Lengths(names, centre, spread * lengths, variance, noise, weight)


def fit_residual(lengths: Lengths, left: Left) -> tuple[Residual, np.ndarray]:
    """The process conditioned on one device's residual, and [c] coefficients of the columns.

    Columns stand beside at most ``MOST_EXACT`` samples.
    """
    x, residual, columns = left.x, left.residual, left.columns
    rows = (x.matrix(lengths.names) - lengths.centre) / lengths.scale
    variance, noise = lengths.variance, lengths.noise
    if len(rows) <= MOST_EXACT:
        covariance = variance * matern(rows, rows) + noise * np.eye(len(rows))
        points, inverse = rows, np.linalg.inv(covariance + lengths.weight * columns @ columns.T)
        inverse = (inverse + inverse.T) / 2
        weights = inverse @ residual
    else:
        points, inverse = rows[_far_apart(rows, _POINTS)], np.zeros((0, 0))
        across = variance * matern(rows, points)
        within = variance * matern(points, points) + 1e-6 * variance * np.eye(len(points))
        weights = np.linalg.solve(noise * within + across.T @ across, across.T @ residual)
    process = Residual(
        lengths.names, lengths.centre, lengths.scale, points, weights, inverse, variance, noise
    )
    if not columns.shape[1]:
        return process, np.zeros(0)
    return process, lengths.weight * columns.T @ weights


def _far_apart(rows: np.ndarray, count: int) -> np.ndarray:
    """[count] positions, each the farthest from those before it."""
    chosen = [int(((rows - rows.mean(0)) ** 2).sum(1).argmin())]
    nearest = np.full(len(rows), np.inf)
    for _ in range(count - 1):
        nearest = np.minimum(nearest, ((rows - rows[chosen[-1]]) ** 2).sum(1))
        chosen.append(int(nearest.argmax()))
    return np.array(chosen)


_MOST_FOR_LENGTHS = 300
"""Length scales are chosen on at most so many samples a device: their cost grows with the cube."""
_START = np.log([0.05, 0.002, 0.01])
"""Variance, noise and weight that the search starts from; lengths start at two deviations."""
_BOUNDS = np.log([[1e-4, 4.0], [1e-5, 0.2], [1e-6, 1.0]])
_LENGTH_BOUNDS = np.log([0.3, 30.0])
_STEPS = 20
"""Of L-BFGS: the last digits of a length scale change no estimate."""


def _likeliest(
    rows: Sequence[np.ndarray], devices: Sequence[Left]
) -> tuple[np.ndarray, float, float, float]:
    """Length scales [d], variance, noise and weight that make all residuals likeliest."""
    count, residual = rows[0].shape[1], np.concatenate([d.residual for d in devices])
    if count == 0 or len(residual) < 4:
        return np.ones(count), float(np.var(residual)) + 1e-4, 1e-3, 0.0
    from scipy.optimize import minimize

    tables = [_few(r, d) for r, d in zip(rows, devices, strict=True)]
    has_columns = bool(devices[0].columns.shape[1])
    start = np.concatenate([_START[: 2 + has_columns], np.full(count, np.log(2.0))])
    bounds = [*_BOUNDS[: 2 + has_columns], *[_LENGTH_BOUNDS] * count]

    def objective(theta: np.ndarray) -> tuple[float, np.ndarray]:
        parts = [unlikelihood(theta, has_columns, *table) for table in tables]
        return sum(value for value, _ in parts), np.sum([slope for _, slope in parts], axis=0)

    options = {"maxiter": _STEPS}
    best = minimize(objective, start, method="L-BFGS-B", jac=True, bounds=bounds, options=options)
    numbers = np.exp(best.x)
    weight = float(numbers[2]) if has_columns else 0.0
    return numbers[2 + has_columns :], float(numbers[0]), float(numbers[1]), weight


def _few(rows: np.ndarray, device: Left) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows, residual and columns of at most ``_MOST_FOR_LENGTHS`` samples of one device."""
    some = np.random.default_rng(0).permutation(len(rows))[:_MOST_FOR_LENGTHS]
    return rows[some], device.residual[some], device.columns[some]


def unlikelihood(
    theta: np.ndarray,
    has_columns: bool,
    rows: np.ndarray,
    residual: np.ndarray,
    columns: np.ndarray,
) -> tuple[float, np.ndarray]:
    """Minus the log likelihood of one device, less its constant, and the slope in ``theta``.

    ``theta``: logarithms of variance, noise, weight (with columns), lengths. (Rasmussen and
    Williams, Gaussian Processes for Machine Learning, 2006, eqs. 5.8 and 5.9.)
    """
    from scipy.linalg import cho_factor, cho_solve

    variance, noise = np.exp(theta[:2])
    scaled = rows / np.exp(theta[2 + has_columns :])
    distance = np.sqrt(5 * _squared(scaled, scaled))
    decay = np.exp(-distance)
    smooth = variance * (1 + distance + distance**2 / 3) * decay
    linear = np.exp(theta[2]) * columns @ columns.T if has_columns else 0.0
    covariance = smooth + linear + (noise + _JITTER) * np.eye(len(rows))
    factor = cho_factor(covariance, lower=True)
    weights = cho_solve(factor, residual)
    value = residual @ weights / 2 + np.log(np.diag(factor[0])).sum()
    pull = cho_solve(factor, np.eye(len(rows))) - np.outer(weights, weights)
    slope = [(pull * smooth).sum(), noise * np.trace(pull)]
    if has_columns:
        slope.append((pull * linear).sum())
    # d smooth / d log length_j = steep * (difference in column j)^2
    steep = pull * (variance * 5 / 3) * (1 + distance) * decay
    lengths = 2 * (steep.sum(1) @ scaled**2 - (scaled * (steep @ scaled)).sum(0))
    return float(value), np.concatenate([slope, lengths]) / 2


_JITTER = 1e-8
