"""DeepSeek-OCR as its vendor's own code runs the language model, and not ``transformers``.

The same weights and products, launched otherwise: one expert after another, the number of tokens
of each asked for on the host; rotary positions anew in every layer; casts that autocast to bfloat16
adds around the router. The sequence follows ``DeepseekV2Model`` of the code published with the
model, under transformers 4.46 with flash attention and autocast. What sees the page is taken to run
as in ``transformers``. What generates (the mask's growth, positions from it, the choice of a token)
is no part of a pass: it adds nine kernels a token.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from model.causal_lm import Language, LayerRouting
from model.decoder import DecoderLayer, SelfAttention, TextModel, is_one
from model.deepseek_ocr import DeepseekOCRModel
from model.layer import Call, Child, Layer, Live, Step, call, free
from model.linear import SwiGlu, add, cast
from model.masks import Masks
from model.moe import MixtureOfExperts, Router, Routing, best
from model.ops import (
    Copy,
    Elementwise,
    Gather,
    Matmul,
    Operator,
    Other,
    Reduction,
    Softmax,
    distinct_experts,
    item_bytes,
)


def wait(op: Operator) -> Call:
    """A call whose result the host waits for."""
    return Call("", op, sync=True)


@dataclass(frozen=True)
class LayerRotary(Layer):
    """Cosine and sine of position times frequency: a product of depth 1, in every layer."""

    mirrors = "LlamaRotaryEmbedding (transformers 4.46)"
    batch: int
    tokens: int
    head_dim: int
    dtype: str = "bfloat16"

    @property
    def whole(self) -> Any:
        """Elements of the cosine, and of the sine."""
        return self.batch * self.tokens * self.head_dim

    def forward(self) -> Iterator[Step]:
        half, tokens = self.head_dim // 2, self.batch * self.tokens
        yield from cast(half, self.dtype, "float32")
        yield call(Copy(tokens, dtype="int64", out_dtype="float32"))
        yield call(Matmul(half, tokens, 1, dtype="float32"), gradient="none")
        # Angles come frequency by frequency.
        across = not is_one(self.tokens)
        doubled = Copy(self.whole, dtype="float32", transposed=across, axes=9 if across else 1)
        yield call(doubled, gradient="none")
        for _ in range(2):
            yield call(Elementwise(self.whole, dtype="float32"), count=2, gradient="none")
            yield free(self.whole, "float32")
        for _ in range(2):
            yield from cast(self.whole, "float32", self.dtype)
        if self.dtype != "float32":
            yield free(2 * self.whole + half, "float32")
        yield free(tokens + tokens * half + self.whole, "float32")


@dataclass(frozen=True)
class VendorAttention(SelfAttention):
    """Attention that makes its own rotary positions and, of several tokens at once, asks whether
    positions ever fall (they do where sequences are packed)."""

    mirrors = "LlamaFlashAttention2 (transformers 4.46)"

    def forward(self) -> Iterator[Step]:
        rotary = LayerRotary(self.batch, self.tokens, self.head_dim, self.dtype)
        width = self.kv_heads * self.head_dim
        yield from self.project("q", self.heads)
        yield from self.project("k", self.kv_heads)
        yield Child("v_proj", self.linear(self.hidden, width, self.bias))
        yield Child("rotary_emb", rotary)
        yield from self.rotate(self.heads)
        yield from self.rotate(self.kv_heads)
        yield free(self.queries + self.new_keys, self.dtype)
        yield from self.keep()
        if not is_one(self.tokens):
            yield from self.look_for_packing()
        yield call(self.attention())
        yield Child("o_proj", self.linear(self.heads * self.head_dim, self.hidden))
        yield free(2 * self.queries + 2 * self.cosines, self.dtype)

    @property
    def cosines(self) -> Any:
        """Every sequence has its own."""
        return self.rows * self.head_dim

    @property
    def turns(self) -> tuple[Any, Any]:
        several = 2 + (self.batch > 1)
        return several if is_one(self.tokens) else 3, several

    def keep(self) -> Iterator[Step]:
        """The first keys and values become the cache as they are; later ones are appended."""
        if isinstance(self.context, int) and self.context == self.tokens:
            yield free(2 * self.new_keys, self.dtype)
        else:
            yield from self.append()
            yield free(2 * self.new_keys, self.dtype)

    def look_for_packing(self) -> Iterator[Step]:
        steps = self.batch * (self.tokens - 1)
        axes = 1 + (self.batch > 1)
        yield call(Elementwise(steps, inputs=2, dtype="int64", axes=axes))
        yield call(Elementwise(steps, dtype="int64", out_dtype="bool"))
        yield free(steps, "int64")
        yield call(Reduction(1, steps, dtype="bool"))
        yield free(steps, "bool")
        yield wait(read_by_host(1, "bool"))
        yield free(2, "bool")


def read_by_host(elements: Any, dtype: str) -> Operator:
    """A copy to the host, which then goes on with its numbers."""
    return Copy(elements, dtype=dtype)


@dataclass(frozen=True)
class VendorRouter(Router):
    """As :class:`~model.moe.Router`; autocast takes the product that was asked for in float32 back
    to ``dtype``, and its result to float32 again."""

    mirrors = "MoEGate"

    def forward(self) -> Iterator[Step]:
        rows, experts, chosen = self.rows, self.experts, self.rows * self.top_k
        inputs = rows * self.hidden, experts * self.hidden
        for elements in inputs:
            yield from cast(elements, self.dtype, "float32")
        for elements in inputs:
            yield from cast(elements, "float32", self.dtype)
        yield call(Matmul(m=rows, n=experts, k=self.hidden, dtype=self.dtype))
        yield from cast(rows * experts, self.dtype, "float32")
        if self.dtype != "float32":
            yield free(sum(inputs), "float32")
            yield free(sum(inputs) + rows * experts, self.dtype)
        yield call(Softmax(rows, experts, dtype="float32"))
        yield best(rows, experts, self.top_k)
        yield call(Elementwise(chosen, dtype="float32"))
        yield free(2 * rows * experts + chosen, "float32")

    @property
    def result_bytes(self) -> Any:
        """Experts chosen, and their weights."""
        return self.rows * self.top_k * (item_bytes("float32") + item_bytes("int64"))


@dataclass(frozen=True)
class LoopedMixture(MixtureOfExperts):
    """Experts one after another: the host learns how many tokens each has and skips those without.

    The (token, expert) pairs are spread as evenly over the experts touched as whole tokens can be;
    those are the first ones. Their number is what was seen, or the expectation under uniform
    routing, rounded.
    """

    mirrors = "DeepseekV2MoE"

    def loads(self) -> list[int]:
        """Tokens of each expert touched."""
        own = self.experts
        pairs, seen = own.pairs, own.routing
        if seen is None:
            seen = Routing(distinct_experts(own.experts, own.top_k, own.rows))
        touched = min(max(round(seen.active_experts), own.top_k), own.experts, pairs)
        least, more = divmod(pairs, touched)
        return [least + 1] * more + [least] * (touched - more)

    def expert(self, rows: int) -> SwiGlu:
        own = self.experts
        return SwiGlu(rows, own.hidden, own.intermediate, own.dtype, own.weight_dtype)

    def parameters(self) -> Any:
        """Those of the experts that no token came to: they are held all the same."""
        own = self.experts
        idle = own.experts - len(self.loads())
        return 3 * idle * own.hidden * own.intermediate

    def parameter_dtype(self) -> str:
        return self.experts.parameter_dtype()

    def forward(self) -> Iterator[Step]:
        own = self.experts
        features, dtype = own.rows * own.hidden, own.dtype
        yield Child("gate", self.gate)
        yield from self.sort_by_expert()
        for index, rows in enumerate(self.loads()):
            yield Child(f"experts.{index}", self.expert(rows))
        yield from self.combine()
        yield Live(-self.gate.result_bytes)
        if self.shared is not None:
            yield Child("shared_experts", self.shared)
            yield add(features, dtype)
            yield free(2 * features, dtype)

    def sort_by_expert(self) -> Iterator[Step]:
        """Tokens of each expert, on the host; and the pairs' tokens in the order of experts."""
        own, index = self.experts, item_bytes("int64")
        pairs, cells = own.pairs, own.rows * own.experts
        yield call(Other("new_zeros", written=cells * index, dtype="int64"))
        yield call(Other("scatter", read=pairs * index, written=pairs * index, dtype="int64"))
        yield Live(-pairs * index)
        yield call(Reduction(own.experts, own.rows, dtype="int64"))
        yield call(Other("sort", read=pairs * index, written=2 * pairs * index, dtype="int64"))
        yield free(pairs, "int64")
        yield call(Elementwise(pairs, dtype="int64"))
        yield call(Gather(pairs, own.hidden, dtype=own.dtype))
        yield free(pairs, "int64")
        yield wait(read_by_host(own.experts, "int64"))
        yield free(2 * own.experts, "int64")

    def combine(self) -> Iterator[Step]:
        """Results in the order of tokens, weighted and summed in float32."""
        own, index = self.experts, item_bytes("int64")
        pairs, cells = own.pairs, own.pairs * own.hidden
        moved, result = cells * item_bytes(own.dtype), own.rows * own.hidden
        yield call(Copy(cells, dtype=own.dtype))
        yield call(Other("empty_like", dtype=own.dtype))
        yield call(Other("index_put", moved + pairs * index, moved, dtype=own.dtype))
        yield from cast(cells, own.dtype, "float32")
        yield call(Elementwise(cells, dtype="float32", broadcast=pairs, axes=2))
        yield free(cells, "float32")
        yield call(Reduction(result, own.top_k, dtype="float32"))
        yield from cast(result, "float32", own.dtype)
        if own.dtype != "float32":
            yield free(cells + result, "float32")
        # Gathered tokens, what the experts made of them, and that in either order; the order
        # itself; which pairs were counted.
        yield free(4 * cells, own.dtype)
        yield free(pairs + own.rows * own.experts, "int64")


