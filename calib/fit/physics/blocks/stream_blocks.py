"""What a map, a copy or a norm does besides moving its bytes, in cycles of one multiprocessor.

A map whose tensors are all one run of memory is vectorised: its time is that of its bytes. Any
other computes the place of every element in every tensor, by a division for each axis that a walk
has (``axes``), and loads elements one by one:

    elements / multiprocessors * (element + place * axes * tensors + cast + across)      [cycles]

``cast``: a conversion that torch decides at run time, element by element (all but float32 to 16
bits). ``across``: what is read column by column and written row by row takes a sector of the L2 for
each element. A run whose bytes are no multiple of four is copied by a slower one of the driver's
kernels (``odd``). What was left in the L2 and does not fit comes from main memory, a bound of its
own; so does what is walked again (``again``, :mod:`calib.fit.physics.blocks.walks`).

A function of several operations (GELU, SiLU) takes half a microsecond before its first result.

A norm that is written out is eight kernels: a cast, a square, a mean, a sum, a root, two products
and a cast. Their times add up: three of them compute places, three stream float32. A layernorm of
what lies column by column is copied first.

A norm by channel with known statistics is three kernels, two of them of a few numbers. The third
has a block for each channel of each map, however few its elements: 65536 maps of 7 x 7 take 45
microseconds, as long as 12.8 million elements of larger ones.

A pool is one kernel with a thread for each result, which walks over its window as a convolution
channel by channel does (``pooled``); nothing of it is fitted.

The costs are fitted; they start at those of an H200 (its record, ``benchmarks/data/h200``: copies
of 2 to 5 axes run at 440 to 320, sums at 395 to 285, transposing ones at 135 G elements/s).
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from calib.fit.physics.blocks import rows, walks
from calib.fit.physics.blocks.convolution_blocks import FOUND
from calib.hardware.datasheet import Hardware
from calib.hardware.datasheet import share_missed as hardware_share_missed
from model.ops import (
    POOLS,
    ChannelNorm,
    Copy,
    Elementwise,
    Norm,
    Operator,
    Other,
    Reduction,
    Softmax,
    item_bytes,
)

_RULE = rows.RULE
_MISSED, _PLANES, _AGAIN = (f"bound {name}{_RULE}" for name in ("missed", "planes", "again"))
_ELEMENT, _PLACE, _CAST, _ACROSS, _SHIFTED, _ODDS = (
    f"serial {name}{_RULE}" for name in ("element", "place", "cast", "across", "shifted", "odds")
)
_KERNELS, _PLACES, _FLAT, _COPIED, _START, _ODD, _FUNCTION = (
    f"added {name}{_RULE}"
    for name in ("kernels", "places", "flat", "copied", "start", "odd", "function")
)
COSTS = rows.COSTS | {
    _MISSED: 0.15,
    _AGAIN: 0.15,
    _PLANES: float(np.log(162.0)),
    _ELEMENT: float(np.log(0.47)),
    _PLACE: float(np.log(0.03)),
    _CAST: float(np.log(0.23)),
    _ACROSS: float(np.log(1.3)),
    _SHIFTED: float(np.log(0.58)),
    _KERNELS: float(np.log(2200.0)),
    _PLACES: float(np.log(2.1)),
    _FLAT: 0.15,
    _COPIED: float(np.log(1.9)),
    _START: float(np.log(900.0)),
    _ODD: float(np.log(900.0)),
    _ODDS: float(np.log(0.28)),
    _FUNCTION: float(np.log(1300.0)),
}
"""Logarithms that a fit starts from [cycles a unit]."""
_share_missed = partial(hardware_share_missed, edge=0.9)
_NARROW = ("bfloat16", "float16")
_CACHED = 0.4
"""Time of a byte of the L2 in that of one of main memory."""
_LEAST = 1e-9
_THREADS, _EACH = 128, 4
"""Of a block of such a kernel, and elements of a thread, one after the other: of four it takes half
a microsecond longer than of one, and more where it converts."""
_WORD = 4


def stream_columns(op: Operator, hardware: Hardware, hot: Any) -> dict[str, np.ndarray]:
    """Columns of an operator that streams, each [n] or [1]. ``hot``: [n] bool.

    A bound that only some norms have is one cycle's of the others, as in a list of both.
    """
    share = _share_missed(op.bytes / hardware.l2_bytes)
    missed = np.where(hot, share, 1.0) * op.bytes / hardware.bandwidth * hardware.clock_hz
    columns = {_MISSED: np.log(np.maximum(missed, _LEAST))} | _again(op, hardware)
    if isinstance(op, Elementwise | Copy):
        columns |= _walk(op, hardware)
    if isinstance(op, Norm):
        columns |= {rows.ROW: 0.0} | _kernels(op, hardware)
    if isinstance(op, ChannelNorm):
        columns |= {_PLANES: 0.0} | _channels(op, hardware)
    columns |= rows.row_columns(op, hardware, hot)
    return {name: np.atleast_1d(np.asarray(v, dtype=float)) for name, v in columns.items()}


def _again(op: Operator, hardware: Hardware) -> dict[str, Any]:
    if not walks.may_walk_again(op):
        return {}
    return {_AGAIN: np.log(np.maximum(_cycles_again(op, hardware), _LEAST))}


def _cycles_again(op: Operator, hardware: Hardware) -> Any:
    """Of all that main memory moves of what is walked again."""
    again = walks.bytes_again(op, hardware)
    once = _share_missed(op.bytes / hardware.l2_bytes) * op.bytes
    return np.where(again > 0, once + again, 0.0) / hardware.bandwidth * hardware.clock_hz


def walk_seconds(op: Operator, hardware: Hardware) -> Any:
    """What computing places, walking rows and reading them again takes where nothing of the kind
    was measured: by the costs that a fit starts from; 0 of an operator that streams."""
    again = np.exp(COSTS[_AGAIN]) * _cycles_again(op, hardware) / hardware.clock_hz
    return np.maximum(again, _walk_seconds(op, hardware))


def _walk_seconds(op: Operator, hardware: Hardware) -> Any:
    if isinstance(op, ChannelNorm):
        return _channels_seconds(op, hardware)
    if isinstance(op, Other) and op.name in POOLS:
        return _pooled_seconds(op, hardware)
    if isinstance(op, Softmax | Reduction):
        return rows.walk_cycles(op, hardware) / hardware.clock_hz
    if not isinstance(op, Elementwise | Copy | Norm):
        return 0.0
    columns = _kernels(op, hardware) if isinstance(op, Norm) else _walk(op, hardware)
    counted = [n for n in columns if n in COSTS and n not in (_KERNELS, _START, _FUNCTION)]
    cycles: Any = sum(np.exp(COSTS[name]) * columns[name] for name in counted)
    if isinstance(op, Norm):
        cycles = cycles + rows.walk_cycles(op, hardware)
    return cycles / hardware.clock_hz


def _walk(op: Elementwise | Copy, hardware: Hardware) -> dict[str, Any]:
    cast = casts(op.dtype, op.out_dtype) and (isinstance(op, Copy) or op.out_dtype != "bool")
    share = _elements(op) / hardware.sm_count
    one_by_one = (np.asarray(op.axes) > 1) | cast
    walked, turns = share * one_by_one, np.ceil(_elements(op) / _THREADS)
    return {
        **(_odd(op, share, cast) if isinstance(op, Copy) else _function(op)),
        _START: np.clip((turns - 1) / (_EACH - 1), 0, 1) * one_by_one,
        _ELEMENT: walked,
        _PLACE: walked * op.axes * _tensors(op),
        _CAST: share * cast,
        _ACROSS: share * op.transposed,
    }


def _odd(op: Copy, share: Any, cast: bool) -> dict[str, Any]:
    """Of a run of memory that is no whole 4 bytes, as the driver copies it."""
    one_run = (np.asarray(op.axes) == 1) & (not cast) & (op.out_dtype in (None, op.dtype))
    odd = one_run & (op.elements * item_bytes(op.dtype) % _WORD > 0)
    return {_ODD: odd + 0.0, _ODDS: share * odd, "odd": odd + 0.0}


def _function(op: Elementwise) -> dict[str, Any]:
    return {_FUNCTION: (np.asarray(op.flops_per_element) > 1) + 0.0}


def _elements(op: Elementwise | Copy) -> Any:
    written = op.out_elements if isinstance(op, Copy) else None
    return op.elements if written is None else written


def _tensors(op: Elementwise | Copy) -> Any:
    """Tensors whose elements have a place: of a sum of two that are repeated, those two."""
    if isinstance(op, Copy):
        return 2
    repeated = (np.asarray(op.broadcast) > 0) * np.where(np.asarray(op.inputs) == 0, 2, 1)
    return np.maximum(op.inputs + repeated, 1) + op.outputs


def casts(dtype: str, out_dtype: str | None) -> bool:
    """Whether torch converts element by element; float32 to 16 bits has a kernel of its own."""
    if out_dtype in (None, dtype):
        return False
    return not (dtype == "float32" and out_dtype in _NARROW)


_SMALL_KERNELS = 2
"""Of a norm by channel: its variances are cast, and their roots taken."""


def _channels(op: ChannelNorm, hardware: Hardware) -> dict[str, Any]:
    if op.kind != "batchnorm":
        return {}
    planes = np.asarray(op.channels if op.planes is None else op.planes)
    return {
        _KERNELS: np.full(np.shape(planes), 1.0 * _SMALL_KERNELS),
        _SHIFTED: op.elements / hardware.sm_count,
        _PLANES: np.log(planes / hardware.sm_count),
    }


def _channels_seconds(op: ChannelNorm, hardware: Hardware) -> Any:
    units = _channels(op, hardware)
    if not units:
        return 0.0
    shifted = np.exp(COSTS[_SHIFTED]) * units[_SHIFTED]
    work = np.maximum(shifted, np.exp(COSTS[_PLANES] + units[_PLANES]))
    return (np.exp(COSTS[_KERNELS]) * (1 + units[_KERNELS]) + work) / hardware.clock_hz


_TERM = 0.105
"""Cycles of a multiprocessor a place of a pool's window: an H200 takes 107 microseconds for 32 maps
of 64 x 112 x 112 and windows of 3 x 3, two apart (its record)."""


def _pooled_seconds(op: Other, hardware: Hardware) -> Any:
    """Windows of all results, and finding each, which may have its place beside it."""
    per = item_bytes(op.dtype) + item_bytes("int64") * ("indices" in op.name)
    terms = op.arithmetic + FOUND * np.asarray(op.written) / per
    return (np.exp(COSTS[_KERNELS]) + _TERM * terms / hardware.sm_count) / hardware.clock_hz


def _kernels(op: Norm, hardware: Hardware) -> dict[str, Any]:
    """Of a norm written out: seven more kernels, places of three of them, float32 streamed by
    three: squared (8 bytes), averaged (4), cast back."""
    across, share = np.asarray(op.transposed), 1.0 * op.rows * op.cols / hardware.sm_count
    if op.kind != "rmsnorm":
        return {_KERNELS: across + 0.0, _COPIED: share * across}
    elements, item = op.rows * op.cols, item_bytes(op.dtype)
    missed = _share_missed(8 * elements / hardware.l2_bytes)
    nbytes = elements * (12 + 4 + item) * (missed + (1 - missed) * _CACHED)
    return {
        _KERNELS: 7.0 + across,
        _PLACES: share,
        _FLAT: nbytes / hardware.bandwidth * hardware.clock_hz,
        _COPIED: share * across,
    }
