"""Products of narrow weights that are widened on the way: what plain products tell of them.

Such a kernel reads its weights narrow, turns each into the type of the activations, and multiplies
as a plain product does. Its floor is

    max(bytes / bandwidth, FLOPs / peak + 2 n k tiles / rate of the other arithmetic)          [s]

since a weight is scaled and shifted again for every tile of 128 rows, by the units that feed the
products, and both hide behind reading. Two plain products stand in, each by the ratio of the floors
where that is above one: the one of as many weight bytes, which has a smaller depth, and the one of
the same shape. The lesser is taken: a library that has no better kernel widens nothing.

How far that misses is read off TensorRT-LLM's int4 and int8 products of an A100, by how long the
wide weights take to be read: such kernels cost more than plain ones where little is read
(``python -m benchmarks.widened``).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from calib.hardware.datasheet import Hardware, floor, floors
from model.ops import GroupedMatmul, Matmul, Operator, item_bytes

WIDTHS = ((1e-6, 1.20), (4e-6, 1.15), (16e-6, 0.87), (64e-6, 0.42))
"""Seconds that the wide weights take to be read, and the half-width in log, about the rule, within
which 90% of the shapes lie."""
TILE = 128
"""Rows for which a weight is widened once."""
ARITHMETIC = 2
"""Operations that widen one: scale and shift."""


def is_widened(op: Operator) -> bool:
    """Whether the weights of ``op`` are narrower than what it multiplies."""
    if not isinstance(op, Matmul | GroupedMatmul) or op.weight_dtype is None:
        return False
    return item_bytes(op.weight_dtype) < item_bytes(op.dtype)


def widened_floor(op: Any, hardware: Hardware) -> Any:
    """Seconds, by the formula above; an array for a grid."""
    compute, memory = floors(op, hardware)
    if isinstance(op, GroupedMatmul):
        matrices, rows = op.experts_read, op.rows / op.experts_read
    else:
        matrices, rows = op.batch, op.m
    widened = ARITHMETIC * matrices * op.n * op.k * np.ceil(rows / TILE)
    return np.maximum(memory, compute + widened / hardware.cuda_core_flops)


def width(op: Any, hardware: Hardware) -> Any:
    """What standing in adds to the interval, in log; an array for a grid."""
    wide = op.weight_bytes_read / item_bytes(op.weight_dtype) * item_bytes(op.dtype)
    seconds, widths = np.log(np.array(WIDTHS)).T
    return np.interp(np.log(wide / hardware.bandwidth), seconds, np.exp(widths))


@dataclass(frozen=True)
class Plain:
    """A product that stands in, and what its time is to be multiplied by."""

    op: Operator
    scale: Any


def plain_products(op: Any, hardware: Hardware) -> tuple[Plain, Plain]:
    """The product of as many weight bytes, and that of the same shape."""
    wide = replace(op, weight_dtype=None)
    share = item_bytes(op.weight_dtype) / item_bytes(op.dtype)
    depth = np.maximum(np.rint(np.asarray(op.k) * share), 1).astype(np.int64)
    short = replace(wide, k=depth if depth.ndim else int(depth))
    needed = widened_floor(op, hardware)
    return tuple(Plain(o, np.maximum(1.0, needed / floor(o, hardware))) for o in (short, wide))  # type: ignore[return-value]
