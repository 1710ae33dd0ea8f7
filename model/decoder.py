"""A decoder-only language model: attention with a KV cache, SwiGLU, and a mixture of experts.

A pass works on ``tokens`` new tokens of each of ``batch`` sequences, which attend to ``context``
keys, the new ones included: a prefill has context = tokens, a decode step has tokens = 1. The
cache grows by concatenation, so a step copies all of it, as ``DynamicCache`` does.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from model.layer import Child, Layer, Live, Step, call, free
from model.linear import Activation, Embedding, Linear, RMSNorm, add, cast
from model.ops import (
    Attention,
    Copy,
    Elementwise,
    Gather,
    GroupedMatmul,
    Matmul,
    Other,
    Softmax,
    item_bytes,
)


@dataclass(frozen=True)
class Rotary(Layer):
    """Cosine and sine of position times frequency, in float32, once a pass for all layers."""

    mirrors = "UnlimitedOcrTextRotaryEmbedding"
    tokens: int
    head_dim: int
    dtype: str = "bfloat16"

    def forward(self) -> Iterator[Step]:
        half = self.tokens * (self.head_dim // 2)
        whole = self.tokens * self.head_dim
        yield call(Copy(self.tokens, dtype="int64", out_dtype="float32"))
        broadcast = self.tokens + self.head_dim // 2
        angles = Elementwise(half, inputs=0, broadcast=broadcast, dtype="float32")
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
    """Grouped-query attention with rotary positions; keys and values are appended to a cache."""

    mirrors = "UnlimitedOcrTextAttention"
    batch: int
    tokens: int
    context: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    dtype: str = "bfloat16"
    weight_dtype: str | None = None

    @property
    def rows(self) -> Any:
        return self.batch * self.tokens

    def forward(self) -> Iterator[Step]:
        yield Child("q_proj", self.linear(self.hidden, self.heads * self.head_dim))
        yield Child("k_proj", self.linear(self.hidden, self.kv_heads * self.head_dim))
        yield Child("v_proj", self.linear(self.hidden, self.kv_heads * self.head_dim))
        yield from self.rotate(self.heads)
        yield from self.rotate(self.kv_heads)
        queries = self.rows * self.heads * self.head_dim
        new_keys = self.rows * self.kv_heads * self.head_dim
        yield free(queries + new_keys, self.dtype)
        yield from self.append()
        yield free(2 * new_keys, self.dtype)
        yield call(self.attention())
        yield Child("o_proj", self.linear(self.heads * self.head_dim, self.hidden))
        yield free(2 * queries, self.dtype)

    def linear(self, inputs: Any, outputs: Any) -> Linear:
        return Linear(self.rows, inputs, outputs, dtype=self.dtype, weight_dtype=self.weight_dtype)

    def rotate(self, heads: Any) -> Iterator[Step]:
        """x * cos + rotate_half(x) * sin: the half turned is negated and put before the other."""
        whole = self.rows * heads * self.head_dim
        table = self.tokens * self.head_dim
        scaled = call(Elementwise(whole, broadcast=table, dtype=self.dtype))
        yield scaled
        yield call(Elementwise(whole // 2, dtype=self.dtype))
        yield call(Copy(whole, dtype=self.dtype))
        yield free(whole // 2, self.dtype)
        yield scaled
        yield free(whole, self.dtype)
        yield add(whole, self.dtype)
        yield free(2 * whole, self.dtype)

    def append(self) -> Iterator[Step]:
        """Keys, then values: what is copied belongs to the cache, and the old part lives twice
        for a moment."""
        old = self.batch * (self.context - self.tokens) * self.kv_heads * self.head_dim
        twice = old * item_bytes(self.dtype)
        copied = call(Copy(self.cached, dtype=self.dtype), count=2)
        yield Live(twice - copied.op.bytes_written * 2)
        yield copied
        yield Live(-twice)

    def attention(self) -> Attention:
        """A single query sees every key, so that one is not masked."""
        return Attention(
            batch=self.batch,
            q_len=self.tokens,
            kv_len=self.context,
            heads=self.heads,
            kv_heads=self.kv_heads,
            head_dim=self.head_dim,
            dtype=self.dtype,
            causal=self.tokens > 1,
        )

    @property
    def cached(self) -> Any:
        """Elements of the keys (or of the values) in the cache, the new tokens included."""
        return self.batch * self.context * self.kv_heads * self.head_dim

    def own_kv_cache_bytes(self) -> Any:
        return 2 * self.cached * item_bytes(self.dtype)


@dataclass(frozen=True)
class SwiGlu(Layer):
    """down(silu(gate(x)) * up(x)): three products."""

    mirrors = "UnlimitedOcrTextMLP"
    rows: int
    hidden: int
    intermediate: int
    dtype: str = "bfloat16"
    weight_dtype: str | None = None

    def forward(self) -> Iterator[Step]:
        elements = self.rows * self.intermediate
        widen = self.linear(self.hidden, self.intermediate)
        yield Child("gate_proj", widen)
        yield Child("act_fn", Activation(elements, "silu", self.dtype))
        yield free(elements, self.dtype)
        yield Child("up_proj", widen)
        yield call(Elementwise(elements, inputs=2, dtype=self.dtype))
        yield free(2 * elements, self.dtype)
        yield Child("down_proj", self.linear(self.intermediate, self.hidden))
        yield free(elements, self.dtype)

    def linear(self, inputs: Any, outputs: Any) -> Linear:
        return Linear(self.rows, inputs, outputs, dtype=self.dtype, weight_dtype=self.weight_dtype)


@dataclass(frozen=True)
class Router(Layer):
    """Softmax scores of all experts in float32, the ``top_k`` best of them, scaled."""

    mirrors = "UnlimitedOcrTextTopkRouter"
    rows: int
    hidden: int
    experts: int
    top_k: int
    dtype: str = "bfloat16"

    def forward(self) -> Iterator[Step]:
        rows, experts, chosen = self.rows, self.experts, self.rows * self.top_k
        yield from cast(rows * self.hidden, self.dtype, "float32")
        yield from cast(experts * self.hidden, self.dtype, "float32")
        yield call(Matmul(m=rows, n=experts, k=self.hidden, dtype="float32"))
        if self.dtype != "float32":
            yield free((rows + experts) * self.hidden, "float32")
        yield call(Softmax(rows, experts, dtype="float32"))
        index_and_score = item_bytes("float32") + item_bytes("int64")
        yield call(
            Other(
                "topk",
                read=rows * experts * item_bytes("float32"),
                written=chosen * index_and_score,
                arithmetic=rows * experts,
                dtype="float32",
            )
        )
        yield call(Elementwise(chosen, dtype="float32"))
        # Unscaled weights and scores go; logits, weights and indices are the result.
        yield free(chosen + rows * experts, "float32")

    @property
    def result_bytes(self) -> Any:
        chosen = self.rows * self.top_k
        scores = (self.rows * self.experts + chosen) * item_bytes("float32")
        return scores + chosen * item_bytes("int64")

    def parameters(self) -> Any:
        return self.experts * self.hidden


@dataclass(frozen=True)
class Experts(Layer):
    """``rows`` tokens, each through ``top_k`` of ``experts`` SwiGLUs, as ``grouped_mm`` does it.

    The (token, expert) pairs are sorted by expert, gathered, run through two grouped products,
    weighted, put back into order and summed over a token's experts. ``active_experts`` are the
    distinct experts touched (None: their expectation under uniform routing), ``max_load`` the
    rows of the busiest.
    """

    mirrors = "UnlimitedOcrTextExperts"
    rows: int
    hidden: int
    intermediate: int
    experts: int
    top_k: int
    dtype: str = "bfloat16"
    weight_dtype: str | None = None
    active_experts: float | None = None
    max_load: float | None = None

    @property
    def pairs(self) -> Any:
        return self.rows * self.top_k

    def parameters(self) -> Any:
        return 3 * self.experts * self.hidden * self.intermediate

    def forward(self) -> Iterator[Step]:
        yield from self.sort_by_expert()
        inner, features = self.pairs * self.intermediate, self.pairs * self.hidden
        yield call(self.product(2 * self.intermediate, self.hidden))
        yield Child("act_fn", Activation(inner, "silu", self.dtype))
        yield call(Elementwise(inner, inputs=2, dtype=self.dtype))
        yield free(3 * inner, self.dtype)
        yield call(self.product(self.hidden, self.intermediate))
        yield free(inner, self.dtype)
        yield from self.combine()
        # The rows gathered for the experts and what the experts made of them.
        yield free(2 * features, self.dtype)
        # Expert and order of each pair, and its weight; counts and ends of each expert's rows.
        yield free(2 * self.pairs, "int64")
        yield free(self.pairs + self.experts, "float32")
        yield free(self.experts, "int32")

    def product(self, n: Any, k: Any) -> GroupedMatmul:
        return GroupedMatmul(
            tokens=self.rows,
            experts=self.experts,
            top_k=self.top_k,
            n=n,
            k=k,
            dtype=self.dtype,
            active_experts=self.active_experts,
            max_load=self.max_load,
            weight_dtype=self.weight_dtype,
        )

    def sort_by_expert(self) -> Iterator[Step]:
        """Pairs in the order of their experts, and where the rows of each expert end."""
        index, number = item_bytes("int64"), item_bytes("float32")
        pairs, experts = self.pairs, self.experts
        sorted_and_order = 2 * pairs * index
        yield call(Other("sort", read=pairs * index, written=sorted_and_order, dtype="int64"))
        yield call(Elementwise(pairs, dtype="int64"))
        yield call(Gather(pairs, self.hidden, dtype=self.dtype))
        yield free(pairs, "int64")
        yield call(Gather(pairs, 1, dtype="float32"))
        yield call(Copy(pairs, dtype="int64", out_dtype="float32"))
        read, written = pairs * number, experts * number
        yield call(Other("histc", read=read, written=written, arithmetic=pairs, dtype="float32"))
        offsets = experts * item_bytes("int32")
        yield free(pairs, "float32")
        yield call(
            Other("cumsum", read=written, written=offsets, arithmetic=experts, dtype="float32")
        )

    def combine(self) -> Iterator[Step]:
        """Weights in float32 make the products float32 until the sum over a token's experts."""
        index, number = item_bytes("int64"), item_bytes("float32")
        pairs, rows, features = (self.pairs, self.rows * self.hidden, self.pairs * self.hidden)
        # float32 weights, one a pair, beside inputs of ``dtype``.
        weights = pairs * number // item_bytes(self.dtype)
        yield call(Elementwise(features, dtype=self.dtype, broadcast=weights, out_dtype="float32"))
        yield call(Other("empty_like", dtype="int64"))
        yield call(Other("arange", written=pairs * index, dtype="int64"))
        moved = 2 * pairs * index
        yield call(Other("index_put", read=moved, written=pairs * index, dtype="int64"))
        yield free(pairs, "int64")
        yield call(Gather(pairs, self.hidden, dtype="float32"))
        yield free(features, "float32")
        yield call(
            Other(
                "sum",
                read=features * number,
                written=rows * number,
                arithmetic=features,
                dtype="float32",
            )
        )
        yield from cast(rows, "float32", self.dtype)
        yield free(features, "float32")
        if self.dtype != "float32":
            yield free(rows, "float32")
        yield free(pairs, "int64")


