"""What is asked of a card in another way than it was put, and what stands for it instead."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from calib.cards.tables.figures import TORCH
from calib.cards.tables.stand_ins import ANOTHER_KERNEL, as_cut
from calib.cards.tables.times import estimates_of
from calib.fit.calibration import Estimates, Told, listed, parted, wider
from calib.hardware.attention_backend import cuts
from calib.hardware.datasheet import Hardware, floor
from calib.hardware.rates import refuses
from model.ops import Attention, GroupedMatmul, Matmul, Operator


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
    rows = np.array(
        [isinstance(op, Matmul) and op.dtype == dtype for op in listed(ops)], dtype=bool
    )
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
        return told(ops, TORCH, hot)
    return parted(ops, rows, told, others, TORCH, hot)


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


def is_refused(op: Operator, hardware: Hardware) -> bool:
    """Whether it is a product of a type that torch does not multiply on this card."""
    if not isinstance(op, Matmul | GroupedMatmul):
        return False
    return refuses(op.dtype, hardware.peak_flops, hardware.compute_capability)