@dataclass(frozen=True)
class PaddingMask(Masks):
    """Whether any token is padding: the host asks, and without any there is no mask."""

    mirrors = "DeepseekV2Model"
    batch: int
    context: int

    def forward(self) -> Iterator[Step]:
        keys = self.batch * self.context
        yield call(Elementwise(keys, dtype="int64", out_dtype="bool"))
        yield call(Reduction(1, keys, dtype="bool"))
        yield free(keys, "bool")
        yield wait(read_by_host(1, "bool"))
        yield free(2, "bool")

    @property
    def kept_bytes(self) -> Any:
        return 0


@dataclass(frozen=True)
class VendorTextModel(TextModel):
    """As :class:`~model.decoder.TextModel`, whose layers make their positions themselves."""

    mirrors = "DeepseekV2Model"

    def positions(self) -> Iterator[Step]:
        yield from ()

    def without_positions(self) -> Iterator[Step]:
        yield from ()


@dataclass(frozen=True)
class VendorLanguage(Language):
    """The language model, its head, and the logits in float32."""

    mirrors = "DeepseekOCRForCausalLM"

    def forward(self) -> Iterator[Step]:
        yield from super().forward()
        head = self.lm_head
        logits = head.rows * head.outputs
        yield from cast(logits, head.dtype, "float32")
        if head.dtype != "float32":
            yield free(logits, head.dtype)


