"""Products whose factors are narrow: float8 and float4 with scales, packed int8 and int4.

``dtype`` of such a product is what the units multiply: of two narrow factors the narrow type, of
narrow weights beside wide activations the wide one; ``weight_dtype`` says how wide the weights lie
in memory, ``out_dtype`` how wide the result is. Scales and zero points are the rest, which belongs
to the product's own launch.
"""

from __future__ import annotations

from typing import Any

from calib.trace.rules.products import tokens_and_top_k
from calib.trace.rules.rows import Row, Rule, Size
from model import ops
from model.ops import REST, Operator

Operators = tuple[Operator, ...]

PAIRS = {"float4_e2m1fn_x2": "float4_e2m1fn"}
"""Types of which one element holds two numbers of the reduced dimension."""


def unpaired(a: Size, dimension: int) -> tuple[tuple[int, ...], str]:
    """Shape and type of the numbers themselves, which lie in pairs along ``dimension``."""
    if a.dtype not in PAIRS:
        return a.shape, a.dtype
    shape = list(a.shape)
    shape[dimension] *= 2
    return tuple(shape), PAIRS[a.dtype]


def with_rest(row: Row, op: Operator, more: Any = None) -> Operators:
    """``op``, and what the row moves beside it."""
    rest = row.read + row.written - op.bytes if more is None else more
    return (op, ops.Other(REST, rest, dtype=row.out.dtype)) if rest > 0 else (op,)


def scaled(row: Row) -> Operators:
    """_scaled_mm, _scaled_mm_v2, _int_mm: [m, k] x [k, n]."""
    (m, k), dtype = unpaired(row.given["self"], 1)
    (_, n), other = unpaired(row.given["mat2"], 0)
    wide = row.out.dtype if row.out.dtype != dtype else None
    narrow = other if other != dtype else None
    return with_rest(row, ops.Matmul(m, n, k, 1, dtype, narrow, out_dtype=wide))


def scaled_grouped(row: Row) -> Operators:
    """_scaled_grouped_mm: rows sorted by group against one matrix a group, or one matrix a group
    from rows of both; of the weights only those touched are read."""
    (a, dtype), (b, other) = unpaired(row.given["self"], -1), unpaired(row.given["mat2"], -2)
    wide = other if other != dtype else None
    op: Operator
    if len(a) == len(b) == 3:
        op = ops.Matmul(a[1], b[2], a[2], a[0], dtype, wide)
    elif len(a) == len(b) == 2:
        tokens, top_k = tokens_and_top_k(row, a[1])
        groups = row.out.shape[0]
        op = ops.GroupedMatmulWeightGradient(tokens, groups, top_k, b[1], a[0], dtype)
    else:
        rows, groups = (a[0], b[0]) if len(b) == 3 else (b[1], a[0])
        n, k = (b[2], b[1]) if len(b) == 3 else (a[1], a[2])
        tokens, top_k = tokens_and_top_k(row, rows)
        op = ops.GroupedMatmul(tokens, groups, top_k, n, k, dtype, weight_dtype=wide)
    beside = [size for size in row.inputs if size not in (row.given["self"], row.given["mat2"])]
    more = sum(size.nbytes for size in beside) + row.written - op.bytes_written
    return with_rest(row, op, more)


def weight_only(bits: str, name: str = "self") -> Rule:
    """A product of activations with weights of ``bits`` that are widened on the way: packed, so
    that n is read off the result. Scales and zero points are the rest."""

    def rule(row: Row) -> Operators:
        x: Size = row.given[name]
        m, k, n = x.numel // x.shape[-1], x.shape[-1], row.out.shape[-1]
        op = ops.Matmul(m, n, k, dtype=x.dtype, weight_dtype=bits)
        tensors = [size for key, size in row.given.items() if key in SCALES and size is not None]
        more = sum(size.nbytes for size in tensors) + row.written - op.bytes_written
        return with_rest(row, op, more)

    return rule


SCALES = ("scales", "scale", "qScaleAndZeros", "qScale", "qZeros", "bias")


def dynamic(name: str, weights: str) -> Rule:
    """Activations are made int8 on the way, and multiplied with weights that are int8, or are
    widened to it: the units are those of int8, the memory that of what is given."""

    def rule(row: Row) -> Operators:
        x: Size = row.given[name]
        m, k, n = x.numel // x.shape[-1], x.shape[-1], row.out.shape[-1]
        weight_dtype = weights if weights != "int8" else None
        op = ops.Matmul(m, n, k, dtype="int8", weight_dtype=weight_dtype)
        more = x.nbytes + row.written - op.bytes + op.weight_bytes_read
        return with_rest(row, op, more)

    return rule


QUANTISED = (
    *("linear", "linear_relu", "linear_dynamic", "linear_relu_dynamic", "linear_leaky_relu"),
    *("linear_tanh", "linear_with_input_q_dq_qweight_dq_output_fp32"),
)
RULES: dict[str, Rule] = {
    **dict.fromkeys(("_scaled_mm", "_scaled_mm_v2", "_int_mm"), scaled),
    **dict.fromkeys(("_scaled_grouped_mm", "_scaled_grouped_mm_v2"), scaled_grouped),
    "_weight_int8pack_mm": weight_only("int8"),
    "_weight_int4pack_mm": weight_only("int4"),
    "_weight_int4pack_mm_for_cpu": weight_only("int4"),
    "_weight_int4pack_mm_with_scales_and_zeros": weight_only("int4"),
    "_mixed_dtypes_linear": weight_only("int8", "input"),
    "_dyn_quant_matmul_4bit": dynamic("inp", "int4"),
    **{f"quantized::{name}": dynamic("X", "int8") for name in QUANTISED},
    "quantized::linear_dynamic_fp16": weight_only("float16", "X"),
    **dict.fromkeys(
        ("onednn::qlinear_pointwise", "onednn::qlinear_pointwise.tensor"), dynamic("qx", "int8")
    ),
}
