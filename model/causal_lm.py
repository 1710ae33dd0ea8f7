"""Decoder-only language models by their dimensions: LLaMA, Qwen3 and what DeepSeek-OCR reads with.

A model is a record of dimensions; a pass (prefill or decode step) is a tree of layers built from
it. The passes are those of the library's eager implementation with SDPA and a ``DynamicCache``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar

from model.decoder import DecoderLayer, SelfAttention, TextModel
from model.layer import Call, Child, Layer, Step
from model.linear import Embedding, Linear, SwiGlu
from model.masks import Masks, Positions
from model.moe import Experts, MixtureOfExperts, NormalisedRouter, Router, Routing, as_routing
from model.ops import item_bytes
from model.workload import Phase, Workload, check_logits

LayerRouting = Sequence[float | Routing] | None
"""What the router of each mixture-of-experts layer did; None: the expectation if it is uniform."""


@dataclass(frozen=True)
class Language(Layer):
    """The root of a prefill or a decode step: the language model and its head."""

    mirrors = "UnlimitedOcrForConditionalGeneration, LlamaForCausalLM, Qwen3MoeForCausalLM"
    language_model: TextModel
    lm_head: Linear
    path: str = "model"

    def forward(self) -> Iterator[Step]:
        yield Child(self.path, self.language_model)
        yield Child("lm_head", self.lm_head)


@dataclass(frozen=True, kw_only=True)
class CausalLM:
    """Dimensions of a language model; ``dtype`` is that of all its tensors.

    ``dense_layers``: the first layers, with a plain SwiGLU; the others are mixtures of experts.
    ``weight_dtype``: how the matrices of the layers are stored, if not in ``dtype`` (embedding,
    router, norms and head keep theirs, as quantised checkpoints do). ``positions``: tokens of a
    sequence that it was made for; they are turned into the keys, so that more of them run as well.
    """

    path: ClassVar[str] = "model"
    reads_features: ClassVar[bool] = False
    """Whether a prefill is given features (of images and text) in place of token indices."""
    head_norm: ClassVar[bool] = False
    normalised_routing: ClassVar[bool] = False
    divided: ClassVar[tuple[tuple[str, str], ...]] = (("heads", "kv_heads"),)
    """What must be whole: the first over the second."""

    hidden: int
    layers: int
    dense_layers: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    experts: int
    top_k: int
    expert_intermediate: int
    shared_experts: int
    vocabulary: int
    dtype: str = "bfloat16"
    weight_dtype: str | None = None
    positions: int | None = None

    may_be_zero: ClassVar[tuple[str, ...]] = (
        "dense_layers",
        "shared_experts",
        "intermediate",
        "experts",
        "top_k",
        "expert_intermediate",
    )

    def __post_init__(self) -> None:
        check_dimensions(self, self.may_be_zero)
        if not self.experts:  # none but plain layers, however many there are
            object.__setattr__(self, "dense_layers", min(self.dense_layers, self.layers))
        needed = ["experts", "top_k", "expert_intermediate"]
        needed = needed if self.dense_layers < self.layers else []
        needed += ["intermediate"] if self.dense_layers > 0 else []
        for name in needed:
            if getattr(self, name) == 0:
                raise ValueError(f"{name} = 0: expected a number >= 1 for the layers that have it")
        for name, most in (("dense_layers", "layers"), ("top_k", "experts")):
            found, limit = getattr(self, name), getattr(self, most)
            if found > limit:
                raise ValueError(f"{name} = {found}: expected at most {most} = {limit}")

    # What runs

    def prefill(
        self, tokens: Any, batch: Any = 1, logits: str = "all", routing: LayerRouting = None
    ) -> list[Call]:
        return self.prefill_layer(tokens, batch, logits, routing).calls()

    def decode_step(self, context: Any, batch: Any = 1, routing: LayerRouting = None) -> list[Call]:
        """One token of each sequence, seeing ``context`` keys and values, its own included."""
        return self.decode_layer(context, batch, routing).calls()

    def decode(
        self, prefilled: Any, steps: int, batch: Any = 1, routing: LayerRouting = None
    ) -> list[Call]:
        """``steps`` decode steps after ``prefilled`` tokens, in closed form.

        Every cost of a step is linear in its context, so all steps together cost ``steps`` times
        the one at their mean context. It may lie half a key off a whole number.
        """
        step = self.decode_layer(mean_context(prefilled, steps), batch, routing)
        return [replace(c, count=c.count * steps) for c in step.calls()]

    def phases(
        self, workload: Workload, routing: dict[str, LayerRouting] | None = None
    ) -> dict[str, Phase]:
        """The passes of one workload, in order; that of a decode step is at the mean context."""
        touched = routing or {}
        tokens, batch = self.prompt_length(workload), workload.batch
        prefill = self.prefill_layer(tokens, batch, workload.logits, touched.get("prefill"))
        context = mean_context(tokens, workload.decode_steps)
        step = self.decode_layer(context, batch, touched.get("decode"))
        return {"prefill": Phase(prefill), "decode": Phase(step, workload.decode_steps)}

    def prompt_length(self, workload: Workload) -> int:
        if workload.prompt_tokens < 1:
            key = f"prompt_tokens = {workload.prompt_tokens}"
            raise ValueError(f"{key}: expected at least 1 for a model that sees no image")
        return workload.prompt_tokens

    # Its layers

    def prefill_layer(
        self, tokens: Any, batch: Any = 1, logits: str = "all", routing: LayerRouting = None
    ) -> Language:
        """``tokens`` tokens of each sequence in, logits of all or of the last one out."""
        check_logits(logits)
        scored = batch * (tokens if logits == "all" else 1)
        model = self.language_model(batch, tokens, tokens, routing, not self.reads_features)
        return Language(model, self.head(scored), self.path)

    def decode_layer(self, context: Any, batch: Any = 1, routing: LayerRouting = None) -> Language:
        model = self.language_model(batch, 1, context, routing, embeds_tokens=True)
        return Language(model, self.head(batch), self.path)

    def head(self, rows: Any) -> Linear:
        return Linear(rows, self.hidden, self.vocabulary, dtype=self.dtype)

    def masks(self, batch: Any, tokens: Any, context: Any) -> Masks:
        return Positions(tokens)

    def language_model(
        self, batch: Any, tokens: Any, context: Any, routing: LayerRouting, embeds_tokens: bool
    ) -> TextModel:
        sparse = self.layers - self.dense_layers
        touched = [None] * sparse if routing is None else list(routing)
        if len(touched) != sparse:
            raise ValueError(f"routing = {routing}: expected {sparse} entries, one a layer")
        of_layer = [None] * self.dense_layers + touched
        blocks = [
            self.decoder_layer(index, batch, tokens, context, of_layer[index])
            for index in range(self.layers)
        ]
        table = Embedding(batch * tokens, self.vocabulary, self.hidden, self.dtype)
        masks = self.masks(batch, tokens, context)
        return TextModel(tuple(blocks), masks, table, embeds_tokens)

    def decoder_layer(
        self,
        index: int,
        batch: Any,
        tokens: Any,
        context: Any,
        routing: float | Routing | None = None,
    ) -> DecoderLayer:
        attention = SelfAttention(
            batch,
            tokens,
            context,
            self.hidden,
            self.heads,
            self.kv_heads,
            self.head_dim,
            self.dtype,
            self.weight_dtype,
            head_norm=self.head_norm,
        )
        rows = batch * tokens
        if index < self.dense_layers:
            return DecoderLayer(attention, self.swiglu(rows, self.intermediate))
        return DecoderLayer(attention, self.mixture(rows, as_routing(routing)))

    def swiglu(self, rows: Any, intermediate: int) -> SwiGlu:
        return SwiGlu(rows, self.hidden, intermediate, self.dtype, self.weight_dtype)

    def mixture(self, rows: Any, routing: Routing | None) -> MixtureOfExperts:
        router = NormalisedRouter if self.normalised_routing else Router
        experts = Experts(
            rows,
            self.hidden,
            self.expert_intermediate,
            self.experts,
            self.top_k,
            self.dtype,
            self.weight_dtype,
            routing,
            score_dtype=self.dtype if self.normalised_routing else "float32",
        )
        shared = self.shared_experts * self.expert_intermediate
        return MixtureOfExperts(
            router(rows, self.hidden, self.experts, self.top_k, self.dtype),
            experts,
            self.swiglu(rows, shared) if shared else None,
        )

    # What it holds

    def parameters(self) -> int:
        """All parameters, as published."""
        return sum(self.component_parameters().values())

    def component_parameters(self) -> dict[str, int]:
        return self.language_parameters()

    def language_parameters(self) -> dict[str, int]:
        model = self.language_model(1, 1, 1, None, embeds_tokens=True)
        return {
            "embedding": self.vocabulary * self.hidden,
            "decoder layers": sum(block.weight_parameters() for block in model.blocks),
            "norm": self.hidden,
            "lm_head": self.head(1).parameters(),
        }


@dataclass(frozen=True, kw_only=True)
class Llama(CausalLM):
    """LLaMA; by default Llama-3.1-8B's published dimensions."""

    hidden: int = 4096
    layers: int = 32
    dense_layers: int = 32
    heads: int = 32
    kv_heads: int = 8
    head_dim: int = 128
    intermediate: int = 14336
    experts: int = 0
    top_k: int = 0
    expert_intermediate: int = 0
    shared_experts: int = 0
    vocabulary: int = 128256
    positions: int | None = 131072


