"""Which samples a fit learns from and which judge it, and what their errors say of an interval."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

CONFIDENCE = 0.9

LEAST_DEVICES = 3
"""Fewer cannot tell how far one device is from another."""


@dataclass(frozen=True)
class Plan:
    """Which samples a fit learns from, and how it is judged.

    ``learned`` [l]: positions the fit itself learns from; ``held_out``: pairs of positions (asked,
    learned from) that tell its error. ``over_devices``: each pair asks for a device that none of
    its samples is of, and the fit is for one more such device.
    """

    learned: np.ndarray
    held_out: tuple[tuple[np.ndarray, np.ndarray], ...]
    over_devices: bool = False

    def parts(self, count: int) -> np.ndarray:
        """[count] number of the pair that asks for a sample, -1 where none does."""
        parts = np.full(count, -1)
        for number, (asked, _) in enumerate(self.held_out):
            parts[asked] = number
        return parts

    def compacted(self) -> tuple[np.ndarray, Plan]:
        """The positions that the plan names, in order, and the plan in terms of them."""
        pairs = [side for pair in self.held_out for side in pair]
        used = np.unique(np.concatenate([self.learned, *pairs]))
        sides = [np.searchsorted(used, side) for side in pairs]
        held_out = tuple(zip(sides[::2], sides[1::2], strict=True))
        return used, Plan(np.searchsorted(used, self.learned), held_out, self.over_devices)


def plan_of(folds: np.ndarray) -> Plan:
    """All are learned; ``folds`` [n] numbers what is held out together, -1 what never is."""
    pairs = [
        (np.flatnonzero(folds == number), np.flatnonzero(folds != number))
        for number in np.unique(folds[folds >= 0])
    ]
    return Plan(np.arange(len(folds)), tuple((asked, rest) for asked, rest in pairs if len(rest)))


@dataclass(frozen=True)
class HeldOut:
    """Of each sample: log seconds by a fit without its fold, and the spread it stated.

    ``steps``: what its trees added.
    """

    centre: np.ndarray
    spread: np.ndarray
    steps: np.ndarray


def conformal(scores: np.ndarray) -> float:
    """The finite-sample quantile of held-out scores; the largest where they are too few."""
    rank = min(int(np.ceil((len(scores) + 1) * CONFIDENCE)), len(scores))
    return float(np.sort(scores)[rank - 1])


def over_devices(scores: np.ndarray, devices: np.ndarray) -> float:
    """The quantile of held-out ``scores`` [n] that should hold on one more device.

    Devices are few and unlike: the level is raised until a device is covered to ``CONFIDENCE`` by
    the quantile of the others', by the mean over devices less its standard error. Two devices
    cannot tell that.
    """
    if len(np.unique(devices)) < LEAST_DEVICES:
        return conformal(scores)
    parts = [(scores[devices == d], scores[devices != d]) for d in np.unique(devices)]
    for level in np.linspace(CONFIDENCE, 1.0, 41):
        hits = [float(np.mean(own <= np.quantile(rest, level))) for own, rest in parts]
        if np.mean(hits) - np.std(hits, ddof=1) / np.sqrt(len(hits)) >= CONFIDENCE:
            break
    return float(np.quantile(scores, level))
