"""What changes smoothly beyond the physics: a Gaussian process over the logarithm of the shape.

It reverts to zero, hence to the prior, with the distance from what was sampled. Up to a few hundred
samples each is a point of the process, and its spread widens with the distance from them. Of more
samples the process keeps the points that lie farthest apart and fits their weights to all (the
subset of regressors; Quinonero-Candela and Rasmussen, JMLR 6, 2005); it then tells no spread.
scikit-learn chooses the length scales; what is kept is arrays, so predicting needs numpy only.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np

from calib.features import Features

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
        across = self.variance * _matern(rows, self.points.astype(np.float32))  # [n, p]
        mean = across @ self.weights
        known = np.einsum("ij,ij->i", across @ self.inverse, across) if self.inverse.size else 0.0
        variance = np.maximum(self.variance - known, 0.0) + self.noise
        return mean, np.sqrt(np.broadcast_to(variance, len(x)))


@dataclass(frozen=True)
class Lengths:
    """What a process over ``names`` is before it sees a sample: scales, variance, noise."""

    names: tuple[str, ...]
    centre: np.ndarray
    scale: np.ndarray
    variance: float
    noise: float


def _matern(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Matern kernel of smoothness 5/2 between rows of ``a`` and of ``b``, in length scales."""
    squared = (a**2).sum(1)[:, None] + (b**2).sum(1)[None] - 2 * a @ b.T
    distance = np.sqrt(5 * np.maximum(squared, 0.0))
    return np.asarray((1 + distance + distance**2 / 3) * np.exp(-distance))


def fit_lengths(x: Features, residual: np.ndarray) -> Lengths:
    """Length scales over every smooth column that varies, from the log ``residual`` [n]."""
    names = tuple(n for n in x.smooth_names if np.ptp(x.columns[n]) > 0)
    rows = x.matrix(names)
    centre = rows.mean(0) if names else np.zeros(0)
    spread = rows.std(0) if names else np.ones(0)
    lengths, variance, noise = _hyperparameters((rows - centre) / spread, residual)
    return Lengths(names, centre, spread * lengths, variance, noise)


def fit_residual(lengths: Lengths, x: Features, residual: np.ndarray) -> Residual:
    """Condition the process on the log ``residual`` [n]."""
    rows = (x.matrix(lengths.names) - lengths.centre) / lengths.scale
    variance, noise = lengths.variance, lengths.noise
    if len(rows) <= MOST_EXACT:
        covariance = variance * _matern(rows, rows) + noise * np.eye(len(rows))
        points, inverse = rows, np.linalg.inv(covariance)
        weights = inverse @ residual
    else:
        points, inverse = rows[_far_apart(rows, _POINTS)], np.zeros((0, 0))
        across = variance * _matern(rows, points)
        within = variance * _matern(points, points) + 1e-6 * variance * np.eye(len(points))
        weights = np.linalg.solve(noise * within + across.T @ across, across.T @ residual)
    return Residual(
        lengths.names, lengths.centre, lengths.scale, points, weights, inverse, variance, noise
    )


def _far_apart(rows: np.ndarray, count: int) -> np.ndarray:
    """[count] positions, each the farthest from those before it."""
    chosen = [int(((rows - rows.mean(0)) ** 2).sum(1).argmin())]
    nearest = np.full(len(rows), np.inf)
    for _ in range(count - 1):
        nearest = np.minimum(nearest, ((rows - rows[chosen[-1]]) ** 2).sum(1))
        chosen.append(int(nearest.argmax()))
    return np.array(chosen)


_MOST_FOR_LENGTHS = 300
"""Length scales are chosen on at most so many samples: their cost grows with the cube."""


def _likeliest(objective: Any, start: np.ndarray, bounds: np.ndarray) -> tuple[np.ndarray, float]:
    """L-BFGS with few steps: the last digits of a length scale change no estimate."""
    from scipy.optimize import minimize

    options = {"maxiter": 20}
    best = minimize(objective, start, method="L-BFGS-B", jac=True, bounds=bounds, options=options)
    return best.x, best.fun


def _hyperparameters(rows: np.ndarray, residual: np.ndarray) -> tuple[np.ndarray, float, float]:
    """Length scales [d], variance and noise that make the residual likeliest."""
    columns = rows.shape[1]
    if columns == 0 or len(residual) < 4:
        return np.ones(columns), float(np.var(residual)) + 1e-4, 1e-3
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel

    if len(residual) > _MOST_FOR_LENGTHS:
        some = np.random.default_rng(0).permutation(len(residual))[:_MOST_FOR_LENGTHS]
        rows, residual = rows[some], residual[some]
    shape: Any = Matern(np.full(columns, 2.0), (0.3, 30.0), nu=2.5)
    kernel = ConstantKernel(0.05, (1e-4, 4.0)) * shape + WhiteKernel(0.002, (1e-5, 0.2))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a length at its bound says "this column is irrelevant"
        process = GaussianProcessRegressor(kernel, alpha=1e-8, optimizer=_likeliest)
        fitted = process.fit(rows, residual).kernel_
    product, white = fitted.k1, fitted.k2
    lengths = np.asarray(product.k2.length_scale)
    return lengths, float(product.k1.constant_value), float(white.noise_level)
