"""What no estimate of a kind leaves, however far from its samples: shares of the floor that were
seen.

An operator is no faster than its floor, or than its floor over the best share of the peaks that any
sample reached where that was above one (a cache); beyond the floors that were sampled mostly (from
their upper quartile), over the best share among those. It is no slower than the slowest sample, or
than its floor over the worst share that large samples reached. Both give way by the error of the
physics alone, so that a few samples bind little.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from calib.fit.physics.features import Features

_LARGE = 0.75
"""Quantile of the floors from which on samples are large."""


@dataclass(frozen=True)
class Bounds:
    """Natural logarithms: ``edge``, floor [cycles] from which on samples are large; ``least``,
    ``least_large``, ``most_large``: of time over floor, of all and of the large ones; ``slowest``
    [cycles]; ``slack``: by how much a bound gives way."""

    edge: float
    least: float
    least_large: float
    most_large: float
    slowest: float
    slack: float

    def of(self, x: Features) -> tuple[np.ndarray, np.ndarray]:
        """[n] least and most log seconds."""
        floor = _log_floor(x)
        least = floor + np.where(floor >= self.edge, self.least_large, self.least)
        most = np.maximum(self.slowest, floor + self.most_large)
        clock = np.log(x.clock_hz)
        return least - self.slack - clock, most + self.slack - clock


def fit_bounds(x: Features, log_cycles: np.ndarray, slack: float) -> Bounds:
    """``log_cycles`` [n] of samples; ``slack``: half-width of the error of the physics alone."""
    floor = _log_floor(x)
    edge = float(np.quantile(floor, _LARGE))
    over = log_cycles - floor
    large = over[floor >= edge]
    return Bounds(
        edge,
        float(min(over.min(), 0.0)),
        float(min(large.min(), 0.0)),
        float(large.max()),
        float(log_cycles.max()),
        slack,
    )


def _log_floor(x: Features) -> np.ndarray:
    return np.asarray(np.maximum(x.log_compute, x.log_memory))
