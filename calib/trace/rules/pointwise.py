"""Maps over elements, reductions over some of their dimensions, norms and softmax."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from calib.trace.rules import moves
from calib.trace.rules.layouts import axes
from calib.trace.rules.rows import Row, Rule, Size
from model import ops
from model.linear import ACTIVATION_FLOPS, SIGMOID_FLOPS
from model.ops import Operator

Operators = tuple[Operator, ...]

FLOPS = {
    **{"silu": ACTIVATION_FLOPS["silu"], "gelu": ACTIVATION_FLOPS["gelu"]},
    **{"sigmoid": SIGMOID_FLOPS, "tanh": SIGMOID_FLOPS},
    **{
        "silu_backward": 2 * ACTIVATION_FLOPS["silu"],
        "gelu_backward": 2 * ACTIVATION_FLOPS["gelu"],
    },
    **{"addr": 3, "_thnn_fused_lstm_cell": 5 * SIGMOID_FLOPS + 8},
    "_thnn_fused_gru_cell": 3 * SIGMOID_FLOPS + 6,
    **{"addcmul": 3, "addcdiv": 3, "lerp": 3},
    **{"_softmax_backward_data": 4, "_log_softmax_backward_data": 4},
}
"""Elementary operations an element, where it is not one."""


def elementwise(row: Row) -> Operators:
    return (mapped(row),)


def mapped(row: Row, walked: Any = 0) -> ops.Elementwise:
    """Inputs of the result's form are ``inputs``; all others together are ``broadcast``.

    An operator has one input type: that of its largest input. What is of another type, a mask
    written beside the result too, is counted in elements of that one. A tensor given twice, as in
    ``x * x``, is read once.
    """
    elements = row.out.numel
    inputs = tuple(size for size in row.inputs if not size.again)
    main = max(inputs, key=lambda s: s.nbytes, default=row.out)
    dtype = main.dtype
    full = [s for s in inputs if s.distinct == elements and s.dtype == dtype]
    rest = sum(s.nbytes for s in inputs) - elements * len(full) * ops.item_bytes(dtype)
    results = [s for s in row.outputs if s.dtype == row.out.dtype]
    rest += sum(s.nbytes for s in row.outputs if s.dtype != row.out.dtype)
    return ops.Elementwise(
        elements,
        inputs=len(full),
        outputs=len(results),
        flops_per_element=FLOPS.get(row.base, 1),
        dtype=dtype,
        broadcast=whole(rest / ops.item_bytes(dtype)),
        out_dtype=row.out.dtype if row.out.dtype != dtype else None,
        transposed=len({s.transposed for s in inputs if len(s.shape) > 1}) > 1,
        axes=axes(row.out, inputs),
        walked=walked,
    )


def whole(value: Any) -> Any:
    return int(value) if value == int(value) else value


def reduction(row: Row) -> Operators:
    """[rows, cols] to [rows]; where values and their places are returned, bytes are all we say."""
    x = row.given["self"]
    if "other" in row.given:  # the larger of two
        return elementwise(row)
    if len({size.dtype for size in row.outputs}) > 1:
        return moves.other(row)
    rows = row.out.numel
    return (
        ops.Reduction(
            rows,
            x.numel // rows,
            dtype=x.dtype,
            out_dtype=row.out.dtype if row.out.dtype != x.dtype else None,
            outputs=len(row.outputs),
        ),
    )


def softmax(row: Row) -> Operators:
    x = row.given["self"]
    cols = columns(x, row)
    wide = row.out.dtype if row.out.dtype != x.dtype else None
    return (ops.Softmax(x.numel // cols, cols, dtype=x.dtype, out_dtype=wide),)


def softmax_gradient(row: Row) -> Operators:
    x = row.given["grad_output"]
    return (mapped(row, walked=x.numel // columns(x, row)),)


def columns(x: Size, row: Row) -> int:
    return x.shape[row.given["dim"]] if x.shape else 1


def row_norm(row: Row) -> Operators:
    """native_layer_norm, _fused_rms_norm: over the last dimensions."""
    x: Size = row.given["input"]
    cols = math.prod(row.given["normalized_shape"])
    kind = "layernorm" if row.name == "native_layer_norm" else "rmsnorm"
    return (ops.Norm(x.numel // cols, cols, kind, x.dtype, x.transposed),)


def batch_norm(row: Row) -> Operators:
    """Mean, deviation, scale and shift of each channel; in training the map's own moments, which
    another kernel sums first."""
    x: Size = row.given["input"]
    vectors = sum(isinstance(row.given.get(name), Size) for name in BATCH_VECTORS)
    maps, channels = x.shape[:2]
    planes = maps * channels if maps > 1 and not x.transposed else None
    norm = ops.ChannelNorm(x.numel, channels, "batchnorm", x.dtype, vectors, planes)
    if not row.given.get("training", row.base in ALWAYS_BY_MOMENTS):
        return (norm,)
    wide = row.outputs[-1].dtype if row.outputs[-1].dtype != x.dtype else None
    moments = ops.Reduction(channels, x.numel // channels, x.dtype, wide, 2, alone=True)
    return moments, norm


def group_norm(row: Row) -> Operators:
    x: Size = row.given["input"]
    vectors = sum(isinstance(row.given.get(name), Size) for name in ("weight", "bias"))
    return (ops.ChannelNorm(x.numel, row.given["C"], "groupnorm", x.dtype, vectors),)


def loss(row: Row) -> Operators:
    """A number for each pair of elements, written, and the sum or mean of all, another kernel; a
    weight is multiplied on between them."""
    x: Size = row.given["self"]
    maps = [2] * (1 + isinstance(row.given.get("weight"), Size))
    return reduced(row, x, maps)


def loss_of_logits(row: Row) -> Operators:
    """Written out: the logarithm of the sigmoid, one less the target, their products and sum."""
    x: Size = row.given["self"]
    weights = sum(isinstance(row.given.get(name), Size) for name in ("weight", "pos_weight"))
    return reduced(row, x, [1, 1, 2, 2, *[2] * weights])


def soft_margin_loss(row: Row) -> Operators:
    """Written out: the target negated, times the input, its exponential, one and the logarithm."""
    return reduced(row, row.given["self"], [1, 2, 1, 1])


def soft_margin_gradient(row: Row) -> Operators:
    """The same up to the exponential; that times the target, scaled, over one more than itself,
    times the gradient."""
    return mapped_in_turn(row.given["self"], [1, 2, 1, 2, 1, 1, 2, 2])


def reduced(row: Row, x: Size, maps: Sequence[int]) -> Operators:
    """Maps of so many inputs each, one after the other, and their reduction where it is asked."""
    each = mapped_in_turn(x, maps)
    if not row.given.get("reduction", 1):
        return each
    return *each, ops.Reduction(1, x.numel, dtype=x.dtype)


def mapped_in_turn(x: Size, maps: Sequence[int]) -> Operators:
    return tuple(
        ops.Elementwise(x.numel, n, flops_per_element=LOSS_FLOPS, dtype=x.dtype) for n in maps
    )


LOSS_FLOPS = 2
"""Of a pair: a difference and its square or size."""


def norm_gradient(row: Row) -> Operators:
    """Two kernels, each of which reads the input and the gradient of the result: one for the
    vectors (scale and shift, or a channel's sums, which the other needs), one for the elements.
    A norm over rows without a scale has the second alone: it sums a row as it goes."""
    x: Size = row.given["input"]
    gradient: Size = row.given["grad_out" if "grad_out" in row.given else "grad_output"]
    vectors = [size for size in row.outputs if size.shape != x.shape]
    elements = [size for size in row.outputs if size.shape == x.shape]
    read, parts, by_rows = x.nbytes + gradient.nbytes, [], row.base in ROW_NORM_GRADIENTS
    if vectors or not by_rows:
        parts.append((read, sum(size.nbytes for size in vectors), 0))
    if elements:
        rows = x.numel // math.prod(row.given["normalized_shape"]) if by_rows else 0
        parts.append((row.read, sum(size.nbytes for size in elements), rows))
    return tuple(
        ops.Other(row.base, read, written, x.numel, x.dtype, walked=rows)
        for read, written, rows in parts
    )


ROW_NORM_GRADIENTS = ("native_layer_norm_backward", "_fused_rms_norm_backward")
NORM_GRADIENTS = (
    *(*ROW_NORM_GRADIENTS, "native_group_norm_backward", "native_batch_norm_backward"),
    *("cudnn_batch_norm_backward", "batch_norm_backward", "miopen_batch_norm_backward"),
)

BATCH_VECTORS = ("weight", "bias", "running_mean", "running_var")

ALWAYS_BY_MOMENTS = ("_batch_norm_with_update",)
BATCH_NORMS = (
    *("native_batch_norm", "_native_batch_norm_legit_no_training", "cudnn_batch_norm"),
    *("_native_batch_norm_legit", "_batch_norm_with_update"),
)
LOSSES = ("mse_loss", "smooth_l1_loss", "huber_loss", "binary_cross_entropy")
ACTIVATIONS = (
    *("elu", "glu", "hardshrink", "hardsigmoid", "hardswish", "hardtanh", "leaky_relu", "mish"),
    *("log_sigmoid", "softplus", "softshrink", "threshold", "_prelu_kernel", "rrelu_with_noise"),
)
"""Whose gradients are maps."""
MAPS = (
    *("gelu_backward", "silu_backward", "native_dropout", "glu"),
    *("floor_divide", "masked_fill", "where", "native_dropout_backward", "hardswish", "rsub"),
    *("addr", "_thnn_fused_lstm_cell", "_thnn_fused_gru_cell"),
    *("log_sigmoid_forward", "polar", "complex", "__and__", "__or__", "__xor__"),
    *(f"{name}_backward" for name in (*LOSSES, *ACTIVATIONS)),
    *("_prelu_kernel", "rrelu_with_noise", "linalg_cross"),
)
"""Pointwise though torch has no tag that says so."""
REDUCTIONS = (
    *("sum", "mean", "amax", "amin", "max", "min", "prod", "any", "all", "argmax", "argmin"),
    *("var", "std", "var_mean", "std_mean", "aminmax", "norm", "linalg_vector_norm", "logsumexp"),
    *("median", "count_nonzero", "nansum"),
)
RULES: dict[str, Rule] = {
    **dict.fromkeys(REDUCTIONS, reduction),
    **dict.fromkeys(MAPS, elementwise),
    **dict.fromkeys(("_softmax", "_log_softmax", "_safe_softmax"), softmax),
    **dict.fromkeys(("_softmax_backward_data", "_log_softmax_backward_data"), softmax_gradient),
    **dict.fromkeys(("native_layer_norm", "_fused_rms_norm"), row_norm),
    **dict.fromkeys(BATCH_NORMS, batch_norm),
    **dict.fromkeys(NORM_GRADIENTS, norm_gradient),
    "native_group_norm": group_norm,
    **dict.fromkeys(LOSSES, loss),
    "binary_cross_entropy_with_logits": loss_of_logits,
    "soft_margin_loss": soft_margin_loss,
    "soft_margin_loss_backward": soft_margin_gradient,
}


def rms_norms(rows: Sequence[Row]) -> list[tuple[int, int, ops.Norm]]:
    """Spans [first, end) of ``rows`` that are one root-mean-square norm, written out.

    One call of one module that squares, means, adds, takes the inverse root and multiplies, with
    casts around it or not, and does nothing else of size. The norm reads the span's input and the
    scale, and writes its last result.
    """
    found, start = [], 0
    while start < len(rows):
        end = start
        while end < len(rows) and rows[end].module == rows[start].module:
            end += 1
        span = rows[start:end]
        norm = rms_norm(span) if 5 <= len(span) <= LONGEST else None
        if norm is not None:
            found.append((start, end, norm))
        start = end
    return found


LONGEST = 12
"""Operators of the longest way to write one: Gemma's, that adds 1 to the scale, has 10."""
CORE = ("pow", "mean", "add", "rsqrt", "mul")
AROUND = ("_to_copy", "add", "mul")


def rms_norm(span: Sequence[Row]) -> ops.Norm | None:
    names = [row.base for row in span]
    first = next((i for i, name in enumerate(names) if name == "pow"), 0)
    others = names[:first] + names[first + len(CORE) :]
    if tuple(names[first : first + len(CORE)]) != CORE or not set(others) <= set(AROUND):
        return None
    source, result = span[0].given.get("self"), span[-1].out
    if not isinstance(source, Size) or source.numel != result.numel or not source.shape:
        return None
    if source.dtype != result.dtype:  # a scale of a wider type: its product is wide too
        return None
    cols = source.shape[-1]
    return ops.Norm(source.numel // cols, cols, "rmsnorm", dtype=source.dtype)
