"""Rows that a block of threads walks more than once, and what main memory sends of them again.

A block that needs a sum of its row before it can write any of it reads the row again for the
result: the gradients of norms and of softmax. (So does a layernorm, whose one tensor a nearer cache
still holds.) A softmax of more than 1024 columns
keeps the row in registers, in up to nine of a thread (9216 columns); a longer row of whole 16 bytes
in shared memory, up to the 48 kB that need no permission; the longest are read three times, for the
largest, the sum and the result (torch's ``SoftMax.cu``, ``layer_norm_kernel.cu``).

Read again, a row is still in the L2 as long as it holds the rows of all blocks that run at once:
H100s and A100s read 16384 float32 columns from there again and 32768 from main memory
(``benchmarks/data/public_operators.csv``).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from calib.hardware.datasheet import Hardware, share_missed
from model.ops import Elementwise, Norm, Operator, Other, Softmax, item_bytes

THREADS = 1024
"""Of a block of a wide softmax."""
_OF_NORMS = 128
_MOST_KEPT = 9
_SHARED = 48 * 1024
_WHOLE = 16
_EDGE = 0.55
"""Of the L2, where half is missed: between 0.43 and 0.7, where those cards miss none and all."""


def kept(op: Softmax) -> Any:
    """Whether registers keep the rows of a wide softmax."""
    return np.ceil(np.asarray(op.cols) / THREADS) <= _MOST_KEPT


def blocks_at_once(threads: int, hardware: Hardware) -> int:
    """Blocks of a multiprocessor, as its threads allow."""
    return max((hardware.threads_per_sm or 0) // threads, 1)


def may_walk_again(op: Operator) -> bool:
    """Whether some of its kind walk a row more than once."""
    return isinstance(op, Softmax | Elementwise) or _is_walked(op)


def bytes_again(op: Operator, hardware: Hardware) -> Any:
    """Bytes that main memory sends a second or third time; 0 of what is walked once."""
    walked = _walked(op)
    if walked is None:
        return 0.0
    rows, row_bytes, times, threads = walked
    slots = hardware.sm_count * blocks_at_once(threads, hardware)
    held = np.minimum(rows, slots) * row_bytes
    return rows * row_bytes * times * share_missed(held / hardware.l2_bytes, _EDGE)


def from_memory(op: Norm, hardware: Hardware, hot: Any) -> Any:
    """Of the two walks of each row, those that main memory feeds; the second what no cache holds of
    the rows of all blocks that run at once. ``hot``: [n] bool."""
    first = np.where(hot, share_missed(op.bytes / hardware.l2_bytes, _EDGE), 1.0)
    slots = hardware.sm_count * blocks_at_once(_OF_NORMS, hardware)
    held = np.minimum(op.rows, slots) * np.asarray(op.cols) * item_bytes(op.dtype)
    return first + share_missed(held / hardware.l2_bytes, _EDGE)


def _walked(op: Operator) -> tuple[Any, Any, Any, int] | None:
    """Rows, bytes that are read of each, times that they are read again, threads of a block."""
    if isinstance(op, Softmax):
        nbytes = np.asarray(op.cols * item_bytes(op.dtype))
        shared = (nbytes < _SHARED) & (nbytes % _WHOLE == 0)
        return op.rows, nbytes, np.where(kept(op) | shared, 0.0, 2.0), THREADS
    if isinstance(op, Elementwise | Other) and _is_walked(op):
        rows = np.maximum(op.walked, 1)
        threads = THREADS if isinstance(op, Elementwise) else _OF_NORMS
        return rows, op.bytes_read / rows, np.asarray(op.walked) > 0, threads
    return None


def _is_walked(op: Operator) -> bool:
    return isinstance(op, Elementwise | Other) and bool(np.any(op.walked))
