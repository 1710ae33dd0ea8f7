"""Products: matrix products, grouped ones and convolutions, with their gradients.

FLOPs are those of ``torch.utils.flop_counter`` to the integer. Where one operator of ours cannot
hold the bytes too, a second one holds what is left.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from calib.trace.rules.rows import Part, Row, Rule, Size, at_least
from model import ops
from model.ops import REST, Operator

Operators = tuple[Operator, ...]


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


def addbmm(row: Row) -> Operators:
    """The sum over the batch: one product with the batch in its depth."""
    (batch, m, k), n = row.given["batch1"].shape, row.given["batch2"].shape[2]
    op = ops.Matmul(m, n, batch * k, dtype=row.given["batch1"].dtype)
    return with_addend(op, row.given["self"])


def addmv(row: Row) -> Operators:
    """[m, k] x [k]; as many are added."""
    a, b = row.given["mat"], row.given["vec"]
    op = ops.Matmul(a.shape[0], 1, b.numel, dtype=a.dtype)
    addend = row.given["self"]
    return op, ops.Other(REST, addend.nbytes, arithmetic=op.m, dtype=a.dtype)


def linear(row: Row) -> Operators:
    """Of a backend that keeps it whole: [..., k] x [n, k]."""
    given = row.given
    x, w = given["input"] if "input" in given else given["self"], given["weight"]
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


def nested(row: Row) -> tuple[Operator | Part, ...]:
    """matmul of nested tensors, by their mean length."""
    a, b = row.given["self"], row.given["other"]
    (m, k), n, batch = a.shape[-2:], b.shape[-1], math.prod(a.shape[:-2])
    op = ops.Matmul(m, n, k, batch, a.dtype, other(b, a))
    return (op, at_least(row)) if a.ragged and b.ragged else (op,)


def other(b: Size, a: Size) -> str | None:
    return b.dtype if b.dtype != a.dtype else None


def with_addend(op: ops.Matmul, addend: Size) -> Operators:
    """A vector of n is a bias; whatever else is added is read beside the product."""
    if addend.distinct == op.n and addend.dtype == op.dtype:
        return (ops.Matmul(**{**vars(op), "bias": True}),)
    added = op.batch * op.m * op.n
    return op, ops.Other(REST, addend.nbytes, arithmetic=added, dtype=op.dtype)


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


def convolution(row: Row) -> Operators:
    given = row.given
    x = given["input"] if "input" in given else given["self"]
    return (conv(row, x, given["weight"], row.out.shape),)


def convolution_added(row: Row) -> Operators:
    """Another map is added on the way."""
    z = row.given["z"]
    (op,) = convolution(row)
    return op, ops.Other(REST, z.nbytes, arithmetic=z.numel, dtype=z.dtype)


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
    transposed = bool(given.get("transposed")) or row.name in TRANSPOSED
    groups = x.shape[1] if row.name in BY_CHANNEL else given.get("groups", 1)
    has_bias = given.get("bias") is not None if bias is None else bias
    square = (
        len(x.shape) == 4
        and not transposed
        and weight.shape[2] == weight.shape[3]
        and len(set(given["stride"])) == len(set(given["padding"])) == 1
        and set(given.get("dilation", (1,))) == {1}
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


TRANSPOSED = (
    "cudnn_convolution_transpose",
    "miopen_convolution_transpose",
    "slow_conv_transpose2d",
    "slow_conv_transpose3d",
)
BY_CHANNEL = ("_conv_depthwise2d", "conv_depthwise3d")
CONVOLUTIONS = (
    *("convolution", "_convolution", "convolution_overrideable", "cudnn_convolution"),
    *("cudnn_convolution_relu", "mkldnn_convolution", "miopen_convolution"),
    *("miopen_convolution_relu", "miopen_depthwise_convolution", "_slow_conv2d_forward"),
    *("slow_conv_dilated2d", "slow_conv_dilated3d", "slow_conv3d_forward"),
    *TRANSPOSED,
    *BY_CHANNEL,
)
RULES: dict[str, Rule] = {
    "mm": matmul,
    "addmm": addmm,
    "_addmm_activation": addmm,
    "bmm": bmm,
    "baddbmm": baddbmm,
    "addbmm": addbmm,
    "matmul": nested,
    "addmv": addmv,
    "linear": linear,
    "mkldnn_linear": linear,
    **dict.fromkeys(("mv", "dot", "vdot"), vector_product),
    "_grouped_mm": grouped,
    **dict.fromkeys(CONVOLUTIONS, convolution),
    "convolution_backward": convolution_backward,
    **dict.fromkeys(
        ("cudnn_convolution_add_relu", "miopen_convolution_add_relu"), convolution_added
    ),
}
