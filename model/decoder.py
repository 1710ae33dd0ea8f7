"""A decoder-only language model: attention with a KV cache, SwiGLU and its surroundings.

A pass works on ``tokens`` new tokens of each of ``batch`` sequences, which attend to ``context``
keys, the new ones included: a prefill has context = tokens, a decode step has tokens = 1. The
cache grows by concatenation, so a step copies all of it, as ``DynamicCache`` does.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from model.layer import Child, Layer, Live, Step, call, free
from model.linear import Embedding, Linear, RMSNorm, SwiGlu, add
from model.masks import Masks
from model.moe import MixtureOfExperts
from model.ops import Attention, Copy, Elementwise, Other, item_bytes


@dataclass(frozen=True)
class Rotary(Layer):
    """Cosine and sine of position times frequency, in float32, once a pass for all layers."""

    mirrors = "UnlimitedOcrTextRotaryEmbedding, LlamaRotaryEmbedding, Qwen3MoeRotaryEmbedding"
    tokens: int
    head_dim: int
    dtype: str = "bfloat16"

    def forward(self) -> Iterator[Step]:
        half = self.tokens * (self.head_dim // 2)
        whole = self.tokens * self.head_dim
        yield call(Copy(self.tokens, dtype="int64", out_dtype="float32"))
        broadcast = self.tokens + self.head_dim // 2
        angles = Elementwise(half, 0, dtype="float32", broadcast=broadcast, axes=2)
        yield call(angles, gradient="none")
        yield free(self.tokens, "float32")
        yield call(Copy(whole, dtype="float32"), gradient="none")
        for _ in range(2):
            # The cosine (then the sine) and its scaling.
            yield call(Elementwise(whole, dtype="float32"), count=2, gradient="none")
            yield free(whole, "float32")
        if self.dtype != "float32":
            for _ in range(2):
                yield call(Copy(whole, dtype="float32", out_dtype=self.dtype), gradient="none")
            yield free(2 * whole, "float32")
        yield free(half + whole, "float32")


@dataclass(frozen=True)
class SelfAttention(Layer):
    """Grouped-query attention with rotary positions; keys and values are appended to a cache.

    ``bias``: of queries, keys and values. ``head_norm``: queries and keys are normalised a head.
    ``masked``: an encoder's attention under an explicit mask; nothing is cached, and keys and
    values are repeated for the heads that share them, since SDPA takes no groups with a mask.
    """

    mirrors = "UnlimitedOcrTextAttention, LlamaAttention, Qwen3MoeAttention"
    batch: int
    tokens: int
    context: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    dtype: str = "bfloat16"
    weight_dtype: str | None = None
    bias: bool = False
    head_norm: bool = False
    masked: bool = False

    @property
    def rows(self) -> Any:
        return self.batch * self.tokens

    @property
    def queries(self) -> Any:
        """Elements of the queries, and of the result."""
        return self.rows * self.heads * self.head_dim

    @property
    def new_keys(self) -> Any:
        """Elements of the new keys (or values)."""
        return self.rows * self.kv_heads * self.head_dim

    @property
    def cosines(self) -> Any:
        """Elements of the cosines (or of the sines), which sequences share."""
        return self.tokens * self.head_dim

    @property
    def cached(self) -> Any:
        """Elements of the keys (or of the values) in the cache, the new tokens included."""
        return self.batch * self.context * self.kv_heads * self.head_dim

    def own_kv_cache_bytes(self) -> Any:
        return 0 if self.masked else 2 * self.cached * item_bytes(self.dtype)

    def forward(self) -> Iterator[Step]:
        yield from self.project("q", self.heads)
        yield from self.project("k", self.kv_heads)
        width = self.kv_heads * self.head_dim
        yield Child("v_proj", self.linear(self.hidden, width, self.bias))
        yield from self.rotate(self.heads)
        yield from self.rotate(self.kv_heads)
        yield free(self.queries + self.new_keys, self.dtype)
        yield from self.attend_masked() if self.masked else self.attend_cached()
        yield Child("o_proj", self.linear(self.heads * self.head_dim, self.hidden))
        yield free(2 * self.queries, self.dtype)

    def project(self, name: str, heads: Any) -> Iterator[Step]:
        width = heads * self.head_dim
        yield Child(f"{name}_proj", self.linear(self.hidden, width, self.bias))
        if self.head_norm:
            yield Child(f"{name}_norm", RMSNorm(self.rows * heads, self.head_dim, self.dtype))
            yield free(self.rows * width, self.dtype)

    def linear(self, inputs: Any, outputs: Any, bias: bool = False) -> Linear:
        return Linear(self.rows, inputs, outputs, bias, self.dtype, self.weight_dtype)

    def attend_cached(self) -> Iterator[Step]:
        yield from self.append()
        yield free(2 * self.new_keys, self.dtype)
        yield call(self.attention())

    def attend_masked(self) -> Iterator[Step]:
        """The mask is bool; SDPA wants zeros and minus infinities, made anew in every layer."""
        item, pairs = item_bytes(self.dtype), self.batch * self.tokens * self.context
        if self.heads > self.kv_heads:
            repeat = Copy(self.new_keys, dtype=self.dtype, out_elements=self.queries)
            repeat = replace(repeat, axes=4 + (self.batch > 1))
            yield call(repeat, count=2)
        yield call(Other("scalar_tensor", written=item, dtype=self.dtype), 2, gradient="none")
        where = Elementwise(pairs, dtype="bool", broadcast=2 * int(item), out_dtype=self.dtype)
        yield call(where, gradient="none")
        yield call(self.attention())
        yield free(pairs + 2 * self.new_keys + 2, self.dtype)
        if self.heads > self.kv_heads:
            yield free(2 * self.queries, self.dtype)

    def rotate(self, heads: Any) -> Iterator[Step]:
        """x * cos + rotate_half(x) * sin: the half turned is negated and put before the other.

        Heads lie within a token, and what is joined puts tokens within a head.
        """
        whole, (first, second) = self.rows * heads * self.head_dim, self.turns
        scaled = Elementwise(whole, dtype=self.dtype, broadcast=self.cosines)
        yield call(replace(scaled, axes=first))
        yield call(Elementwise(whole // 2, dtype=self.dtype, axes=2))
        yield call(Copy(whole, dtype=self.dtype, axes=12))
        yield free(whole // 2, self.dtype)
        yield call(replace(scaled, axes=second))
        yield free(whole, self.dtype)
        yield add(whole, self.dtype, axes=1 if is_one(self.tokens) else 3 + (self.batch > 1))
        yield free(2 * whole, self.dtype)

    @property
    def turns(self) -> tuple[Any, Any]:
        """Axes of heads times cosines, and of what was joined times sines: one row of these for
        every position, the same for all sequences."""
        return 2 if is_one(self.tokens) else 3 + (self.batch > 1), 2

    def append(self) -> Iterator[Step]:
        """Keys, then values: what is copied belongs to the cache, and the old part lives twice
        for a moment."""
        old = self.batch * (self.context - self.tokens) * self.kv_heads * self.head_dim
        twice = old * item_bytes(self.dtype)
        axes = 1 if is_one(self.tokens) else 12
        copied = call(Copy(self.cached, dtype=self.dtype, axes=axes), count=2)
        yield Live(twice - copied.op.bytes_written * 2)
        yield copied
        yield Live(-twice)

    def attention(self) -> Attention:
        """A single query sees every key, so that one is not called causal."""
        return Attention(
            batch=self.batch,
            q_len=self.tokens,
            kv_len=self.context,
            heads=self.heads,
            kv_heads=self.heads if self.masked else self.kv_heads,
            head_dim=self.head_dim,
            dtype=self.dtype,
            causal=not self.masked and not is_one(self.tokens),
            mask=self.masked,
        )


@dataclass(frozen=True)
class DecoderLayer(Layer):
    """Pre-norm attention and feed-forward, each with a residual connection."""

    mirrors = "UnlimitedOcrTextDecoderLayer, LlamaDecoderLayer, Qwen3MoeDecoderLayer"
    self_attn: SelfAttention
    mlp: SwiGlu | MixtureOfExperts

    def forward(self) -> Iterator[Step]:
        attention = self.self_attn
        rows, hidden, dtype = attention.rows, attention.hidden, attention.dtype
        norm, residual = RMSNorm(rows, hidden, dtype), add(rows * hidden, dtype)
        dropped = free(rows * hidden, dtype)
        yield Child("input_layernorm", norm)
        yield Child("self_attn", attention)
        yield dropped
        yield residual
        yield dropped
        yield Child("post_attention_layernorm", norm)
        yield Child("mlp", self.mlp)
        yield dropped
        yield residual
        yield dropped
        yield dropped


@dataclass(frozen=True)
class TextModel(Layer):
    """Embedding (where the input is tokens, not features), masks, positions, layers, norm.

    ``embedding``: None for an encoder, which has none.
    """

    mirrors = "UnlimitedOcrTextModel, LlamaModel, Qwen3MoeModel"
    blocks: tuple[DecoderLayer, ...]
    masks: Masks
    embedding: Embedding | None = None
    embeds_tokens: bool = True

    def forward(self) -> Iterator[Step]:
        attention = self.blocks[0].self_attn
        features, dtype = attention.rows * attention.hidden, attention.dtype
        if self.embeds_tokens and self.embedding is not None:
            yield Child("embed_tokens", self.embedding)
        yield from self.masks.forward()
        yield from self.positions()
        for index, block in enumerate(self.blocks):
            yield Child(f"layers.{index}", block)
            # The first layer's input is held to the end.
            if index > 0:
                yield free(features, dtype)
        yield Child("norm", RMSNorm(attention.rows, attention.hidden, dtype))
        yield free(features, dtype)
        yield from self.without_positions()
        yield Live(-self.masks.kept_bytes)
        if self.embeds_tokens and self.embedding is not None:
            yield free(features, dtype)

    def positions(self) -> Iterator[Step]:
        """Rotary positions, made once for all layers."""
        attention = self.blocks[0].self_attn
        yield Child("rotary_emb", Rotary(attention.tokens, attention.head_dim, attention.dtype))

    def without_positions(self) -> Iterator[Step]:
        attention = self.blocks[0].self_attn
        yield free(2 * attention.tokens * attention.head_dim, attention.dtype)

    def parameters(self) -> Any:
        """The token embedding belongs to the model also in a pass that is given features."""
        if self.embedding is None or self.embeds_tokens:
            return 0
        return self.embedding.parameters()

    def parameter_dtype(self) -> str:
        return self.blocks[0].self_attn.dtype


def is_one(tokens: Any) -> bool:
    """Whether a pass is known to have a single token; an array of lengths is not."""
    return isinstance(tokens, int) and tokens == 1
