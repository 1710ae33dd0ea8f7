"""Products: matrix products, grouped ones, attention and convolutions, with their gradients.

FLOPs are those of ``torch.utils.flop_counter`` to the integer. Where one operator of ours cannot
hold the bytes too, a second one holds what is left.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from calib.trace.rules.rows import Row, Rule, Size
from model import ops
from model.ops import Operator

Operators = tuple[Operator, ...]

REST = "rest"
"""Name of bytes that belong to the operator before them; launched with it."""


def matmul(row: Row) -> Operators:
    """mm: [m, k] x [k, n]."""
    a, b = row.given["self"], row.given["mat2"]
    return (product(a, b),)


def addmm(row: Row) -> Operators:
    return with_addend(product(row.given["mat1"], row.given["mat2"]), row.given["self"])


def bmm(row: Row) -> Operators:
    """[b, m, k] x [b, k, n]; a factor that all of the batch share is read once."""
    return (batched(row.given["self"], row.given["mat2"]),)


def baddbmm(row: Row) -> Operators:
    return with_addend(batched(row.given["batch1"], row.given["batch2"]), row.given["self"])


def linear(row: Row) -> Operators:
    """Of a backend that keeps it whole: [..., k] x [n, k]."""
    x, w = row.given["input"], row.given["weight"]
    bias = row.given.get("bias") is not None
    m, k = x.numel // x.shape[-1], x.shape[-1]
    return (ops.Matmul(m, w.shape[0], k, dtype=x.dtype, weight_dtype=other(w, x), bias=bias),)


def vector_product(row: Row) -> Operators:
    """mv, dot: what torch's counter leaves out, a product still."""
    a, b = row.inputs[-2:]
    return (ops.Matmul(a.numel // b.numel, 1, b.numel, dtype=a.dtype),)


def product(a: Size, b: Size) -> ops.Matmul:
    return ops.Matmul(a.shape[0], b.shape[1], a.shape[1], dtype=a.dtype, weight_dtype=other(b, a))


def batched(a: Size, b: Size) -> ops.Matmul:
    batch, m, k = a.shape
    n = b.shape[2]
    if batch > 1 and b.expanded[0]:
        return ops.Matmul(batch * m, n, k, dtype=a.dtype, weight_dtype=other(b, a))
    if batch > 1 and a.expanded[0]:
        return ops.Matmul(batch * n, m, k, dtype=b.dtype, weight_dtype=other(a, b))
    return ops.Matmul(m, n, k, batch, dtype=a.dtype, weight_dtype=other(b, a))


def other(b: Size, a: Size) -> str | None:
    return b.dtype if b.dtype != a.dtype else None


def with_addend(op: ops.Matmul, addend: Size) -> Operators:
    """A vector of n is a bias; whatever else is added is read beside the product."""
    if addend.distinct == op.n and addend.dtype == op.dtype:
        return (ops.Matmul(**{**vars(op), "bias": True}),)
    added = op.batch * op.m * op.n
    return op, ops.Other(REST, addend.nbytes, arithmetic=added, dtype=op.dtype)


def scaled(row: Row) -> Operators:
    """Narrow factors with scales, the result in a wider type: what is wider is the rest."""
    op = product(row.given["self"], row.given["mat2"])
    more = row.read + row.written - op.bytes
    return (op, ops.Other(REST, more, dtype=row.out.dtype)) if more else (op,)


def grouped(row: Row) -> Operators:
    """Rows sorted by group against one matrix a group; or, of its gradient, one matrix a group.

    Which expert a token goes to is not known without values: ``top_k`` comes from the indices
    that the module was given, and the experts touched are then those expected under uniform
    routing. Without such indices every row is a token of its own.
    """
    a, b = row.given["self"], row.given["mat2"]
    if len(a.shape) == len(b.shape) == 3:
        return (batched(a, b),)
    if len(a.shape) == len(b.shape) == 2:  # [k, rows] x [rows, n] by group of rows
        groups = row.out.shape[0]
        tokens, top_k = tokens_and_top_k(row, a.shape[1])
        gradient = ops.GroupedMatmulWeightGradient(
            tokens, groups, top_k, n=b.shape[1], k=a.shape[0], dtype=a.dtype
        )
        return (gradient,)
    many, weights = (a, b) if len(b.shape) == 3 else (b, a)
    tokens, top_k = tokens_and_top_k(row, many.shape[0] if many is a else many.shape[1])
    k, n = weights.shape[1:] if many is a else weights.shape[:0:-1]
    return (
        ops.GroupedMatmul(
            tokens,
            weights.shape[0],
            top_k,
            n,
            k,
            dtype=many.dtype,
            weight_dtype=other(weights, many),
        ),
    )


def tokens_and_top_k(row: Row, pairs: int) -> tuple[int, int]:
    for tokens, top_k in row.routed:
        if tokens * top_k == pairs:
            return tokens, top_k
    return pairs, 1


def attention(row: Row) -> Operators:
    """[batch, heads, q_len, head_dim]; of different widths of keys and values, the mean one."""
    return (ops.Attention(**attention_shape(row)),)


def attention_backward(row: Row) -> Operators:
    """Torch's fused operators keep no scores: a fifth product computes them again."""
    return (ops.AttentionBackward(**attention_shape(row), recompute=True),)


def attention_shape(row: Row) -> dict[str, Any]:
    q, k, v = (row.given[name] for name in ("query", "key", "value"))
    batch, heads, q_len, width = q.shape
    kv_heads, kv_len = k.shape[1:3]
    added = row.given.get("attn_mask") or row.given.get("attn_bias")
    scores = batch * heads * q_len * kv_len
    return {
        "batch": batch,
        "q_len": q_len,
        "kv_len": kv_len,
        "heads": heads,
        "kv_heads": kv_heads,
        "head_dim": width if width == v.shape[3] else (width + v.shape[3]) / 2,
        "dtype": q.dtype,
        "causal": bool(row.given.get("is_causal")),
        "bias": isinstance(added, Size) and added.distinct == scores,
        "mask": isinstance(added, Size) and added.distinct != scores,
    }


def convolution(row: Row) -> Operators:
    given = row.given
    x = given["input"] if "input" in given else given["self"]
    return (conv(row, x, given["weight"], row.out.shape),)


def convolution_backward(row: Row) -> Operators:
    """Whichever of the gradients of input, weight and bias were asked for."""
    given = row.given
    output, wanted = given["grad_output"], given["output_mask"]
    plain = conv(row, given["input"], given["weight"], output.shape, bias=False)
    products = (plain,) * (bool(wanted[0]) + bool(wanted[1]))
    if not wanted[2]:
        return products
    channels = output.shape[1]
    return *products, ops.Reduction(channels, output.numel // channels, dtype=output.dtype)


def conv(
    row: Row, x: Size, weight: Size, out: Sequence[int], bias: bool | None = None
) -> ops.Conv2d | ops.Convolution:
    """The square kind where it is one; else by the positions of input, output and window."""
    given = row.given
    transposed, groups = bool(given.get("transposed")), given["groups"]
    has_bias = given.get("bias") is not None if bias is None else bias
    square = (
        len(x.shape) == 4
        and not transposed
        and weight.shape[2] == weight.shape[3]
        and len(set(given["stride"])) == len(set(given["padding"])) == 1
        and set(given["dilation"]) == {1}
    )
    (batch, channels, *positions), made = x.shape, out[1]
    if square:
        height, width = positions
        return ops.Conv2d(
            batch,
            channels,
            made,
            height,
            width,
            kernel=weight.shape[2],
            stride=given["stride"][0],
            padding=given["padding"][0],
            groups=groups,
            dtype=x.dtype,
            bias=has_bias,
            planar=channels > ops.Conv2d.few_channels and not x.transposed,
        )
    return ops.Convolution(
        batch,
        channels,
        made,
        in_positions=math.prod(positions),
        out_positions=math.prod(out[2:]),
        taps=math.prod(weight.shape[2:]),
        groups=groups,
        transposed=transposed,
        dtype=x.dtype,
        bias=has_bias,
    )


ATTENTION = (
    "_scaled_dot_product_flash_attention_for_cpu",
    "_scaled_dot_product_flash_attention",
    "_scaled_dot_product_efficient_attention",
    "_scaled_dot_product_cudnn_attention",
    "_scaled_dot_product_fused_attention_overrideable",
)
RULES: dict[str, Rule] = {
    "mm": matmul,
    "addmm": addmm,
    "bmm": bmm,
    "baddbmm": baddbmm,
    "linear": linear,
    "mv": vector_product,
    "dot": vector_product,
    "_scaled_mm": scaled,
    "_int_mm": scaled,
    "_grouped_mm": grouped,
    "convolution": convolution,
    "_convolution": convolution,
    "cudnn_convolution": convolution,
    "convolution_backward": convolution_backward,
    **dict.fromkeys(ATTENTION, attention),
    **{f"{name}_backward": attention_backward for name in ATTENTION},
}
