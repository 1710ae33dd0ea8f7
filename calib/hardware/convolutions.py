"""Which kernels the vendor's library launches for a convolution whose maps lie channel by channel.

Read off profiles of an H200 (torch 2.11, cuDNN 9):

- a window of one place that moves by one place is a product of the map as it lies: one kernel;
- with fewer than eight channels a group matrix units are not fed: one kernel of scalar arithmetic;
- else the matrix units want channels last: map and weights are moved there, the result back, which
  is three kernels beside the product's own. A profile of 256 to 512 channels has 5.2 of 16.5
  microseconds in moving the weights alone.

A bias is one more kernel, which reads and writes the result.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from model.ops import Conv2d, Convolution

FEWEST_CHANNELS = 8
"""Of a group, 16 bytes of bfloat16: what one load of the matrix units takes."""


def window(op: Conv2d | Convolution) -> Any:
    """Places of a window."""
    return op.kernel**2 if isinstance(op, Conv2d) else op.taps


def is_scalar(op: Conv2d | Convolution) -> Any:
    """[n] or a bool: by scalar arithmetic."""
    return np.asarray(op.in_channels) // np.asarray(op.groups) < FEWEST_CHANNELS


def is_moved(op: Conv2d | Convolution) -> Any:
    """[n] or a bool: map, weights and result are moved to another layout."""
    is_product = (np.asarray(window(op)) == 1) & (op.in_positions == op.out_positions)
    return ~is_scalar(op) & ~is_product


def kernels(op: Conv2d | Convolution) -> Any:
    """[n] or a number: launches of one call."""
    return 1 + 3 * is_moved(op) + np.asarray(+op.bias)