MOST_EXPERTS = 4096
"""Of all layers together."""


@dataclass(frozen=True, kw_only=True)
class VendorDeepseekOCR(DeepseekOCRModel):
    """DeepSeek-OCR by the vendor's code; the number of tokens and the batch are whole numbers."""

    def __post_init__(self) -> None:
        """Raises ``ValueError`` where experts, each of which is operators of its own, are too many
        to be listed within a minute."""
        super().__post_init__()
        most = MOST_EXPERTS // max(self.layers - self.dense_layers, 1)
        if self.experts > most:
            raise ValueError(f"experts = {self.experts}: expected at most {most} in so many layers")

    def masks(self, batch: Any, tokens: Any, context: Any) -> Masks:
        return PaddingMask(batch, context)

    def prefill_layer(
        self, tokens: Any, batch: Any = 1, logits: str = "all", routing: LayerRouting = None
    ) -> Language:
        return vendor_root(super().prefill_layer(tokens, batch, logits, routing))

    def decode_layer(self, context: Any, batch: Any = 1, routing: LayerRouting = None) -> Language:
        return vendor_root(super().decode_layer(context, batch, routing))

    def language_model(
        self, batch: Any, tokens: Any, context: Any, routing: LayerRouting, embeds_tokens: bool
    ) -> TextModel:
        made = super().language_model(batch, tokens, context, routing, embeds_tokens)
        return VendorTextModel(**vars(made))

    def decoder_layer(
        self,
        index: int,
        batch: Any,
        tokens: Any,
        context: Any,
        routing: float | Routing | None = None,
    ) -> DecoderLayer:
        layer = super().decoder_layer(index, batch, tokens, context, routing)
        return replace(layer, self_attn=VendorAttention(**vars(layer.self_attn)))

    def mixture(self, rows: Any, routing: Routing | None) -> MixtureOfExperts:
        made = super().mixture(rows, routing)
        return LoopedMixture(VendorRouter(**vars(made.gate)), made.experts, made.shared)


def vendor_root(root: Language) -> VendorLanguage:
    return VendorLanguage(root.language_model, root.lm_head, root.path)
