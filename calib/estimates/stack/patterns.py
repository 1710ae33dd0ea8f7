"""The table of patterns: what torch runs as several kernels, an engine runs as one.

A pattern is a regular expression over the letters of :mod:`calib.estimates.stack.roles`. What it
finds becomes the kernels that ``fuse`` makes of it; what no pattern finds stays as it is. Dtypes
are a matter of :mod:`calib.estimates.stack.formats`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from calib.estimates.stack.formats import wide
from calib.estimates.stack.latent import LATENT, absorbed
from model.layer import Call
from model.ops import Elementwise, GroupedMatmul, Matmul, MoeMlp

Fuse = Callable[[Sequence[Call]], list[Call]]


@dataclass(frozen=True)
class Pattern:
    """``letters``: a regular expression; ``why``: what an engine does, in words."""

    letters: str
    fuse: Fuse
    why: str


def _nothing(calls: Sequence[Call]) -> list[Call]:
    return []


def _normed(calls: Sequence[Call]) -> list[Call]:
    """The residual is read, and written anew beside the normed row."""
    last = calls[-1]
    norm: Any = last.op
    inputs = 2 if len(calls) > 1 else 1
    fused = Elementwise(norm.rows * norm.cols, inputs, inputs, 8, norm.dtype)
    return [replace(last, op=fused, launches=1)]


def _summed(calls: Sequence[Call]) -> list[Call]:
    """The kernel that sums over the cards adds the residual and norms before it writes."""
    return [calls[0]]


def _joined(calls: Sequence[Call]) -> list[Call]:
    """Products of one input are one product with all their columns."""
    products: list[Any] = [c for c in calls if isinstance(c.op, Matmul)]
    whole = replace(products[0].op, n=sum(c.op.n for c in products))
    return [replace(products[0], op=whole, launches=1)]


def _turned(calls: Sequence[Call]) -> list[Call]:
    """Heads are normed and turned where they lie, keys and values go to their page of the cache:
    every element of the product before is read and written once."""
    attention: Any = calls[-1].op
    heads = attention.heads + 2 * attention.kv_heads
    elements = attention.batch * attention.q_len * heads * attention.head_dim
    turned = Elementwise(elements, 1, 1, 6, attention.dtype)
    seen = replace(attention, causal=True)
    return [
        replace(calls[0], op=turned, count=calls[-1].count, launches=1),
        replace(calls[-1], op=seen),
    ]


def _gated(calls: Sequence[Call]) -> list[Call]:
    """Gate and up are one product; the activation and the product of both one kernel."""
    product = _joined(calls)[0]
    gate: Any = next(c.op for c in calls if isinstance(c.op, Matmul))
    path = product.path.rpartition(".")[0]
    activated = Elementwise(gate.m * gate.n, 2, 1, 6, wide(gate))
    return [product, replace(calls[0], path=f"{path}.act_fn", op=activated, launches=1)]


def _routed(calls: Sequence[Call]) -> list[Call]:
    """Softmax, top-k and what follows, of all tokens at once. Copies of input and weights to a
    wider type before the product are left out: its result alone is wide."""
    at = next(i for i, call in enumerate(calls) if isinstance(call.op, Matmul))
    product: Any = calls[at].op
    if at:
        product = replace(product, dtype=calls[0].op.dtype, out_dtype=product.dtype)  # type: ignore[attr-defined]
    chosen = Elementwise(product.m * product.n, 1, 1, 8, product.out_dtype or product.dtype)
    return [replace(calls[at], op=op, launches=1) for op in (product, chosen)]


def _experts(calls: Sequence[Call]) -> list[Call]:
    """Sorting, both grouped products and the sum over a token's picks are one fused layer."""
    first, last = [c.op for c in calls if isinstance(c.op, GroupedMatmul)][:2]
    sizes = (first.tokens, first.experts, first.top_k, first.k, last.k, first.dtype, ROUTING)
    layer = MoeMlp(*sizes, first.weight_dtype)
    return [replace(calls[0], op=layer, launches=1)]


ROUTING = "power_law_1.2"
"""How tokens spread over experts in the tables' most uneven rows: those of the engines' authors
for what serves real text."""

PATTERNS = (
    Pattern("p+", _nothing, "positions are kept on the card from step to step"),
    Pattern(r"R\+n", _summed, "a sum over cards, the residual's sum and the norm are one kernel"),
    Pattern(r"\+?n", _normed, "a sum and the norm after it are one kernel"),
    Pattern(LATENT, absorbed, "a latent is attended to as it is kept, one for all heads"),
    Pattern("s*q[qhs]+", _joined, "queries, keys and values are one product"),
    Pattern("s", _nothing, "what narrows a product's input is a matter of the engine's formats"),
    Pattern("i+A", _turned, "norm of heads, rotation and writing to the cache are one kernel"),
    Pattern(
        "s*u[ms]*u[ms]*", _gated, "gate and up are one product, activation and product one kernel"
    ),
    Pattern("t*rt+", _routed, "scores, the best of them and their weights are one kernel"),
    Pattern("y*xy*xy*", _experts, "experts are one fused layer"),
)
"""Tried at every place in this order."""
