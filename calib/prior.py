"""The physics of one kind of operator: four numbers that every fit starts from.

    time = dispatch + ((compute / e_c)^p + (memory / e_m)^p)^(1/p)            [s]

``compute`` and ``memory`` are the two floors of an operator on the device, ``e_c`` and ``e_m`` the
shares of the two peaks that this kind reaches (``e_m`` twice: from main memory and from cache), and
``dispatch`` what a call costs however small it is. p = 4 blends the two bounds over about a factor
of two around the ridge, where neither hides the other wholly. Outside the sampled shapes this is
all that an estimate knows, so nothing here can jump.
"""

from __future__ import annotations

from dataclasses import astuple, dataclass

import numpy as np

from calib.features import Features

_BLEND = 4.0
_PULL = 0.05
"""Weight of the pull towards the start: below one sample's, it only decides what no sample does."""


@dataclass(frozen=True)
class Prior:
    """Natural logarithms of dispatch [s] and of the efficiencies."""

    dispatch: float
    compute: float
    memory_cold: float
    memory_hot: float

    def log_seconds(self, x: Features) -> np.ndarray:
        """[n] natural logarithm of the predicted seconds."""
        return _log_seconds(np.array(astuple(self)), x)


def _log_seconds(theta: np.ndarray, x: Features) -> np.ndarray:
    memory_efficiency = np.where(x.hot, theta[3], theta[2])
    bounds = np.stack([_log(x.compute_s) - theta[1], _log(x.memory_s) - memory_efficiency])
    work = np.logaddexp(*(_BLEND * bounds)) / _BLEND
    return np.asarray(np.logaddexp(theta[0], work))


def _log(seconds: np.ndarray) -> np.ndarray:
    return np.log(np.maximum(seconds, 1e-15))


def fit_prior(x: Features, log_seconds: np.ndarray) -> Prior:
    """The prior that fits ``log_seconds`` [n] best, outliers weighted down (soft L1)."""
    from scipy.optimize import least_squares

    start = np.array([log_seconds.min() - 1.0, 0.0, 0.0, 0.0])

    def residuals(theta: np.ndarray) -> np.ndarray:
        misfit = _log_seconds(theta, x) - log_seconds
        return np.concatenate([misfit, _PULL * (theta - start)])

    best = least_squares(residuals, start, loss="soft_l1", f_scale=0.1)
    return Prior(*(float(v) for v in best.x))
