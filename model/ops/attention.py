"""Scaled dot-product attention and its gradient."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, ClassVar

import numpy as np

from model.ops.dtypes import item_bytes
from model.ops.operator import Operator, TensorCoreOperator


def _least(a: Any, b: Any) -> Any:
    """min(a, b) in plain arithmetic, exact on integers."""
    return (a + b - abs(a - b)) // 2


@dataclass(frozen=True)
class Attention(TensorCoreOperator):
    """Fused softmax(Q K^T + bias) V: [batch, heads, q_len, head_dim] against kv_len keys.

    ``causal`` aligns the last query with the last key. ``window`` (with ``causal``) is the number
    of keys that a query sees, itself included. ``bias`` is a dense [batch, heads, q_len, kv_len];
    ``mask`` an added [batch, q_len, kv_len] that all heads share, of whatever pattern.
    ``v_head_dim``: the width of values and of the result, where it is not that of the keys.
    """

    operator: ClassVar[str] = "attention"
    batch: int
    q_len: int
    kv_len: int
    heads: int
    kv_heads: int
    head_dim: int
    dtype: str = "bfloat16"
    causal: bool = False
    window: int | None = None
    bias: bool = False
    mask: bool = False
    v_head_dim: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.window is not None and not np.all(self.causal):
            raise ValueError(f"Attention.window = {self.window}: expected causal=True beside it")

    @property
    def value_dim(self) -> Any:
        return self.head_dim if self.v_head_dim is None else self.v_head_dim

    @property
    def both_dims(self) -> Any:
        """Widths of a head of keys and of one of values, together: a score is one product with the
        first, and one with the second."""
        return self.head_dim + self.value_dim

    @property
    def scores(self) -> Any:
        """Entries of the score matrix, masked or not."""
        return self.batch * self.heads * self.q_len * self.kv_len

    @property
    def keys_seen(self) -> Any:
        """Unmasked (query, key) pairs of one head.

        Query i sees min(window, offset + i + 1) keys, offset = kv_len - q_len; ``growing`` counts
        the queries whose row is not yet cut by the window.
        """
        if self.window is None:
            return self.q_len * self.kv_len - +self.causal * self.q_len * (self.q_len - 1) // 2
        offset = self.kv_len - self.q_len
        growing = _least(self.window - offset, self.q_len)
        growing = (growing + abs(growing)) // 2
        return (
            growing * offset + growing * (growing + 1) // 2 + (self.q_len - growing) * self.window
        )

    @property
    def tensor_core_flops(self) -> Any:
        return 2 * self.scores * self.both_dims

    @property
    def min_flops(self) -> Any:
        return 2 * self.batch * self.heads * self.keys_seen * self.both_dims

    @property
    def cuda_core_flops(self) -> Any:
        """Scale, maximum, subtract, exponential, sum for each score."""
        return (5 + +self.bias + +self.mask) * self.scores

    @property
    def keys_read(self) -> Any:
        """Keys of one head that any query sees."""
        if self.window is None:
            return self.kv_len
        return _least(self.kv_len, self.q_len + self.window - 1)

    @property
    def bytes_read(self) -> Any:
        queries = self.q_len * self.heads * self.head_dim
        keys_and_values = self.keys_read * self.kv_heads * self.both_dims
        elements = self.batch * (queries + keys_and_values) + +self.bias * self.scores
        shared = +self.mask * self.batch * self.q_len * self.kv_len
        return (elements + shared) * item_bytes(self.dtype)

    @property
    def bytes_written(self) -> Any:
        return self.batch * self.q_len * self.heads * self.value_dim * item_bytes(self.dtype)

    def backward(self) -> tuple[Operator, ...]:
        """dV and dP, as wide as values; dQ and dK, as wide as keys: four products for two."""
        return (AttentionBackward(**{f.name: getattr(self, f.name) for f in fields(self)}),)


@dataclass(frozen=True)
class LatentAttention(Attention):
    """Attention over keys that hold the values too, in their first ``v_head_dim`` numbers: one
    latent and rotary part for all heads (multi-head latent attention, once what widens the latent
    is absorbed into queries and result; DeepSeek-V2, sec. 2.1). Each is read once."""

    operator: ClassVar[str] = "latent_attention"

    @property
    def bytes_read(self) -> Any:
        both = super().bytes_read
        values = self.batch * self.keys_read * self.kv_heads * self.value_dim
        return both - values * item_bytes(self.dtype)

    def backward(self) -> tuple[Operator, ...]:
        raise NotImplementedError("LatentAttention: no gradient is taken of an absorbed product")


@dataclass(frozen=True)
class AttentionBackward(Attention):
    """The gradient of :class:`Attention`.

    ``recompute``: a fused kernel keeps no scores and computes them again, a fifth product (Dao,
    FlashAttention-2, sec. 3.1.2). Torch's counter counts it for fused operators and not, of
    course, where attention is written out; by default it is left out, as needless work is.
    """

    operator: ClassVar[str] = "attention_backward"
    recompute: bool = False

    @property
    def flops_of_a_score(self) -> Any:
        return 2 * (2 * self.both_dims + +self.recompute * self.head_dim)

    @property
    def tensor_core_flops(self) -> Any:
        return self.flops_of_a_score * self.scores

    @property
    def min_flops(self) -> Any:
        return self.flops_of_a_score * self.batch * self.heads * self.keys_seen

    @property
    def bytes_read(self) -> Any:
        """Q, K, V, and the output with its gradient."""
        return super().bytes_read + 2 * super().bytes_written

    @property
    def bytes_written(self) -> Any:
        """dQ, dK, dV."""
        queries = self.batch * self.q_len * self.heads * self.head_dim
        keys_and_values = self.batch * self.kv_len * self.kv_heads * self.both_dims
        return (queries + keys_and_values) * item_bytes(self.dtype)
