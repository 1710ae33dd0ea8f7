"""In which format an engine multiplies, keeps its cache, and what it runs to get there."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from calib.estimates.stack.roles import role_of
from model.layer import Call
from model.ops import Attention, Elementwise, LatentAttention, Matmul, MoeMlp, item_bytes

FP8, FP4 = "float8_e4m3fn", "float4_e2m1fn"
BLOCK, KV8 = "/block", "/kv8"
INT4 = "/int4"
MLA, BMM = "/mla", "/bmm"
"""Attention with a latent, and the products by head that bring queries to it and results back."""
PRODUCTS = {
    "bfloat16": ("bfloat16", ""),
    "fp8": (FP8, ""),
    "fp8_block": (FP8, BLOCK),
    "nvfp4": (FP4, ""),
}
"""A format of products -> dtype, and the engine's kernel for it."""
WIDENED = {"int4": INT4}
"""Formats of experts' weights that are widened on the way, by a kernel of that name -> the name."""
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
LAYERS = frozenset("qoudabk")
"""Products of the layers; router and head keep the model's dtype."""


@dataclass(frozen=True)
class Formats:
    """``products``, ``experts``: a key of ``PRODUCTS``, of experts also of ``WIDENED``; ``cache``:
    bfloat16 or fp8.

    ``quantised``: letters of the products whose input no kernel before has written narrow already,
    so that one more kernel does. ``by_file``: only what the model's own file stores narrow is.
    """

    products: str = "bfloat16"
    experts: str = "bfloat16"
    cache: str = "bfloat16"
    quantised: str = ""
    by_file: bool = False


def formatted(call: Call, formats: Formats) -> list[tuple[Any, str]]:
    """The kernels that run ``call``, each with the name of the engine's kernel."""
    op: Any = call.op
    if isinstance(op, Attention):
        return [_attended(op, formats.cache == "fp8")]
    letter = role_of(call)
    if letter == "i" and isinstance(op, Matmul):
        return [(op, BMM)]
    as_it_is = formats.by_file and not is_narrow(op)
    if isinstance(op, MoeMlp) and not as_it_is:
        return [_mixed(op, formats.experts)]
    is_product = isinstance(op, Matmul) and letter in LAYERS
    if as_it_is or not is_product or formats.products == "bfloat16":
        return [(op, "")]
    return _product(op, formats, letter in formats.quantised)


def _product(op: Matmul, formats: Formats, is_quantised: bool) -> list[tuple[Any, str]]:
    dtype, name = PRODUCTS[formats.products]
    product = replace(op, dtype=dtype, weight_dtype=None, out_dtype=wide(op))
    if not is_quantised:
        return [(product, name)]
    narrow = Elementwise(op.m * op.k * op.batch, 1, 1, 2, wide(op), out_dtype=FP8)
    return [(narrow, ""), (product, name)]


def is_narrow(op: Any) -> bool:
    """Whether its weights lie narrower than bfloat16 in memory."""
    stored = getattr(op, "weight_dtype", None) or op.dtype
    return bool(item_bytes(stored) < item_bytes("bfloat16"))


def wide(op: Any) -> str:
    """The type of a product's result, which is that of the model."""
    return str(op.out_dtype or op.dtype)


def _mixed(op: MoeMlp, format_: str) -> tuple[MoeMlp, str]:
    if format_ in WIDENED:
        return replace(op, dtype="bfloat16", weight_dtype=format_), WIDENED[format_]
    dtype, name = PRODUCTS[format_]
    return replace(op, dtype=dtype, weight_dtype=None), name


def _attended(op: Attention, is_narrow: bool) -> tuple[Attention, str]:
    """A prompt sees its own keys, whatever the cache keeps of a latent."""
    if isinstance(op, LatentAttention):
        return (replace(op, dtype=FP8), MLA + KV8) if is_narrow else (op, MLA)
    if op.v_head_dim is not None:
        return op, MLA
    return (replace(op, dtype=FP8), KV8) if is_narrow else (op, "")
