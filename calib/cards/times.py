"""What a card's file holds, and what it says of a grid of operators on the way to its estimates."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from calib.cards.cold import Caches
from calib.cards.stand_ins import ANOTHER_KERNEL, LEAST_ELEMENTS, as_cut, whole_sizes
from calib.fit.calibration import (
    INTERPOLATED,
    ROOFLINE,
    TRANSFERRED,
    WEAKEST_FIRST,
    Estimates,
    Key,
    KindFit,
    fitted_dtype,
    kind_of,
    wider,
)
from calib.hardware.datasheet import Hardware, floor
from model.ops import Elementwise, Matmul, Operator, item_bytes

KERNELS_FIRST = ("", "flash_attn_2", "flash_attn_3")
"""Kernels by how near they are to what torch runs; any other comes after these, by name."""


def nearness(implementation: str) -> tuple[int, str]:
    """What sorts implementations by how near their kernel is to torch's."""
    kernel = implementation.partition("/")[2]
    known = KERNELS_FIRST.index(kernel) if kernel in KERNELS_FIRST else len(KERNELS_FIRST)
    return known, kernel


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

    def tells(self, op: Operator, implementation: str) -> bool:
        """Whether that was timed by the kernel of ``op``: layernorms tell of no rmsnorm."""
        fitted = self.kinds.get((implementation, kind_of(op), fitted_dtype(op)))
        named = getattr(op, "kind", None)
        return fitted is not None and (named is None or f"kind={named}" in fitted.low)


def as_plain(op: Operator) -> Operator:
    """The tables' pointwise kernel as a map of float32 of as many bytes, which converts nothing: of
    torch's own, other sizes were timed than of the tables'."""
    if not isinstance(op, Elementwise):
        return op
    elements = whole_sizes(np.maximum(op.bytes / (2 * item_bytes("float32")), LEAST_ELEMENTS))
    return Elementwise(elements, dtype="float32")


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


def by_twins(
    ops: Sequence[Operator] | Operator,
    told: Collection[tuple[str, ...]],
    hardware: Hardware,
    ask: Callable[[Sequence[Operator] | Operator], Estimates],
) -> Estimates | None:
    """What ``ask`` says of ``ops``, where some of them are others' twins; None: none is."""
    if isinstance(ops, Operator):
        twin = as_cut(ops, told, hardware)
        if twin is ops:
            return None
        found = ask(twin)
        return found.stood_in(np.atleast_1d(floor(ops, hardware)), ANOTHER_KERNEL)
    twins = [as_cut(op, told, hardware) for op in ops]
    changed = np.array([twin is not op for twin, op in zip(twins, ops, strict=True)], dtype=bool)
    if not changed.any():
        return None
    found = Estimates(*(np.array(column) for column in vars(ask(twins)).values()))
    rows = np.flatnonzero(changed)
    floors = np.array([float(floor(ops[int(i)], hardware)) for i in rows])
    found.put(rows, found.rows(rows).stood_in(floors, ANOTHER_KERNEL))
    return found


OTHER_WAY, DEPTH_ONLY = 0.39, ("9.0", "tf32")
"""What a second factor that lies the other way adds to the upper end of an interval, in log, and
the compute capability and dtype whose matrix units read both factors along the depth alone. Holds
90% of one half of the groups of n and k in OpenXLA's table of an H100, of whose other half it holds
89% (``python -m benchmarks.public_xla_products``)."""


def either_way(
    found: Estimates, ops: Sequence[Operator] | Operator, hardware: Hardware
) -> Estimates:
    """Told of such a product is a linear layer, whose factors both lie along the depth. In
    ``a @ b`` the second does not, which takes longer, and no operator says which it is."""
    capability, dtype = DEPTH_ONLY
    if hardware.compute_capability != capability:
        return found
    some = [ops] if isinstance(ops, Operator) else ops
    rows = np.array([isinstance(op, Matmul) and op.dtype == dtype for op in some], dtype=bool)
    if not rows.any():
        return found
    _, high = wider(found.seconds, found.low, found.high, OTHER_WAY)
    return replace(found, high=np.where(rows, high, found.high))


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
