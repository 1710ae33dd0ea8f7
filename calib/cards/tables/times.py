"""What tables say of a grid of operators on the way to its estimates."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from calib.fit.calibration import (
    INTERPOLATED,
    ROOFLINE,
    TRANSFERRED,
    WEAKEST_FIRST,
    Estimates,
    wider,
)
from calib.hardware.datasheet import Hardware, floor
from model.ops import Operator


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

    def at_least(self, seconds: Any) -> Times:
        """Not faster than that; the low end stays, for a bound that is a judgement."""
        middle, high = (np.maximum(end, seconds) for end in (self.seconds, self.high))
        return Times(middle, self.low, high, self.rank)

    def __add__(self, other: Times) -> Times:
        return Times(
            self.seconds + other.seconds,
            self.low + other.low,
            self.high + other.high,
            np.minimum(self.rank, other.rank),
        )


def beside(op: Operator, hardware: Hardware) -> Times:
    """Of bytes that a product's own kernel moves beside it, without a launch."""
    seconds = np.atleast_1d(np.asarray(floor(op, hardware), dtype=float))
    rank = np.full(len(seconds), WEAKEST_FIRST.index(TRANSFERRED))
    return Times(seconds, seconds, seconds, rank)


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


def weighed(one: Times, other: Times) -> Times:
    """Row by row the mean of two that say the same, each counting by its spread."""
    precise = [np.log(t.high / t.low) ** -2.0 for t in (one, other)]
    share = precise[0] / (precise[0] + precise[1])
    pairs = [(getattr(one, n), getattr(other, n)) for n in ("seconds", "low", "high")]
    seconds, low, high = (a**share * b ** (1 - share) for a, b in pairs)
    return Times(seconds, low, high, np.where(share > 0.5, one.rank, other.rank))


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
