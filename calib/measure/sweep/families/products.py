"""Ranges of products and attention."""

from __future__ import annotations

import numpy as np

from calib.measure.sweep.families.domain import Axis, Domain, OneOf
from model import ops
from model.ops import Operator

_HEADS = OneOf((4, 6, 8, 10, 12, 14, 16, 20, 24, 28, 32))

_HEAD_DIM = OneOf((64, 128))


def products(reach: int) -> list[Domain]:
    hidden = Axis(256, 8192 * min(reach, 2), 64)
    length = Axis(1, 4096 * reach, tiled=True)
    prompt = {"m": Axis(32, 1024, tiled=True), "n": hidden, "k": Axis(512, 4096, 64)}
    vocabulary = {"m": Axis(1, 128), "n": Axis(32000, 152000, 64), "k": Axis(512, 2048 * reach, 64)}
    single = {"m": Axis(1, 512), "n": Axis(16, 1024), "k": hidden}
    batched = {
        "batch": Axis(4, 256),
        "m": Axis(14, 1024, tiled=True),
        "n": Axis(14, 256, tiled=True),
        "k": Axis(32, 128, 16),
    }
    experts = {
        "tokens": Axis(1, 512 * reach),
        "experts": OneOf((8, 16, 32, 48, 64, 96)),
        "top_k": OneOf((1, 2, 4, 6, 8)),
        "n": Axis(512, 2048, 64),
        "k": Axis(512, 2048, 64),
        "alike": OneOf((0, 0, 30, 60, 90)),
    }
    rows = {"m": length, "n": hidden, "k": hidden}
    gemv = {"m": Axis(1, 4), "n": hidden, "k": hidden}
    # For cards, where float32 has kernels of its own; a CPU takes long over many rows.
    singles = [
        Domain("product of many rows in float32", 1, rows, _biased_float32, "cold"),
        Domain("batched product in float32", 0.5, batched, _batched_float32, "cold"),
    ]
    return [
        Domain("product", 6, rows, _biased, "cold"),
        Domain("product of a prompt", 6, prompt, ops.Matmul, "cold"),
        Domain("vector product", 4, gemv, ops.Matmul, "cold"),
        Domain("vocabulary", 1.5, vocabulary, ops.Matmul, "cold"),
        Domain("product in float32", 1.5, single, _float32, "cold"),
        Domain("batched product", 1.5, batched, _batched, "cold"),
        Domain("experts", 5, experts, _grouped, "cold"),
        *(singles if reach > 1 else ()),
    ]


def _biased(m: int, n: int, k: int) -> Operator:
    return ops.Matmul(m, n, k, bias=m % 2 == 0)


def _float32(m: int, n: int, k: int) -> Operator:
    return ops.Matmul(m, n, k, dtype="float32")


def _biased_float32(m: int, n: int, k: int) -> Operator:
    return ops.Matmul(m, n, k, bias=m % 2 == 0, dtype="float32")


def _batched(batch: int, m: int, n: int, k: int) -> Operator:
    return ops.Matmul(m, n, k, batch)


def _batched_float32(batch: int, m: int, n: int, k: int) -> Operator:
    return ops.Matmul(m, n, k, batch, dtype="float32")


def _grouped(tokens: int, experts: int, top_k: int, n: int, k: int, alike: int) -> Operator:
    """``alike``: how far tokens agree, in per cent (:func:`model.ops.agreement`). Trained routers
    spread tokens; of random weights all ask for the same experts."""
    chance, _ = ops.spread(experts, top_k, tokens, np.array([alike / 100]))
    touched = min(max(round(experts * float(chance.mean())), 1), experts, tokens * top_k)
    return ops.GroupedMatmul(tokens, experts, top_k, n, k, active_experts=float(touched))


def attentions(reach: int) -> list[Domain]:
    causal = {
        "batch": Axis(1, 4),
        "length": Axis(16, 1024 * reach, tiled=True),
        "heads": _HEADS,
        "dim": _HEAD_DIM,
    }
    vision = {"batch": Axis(1, 16), "length": Axis(49, 768), "heads": Axis(6, 24)}
    biased = {"batch": Axis(1, 25), "length": Axis(49, 2048 * min(reach, 2)), "heads": Axis(6, 16)}
    decode = {
        "batch": Axis(1, 8 * reach),
        "context": Axis(32, 4096 * reach, tiled=True),
        "heads": _HEADS,
        "dim": _HEAD_DIM,
    }
    grouped = {**decode, "shared": OneOf((4, 8))}
    return [
        Domain("causal attention", 4, causal, _causal, "hot"),
        Domain("vision attention", 3, vision, _vision, "hot"),
        Domain("attention with bias", 5, biased, _with_bias, "hot"),
        Domain("decode attention", 4, decode, _decode, "hot"),
        Domain("grouped attention", 2, {**causal, "shared": OneOf((2, 4, 8))}, _causal, "hot"),
        Domain("grouped decode", 3, grouped, _decode, "hot"),
    ]


def _causal(batch: int, length: int, heads: int, dim: int, shared: int = 1) -> Operator:
    kv_heads = max(1, heads // shared)
    return ops.Attention(batch, length, length, kv_heads * shared, kv_heads, dim, causal=True)


def _vision(batch: int, length: int, heads: int) -> Operator:
    return ops.Attention(batch, length, length, heads, heads, 64)


def _with_bias(batch: int, length: int, heads: int) -> Operator:
    return ops.Attention(batch, length, length, heads, heads, 64, bias=True)


def _decode(batch: int, context: int, heads: int, dim: int, shared: int = 1) -> Operator:
    """``shared``: query heads that read one head of keys and values."""
    kv_heads = max(1, heads // shared)
    return ops.Attention(batch, 1, context, kv_heads * shared, kv_heads, dim)
