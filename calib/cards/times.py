"""What a card's file holds, and what it says of a grid of operators on the way to its estimates."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from calib.cards.cold import Caches
from calib.fit.calibration import (
    INTERPOLATED,
    ROOFLINE,
    TRANSFERRED,
    WEAKEST_FIRST,
    Estimates,
    Key,
    KindFit,
    wider,
)


@dataclass(frozen=True)
class Figures:
    """What a card's file holds.

    ``kinds``: the fits, by (implementation, kind, dtype). ``caches``: kind -> rates of hot and cold
    reads. ``disagreement``: kind -> half-width in log seconds within which 90% of the same shapes
    lie when another engine times them. ``carried``: kind that was transferred -> half-width within
    which 90% of a held-out card's shapes lie. ``clock_ratio``: the clock that the fits take the
    card to run at, over its rated one.
    """

    hardware: str
    kinds: dict[Key, KindFit]
    caches: dict[str, Caches]
    disagreement: dict[str, float]
    carried: dict[str, float]
    clock_ratio: float = 1.0


@dataclass(frozen=True)
class Times:
    """[n] seconds, low and high ends of the interval, and the rank of the provenance."""

    seconds: np.ndarray
    low: np.ndarray
    high: np.ndarray
    rank: np.ndarray

    def widened(self, width: Any) -> Times:
        """With a half-width in log added to the interval; known by other kernels at best."""
        low, high = wider(self.seconds, self.low, self.high, width)
        rank = np.minimum(self.rank, WEAKEST_FIRST.index(TRANSFERRED))
        return Times(self.seconds, low, high, rank)

    def scaled(self, factor: Any) -> Times:
        low, high = self.low * factor, self.high * factor
        return Times(self.seconds * factor, low, high, self.rank)

    def __add__(self, other: Times) -> Times:
        return Times(
            self.seconds + other.seconds,
            self.low + other.low,
            self.high + other.high,
            np.minimum(self.rank, other.rank),
        )


def better(first: Times | None, other: Times) -> Times:
    """Row by row ``first``, unless only ``other`` was sampled around the shape."""
    if first is None:
        return other
    inside = WEAKEST_FIRST.index(INTERPOLATED)
    return chosen((first.rank < inside) & (other.rank >= inside), other, first)


def lesser(one: Times, other: Times) -> Times:
    """Row by row the faster."""
    return chosen(one.seconds < other.seconds, one, other)


def chosen(rows: np.ndarray, one: Times, other: Times) -> Times:
    """``one`` in ``rows`` [n] bool, else ``other``."""
    pairs = zip(vars(one).values(), vars(other).values(), strict=True)
    return Times(*(np.where(rows, a, b) for a, b in pairs))


def estimates_of(floors: np.ndarray, columns: np.ndarray) -> Estimates:
    """``columns``: [4, n] seconds, low, high, rank; NaN where nothing is known."""
    seconds, low, high, rank = columns
    unknown = np.isnan(seconds)
    names = np.array([*WEAKEST_FIRST, ROOFLINE], dtype=object)
    return Estimates(
        floors,
        np.where(unknown, floors, seconds),
        np.where(unknown, floors, low),
        high,
        names[np.where(unknown, -1, rank).astype(int)],
    )
