"""Fused attention, with its gradients: of dense batches, of sequences one after the other, and of
functions on scores.

FLOPs are those of ``torch.utils.flop_counter`` where it counts an operator: of all pairs, masked or
not. Sequences that lie one after the other are taken to be equally long where a run without
contents does not tell: of any others the pairs are more, and ``unknown`` says so. A block mask of
flex_attention may leave pairs out; which ones is in its contents.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace
from itertools import pairwise
from typing import Any

from calib.trace.rules.rows import (
    STARTS_OF_KEYS,
    STARTS_OF_QUERIES,
    Part,
    Row,
    Rule,
    Size,
    at_least,
)
from model import ops
from model.ops import Operator

Operators = tuple[Operator, ...]
Parts = tuple[Part, ...]


def attention(row: Row) -> Operators:
    """[batch, heads, q_len, head_dim]."""
    return (ops.Attention(**dense(row)),)


def attention_backward(row: Row) -> Operators:
    """Torch's fused operators keep no scores: a fifth product computes them again."""
    return (ops.AttentionBackward(**dense(row), recompute=True),)


def dense(row: Row) -> dict[str, Any]:
    q, k, v = (row.given[name] for name in ("query", "key", "value"))
    batch, heads, q_len, _ = q.shape
    kv_heads, kv_len = k.shape[1:3]
    added = row.given.get("attn_mask") or row.given.get("attn_bias")
    scores = batch * heads * q_len * kv_len
    return {
        **{"batch": batch, "q_len": q_len, "kv_len": kv_len, "heads": heads, "kv_heads": kv_heads},
        **widths(q, v),
        "causal": bool(row.given.get("is_causal")),
        "bias": isinstance(added, Size) and added.distinct == scores,
        "mask": isinstance(added, Size) and added.distinct != scores,
    }


def widths(q: Size, v: Size) -> dict[str, Any]:
    narrow = v.shape[-1] if v.shape[-1] != q.shape[-1] else None
    return {"head_dim": q.shape[-1], "v_head_dim": narrow, "dtype": q.dtype}


def laid_by_token(row: Row) -> Parts:
    """[batch, length, heads, head_dim], or sequences one after the other: [tokens, heads,
    head_dim] with starts, of one number more than there are sequences."""
    return sequences(row, ops.Attention, {})


def laid_by_token_backward(row: Row) -> Parts:
    return sequences(row, ops.AttentionBackward, {"recompute": True})


def sequences(row: Row, kind: type[ops.Attention], more: dict[str, Any]) -> Parts:
    """All in one launch; as many operators as there are different lengths."""
    found = Counter(lengths(row))
    shape = {**by_token(row), **more}
    parts = [
        Part(kind(batch=count, q_len=q, kv_len=k, **shape), launches=0)
        for (q, k), count in found.items()
    ]
    parts[0] = replace(parts[0], launches=1)
    starts, _ = starts_of(row)
    if starts is None or starts.values or starts.numel == 2:
        return tuple(parts)
    return *parts, at_least(row)


def starts_of(row: Row) -> tuple[Size | None, Size | None]:
    """Where queries start, and keys."""
    found = (
        (row.given.get(name) for name in names) for names in (STARTS_OF_QUERIES, STARTS_OF_KEYS)
    )
    queries, keys = (next((size for size in sizes if size), None) for sizes in found)
    return queries, keys or queries


def lengths(row: Row) -> list[tuple[Any, Any]]:
    """Queries and keys of each sequence: by the starts, where they have contents, or as if all were
    equally long."""
    q, k = row.given["query"], row.given["key"]
    queries, keys = starts_of(row)
    if queries is None or keys is None:
        return [(q.shape[1], k.shape[1])] * q.shape[0]
    if queries.values and keys.values:
        each = zip(between(queries.values), between(keys.values), strict=True)
        return [(a, b) for a, b in each if a and b]
    many = queries.numel - 1
    tokens = [size.numel // math.prod(size.shape[-2:]) for size in (q, k)]
    return [(evenly(tokens[0], many), evenly(tokens[1], many))] * many


def between(starts: tuple[int, ...]) -> list[int]:
    return [end - start for start, end in pairwise(starts)]


def by_token(row: Row) -> dict[str, Any]:
    given = row.given
    q, k, v = (given[name] for name in ("query", "key", "value"))
    bias = given.get("bias") or given.get("attn_bias")
    causal, window = masked(given)
    return {
        **{"heads": q.shape[-2], "kv_heads": k.shape[-2], **widths(q, v)},
        **{"causal": causal, "window": window, "mask": isinstance(bias, Size)},
    }


def masked(given: dict[str, Any]) -> tuple[bool, int | None]:
    """Whether a query sees no later key, and how many keys it sees at most."""
    left, right = given.get("window_size") or (-1, -1)
    left = given.get("window_size_left") if given.get("window_size_left") is not None else left
    causal = bool(given.get("is_causal")) or bool(given.get("custom_mask_type")) or right == 0
    return causal, left + 1 if causal and left is not None and left >= 0 else None


def evenly(tokens: int, sequences: int) -> Any:
    return tokens // sequences if tokens % sequences == 0 else tokens / sequences


DENSE = (
    "_scaled_dot_product_flash_attention_for_cpu",
    "_scaled_dot_product_flash_attention",
    "_scaled_dot_product_efficient_attention",
    "_scaled_dot_product_cudnn_attention",
    "_scaled_dot_product_fused_attention_overrideable",
    "flex_attention",  # a function on scores
)
BY_TOKEN = (
    *("_flash_attention_forward", "_efficient_attention_forward", "_cudnn_attention_forward"),
    *("_flash_attention_forward_no_dropout_inplace", "torch_attn::_varlen_attn"),
    "torch_attn::_varlen_attn_out",
)
BY_TOKEN_BACKWARD = (
    *("_flash_attention_backward", "_efficient_attention_backward"),
    *("_cudnn_attention_backward", "torch_attn::_varlen_attn_backward"),
)
RULES: dict[str, Rule] = {
    **dict.fromkeys(DENSE, attention),
    **{f"{name}_backward": attention_backward for name in DENSE},
    **dict.fromkeys(BY_TOKEN, laid_by_token),
    **dict.fromkeys(BY_TOKEN_BACKWARD, laid_by_token_backward),
}
