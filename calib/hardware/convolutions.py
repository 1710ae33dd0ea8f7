"""Which kernels the vendor's library launches for a convolution.

Read off profiles of an H200 (torch 2.11, cuDNN 9):

- with fewer than eight channels a group matrix units are not fed as it is. One kernel of scalar
  arithmetic does it (``implicit_convolve_sgemm``); or, of 448 output channels and more and maps of
  up to 384 x 384 places, map and weights are padded to eight channels, multiplied, and the result
  is moved back: five kernels, two of them fills;
- else the product wants channels last. Weights lie window by window and are moved first, where a
  window has more than one place: 5.2 of 16.5 microseconds of one with 256 and 512 channels. A map
  that lies channel by channel is moved there, and the result back: two kernels more. A ResNet's
  products of 1 x 1 take 3 microseconds so far as its maps of 56 and 28 a side can be read as they
  lie, and 6 to 9 where a channel of 14 x 14 or 7 x 7 is no multiple of 16 bytes, or every other
  place is left out. An odd number of places by up to 384 channels is read as it lies too, two bytes
  at a time (``cutlass_75_.._align1``);
- for factors cut to tf32 it has kernels besides that read a map with channels last and write the
  result channel by channel (``fprop_.._tf32f32_f32_nhwckrsc_nchw`` in published profiles of an
  A100), so that the result is not moved; of the gradient, which a transposed one is, none;
- channel by channel (depthwise) there is a kernel of its own, whichever way the map lies.

A bias is one more kernel, which reads and writes the result.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from model.ops import Conv2d, Convolution

ALIGNED = 8
"""Numbers of bfloat16 in the 16 bytes that one load takes: the fewest channels of a group for the
matrix units, and what a channel's places are to be a multiple of."""


def window(op: Conv2d | Convolution) -> Any:
    """Places of a window."""
    return op.kernel**2 if isinstance(op, Conv2d) else op.taps


def has_few(op: Conv2d | Convolution) -> Any:
    """[n] or a bool: fewer channels in a group than a load takes."""
    return np.asarray(op.in_channels) // np.asarray(op.groups) < ALIGNED


def is_depthwise(op: Conv2d | Convolution) -> Any:
    """[n] or a bool: each channel by windows of its own."""
    groups = np.asarray(op.groups)
    return (groups > 1) & (np.asarray(op.in_channels) == groups)


PADDED_OUTPUTS, PADDED_PLACES = 416, 395**2
"""Halfway between what was seen padded (448 and more output channels, maps of up to 384 x 384) and
what was not (384, from 406 x 406)."""


def is_padded(op: Conv2d | Convolution) -> Any:
    """[n] or a bool: few channels, padded for the matrix units."""
    lone = has_few(op) & (np.asarray(op.groups) == 1) & (op.dtype in ("bfloat16", "float16"))
    wide = np.asarray(op.out_channels) > PADDED_OUTPUTS
    return lone & wide & (np.asarray(op.in_positions) < PADDED_PLACES)


def is_scalar(op: Conv2d | Convolution) -> Any:
    """[n] or a bool: by scalar arithmetic."""
    return has_few(op) & ~is_padded(op)


def moves_map(op: Conv2d | Convolution) -> Any:
    """[n] or a bool: whether the map is moved to another layout."""
    planar = np.asarray(op.planar if isinstance(op, Conv2d) else True, dtype=bool)
    aligned = op.in_positions % ALIGNED == 0
    return planar & ~has_few(op) & ~(_as_it_lies(op) & aligned) & ~is_unaligned(op)


def moves_result(op: Conv2d | Convolution) -> Any:
    """[n] or a bool: whether the result is moved back."""
    return moves_map(op) & ~np.asarray(op.one_way, dtype=bool)


MOST_UNALIGNED = 416
"""Channels: 384 were seen read two bytes at a time, 448 moved."""


def is_unaligned(op: Conv2d | Convolution) -> Any:
    """[n] or a bool: whether places are read two bytes at a time."""
    planar = np.asarray(op.planar if isinstance(op, Conv2d) else True, dtype=bool)
    odd = (op.in_positions % 2 == 1) & (np.asarray(op.in_channels) < MOST_UNALIGNED)
    return planar & ~has_few(op) & _as_it_lies(op) & odd


def is_strided(op: Conv2d | Convolution) -> Any:
    """[n] or a bool: a window of one place that skips places."""
    return (np.asarray(window(op)) == 1) & (op.in_positions != op.out_positions)


def _as_it_lies(op: Conv2d | Convolution) -> Any:
    return (window(op) == 1) & (op.in_positions == op.out_positions)


def moves_weights(op: Conv2d | Convolution) -> Any:
    """[n] or a bool: whether the weights are."""
    return ~has_few(op) & (np.asarray(window(op)) > 1)


PADDING = 5
"""Kernels of a padded convolution besides the product: each of map and weights is filled with
zeros and written into, the result moved."""


def kernels(op: Conv2d | Convolution) -> Any:
    """[n] or a number: launches of one call."""
    moved = 1 * moves_map(op) + moves_result(op) + PADDING * is_padded(op)
    return 1 + moved + moves_weights(op) + np.asarray(+op.bias)
