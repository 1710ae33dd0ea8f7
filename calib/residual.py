"""What physics leaves unexplained: a Gaussian process over the logarithm of the shape.

It reverts to zero, hence to the prior, with the distance from what was sampled, and its spread
widens with it. scikit-learn chooses its length scales; what is kept of it is arrays, so a
prediction needs numpy only and a stored fit is data.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np

from calib.features import Features

_CHUNK = 20_000
"""Rows predicted at a time: bounds the memory of the cross-covariance."""


@dataclass(frozen=True)
class Residual:
    """A fitted process. ``points`` [n, d] are scaled by the length scales; ``inverse`` [n, n]."""

    names: tuple[str, ...]
    centre: np.ndarray
    scale: np.ndarray
    points: np.ndarray
    weights: np.ndarray
    inverse: np.ndarray
    variance: float
    noise: float

    def predict(self, x: Features) -> tuple[np.ndarray, np.ndarray]:
        """[n] mean and [n] standard deviation of the log residual, noise included."""
        rows = (x.matrix(self.names) - self.centre) / self.scale
        parts = [self._predict(rows[i : i + _CHUNK]) for i in range(0, len(rows), _CHUNK)]
        mean, spread = (np.concatenate(p) for p in zip(*parts, strict=True))
        return mean, spread

    def _predict(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        across = self.variance * _matern(rows, self.points)  # [rows, n]
        known = np.einsum("ij,ij->i", across @ self.inverse, across)
        variance = np.maximum(self.variance - known, 0.0) + self.noise
        return across @ self.weights, np.sqrt(variance)


def _matern(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Matern kernel of smoothness 5/2 between rows of ``a`` and of ``b``, in length scales."""
    squared = (a**2).sum(1)[:, None] + (b**2).sum(1)[None] - 2 * a @ b.T
    distance = np.sqrt(5 * np.maximum(squared, 0.0))
    return np.asarray((1 + distance + distance**2 / 3) * np.exp(-distance))


def fit_residual(x: Features, residual: np.ndarray) -> Residual:
    """Fit the log ``residual`` [n] of the prior over every column that varies."""
    names = tuple(n for n in sorted(x.columns) if np.ptp(x.columns[n]) > 0)
    rows = x.matrix(names)
    centre = rows.mean(0) if names else np.zeros(0)
    spread = rows.std(0) if names else np.ones(0)
    scaled = (rows - centre) / spread
    lengths, variance, noise = _hyperparameters(scaled, residual)
    points = scaled / lengths
    covariance = variance * _matern(points, points) + noise * np.eye(len(residual))
    inverse = np.linalg.inv(covariance)
    weights = inverse @ residual
    scale = spread * lengths
    return Residual(names, centre, scale, points, weights, inverse, variance, noise)


_MOST_FOR_LENGTHS = 160
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
