"""In which format an engine multiplies, keeps its cache, and what it runs to get there."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from calib.estimates.stack.roles import role_of
from model.layer import Call
from model.ops import Attention, Elementwise, LatentAttention, Matmul, MoeMlp

FP8, FP4 = "float8_e4m3fn", "float4_e2m1fn"
BLOCK, KV8 = "/block", "/kv8"
MLA, BMM = "/mla", "/bmm"
"""Attention with a latent, and the products by head that bring queries to it and results back."""
PRODUCTS = {
    "bfloat16": ("bfloat16", ""),
    "fp8": (FP8, ""),
    "fp8_block": (FP8, BLOCK),
    "nvfp4": (FP4, ""),
}
"""A format of products -> dtype, and the engine's kernel for it."""
QUANTISED = {
    ("vllm", "fp8"): "o",
    ("trtllm", "fp8"): "",
    ("vllm", "nvfp4"): "qoudabk",
    ("trtllm", "nvfp4"): "od",
    ("sglang", "fp8_block"): "qoudabk",
    ("vllm", "fp8_block"): "qoudabk",
    ("trtllm", "fp8_block"): "qoudabk",
}
"""Products before which a kernel brings the input to the narrow format: the others' is written so
by the norm before them."""
_LAYERS = frozenset("qoudabk")
"""Products of the layers; router and head keep the model's dtype."""


@dataclass(frozen=True)
class Formats:
    """``products``, ``experts``: a key of ``PRODUCTS``; ``cache``: bfloat16 or fp8.

    ``quantised``: letters of the products whose input no kernel before has written narrow already,
    so that one more kernel does.
    """

    products: str = "bfloat16"
    experts: str = "bfloat16"
    cache: str = "bfloat16"
    quantised: str = ""


def formatted(call: Call, formats: Formats) -> list[tuple[Any, str]]:
    """The kernels that run ``call``, each with the name of the engine's kernel."""
    op: Any = call.op
    if isinstance(op, Attention):
        return [_attended(op, formats.cache == "fp8")]
    if isinstance(op, MoeMlp):
        dtype, name = PRODUCTS[formats.experts]
        return [(replace(op, dtype=dtype), name)]
    letter = role_of(call)
    if letter == "i" and isinstance(op, Matmul):
        return [(op, BMM)]
    if not isinstance(op, Matmul) or letter not in _LAYERS or formats.products == "bfloat16":
        return [(op, "")]
    dtype, name = PRODUCTS[formats.products]
    product = replace(op, dtype=dtype, weight_dtype=None, out_dtype=op.dtype)
    if letter not in formats.quantised:
        return [(product, name)]
    narrow = Elementwise(op.m * op.k * op.batch, 1, 1, 2, op.dtype, out_dtype=FP8)
    return [(narrow, ""), (product, name)]


def _attended(op: Attention, is_narrow: bool) -> tuple[Attention, str]:
    """A prompt sees its own keys, whatever the cache keeps of a latent."""
    if isinstance(op, LatentAttention):
        return (replace(op, dtype=FP8), MLA + KV8) if is_narrow else (op, MLA)
    if op.v_head_dim is not None:
        return op, MLA
    return (replace(op, dtype=FP8), KV8) if is_narrow else (op, "")
