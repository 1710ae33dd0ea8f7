"""Pointwise operators and copies, in the layouts that models have them in."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F

from calib.measure.cases.arena import Arena, Case
from model import ops


def _elementwise(op: ops.Elementwise, arena: Arena) -> Case:
    if op.inputs == 0 and op.broadcast:  # an outer sum, as of two axes' positions
        rows, cols = _outer(op)
        x, y = (arena.take(rows, cols, dtype=op.dtype) for _ in range(2))
        return partial(outer_sum, x, y)
    if op.inputs >= 2 or op.broadcast:
        return _sum_of_two(op, arena)
    x = arena.take(op.elements, dtype=op.dtype)
    if op.flops_per_element == 4:
        return partial(torch.sigmoid, x)
    if op.flops_per_element >= 5:
        return partial(F.silu, x)
    return partial(operator.mul, x, 2)


def outer_sum(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """[rows, cols] and [rows, cols] -> [rows, cols, cols]."""
    return x[:, :, None] + y[:, None, :]


def _sum_of_two(op: ops.Elementwise, arena: Arena) -> Case:
    """Of two tensors, or of one and a smaller one that is repeated."""
    small = min(int(op.broadcast), op.elements) if op.inputs == 1 else op.elements
    rows = max(1, op.elements // small)
    if op.transposed:
        return _sum_across(op, rows, small, arena)
    x = arena.take(rows, small, dtype=op.dtype)
    y = arena.take(1, small, dtype=op.dtype)
    return partial(operator.add, x, y)


def _sum_across(op: ops.Elementwise, batch: int, elements: int, arena: Arena) -> Case:
    """[batch, rows, cols] column by column plus as much, or one of ``batch``, row by row."""
    cols = math.gcd(elements, 768) if elements % 64 == 0 else 1
    rows = elements // cols
    x = arena.take(batch, cols, rows, dtype=op.dtype).transpose(1, 2)
    y = arena.take(1, rows, cols, dtype=op.dtype)
    return partial(operator.add, x, y)


def _outer(op: ops.Elementwise) -> tuple[int, int]:
    """[rows, cols] of the two inputs whose outer sum has [rows, cols, cols] elements."""
    cols = max(1, round(2 * op.elements / op.broadcast))
    return max(1, op.elements // cols**2), cols


def _copy(op: ops.Copy, arena: Arena) -> Case:
    if op.out_dtype not in (None, op.dtype):
        target = getattr(torch, str(op.out_dtype))
        flat = arena.take(op.elements, dtype=op.dtype)
        return partial(torch.Tensor.to, flat, target)
    inner = 64 if op.elements % 128 == 0 else 1
    if op.elements % (2 * inner):
        flat = arena.take(op.elements, dtype=op.dtype)
        return partial(torch.clone, flat)
    x = arena.take(op.elements // inner // 2, 2, inner, dtype=op.dtype).transpose(0, 1)
    return partial(torch.Tensor.contiguous, x)


POINTWISE: dict[str, Callable[..., Case]] = {
    "elementwise": _elementwise,
    "copy": _copy,
}
