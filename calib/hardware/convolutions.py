"""Which kernels the vendor's library launches for a convolution.

Read off profiles of an H200 (torch 2.11, cuDNN 9):

- with fewer than eight channels a group matrix units are not fed: one kernel of scalar arithmetic;
- else the product wants channels last. Weights lie window by window and are moved first, where a
  window has more than one place: 5.2 of 16.5 microseconds of one with 256 and 512 channels. A map
  that lies channel by channel is moved there, and the result back: two kernels more. A ResNet's
  products of 1 x 1 take 3 microseconds so far as its maps of 56 and 28 a side can be read as they
  lie, and 6 to 9 where a channel of 14 x 14 or 7 x 7 is no multiple of 16 bytes, or every other
  place is left out.

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


def is_scalar(op: Conv2d | Convolution) -> Any:
    """[n] or a bool: by scalar arithmetic."""
    return np.asarray(op.in_channels) // np.asarray(op.groups) < ALIGNED


def moves_map(op: Conv2d | Convolution) -> Any:
    """[n] or a bool: whether map and result are moved to another layout."""
    planar = np.asarray(op.planar if isinstance(op, Conv2d) else True, dtype=bool)
    as_it_lies = (window(op) == 1) & (op.in_positions == op.out_positions)
    return planar & ~is_scalar(op) & ~(as_it_lies & (op.in_positions % ALIGNED == 0))


def moves_weights(op: Conv2d | Convolution) -> Any:
    """[n] or a bool: whether the weights are."""
    return ~is_scalar(op) & (np.asarray(window(op)) > 1)


def kernels(op: Conv2d | Convolution) -> Any:
    """[n] or a number: launches of one call."""
    return 1 + 2 * moves_map(op) + moves_weights(op) + np.asarray(+op.bias)
