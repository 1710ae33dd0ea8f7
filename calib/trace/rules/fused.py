"""Operators of torch that hold a whole piece of a model: each as the parts that it executes.

What the parts of an attention layer are was read off the profiler's children of the operator on a
CPU; on a card (aten/src/ATen/native/transformers/cuda/attention.cu) attention of one input without
mask, whose weights nobody asks for, is the fused kernel.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from calib.trace.rules import moves
from calib.trace.rules.rows import Part, Row, Rule, Size, at_least
from model import ops
from model.linear import ACTIVATION_FLOPS, SIGMOID_FLOPS
from model.ops import Operator

Parts = tuple[Operator | Part, ...]

FUSED_MULTIPLE = 8
"""Of the width of a head, for the card's fused kernel."""


def self_attention(row: Row) -> Parts:
    """_native_multi_head_attention: projections, attention, the mean of the weights if asked."""
    given = row.given
    parts = multi_head(row, given["query"], given["num_head"])
    if not (given.get("need_weights") and given.get("average_attn_weights")):
        return parts
    batch, length, _ = given["query"].shape
    scores, dtype = batch * length * length, given["query"].dtype
    mean = (ops.Reduction(scores, given["num_head"], dtype), ops.Elementwise(scores, dtype=dtype))
    return *parts, *mean


def multi_head(row: Row, x: Size, heads: int) -> Parts:
    parts = of_alike(row, x, heads)
    return (*parts, at_least(row)) if x.ragged else parts


def of_alike(row: Row, x: Size, heads: int) -> Parts:
    """Of sequences of one length."""
    given, (batch, length, width), dtype = row.given, x.shape, x.dtype
    head_dim, rows = width // heads, batch * length
    last = ops.Matmul(rows, width, width, dtype=dtype, bias=True)
    fuses = (row.on_card or x.device == "cuda") and head_dim % FUSED_MULTIPLE == 0
    if fuses and given.get("mask") is None and not given.get("need_weights"):
        first = ops.Matmul(rows, 3 * width, width, dtype=dtype, bias=True)
        return first, ops.Attention(batch, length, length, heads, heads, head_dim, dtype), last
    three = 3 * rows * width
    return (
        ops.Matmul(rows, 3 * width, width, dtype=dtype),
        ops.Elementwise(three, flops_per_element=2, dtype=dtype, broadcast=3 * width, axes=4),
        ops.Matmul(length, length, head_dim, batch * heads, dtype),
        ops.Softmax(batch * heads * length, length, dtype),
        ops.Matmul(length, head_dim, length, batch * heads, dtype),
        ops.Copy(rows * width, dtype, axes=3),
        last,
    )


def encoder_layer(row: Row) -> Parts:
    """_transformer_encoder_layer_fwd: attention and two products, each with its norm and its sum.

    On a card the activation is the first product's own epilogue.
    """
    given, x = row.given, row.given["src"]
    width, inner, dtype = x.shape[-1], given["ffn_weight_1"].shape[0], x.dtype
    rows = x.numel // width
    norm = ops.Norm(rows, width, "layernorm", dtype)
    added = ops.Elementwise(rows * width, 2, dtype=dtype)
    flops = ACTIVATION_FLOPS["gelu"] if given["use_gelu"] else 1
    activation = ops.Elementwise(rows * inner, flops_per_element=flops, dtype=dtype)
    up = ops.Matmul(rows, inner, width, dtype=dtype, bias=True)
    down = ops.Matmul(rows, width, inner, dtype=dtype, bias=True)
    own_epilogue = row.on_card or x.device == "cuda"
    two = (up, down, added) if own_epilogue else (up, activation, down, added)
    attention = multi_head(row, x, given["num_heads"])
    if given["norm_first"]:
        return norm, *attention, added, norm, *two
    return *attention, added, norm, *two, norm


def bilinear(row: Row) -> Parts:
    """_trilinear as ``bilinear`` asks for it: [b, i], [o, i, j], [b, j] to [b, o].

    For each output a product with its matrix, and one of each row with its own vector.
    """
    first, weights, second = (row.given[name] for name in ("i1", "i2", "i3"))
    if (len(first.shape), len(weights.shape), len(second.shape)) != (2, 3, 2):
        return moves.unspoken(row)
    (rows, inputs), (outputs, _, others), dtype = first.shape, weights.shape, first.dtype
    return (
        Part(ops.Matmul(rows, others, inputs, dtype=dtype), outputs),
        Part(ops.Matmul(1, 1, others, rows, dtype), outputs),
        Part(ops.Elementwise(rows, 2, dtype=dtype), outputs),
    )


def euclidean(row: Row) -> Parts:
    """_euclidean_dist: |a - b|^2 as one product of [.., p, m + 2] and [.., r, m + 2]: coordinates,
    and squares and ones beside them."""
    a, b = row.given["x1"], row.given["x2"]
    (rows, depth), cols, dtype = a.shape[-2:], b.shape[-2], a.dtype
    batch = math.prod(a.shape[:-2])
    points = batch * (rows + cols)
    between = batch * rows * cols
    root = Part(ops.Elementwise(between, dtype=dtype), 2)
    return (
        ops.Elementwise(points * depth, dtype=dtype),
        ops.Reduction(points, depth, dtype),
        ops.Copy(points * (depth + 2), dtype),
        ops.Matmul(rows, cols, depth + 2, batch, dtype),
        root,
    )


