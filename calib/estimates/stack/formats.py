"""In which format an engine multiplies, keeps its cache, and what it runs to get there."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from calib.estimates.stack.roles import role_of
from model.layer import Call
from model.ops import Attention, Elementwise, Matmul, MoeMlp

FP8, FP4 = "float8_e4m3fn", "float4_e2m1fn"
BLOCK, KV8 = "/block", "/kv8"
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
    ("vllm", "nvfp4"): "qoud",
    ("trtllm", "nvfp4"): "od",
    ("sglang", "fp8_block"): "qoud",
    ("vllm", "fp8_block"): "qoud",
    ("trtllm", "fp8_block"): "qoud",
}
"""Products before which a kernel brings the input to the narrow format: the others' is written so
by the norm before them."""
_LAYERS = frozenset("qoud")
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
    if isinstance(op, Attention) and formats.cache == "fp8":
        return [(replace(op, dtype=FP8), KV8)]
    if isinstance(op, MoeMlp):
        dtype, name = PRODUCTS[formats.experts]
        return [(replace(op, dtype=dtype), name)]
    letter = role_of(call)
    if not isinstance(op, Matmul) or letter not in _LAYERS or formats.products == "bfloat16":
        return [(op, "")]
    dtype, name = PRODUCTS[formats.products]
    product = replace(op, dtype=dtype, weight_dtype=None, out_dtype=op.dtype)
    if letter not in formats.quantised:
        return [(product, name)]
    narrow = Elementwise(op.m * op.k * op.batch, 1, 1, 2, op.dtype, out_dtype=FP8)
    return [(narrow, ""), (product, name)]
