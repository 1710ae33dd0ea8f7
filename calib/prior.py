"""The physics of one kind of operator: six numbers that every fit starts from.

    time = dispatch + ((compute / e_c)^p + (memory / e_m)^p + (c * depth^a)^p)^(1/p)    [cycles]

``compute`` and ``memory`` are the two floors of an operator on the device, ``e_c`` and ``e_m`` the
shares of the two peaks that this kind reaches (``e_m`` twice: from main memory and from cache),
``dispatch`` what a call costs however small it is. The third bound is a chain: a sum over ``depth``
terms is a loop whose steps wait for one another, which no further multiprocessor shortens; a < 1
where the library splits deep sums. p says how sharply one bound takes over from the next. Time is
counted in clock cycles, in which cards differ least. Outside the sampled shapes this is all that
an estimate knows, so nothing here can jump.
"""

from __future__ import annotations

from dataclasses import astuple, dataclass

import numpy as np

from calib.features import Features

_PULL = 0.05
"""Weight of the pull towards the start: below one sample's, it only decides what no sample does."""
_NO_CHAIN = -40.0
_MOST = 3000
"""Six numbers are fitted to at most so many samples."""


@dataclass(frozen=True)
class Prior:
    """Natural logarithms: dispatch [cycles], efficiencies, chain [cycles], power p; and a."""

    dispatch: float
    compute: float
    memory_cold: float
    memory_hot: float
    chain: float
    chain_power: float
    blend: float

    def log_cycles(self, x: Features) -> np.ndarray:
        """[n] natural logarithm of the predicted clock cycles."""
        return _log_cycles(np.array(astuple(self)), x)


def _log_cycles(theta: np.ndarray, x: Features) -> np.ndarray:
    power = np.exp(theta[6])
    bounds = np.stack(
        [
            x.log_compute - theta[1],
            x.log_memory - np.where(x.hot, theta[3], theta[2]),
            theta[4] + theta[5] * x.log_depth,
        ]
    )
    top = bounds.max(axis=0)
    work = top + np.log(np.exp(power * (bounds - top)).sum(axis=0)) / power
    return np.asarray(np.logaddexp(theta[0], work))


def fit_prior(x: Features, log_cycles: np.ndarray, start: Prior | None = None) -> Prior:
    """The prior that fits ``log_cycles`` [n] best, outliers weighted down (soft L1).

    ``start``: a prior of other devices, which stands where the samples say nothing.
    """
    from scipy.optimize import least_squares

    if len(log_cycles) > _MOST:
        some = np.random.default_rng(0).permutation(len(log_cycles))[:_MOST]
        x, log_cycles = x.rows(some), log_cycles[some]
    first = np.array(astuple(start or _first_guess(x, log_cycles)))

    def residuals(theta: np.ndarray) -> np.ndarray:
        misfit = _log_cycles(theta, x) - log_cycles
        return np.concatenate([misfit, _PULL * (theta - first)])

    best = least_squares(residuals, first, loss="soft_l1", f_scale=0.1, max_nfev=60)
    return Prior(*(float(v) for v in best.x))


def _first_guess(x: Features, log_cycles: np.ndarray) -> Prior:
    """No chain where no operator has depth: its bound is then out of reach, and stays there."""
    chain = log_cycles.min() - 2.0 if np.any(x.log_depth) else _NO_CHAIN
    return Prior(log_cycles.min() - 1.0, 0.0, 0.0, 0.0, chain, 0.3, float(np.log(4.0)))
