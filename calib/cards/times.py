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
    Told,
    fitted_dtype,
    kind_of,
    parted,
    wider,
)
from calib.fit.physics.blocks.attention.flash import parts
from calib.hardware.attention_backend import FLASH, backends_of, cuts
from calib.hardware.datasheet import Hardware, floor
from calib.hardware.rates import refuses
from model.ops import Attention, Elementwise, GroupedMatmul, Matmul, Operator, item_bytes

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


def by_floors(
    ops: Sequence[Operator] | Operator, hardware: Hardware, others: Told, hot: Any
) -> Estimates | None:
    """What ``others`` say of ``ops``, but of products that torch refuses on this card their
    roofline: of a kernel that widens the factors. None: there is none of them."""

    def told(refused: Any, implementation: str, hot: Any) -> Estimates:
        found = [np.atleast_1d(floor(op, hardware)) for op in listed(refused)]
        floors = np.asarray(np.concatenate(found), dtype=float)
        return estimates_of(floors, np.full((4, len(floors)), np.nan))

    rows = np.array([is_refused(op, hardware) for op in listed(ops)], dtype=bool)
    if not rows.any():
        return None
    if isinstance(ops, Operator):
        return told(ops, _TORCH, hot)
    return parted(ops, rows, told, others, _TORCH, hot)


_TORCH = "torch"


def by_windows(
    ops: Sequence[Operator] | Operator,
    ask: Callable[[Sequence[Operator] | Operator], Estimates],
    one: bool,
) -> Estimates | None:
    """What ``ask`` says without the windows that cut no key away, for which kernels do not ask,
    and, with ``one``, those of one query, which sees the last keys of a cache as it sees all of
    one that holds no others. None: there is none of them."""
    if not isinstance(ops, Operator):
        bare = [_without_window(op, one) for op in ops]
        same = all(op is other for op, other in zip(ops, bare, strict=True))
        return None if same else ask(bare)
    if not isinstance(ops, Attention) or ops.window is None:
        return None
    rows = np.broadcast_to(_is_needless(ops, one), len(np.atleast_1d(ops.keys_read)))
    if not rows.any():
        return None
    found = Estimates.nothing_of(len(rows))
    found.put(rows, ask(_without_window(_points(ops, rows), one)))
    if not rows.all():
        found.put(~rows, ask(_points(ops, ~rows)))
    return found


def _without_window(op: Operator, one: bool) -> Operator:
    """Of a grid all of whose windows are needless, too."""
    if not isinstance(op, Attention) or op.window is None or not np.all(_is_needless(op, one)):
        return op
    return replace(op, kv_len=_lesser(op.kv_len, op.window), window=None)


def _lesser(one: Any, other: Any) -> Any:
    found = np.minimum(one, other)
    return found if np.ndim(found) else int(found)


def _is_needless(op: Attention, one: bool) -> np.ndarray:
    return ~cuts(op) | (one & np.equal(op.q_len, 1))


def _points(op: Attention, keep: np.ndarray) -> Attention:
    """Those of a grid."""
    arrays = {n: v[keep] for n, v in vars(op).items() if isinstance(v, np.ndarray)}
    return replace(op, **arrays)


def is_split(op: Attention, hardware: Hardware) -> np.ndarray:
    """[n] or []: whether FlashAttention 2, which torch takes, splits the keys that all queries see.

    Engines call it with sequences one after the other, of which it splits a lone query's keys where
    heads share them, and no others (``mha_varlen_fwd``); torch of a batch, of which it splits
    wherever blocks are few (``mha_fwd``)."""
    here = backends_of(op, hardware.compute_capability) == FLASH.name
    seen = ~(np.asarray(op.causal, dtype=bool) & np.greater(op.q_len, 1))
    return np.asarray(here & seen & (parts(op, hardware) > 1))


def side_by_side(op: Attention, hardware: Hardware) -> Attention:
    """Keys that are split, as so many shorter walks at once."""
    many = parts(op, hardware)
    batch, kv_len = op.batch * many, np.ceil(op.kv_len / many)
    if not np.ndim(batch):
        return replace(op, batch=int(batch), kv_len=int(kv_len), causal=False)
    whole: list[Any] = [n.astype(np.int64) for n in (batch, kv_len)]
    return replace(op, batch=whole[0], kv_len=whole[1], causal=False)


def is_refused(op: Operator, hardware: Hardware) -> bool:
    """Whether it is a product of a type that torch does not multiply on this card."""
    if not isinstance(op, Matmul | GroupedMatmul):
        return False
    return refuses(op.dtype, hardware.peak_flops, hardware.compute_capability)


def listed(ops: Sequence[Operator] | Operator) -> Sequence[Operator]:
    return [ops] if isinstance(ops, Operator) else ops


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