def distances(row: Row) -> Parts:
    """_cdist_forward: a difference, a power and a sum for each coordinate of each pair."""
    a, b = row.given["x1"], row.given["x2"]
    pairs = row.out.numel
    arithmetic = OPERATIONS_OF_A_COORDINATE * pairs * a.shape[-1]
    return (ops.Other(row.base, a.nbytes + b.nbytes, row.written, arithmetic, a.dtype),)


OPERATIONS_OF_A_COORDINATE = 3


# Recurrent layers

GATES = (1, 1, 4, 3)
"""Of a plain layer with relu or tanh, of an LSTM and a GRU, by cuDNN's and oneDNN's number."""
LSTM = 2


@dataclass(frozen=True)
class Recurrence:
    """One layer in one direction: ``steps`` of ``rows`` sequences; of ``inputs`` to ``hidden``
    numbers, projected to ``kept`` ones where they differ; ``mode``: as in GATES."""

    steps: int
    rows: Any
    inputs: int
    hidden: int
    kept: int
    mode: int
    dtype: str

    def parts(self) -> Iterator[Part]:
        """Products of the inputs of all steps at once, then step by step those of the state, the
        gates, and the projection. The whole is launched once."""
        gates, hidden = GATES[self.mode], self.hidden
        of_all = ops.Matmul(
            self.rows * self.steps, gates * hidden, self.inputs, dtype=self.dtype, bias=True
        )
        yield Part(of_all, launches=0)
        of_state = ops.Matmul(self.rows, gates * hidden, self.kept, dtype=self.dtype, bias=True)
        yield Part(of_state, self.steps, 0)
        yield Part(self.cell(), self.steps, 0)
        if self.kept != hidden:
            yield Part(ops.Matmul(self.rows, self.kept, hidden, dtype=self.dtype), self.steps, 0)

    def cell(self) -> ops.Elementwise:
        """What lies between the products: gates of both, and the state before."""
        gates, is_lstm = GATES[self.mode], self.mode == LSTM
        curves = gates + is_lstm
        return ops.Elementwise(
            self.rows * self.hidden,
            inputs=2 * gates + 1,
            outputs=1 + is_lstm,
            flops_per_element=curves * SIGMOID_FLOPS + 2 * gates,
            dtype=self.dtype,
        )


def launched_once(parts: Iterator[Part]) -> Parts:
    first, *rest = parts
    return Part(first.op, first.count), *rest


def one_recurrence(row: Row) -> Parts:
    """mkldnn_rnn_layer: one layer in one direction; [steps, rows, inputs]."""
    given, x = row.given, row.given["input"]
    steps, rows, inputs = x.shape
    hidden = given["hidden_size"]
    layer = Recurrence(steps, rows, inputs, hidden, hidden, given["mode"], x.dtype)
    return launched_once(layer.parts())


def recurrences(row: Row) -> Parts:
    """_cudnn_rnn: all layers and directions; packed, [rows of all steps, inputs]."""
    given, x = row.given, row.given["input"]
    kept = given.get("proj_size") or given["hidden_size"]
    if given.get("batch_sizes"):
        steps = len(given["batch_sizes"])
        rows = x.shape[0] / steps
        rows = int(rows) if rows == int(rows) else rows
    else:
        steps, rows = x.shape[1::-1] if given["batch_first"] else x.shape[:2]
    directions, inputs, parts = 1 + bool(given["bidirectional"]), x.shape[-1], list[Part]()
    for _ in range(given["num_layers"]):
        of = (steps, rows, inputs, given["hidden_size"], kept, given["mode"], x.dtype)
        parts += [*Recurrence(*of).parts()] * directions
        inputs = kept * directions
    return launched_once(iter(parts))


def backwards(rule: Rule) -> Rule:
    """The gradient of what ``rule`` says, part by part."""

    def gradient(row: Row) -> Parts:
        parts = [part for part in rule(row) if isinstance(part, Part)]
        found = (Part(op, p.count, 0) for p in reversed(parts) for op in p.op.backward())
        return launched_once(found)

    return gradient


RULES: dict[str, Rule] = {
    "_native_multi_head_attention": self_attention,
    "_transformer_encoder_layer_fwd": encoder_layer,
    "_trilinear": bilinear,
    "_euclidean_dist": euclidean,
    "_cdist_forward": distances,
    "mkldnn_rnn_layer": one_recurrence,
    "mkldnn_rnn_layer_backward": backwards(one_recurrence),
    "_cudnn_rnn": recurrences,
    "miopen_rnn": recurrences,
    "_cudnn_rnn_backward": backwards(recurrences),
    "miopen_rnn_backward": backwards(recurrences),
}
