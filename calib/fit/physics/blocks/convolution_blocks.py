"""What a convolution on a GPU costs beside its bytes, by the kernels that are launched for it.

With eight channels a group and more it is a product of [places, window x channels] by [window x
channels, out channels], cut as any product is (:mod:`calib.fit.physics.blocks.product_blocks`), and
what is moved to another layout comes on top. With fewer it is one kernel of scalar arithmetic,
whose blocks of 32 places and 32 channels walk over the window together: a step waits for the last
one (``steps``), and many blocks share a multiprocessor's arithmetic (``sums``).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from calib.fit.physics.blocks.product_blocks import shape_columns
from calib.hardware.convolutions import is_scalar, kernels, moves_map, moves_weights, window
from calib.hardware.datasheet import Hardware
from model.ops import Conv2d, Convolution, item_bytes

_BLOCK = 32
"""Places, and channels, of a block of scalar arithmetic (``implicit_convolve_sgemm<.., 5, 5, ..>``
in a profile: 2 to the fifth)."""
_NEVER = -50.0


def convolution_columns(op: Conv2d | Convolution, hardware: Hardware) -> dict[str, np.ndarray]:
    """Columns of a convolution, each [n] or [1]; units of work are counted in cycles."""
    scalar = is_scalar(op)
    depth = np.asarray(op.in_channels) // np.asarray(op.groups) * window(op)
    places, out = op.batch * places_of(op), op.out_channels / np.asarray(op.groups)
    cycles = item_bytes(op.dtype) / hardware.bandwidth * hardware.clock_hz
    maps = op.batch * op.in_channels * op.in_positions + op.outputs
    blocks = np.ceil(places / _BLOCK) * np.ceil(out / _BLOCK) * op.groups
    shape = (places, out, np.where(scalar, 1, depth), np.asarray(op.groups))
    columns = {
        "added kernels": 2 * moves_map(op),
        "added moved": 2 * moves_map(op) * maps * cycles,
        "added bias": 2 * +op.bias * op.outputs * cycles,
        "added windows": moves_weights(op),
        "added weights": 2 * moves_weights(op) * op.weights * cycles,
        "bound steps": np.where(scalar, np.log(depth), _NEVER),
        "bound sums": np.where(scalar, np.log(depth * blocks / hardware.sm_count), _NEVER),
    }
    found = {f"{name} {_RULE}": _array(value) for name, value in columns.items()}
    kind = {"tile scalar": _array(scalar), "tile kernels": _array(kernels(op))}
    return found | kind | shape_columns(shape, op, hardware)


_RULE = "convolved"
STARTS = {
    f"added kernels {_RULE}": float(np.log(2500.0)),
    f"added moved {_RULE}": float(np.log(1.5)),
}
"""Logarithms that a fit starts from: cycles of a short kernel, as the 1.1 to 1.7 us of a ResNet's
activations on an H200; of a cycle of main memory for what is moved. A card whose samples are all
of maps that need no moving keeps them."""


def places_of(op: Conv2d | Convolution) -> Any:
    """Places at which the window is applied."""
    return op.windows if isinstance(op, Convolution) else op.out_positions


def _array(value: Any) -> np.ndarray:
    return np.atleast_1d(np.asarray(value, dtype=float))
