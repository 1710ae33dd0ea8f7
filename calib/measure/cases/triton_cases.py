"""From an operator to a call of our own kernels, on the same data as torch's (``cases``)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from calib.measure.cases.arena import Arena, Case, Unsupported
from calib.measure.cases.products import group_ends
from kernels import attention, attention_decode, conv, mlp, norm, stream
from model import ops
from model.ops import Operator


def triton_cases(op: Operator, arena: Arena, copies: int = 1) -> list[Case]:
    """``copies`` of a call of our kernel for ``op``. Raises ``Unsupported`` where there is none."""
    make = _MAKERS.get(op.operator)
    if make is None:
        name = op.name if isinstance(op, ops.Other) else op.operator
        raise Unsupported(f"no kernel of ours for {name}")
    return [make(op, arena) for _ in range(copies)]


def _matmul(op: ops.Matmul, arena: Arena) -> Case:
    if op.batch > 1 or op.weight_dtype not in (None, op.dtype):
        raise Unsupported("our product takes one matrix, and weights in the dtype of its input")
    _not_cut(op)
    stored = "float32" if op.dtype == "tf32" else op.dtype
    x = arena.take(op.m, op.k, dtype=stored)
    w = arena.take(op.n, op.k, dtype=stored)
    b = arena.take(op.n, dtype=stored) if op.bias else None
    return partial(mlp.linear, x, w, b)


def _not_cut(op: Operator) -> None:
    """A product whose factors are cut to tf32 is no sample of float32: it runs at another peak."""
    dtype = vars(op)["dtype"]
    if dtype == "float32":
        raise Unsupported("our kernels multiply float32 as tf32: a product of tf32 is what they do")
    if dtype == "int8":
        raise Unsupported("our products are of floating point")


def _grouped_matmul(op: ops.GroupedMatmul, arena: Arena) -> Case:
    _not_cut(op)
    x = arena.take(op.rows, op.k, dtype=op.dtype)
    w = arena.take(op.experts, op.n, op.k, dtype=op.dtype)
    return partial(mlp.grouped_linear, x, w, group_ends(op, arena))


def _attention(op: ops.Attention, arena: Arena) -> Case:
    if op.mask:
        raise Unsupported("our attention takes a bias of [batch, heads, q_len, kv_len], no mask")
    if op.value_dim != op.head_dim:
        raise Unsupported("our attention takes values that are as wide as keys")
    _not_cut(op)
    q = arena.take(op.batch, op.heads, op.q_len, op.head_dim, dtype=op.dtype)
    k = arena.take(op.batch, op.kv_heads, op.kv_len, op.head_dim, dtype=op.dtype)
    v = arena.take(op.batch, op.kv_heads, op.kv_len, op.head_dim, dtype=op.dtype)
    if op.q_len == 1 and not op.bias:
        return partial(attention_decode.decode_attention, q, k, v, op.window)
    shape = (op.batch, op.heads, op.q_len, op.kv_len)
    bias = arena.take(*shape, dtype=op.dtype) if op.bias else None
    return partial(attention.attention, q, k, v, causal=op.causal, window=op.window, bias=bias)


def _conv2d(op: ops.Conv2d, arena: Arena) -> Case:
    """Channels last, but for an image cut into patches, which comes as images do."""
    _not_cut(op)
    b = arena.take(op.out_channels, dtype=op.dtype) if op.bias else None
    inside, outside = (op.height, op.width, op.in_channels), (op.kernel, op.kernel)
    if op.stride == op.kernel and op.padding == 0 and op.kernel > 1:
        x = arena.take(op.batch, op.in_channels, op.height, op.width, dtype=op.dtype)
        w = arena.take(op.out_channels, op.in_channels // op.groups, *outside, dtype=op.dtype)
    else:
        x = arena.take(op.batch, *inside, dtype=op.dtype).permute(0, 3, 1, 2)
        w = arena.take(op.out_channels, *outside, op.in_channels // op.groups, dtype=op.dtype)
        w = w.permute(0, 3, 1, 2)
    return partial(conv.conv2d, x, w, b, op.stride, op.padding, op.groups)


def _norm(op: ops.Norm, arena: Arena) -> Case:
    if op.transposed:
        raise Unsupported("our norms read row by row")
    x = arena.take(op.rows, op.cols, dtype=op.dtype)
    w = arena.take(op.cols, dtype=op.dtype)
    if op.kind == "rmsnorm":
        return partial(norm.rms_norm, x, w)
    return partial(norm.layer_norm, x, w, arena.take(op.cols, dtype=op.dtype))


def _softmax(op: ops.Softmax, arena: Arena) -> Case:
    if op.out_dtype not in (None, op.dtype):
        raise Unsupported("our softmax writes the dtype that it reads")
    return partial(norm.softmax, arena.take(op.rows, op.cols, dtype=op.dtype))


def _elementwise(op: ops.Elementwise, arena: Arena) -> Case:
    """c = s a and c = a + b are what we have of pointwise maps."""
    plain = not (op.broadcast or op.transposed) and op.outputs == op.flops_per_element == 1
    if op.dtype == "bool":
        raise Unsupported("our sum adds numbers: of bool, torch's is a logical or")
    if not plain or op.dtype == "int64":
        raise Unsupported("of pointwise maps we have a scaled copy and a sum, of floating point")
    if op.inputs not in (1, 2) or op.out_dtype not in (None, op.dtype):
        raise Unsupported("of pointwise maps we have those of one or two inputs, in their dtype")
    x = arena.take(op.elements, dtype=op.dtype)
    if op.inputs == 1:
        return partial(stream.scale, x, 2.0)
    return partial(stream.add, x, arena.take(op.elements, dtype=op.dtype))


def _copy(op: ops.Copy, arena: Arena) -> Case:
    if op.out_dtype not in (None, op.dtype) or op.out_elements is not None:
        raise Unsupported("our copy neither casts nor pads")
    return partial(stream.copy, arena.take(op.elements, dtype=op.dtype))


_MAKERS: dict[str, Callable[..., Case]] = {
    "matmul": _matmul,
    "grouped_matmul": _grouped_matmul,
    "attention": _attention,
    "conv2d": _conv2d,
    "norm": _norm,
    "softmax": _softmax,
    "elementwise": _elementwise,
    "copy": _copy,
}
