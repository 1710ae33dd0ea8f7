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

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.window is not None and not np.all(self.causal):
            raise ValueError(f"Attention.window = {self.window}: expected causal=True beside it")

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
        return 4 * self.scores * self.head_dim

    @property
    def min_flops(self) -> Any:
        return 4 * self.batch * self.heads * self.keys_seen * self.head_dim

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
        keys_and_values = 2 * self.keys_read * self.kv_heads * self.head_dim
        elements = self.batch * (queries + keys_and_values) + +self.bias * self.scores
        shared = +self.mask * self.batch * self.q_len * self.kv_len
        return (elements + shared) * item_bytes(self.dtype)

    @property
    def bytes_written(self) -> Any:
        return self.batch * self.q_len * self.heads * self.head_dim * item_bytes(self.dtype)

    def backward(self) -> tuple[Operator, ...]:
        """dV, dP, dQ and dK: four products for two."""
        return (AttentionBackward(**{f.name: getattr(self, f.name) for f in fields(self)}),)


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
    def products(self) -> Any:
        return 4 + +self.recompute

    @property
    def tensor_core_flops(self) -> Any:
        return 2 * self.products * self.scores * self.head_dim

    @property
    def min_flops(self) -> Any:
        return 2 * self.products * self.batch * self.heads * self.keys_seen * self.head_dim

    @property
    def bytes_read(self) -> Any:
        """Q, K, V, and the output with its gradient."""
        return super().bytes_read + 2 * super().bytes_written

    @property
    def bytes_written(self) -> Any:
        """dQ, dK, dV."""
        keys_and_values = 2 * self.batch * self.kv_len * self.kv_heads * self.head_dim
        return super().bytes_written + keys_and_values * item_bytes(self.dtype)