@dataclass(frozen=True)
class MixtureOfExperts(Layer):
    """Routed experts and, where ``shared`` is given, one that every token takes."""

    mirrors = "UnlimitedOcrTextMoe"
    gate: Router
    experts: Experts
    shared: SwiGlu | None = None

    def forward(self) -> Iterator[Step]:
        yield Child("gate", self.gate)
        yield Child("experts", self.experts)
        if self.shared is not None:
            elements = self.experts.rows * self.experts.hidden
            yield Child("shared_experts", self.shared)
            yield add(elements, self.experts.dtype)
            yield free(2 * elements, self.experts.dtype)
        yield Live(-self.gate.result_bytes)


@dataclass(frozen=True)
class DecoderLayer(Layer):
    """Pre-norm attention and feed-forward, each with a residual connection."""

    mirrors = "UnlimitedOcrTextDecoderLayer"
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
class ReferenceMasks(Layer):
    """The attention masks that UnlimitedOcr builds in every pass, though full attention skips them.

    Positions are prepared for the causal mask, which is then found superfluous; the mask of
    reference sliding attention is built whole, [tokens, context] of bool, and not used.
    """

    mirrors = "create_causal_mask, create_reference_sliding_window_causal_mask"
    batch: int
    tokens: int
    context: int

    def forward(self) -> Iterator[Step]:
        tokens, context = self.tokens, self.context
        pairs = tokens * context
        yield arange(tokens)
        yield shift(tokens)
        yield arange(self.batch)
        yield arange(1)
        yield arange(tokens)
        yield shift(tokens)
        yield arange(context)
        yield shift(context)
        yield call(Other("new_zeros", written=tokens, dtype="bool"))
        yield call(Other("new_ones", written=tokens, dtype="bool"))
        yield shift(tokens)
        yield compare(pairs, tokens + context)
        yield from both(pairs, 1, tokens)
        yield compare(pairs, tokens + context)
        yield from both(pairs, 2, 0)
        yield from both(pairs, 1, tokens)
        yield call(Other("new_ones", written=tokens, dtype="bool"))
        yield compare(pairs, tokens + context)
        yield from both(pairs, 1, tokens)
        yield shift(context)
        yield call(Elementwise(context, dtype="int64", out_dtype="bool"))
        yield from both(pairs, 1, context)
        yield from both(pairs, 2, 0)
        # All indices but the positions, and the masks that do not hold all pairs.
        yield free(4 * tokens + 3 * context + self.batch + 1, "int64")
        yield free(3 * tokens + context, "bool")

    @property
    def kept_bytes(self) -> Any:
        """The positions and the mask."""
        mask = self.tokens * self.context * item_bytes("bool")
        return mask + self.tokens * item_bytes("int64")


