"""What works row by row: norms, softmax, sums, look-ups."""

from __future__ import annotations

import operator
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F

from calib.measure.cases.arena import Arena, Case
from model import ops


def _norm(op: ops.Norm, arena: Arena) -> Case:
    x = _matrix(arena, op.rows, op.cols, op.dtype, op.transposed)
    w = arena.take(op.cols, dtype=op.dtype)
    if op.kind == "layernorm":
        b = arena.take(op.cols, dtype=op.dtype)
        return partial(F.layer_norm, x, (op.cols,), w, b)
    return partial(rmsnorm, x, w)


def rmsnorm(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    """As the models write it: eight operators, in float32 between two casts."""
    wide = x.to(torch.float32)
    wide = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + 1e-6)
    return w * wide.to(x.dtype)


def _matrix(arena: Arena, rows: int, cols: int, dtype: str, transposed: bool) -> torch.Tensor:
    """[rows, cols], in memory row by row or column by column."""
    if transposed:
        return arena.take(cols, rows, dtype=dtype).t()
    return arena.take(rows, cols, dtype=dtype)


def _softmax(op: ops.Softmax, arena: Arena) -> Case:
    x = arena.take(op.rows, op.cols, dtype=op.dtype)
    out = getattr(torch, op.out_dtype or op.dtype)
    return partial(F.softmax, x, -1, 3, out)  # 3: how deep a warning points


def _gather(op: ops.Gather, arena: Arena) -> Case:
    table = arena.take(max(64, op.rows), op.cols, dtype=op.dtype)
    index = torch.randint(len(table), (op.rows,), generator=arena.generator).to(arena.device)
    return partial(operator.getitem, table, index)


def _reduction(op: ops.Reduction, arena: Arena) -> Case:
    """Over few numbers, as over the experts of a token, from rows apart; over many along a row."""
    if op.out_dtype == "int64":
        return partial(torch.argmax, arena.take(op.rows, op.cols, dtype=op.dtype), -1)
    if op.cols <= _FEW:
        return partial(torch.sum, arena.take(op.cols, op.rows, dtype=op.dtype), 0)
    return partial(torch.sum, arena.take(op.rows, op.cols, dtype=op.dtype), -1)


_FEW = 16


ROWS: dict[str, Callable[..., Case]] = {
    "norm": _norm,
    "softmax": _softmax,
    "reduction": _reduction,
    "gather": _gather,
}
