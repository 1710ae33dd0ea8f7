"""What a convolution on a GPU costs beside its bytes, by the kernels that are launched for it.

With eight channels a group and more it is a product of [places, window x channels] by [window x
channels, out channels], cut as any product is (:mod:`calib.fit.physics.blocks.product_blocks`), and
what is moved to another layout comes on top. With fewer it is one kernel of scalar arithmetic,
whose blocks of 32 places and 32 channels walk over the window together: a step waits for the last
one (``steps``; eight places of a row and eight rows at a time, so that a window of 14 waits as long
as one of 16), and the blocks of a multiprocessor share its arithmetic (``sums``). Or it is padded
to eight channels: a product whose 128 x 128 tiles take a place of the window after the other
(``taps``), in waves of as many blocks as are launched.

Channel by channel (depthwise) a thread has a result of its own: the same arithmetic, with nothing
padded and nothing to wait for, and what finding the result takes besides (``sums``).

A window of one place that skips places has a convolution's kernel and not a product's, which takes
longer for each term (``strided``); an odd number of places is read two bytes at a time (``odd``).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from calib.fit.physics.blocks.product_blocks import shape_columns
from calib.hardware.convolutions import (
    PADDING,
    has_few,
    is_depthwise,
    is_padded,
    is_scalar,
    is_strided,
    is_unaligned,
    kernels,
    moves_map,
    moves_result,
    moves_weights,
    window,
)
from calib.hardware.datasheet import Hardware
from model.ops import Conv2d, Convolution, item_bytes

_BLOCK = 32
"""Places, and channels, of a block of scalar arithmetic (``implicit_convolve_sgemm<.., 5, 5, ..>``
in a profile: 2 to the fifth)."""
FOUND = 32
"""Terms of a window in whose time a depthwise result is found and written: an H200 takes 27
microseconds for 8 maps of 96 x 56 x 56 and windows of 7, 9 for one of 256 x 64 x 64 and windows of
3, what events add among them (``benchmarks/data/h200/kernels.parquet``)."""
_ROUND = 8
"""Places of a window's side that scalar arithmetic waits for together."""
_TILE = 128
_PADDED = 8
"""Channels that few are padded to."""
_NEVER = -50.0


def convolution_columns(op: Conv2d | Convolution, hardware: Hardware) -> dict[str, np.ndarray]:
    """Columns of a convolution, each [n] or [1]; units of work are counted in cycles."""
    scalar, padded, few, apart = is_scalar(op), is_padded(op), has_few(op), is_depthwise(op)
    channels = np.asarray(op.in_channels) // np.asarray(op.groups)
    depth = channels * window(op)
    places, out = op.batch * places_of(op), op.out_channels / np.asarray(op.groups)
    cycles = item_bytes(op.dtype) / hardware.bandwidth * hardware.clock_hz
    map_read = op.batch * op.in_channels * op.in_positions
    moved, back, weights = moves_map(op), moves_result(op), moves_weights(op)
    blocks = np.ceil(places / _BLOCK) * np.ceil(out / _BLOCK) * op.groups
    rounds, waves = np.ceil(blocks / hardware.sm_count), padded_waves(places, out, hardware)
    sums = np.where(apart, by_channel(op) / hardware.sm_count, depth * rounds)
    batch = np.where(apart, 1, np.asarray(op.groups))
    shape = (places, np.where(apart, op.out_channels, out), np.where(few, 1, depth), batch)
    padding = op.batch * op.in_positions + window(op) * op.out_channels
    columns = {
        "added kernels": 1 * moved + back + PADDING * padded,
        "added moved": 2 * (moved * map_read + (back + padded) * op.outputs) * cycles,
        "added padded": 2 * _PADDED * padded * padding * cycles,
        "added bias": 2 * +op.bias * op.outputs * cycles,
        "added biases": 1.0 * +op.bias,
        "added windows": weights,
        "added weights": 2 * (weights & ~moved) * op.weights * cycles,
        "added scattered": 2 * (weights & moved) * op.weights * cycles,
        "added strided": depth * (is_strided(op) & ~few),
        "bound steps": _log(channels * _rounded(op), scalar & ~apart),
        "bound sums": _log(sums, scalar),
        "bound taps": _log(window(op) * waves, padded),
        "bound odd": _log(depth, is_unaligned(op)),
    }
    found = {f"{name} {_RULE}": _array(value) for name, value in columns.items()}
    kind = {
        "tile scalar": _array(scalar),
        "padded": _array(padded),
        "tile kernels": _array(kernels(op)),
    }
    return found | kind | shape_columns(shape, op, hardware)


def by_channel(op: Conv2d | Convolution) -> Any:
    """Of a depthwise convolution, what the sums of a block of :data:`_BLOCK` squared results take,
    for all results: their windows, and finding and writing each."""
    return (window(op) + FOUND) * op.outputs / _BLOCK**2


def padded_waves(places: Any, out: Any, hardware: Hardware) -> Any:
    """Waves of blocks: CUTLASS launches columns of tiles in bundles of 8, 4 or 2 (from 6, 3, 2 of
    them), whole ones; on an H200 18 x 7 tiles are 144 blocks, two waves where 15 x 8 are one."""
    tall, wide = np.ceil(places / _TILE), np.ceil(out / _TILE)
    bundle = np.where(wide >= 6, 8, np.where(wide >= 3, 4, np.where(wide >= 2, 2, 1)))
    return np.ceil(tall * bundle * np.ceil(wide / bundle) / hardware.sm_count)


def _rounded(op: Conv2d | Convolution) -> Any:
    """Places of the window with its side rounded up."""
    if isinstance(op, Convolution):
        return np.ceil(window(op) / _ROUND) * _ROUND
    return (np.ceil(np.asarray(op.kernel) / _ROUND) * _ROUND) ** 2


def _log(value: Any, where: Any) -> Any:
    """Logarithm of units of a bound, of those that have it."""
    return np.where(where, np.log(np.maximum(value, 1e-9)), _NEVER)


_RULE = "convolved"
STARTS = {
    f"added kernels {_RULE}": float(np.log(3000.0)),
    f"added moved {_RULE}": float(np.log(1.6)),
    f"added padded {_RULE}": float(np.log(12.0)),
    f"added bias {_RULE}": float(np.log(2.0)),
    f"added biases {_RULE}": float(np.log(5000.0)),
    f"added windows {_RULE}": float(np.log(4000.0)),
    f"added weights {_RULE}": float(np.log(2.8)),
    f"added scattered {_RULE}": float(np.log(6.2)),
    f"added strided {_RULE}": float(np.log(6.0)),
    f"bound steps {_RULE}": float(np.log(147.0)),
    f"bound sums {_RULE}": float(np.log(36.0)),
    f"bound taps {_RULE}": float(np.log(635.0)),
    f"bound odd {_RULE}": float(np.log(80.0)),
}
"""Logarithms that a fit starts from, read off the kernels of an H200's profile: cycles of a short
kernel that moves a map; of a cycle of main memory for what is moved, padded, biased; of the short
kernel of a bias and of one that moves weights; of a term of a strided 1 x 1; of a step, a sum, a
place of the window, a term that is read two bytes at a time."""


def places_of(op: Conv2d | Convolution) -> Any:
    """Places at which the window is applied."""
    return op.windows if isinstance(op, Convolution) else op.out_positions


def _array(value: Any) -> np.ndarray:
    return np.atleast_1d(np.asarray(value, dtype=float))
