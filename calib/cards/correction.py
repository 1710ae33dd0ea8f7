"""How far samples lie from what is known already: an offset, and what changes smoothly.

    log seconds - what was known = offset + process(columns) + noise

``offset`` ~ N(0, constant), the process is Gaussian over the logarithms of the shape, with the
samples of all dtypes of a kind together. Of a few samples the offset shrinks towards none and the
process towards the offset, by how much of either the samples make likely. What is taken for likely
before the first sample: deviations about as large as the interval of what was known, which change
over a factor of e^1.5 in a dimension. The numbers are those of the greatest posterior. A column in
which samples do not differ keeps its expected length: far from them in it they tell nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from calib.fit.physics.features import Features, features, features_of_list
from calib.fit.residual import MOST_EXACT, matern, unlikelihood
from calib.hardware.datasheet import Hardware
from model.ops import Operator, is_grid

_LENGTH = 1.5
"""Length scale, in log (flags: in units of one), that is expected before any sample."""
_UNTOLD = ("uneven", "dtype=")
"""Beginnings of columns that what was known before does not read: far from the samples in one of
these alone it says as little as they do, so their length is not that of one among many."""
_PER_LENGTH = 1.0
"""Standard deviation of the logarithm of a length about it."""
_NOISE = float(np.log(0.03**2))
"""Logarithm of the variance of the noise that is expected, and the standard deviation of it."""
_PER_NOISE = 1.5
_PER_SIZE = 1.5
"""Standard deviation of the logarithms of the variances of offset and process."""
_SMOOTH = float(np.log(0.5))
"""Logarithm of the variance of the process over that of the offset, as expected."""
_BOUNDS = [(-12.0, 3.0), (-12.0, 0.0), (-12.0, 3.0)]
_STEPS = 40
_CHUNK = 8192


@dataclass(frozen=True)
class Correction:
    """``points`` [p, d]: columns ``names`` of the samples; ``residual`` [p]: what was left, log."""

    names: tuple[str, ...]
    lengths: np.ndarray
    points: np.ndarray
    residual: np.ndarray
    variance: float
    noise: float
    constant: float

    @cached_property
    def _known(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """[p, d] points in lengths, [p] weights, and [p, p] the transposed whitening matrix of the
        samples about their offset. In single precision where rows are many."""
        rows = self.points / self.lengths
        within = self.variance * matern(rows, rows) + (self.noise + 1e-9) * np.eye(len(rows))
        alone = np.linalg.inv(np.linalg.cholesky(within))
        left, ones = (alone.T @ (alone @ v) for v in (self.residual, np.ones(len(rows))))
        # The offset adds a constant to all of the covariance (Sherman and Morrison, 1950).
        weights = left - ones * self.constant * left.sum() / (1 + self.constant * ones.sum())
        found = (np.asarray(m, dtype=np.float32) for m in (rows, weights, alone.T))
        return next(found), next(found), next(found)

    def predict(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Of ``rows`` [n, d]: mean and standard deviation of a sample, and the share of the
        process's variance that the samples leave, 1 far from all of them."""
        parts = [self._predict(rows[i : i + _CHUNK]) for i in range(0, len(rows), _CHUNK)]
        mean, spread, far = (np.concatenate(part) for part in zip(*parts, strict=True))
        return mean, spread, far

    def _predict(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        points, weights, white = self._known
        scaled = np.asarray(rows / self.lengths, dtype=np.float32)
        smooth = np.float32(self.variance) * matern(scaled, points)  # [n, p]
        alone, ones = smooth @ white, white.sum(axis=0)  # [n, p] whitened, [p]
        seen = np.square(alone).sum(1)
        # What the samples leave of the offset, where the process lets it through.
        through = 1 - alone @ ones
        offset = self.constant * through**2 / (1 + self.constant * float(ones @ ones))
        spread = np.maximum(self.variance - seen, 0.0) + offset + self.noise
        mean = np.asarray((smooth + np.float32(self.constant)) @ weights, dtype=float)
        return mean, np.sqrt(spread), np.clip(1 - seen / self.variance, 0.0, 1.0)


def fit_correction(
    names: Sequence[str], rows: np.ndarray, residual: np.ndarray, expected: float
) -> Correction:
    """The likeliest correction; ``expected``: standard deviation that what was known states."""
    if len(rows) > MOST_EXACT:
        some = np.random.default_rng(0).permutation(len(rows))[:MOST_EXACT]
        rows, residual = rows[some], residual[some]
    theta = _likeliest(names, rows, residual, float(2 * np.log(max(expected, 0.02))))
    variance, noise, constant = (float(v) for v in np.exp(theta[:3]))
    return Correction(tuple(names), np.exp(theta[3:]), rows, residual, variance, noise, constant)


def _likeliest(
    names: Sequence[str], rows: np.ndarray, residual: np.ndarray, size: float
) -> np.ndarray:
    """Logarithms of variance, noise, constant and [d] lengths of the greatest posterior."""
    from scipy.optimize import minimize

    d = rows.shape[1]
    # Samples say little of each of many lengths that hang together: the sum over d columns of
    # squared differences grows with d, so lengths start longer by its root.
    many = np.where([name.startswith(_UNTOLD) for name in names], 1.0, np.sqrt(max(d, 1)))
    centre = np.array([size + _SMOOTH, _NOISE, size, *np.log(_LENGTH * many)])
    width = np.array([_PER_SIZE, _PER_NOISE, _PER_SIZE, *[_PER_LENGTH] * d])
    ones = np.ones((len(rows), 1))

    def objective(theta: np.ndarray) -> tuple[float, np.ndarray]:
        value, slope = unlikelihood(theta, True, rows, residual, ones)
        off = (theta - centre) / width
        return value + float(off @ off) / 2, slope + off / width

    bounds = [*_BOUNDS, *[(-3.0, 5.0)] * d]
    options = {"maxiter": _STEPS}
    first = np.clip(centre, *np.array(bounds).T)
    found = minimize(objective, first, method="L-BFGS-B", jac=True, bounds=bounds, options=options)
    return np.asarray(found.x)


def columns_of(
    ops: Sequence[Operator] | Operator, hardware: Hardware, hot: np.ndarray
) -> dict[str, np.ndarray]:
    """Name -> [n] the smooth columns of operators of one kind, and a flag for their dtype."""
    parts: list[tuple[Features, str, np.ndarray]] = []
    if isinstance(ops, Operator):
        if not is_grid(ops):
            ops = [ops]
        else:
            return _with_dtype(features(ops, hardware, hot), str(vars(ops)["dtype"]))
    dtypes = np.array([str(vars(op)["dtype"]) for op in ops])
    for dtype in dict.fromkeys(dtypes):
        some = np.flatnonzero(dtypes == dtype)
        x = features_of_list([ops[int(i)] for i in some], hardware, hot[some])
        parts.append((x, dtype, some))
    made = [_with_dtype(x, dtype) for x, dtype, _ in parts]
    names = dict.fromkeys(n for part in made for n in part)
    table = {name: np.zeros(len(ops)) for name in names}
    for part, (_, _, some) in zip(made, parts, strict=True):
        for name, values in part.items():
            table[name][some] = values
    return table


def _with_dtype(x: Features, dtype: str) -> dict[str, np.ndarray]:
    smooth = {name: np.asarray(x.columns[name]) for name in x.smooth_names}
    return {**smooth, f"dtype={dtype}": np.ones(len(x))}


def matrix(columns: dict[str, np.ndarray], names: Sequence[str], count: int) -> np.ndarray:
    """[count, len(names)], zero for a column that is not there."""
    zeros = np.zeros(count)
    return np.stack([columns.get(name, zeros) for name in names], axis=1).reshape(count, -1)
