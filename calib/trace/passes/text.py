"""Text that is read and continued, with or without an image before it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch

from calib.trace.passes.forms import Form, Pass
from calib.trace.passes.images import image_forms
from calib.trace.passes.inputs import Inputs, parameters
from calib.trace.passes.states import Growth, growth_of, kept, lengthen, states
from model.causal_lm import mean_context

EMBEDDING_DEVIATION = 0.02
"""Of the random features that stand for an embedded page."""


def step_length(prompt: int, steps: int) -> int:
    """Tokens to lengthen the cache by, for a decode step at the mean context, rounded up."""
    return math.ceil(mean_context(prompt, steps)) - 1 - prompt


@dataclass
class Memory:
    """What a pass leaves for the next: the cache, and under which name it is handed back."""

    name: str = "past_key_values"
    cache: Any = None
    features: Any = None

    def keep(self, result: Any) -> Any:
        """``result``, whose cache replaces the last one."""
        left = kept(result)
        if left is not None:
            self.name, self.cache = left
        return result

    def held(self) -> Iterator[torch.Tensor]:
        return states(self.cache)

    def growth(self) -> Growth:
        return growth_of(self.cache)


@dataclass
class Reader:
    """How a model reads: whole, or its language model alone where it sees or hears as well."""

    module: Any
    logits: str
    memory: Memory = field(default_factory=Memory)

    def __post_init__(self) -> None:
        self.decoder = self.module.get_decoder()
        self.head = self.module.get_output_embeddings()

    @property
    def is_composite(self) -> bool:
        """Whether the language model is a part beside others."""
        whole = self.decoder is self.module or self.head is None
        text = self.module.config.get_text_config(decoder=True)
        return not whole and text is not self.module.config

    def ways(self) -> list[Callable[..., Any]]:
        return [self.through_decoder, self.whole] if self.is_composite else [self.whole]

    def whole(self, logits: str, **given: Any) -> Any:
        names = parameters(self.module.forward)
        if "logits_to_keep" in names:
            given["logits_to_keep"] = 1 if logits == "last" else 0
        if "use_cache" in names:
            given["use_cache"] = True
        return self.memory.keep(self.module(**given))

    def through_decoder(self, logits: str, **given: Any) -> Any:
        result = self.memory.keep(self.decoder(**given, use_cache=True))
        hidden = getattr(result, "last_hidden_state", None)
        if hidden is None:
            return result
        return self.head(hidden if logits == "all" else hidden[:, -1:])

    def forms(self, prompts: list[dict[str, Any]], logits: str) -> list[Form]:
        """Each way with each prompt, a new cache for each."""

        def form(way: Callable[..., Any], prompt: dict[str, Any]) -> Form:
            def run() -> Any:
                self.memory.cache = None
                return way(logits, **prompt)

            return run

        return [form(way, prompt) for prompt in prompts for way in self.ways()]

    def step_forms(self, one: torch.Tensor) -> list[Form]:
        """A further token on the cache, by each way."""

        def form(way: Callable[..., Any]) -> Form:
            memory = self.memory
            return lambda: way("all", input_ids=one, **{memory.name: memory.cache})

        return [form(way) for way in self.ways()]


def read_and_decode(made: Inputs) -> Iterator[Pass]:
    """Prefill, then a decode step at the mean context; before them the image, if there is one."""
    w, module = made.workload, made.module
    reader = Reader(module, w.logits)
    memory, images = reader.memory, 0
    if w.side is not None:
        if not hasattr(seeing(module), "get_image_features"):
            made.refuse(
                f"workload.side = {w.side}",
                "reads text only",
                "a workload without an image, such as text_512",
            )
        yield Pass("vision", image_forms(made, seeing(module), memory))
        images = rows_of(memory.features) // w.batch
    length = images + w.prompt_tokens
    if length < 1:
        made.refuse(f"workload.prompt_tokens = {w.prompt_tokens}", "reads text", "at least 1")
    made.check_length(length + w.decode_steps, module.config.get_text_config(decoder=True))
    prompts = [{"input_ids": made.tokens(length)}]
    if images:
        hidden = reader.decoder.get_input_embeddings().weight.shape[-1]
        wide = made.noise(length, hidden) * EMBEDDING_DEVIATION
        prompts.insert(0, {"inputs_embeds": wide})
    yield Pass(
        "prefill",
        reader.forms(prompts, w.logits),
        cache=memory.held,
        growth=memory.growth,
        tokens=length,
    )
    if memory.cache is None:
        made.refuse("hf.config", "keeps nothing that a decode step could go on from", "task encode")
    ahead = step_length(length, w.decode_steps)
    lengthen(memory.cache, ahead)
    steps = reader.step_forms(made.tokens(1))
    yield Pass(
        "decode",
        steps,
        w.decode_steps,
        cache=memory.held,
        growth=memory.growth,
        tokens=length + max(ahead, 0) + 1,
    )


def seeing(module: Any) -> Any:
    """The part whose ``get_image_features`` is asked: the inner model, where both have it."""
    inner = getattr(module, module.base_model_prefix or "model", module)
    return inner if hasattr(inner, "get_image_features") else module


def rows_of(features: Any) -> int:
    """Tokens that stand for all images."""
    if isinstance(features, torch.Tensor):
        return features.numel() // features.shape[-1]
    return sum(rows_of(part) for part in features)
