"""Pointwise operators and copies, in the layouts that models have them in."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F

from calib.measure.cases.arena import Arena, Case, Unsupported
from model import ops


def _elementwise(op: ops.Elementwise, arena: Arena) -> Case:
    if op.inputs == 0 and op.broadcast:  # an outer sum, as of two axes' positions
        rows, cols = _outer(op)
        x, y = (arena.take(rows, cols, dtype=op.dtype) for _ in range(2))
        return partial(outer_sum, x, _turned(y, op.axes - 3))
    if op.inputs >= 2 or op.broadcast:
        return _sum_of_two(op, arena)
    # Of one tensor torch walks in that tensor's order, so that gaps are all that is left of it.
    x = _walked(op.elements, min(op.axes, 2), op.dtype, arena)
    if op.flops_per_element == 4:
        return partial(torch.sigmoid, x)
    if op.flops_per_element >= 5:
        return partial(F.silu, x)
    return partial(operator.mul, x, 2)


def outer_sum(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """[..., cols] and [..., cols] -> [..., cols, cols]; ``x`` takes the leading shape of ``y``."""
    return x.view(y.shape)[..., :, None] + y[..., None, :]


def _turned(y: torch.Tensor, more: int) -> torch.Tensor:
    """[rows, cols], its rows seen as ``more`` + 1 dimensions in the opposite order of memory."""
    if more <= 0:
        return y
    sides = _sides(len(y), more + 1)
    order = list(reversed(range(len(sides))))
    return y.view(*reversed(sides), y.shape[-1]).permute(*order, len(sides))


def _sides(count: int, dimensions: int) -> tuple[int, ...]:
    """``count`` as so many factors above 1, all but the first as small as they go."""
    found: list[int] = []
    while len(found) < dimensions - 1:
        least = next((n for n in range(2, math.isqrt(count) + 1) if count % n == 0), 0)
        if not least:
            raise Unsupported("too few factors for a tensor of so many axes")
        found.append(least)
        count //= least
    return (count, *found)


def _walked(elements: int, axes: int, dtype: str, arena: Arena) -> torch.Tensor:
    """``elements`` that take a walk over so many axes: one run; rows with gaps between them; or
    rows of up to 128 whose order is turned round."""
    if axes == 1:
        return arena.take(elements, dtype=dtype)
    inner = _row(elements)
    rows = elements // inner
    if axes == 2:
        return arena.take(rows, 2, inner, dtype=dtype)[:, 0]
    return _turned(arena.take(rows, inner, dtype=dtype), axes - 2)


def _row(elements: int) -> int:
    """The width of a row, one of what heads have, where ``elements`` are rows at all."""
    return next((n for n in (128, 64, 32, 8, 2) if elements % n == 0 and elements > n), 1)


def _sum_of_two(op: ops.Elementwise, arena: Arena) -> Case:
    """Of two tensors, or of one and a smaller one that is repeated."""
    small = min(int(op.broadcast), op.elements) if op.inputs == 1 else op.elements
    rows = max(1, op.elements // small)
    if op.transposed:
        return _sum_across(op, rows, small, arena)
    if rows == 1:
        x = _walked(op.elements, op.axes, op.dtype, arena)
        return partial(operator.add, x, arena.take(*x.shape, dtype=op.dtype))
    if op.axes <= 2:
        x = arena.take(rows, small, dtype=op.dtype)
        return partial(operator.add, x, arena.take(small, dtype=op.dtype))
    return _repeated_within(op, rows, small, arena)


def _repeated_within(op: ops.Elementwise, rows: int, small: int, arena: Arena) -> Case:
    """[batch, tokens, heads, width] with [tokens, 1, width], as positions turn every head; of
    three axes without a batch."""
    width = _row(small)
    batch, heads = (1, rows) if op.axes == 3 else _sides(rows, 2)
    x = arena.take(batch, small // width, heads, width, dtype=op.dtype)
    return partial(operator.add, x, arena.take(small // width, 1, width, dtype=op.dtype))


def _sum_across(op: ops.Elementwise, batch: int, elements: int, arena: Arena) -> Case:
    """[batch, rows, cols] column by column plus as much, or one of ``batch``, row by row."""
    x = _across(batch, elements, op.dtype, arena)
    y = arena.take(1, *x.shape[1:], dtype=op.dtype)
    return partial(operator.add, x, y)


def _across(batch: int, elements: int, dtype: str, arena: Arena) -> torch.Tensor:
    """[batch, rows, cols], column by column in memory."""
    cols = math.gcd(elements, 768) if elements % 64 == 0 else 1
    return arena.take(batch, cols, elements // cols, dtype=dtype).transpose(1, 2)


def _outer(op: ops.Elementwise) -> tuple[int, int]:
    """[rows, cols] of the two inputs whose outer sum has [rows, cols, cols] elements."""
    cols = max(1, round(2 * op.elements / op.broadcast))
    return max(1, op.elements // cols**2), cols


def _copy(op: ops.Copy, arena: Arena) -> Case:
    if op.transposed:
        return partial(torch.Tensor.contiguous, _across(1, op.elements, op.dtype, arena))
    x = _walked(op.elements, op.axes, op.dtype, arena)
    if op.out_dtype not in (None, op.dtype):
        return partial(torch.Tensor.to, x, getattr(torch, str(op.out_dtype)))
    return partial(torch.clone if op.axes == 1 else torch.Tensor.contiguous, x)


POINTWISE: dict[str, Callable[..., Case]] = {
    "elementwise": _elementwise,
    "copy": _copy,
}
