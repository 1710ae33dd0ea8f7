"""Products, grouped products and attention as eager torch calls them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F

from calib.measure.cases.arena import Arena, Case, Unsupported
from model import ops


def _matmul(op: ops.Matmul, arena: Arena) -> Case:
    if op.weight_dtype not in (None, op.dtype):
        raise Unsupported(f"no product of {op.dtype} with {op.weight_dtype} weights")
    if op.batch > 1:
        x = arena.take(op.batch, op.m, op.k, dtype=op.dtype)
        y = arena.take(op.batch, op.n, op.k, dtype=op.dtype).transpose(1, 2)
        return partial(torch.bmm, x, y)
    product, stored = F.linear, op.dtype
    if op.dtype in _NARROW:
        if arena.device == "cpu" or op.bias:
            raise Unsupported(f"products of {op.dtype} run on a card, without a bias")
        product, stored = _NARROW[op.dtype]
    x = arena.take(op.m, op.k, dtype=stored)
    w = arena.take(op.n, op.k, dtype=stored)
    if op.dtype in _NARROW:
        return partial(product, x, w)
    b = arena.take(op.n, dtype=op.dtype) if op.bias else None
    return partial(product, x, w, b)


def product_tf32(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    """[m, k] x [n, k] of float32, multiplied as tf32."""
    matmul = torch.backends.cuda.matmul
    before, matmul.fp32_precision = matmul.fp32_precision, "tf32"
    try:
        return F.linear(x, w)
    finally:
        matmul.fp32_precision = before


def product_float8(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    """[m, k] x [n, k] of float8, both scaled by one, into bfloat16."""
    one = torch.ones((), device=x.device)
    return torch._scaled_mm(x, w.t(), scale_a=one, scale_b=one, out_dtype=torch.bfloat16)


def product_int8(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    """[m, k] x [n, k] of int8 into int32."""
    return torch._int_mm(x, w.t())


_NARROW: dict[str, tuple[Callable[..., torch.Tensor], str]] = {
    "tf32": (product_tf32, "float32"),
    "float8_e4m3fn": (product_float8, "float8_e4m3fn"),
    "int8": (product_int8, "int8"),
}
"""Products that torch has a function of their own for, and the dtype that their inputs are in."""


def _grouped_matmul(op: ops.GroupedMatmul, arena: Arena) -> Case:
    x = arena.take(op.rows, op.k, dtype=op.dtype)
    w = arena.take(op.experts, op.n, op.k, dtype=op.dtype).transpose(1, 2)
    grouped = getattr(F, "grouped_mm", None) or torch._grouped_mm
    return partial(grouped, x, w, offs=group_ends(op, arena))


def group_ends(op: ops.GroupedMatmul, arena: Arena) -> torch.Tensor:
    """[experts] int32, where each expert's rows end: as many are touched as ``op`` says, at random,
    as unevenly as a router that touches no more."""
    touched = min(op.experts, op.rows, max(1, round(float(op.experts_read))))
    chosen = torch.randperm(op.experts, generator=arena.generator)[:touched]
    loads = torch.zeros(op.experts, dtype=torch.int32)
    given = ops.whole_loads(op.experts, op.top_k, op.tokens, touched)
    loads[chosen] = torch.tensor(given, dtype=torch.int32)
    return loads.cumsum(0, dtype=torch.int32).to(arena.device)


def _attention(op: ops.Attention, arena: Arena) -> Case:
    causal = op.causal and op.q_len > 1  # one query sees all keys
    if op.window is not None or (causal and op.q_len != op.kv_len):
        raise Unsupported("scaled_dot_product_attention has no window and no offset causal mask")

    def heads(length: int, count: int, width: int) -> torch.Tensor:
        return arena.take(op.batch, length, count, width, dtype=op.dtype).transpose(1, 2)

    q, k, v = (
        heads(op.q_len, op.heads, op.head_dim),
        heads(op.kv_len, op.kv_heads, op.head_dim),
        heads(op.kv_len, op.kv_heads, op.value_dim),
    )
    shape = (op.batch, op.heads if op.bias else 1, op.q_len, op.kv_len)
    bias = arena.take(*shape, dtype=op.dtype) if op.bias or op.mask else None
    gqa = op.heads != op.kv_heads
    attend = F.scaled_dot_product_attention
    return partial(attend, q, k, v, attn_mask=bias, is_causal=causal, enable_gqa=gqa)


PRODUCTS: dict[str, Callable[..., Case]] = {
    "matmul": _matmul,
    "grouped_matmul": _grouped_matmul,
    "attention": _attention,
}