def arange(count: Any) -> Step:
    return call(Other("arange", written=count * item_bytes("int64"), dtype="int64"))


def shift(count: Any) -> Step:
    return call(Elementwise(count, dtype="int64"))


def compare(pairs: Any, positions: Any) -> Step:
    """Positions of queries against positions of keys: a truth value for each pair."""
    return call(Elementwise(pairs, inputs=0, dtype="int64", broadcast=positions, out_dtype="bool"))


def both(pairs: Any, inputs: int, broadcast: Any) -> Iterator[Step]:
    """Two masks joined by and (or by or): ``inputs`` of them hold all pairs, and then go."""
    yield call(Elementwise(pairs, inputs=inputs, dtype="bool", broadcast=broadcast))
    yield free(inputs * pairs, "bool")


@dataclass(frozen=True)
class TextModel(Layer):
    """Embedding (where the input is tokens, not features), masks, positions, layers, norm."""

    mirrors = "UnlimitedOcrTextModel"
    blocks: tuple[DecoderLayer, ...]
    embedding: Embedding
    embeds_tokens: bool = True
    masks: ReferenceMasks | None = None

    def forward(self) -> Iterator[Step]:
        attention = self.blocks[0].self_attn
        features, dtype = attention.rows * attention.hidden, attention.dtype
        if self.embeds_tokens:
            yield Child("embed_tokens", self.embedding)
        if self.masks is not None:
            yield from self.masks.forward()
        yield Child("rotary_emb", Rotary(attention.tokens, attention.head_dim, dtype))
        for index, block in enumerate(self.blocks):
            yield Child(f"layers.{index}", block)
            # The first layer's input is held to the end.
            if index > 0:
                yield free(features, dtype)
        yield Child("norm", RMSNorm(attention.rows, attention.hidden, dtype))
        yield free(features, dtype)
        yield free(2 * attention.tokens * attention.head_dim, dtype)
        if self.masks is not None:
            yield Live(-self.masks.kept_bytes)
        if self.embeds_tokens:
            yield free(features, dtype)

    def parameters(self) -> Any:
        """The token embedding belongs to the model also in a pass that is given features."""
        return 0 if self.embeds_tokens else self.embedding.parameters()