@dataclass(frozen=True, kw_only=True)
class Qwen3Moe(CausalLM):
    """Qwen3's mixture of experts; by default Qwen3-30B-A3B's published dimensions."""

    head_norm: ClassVar[bool] = True
    normalised_routing: ClassVar[bool] = True

    hidden: int = 2048
    layers: int = 48
    dense_layers: int = 0
    heads: int = 32
    kv_heads: int = 4
    head_dim: int = 128
    intermediate: int = 0
    experts: int = 128
    top_k: int = 8
    expert_intermediate: int = 768
    shared_experts: int = 0
    vocabulary: int = 151936
    positions: int | None = 40960


def mean_context(prefilled: Any, steps: int) -> Any:
    """Keys seen in the mean by ``steps`` decode steps after ``prefilled`` tokens: step i sees
    prefilled + i. Half a key where the number of steps is even."""
    if steps % 2:
        return prefilled + (steps + 1) // 2
    return prefilled + (steps + 1) / 2


def check_dimensions(model: Any, may_be_zero: tuple[str, ...]) -> None:
    """Raises ``ValueError`` for a dimension that is not positive or does not divide, or a dtype
    that is not known; lists, as configurations give them, become tuples."""
    for entry in fields(model):
        name, value = entry.name, getattr(model, entry.name)
        if name.endswith("dtype"):
            if value is not None:
                item_bytes(value)
            continue
        if value is None and "None" in str(entry.type):
            continue
        least = 0 if name in may_be_zero else 1
        listed = isinstance(value, tuple | list) and "tuple" in str(entry.type)
        for number in value if listed else (value,):
            if isinstance(number, bool) or not isinstance(number, int) or number < least:
                raise ValueError(f"{name} = {value!r}: expected an integer >= {least}")
        if isinstance(value, list):
            object.__setattr__(model, name, tuple(value))
    for whole, part in getattr(model, "divided", ()):
        parts, of = getattr(model, part), getattr(model, whole)
        if of % parts:
            raise ValueError(f"{part} = {parts}: expected a divisor of {whole} = {of}")
