"""What other devices teach about correcting a transfer with a few samples of the device itself.

The physics of a transfer is fitted to those samples first. What is left of them, the miss, is

    miss(x) = process(x) + sum over devices of w_d * (trees of d alone(x) - trees of all(x))

The test of a transfer (:mod:`calib.fit.likeness`) foretold each of the other devices from the rest,
so what such a miss looks like is known before the first sample of the device: over which lengths of
the shape it changes, how large it is, how much of it is noise, and how far it follows what one
other device did at that shape, of which the more is expected the more that device is like this one.
These few numbers make the misses of all other devices likeliest (empirical Bayes); the samples then
say what this device's own miss is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from calib.fit.physics.features import Features
from calib.fit.physics.prior import Prior, fit_prior
from calib.fit.residual import Left, Lengths, fit_lengths
from calib.fit.trees import Growth, Trees, answers, bins_of, fit_trees, sum_of

_MOST = 300
"""Samples of each device that lengths are learned from."""


@dataclass(frozen=True)
class Lessons:
    """``forests``: trees of each other device alone; ``blend``: those of all, in their share.

    ``expected`` [devices]: deviation of each one's coefficient, in units of that of ``lengths``.
    """

    lengths: Lengths
    forests: tuple[Trees, ...]
    blend: Trees
    expected: np.ndarray

    def columns(self, x: Features) -> np.ndarray:
        """[n, devices] trees of each device less those of all, times what is expected of it."""
        blend = self.blend.predict(x.matrix(self.blend.names).T)
        return _columns(self.forests, x, blend, self.expected)

    def trees(self, coefficients: np.ndarray) -> Trees:
        """The forest that answers the sum of all columns, each times its coefficient."""
        weights = coefficients * self.expected
        return sum_of([*self.forests, self.blend], [*weights, -weights.sum()])


@dataclass(frozen=True)
class Foretold:
    """One other device: its samples, and what a transfer from the rest said of some of them.

    ``log_cycles`` [n]; ``asked`` [t]: positions in ``x``; ``learned`` [t]: what the trees of the
    rest added to the physics there; ``likeness`` [devices] of each to this one, 0 of itself.
    """

    x: Features
    log_cycles: np.ndarray
    asked: np.ndarray
    learned: np.ndarray
    likeness: np.ndarray


def lessons_of(
    devices: Sequence[Foretold], prior: Prior, blend: Trees, likeness: np.ndarray
) -> Lessons:
    """What ``devices`` teach of one more, to which each has a ``likeness`` [devices]."""
    forests = tuple(_alone(device, prior, blend) for device in devices)
    misses = [_miss(device, prior, forests) for device in devices]
    return Lessons(fit_lengths(misses), forests, blend, np.sqrt(likeness))


def _alone(device: Foretold, prior: Prior, like: Trees) -> Trees:
    """What one device leaves of the physics, as trees with the thresholds and depth of ``like``."""
    left = device.log_cycles - prior.log_cycles(device.x)
    binned = bins_of(device.x.matrix(like.names).T, like.edges)
    growth = Growth(trees=150, rate=0.2, depth=like.columns.shape[1])
    return fit_trees(like.names, binned, like.edges, left, growth)


def _miss(device: Foretold, prior: Prior, forests: Sequence[Trees]) -> Left:
    """What the transfer to ``device`` missed once its physics was fitted to the device."""
    some = np.random.default_rng(0).permutation(len(device.asked))[:_MOST]
    x, learned = device.x.rows(device.asked[some]), device.learned[some]
    y = device.log_cycles[device.asked[some]] - learned
    residual = y - fit_prior(x, y, prior).log_cycles(x)
    return Left(x, residual, _columns(forests, x, learned, np.sqrt(device.likeness)))


def _columns(
    forests: Sequence[Trees], x: Features, blend: np.ndarray, expected: np.ndarray
) -> np.ndarray:
    found = np.stack(answers(lambda names: x.matrix(names).T, forests), axis=1)
    return np.asarray((found - blend[:, None]) * expected)
