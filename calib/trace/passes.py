"""What is asked of a model of ``transformers``, by its kind: the passes of a workload, traced."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from calib.errors import CalibError
from calib.trace.module import record
from calib.trace.tree import TracedLayer, layer_of
from model.causal_lm import mean_context
from model.workload import Phase, Workload


class Buildable(Protocol):
    """What is traced: a module built on the tensors in force, and its configuration."""

    @property
    def dtype(self) -> str: ...

    @property
    def card(self) -> str | None: ...

    def build(self) -> torch.nn.Module: ...


@dataclass(frozen=True)
class Pass:
    """One pass of a workload: what runs, how often, and what it leaves for the next.

    ``cache``: keys and values as they are when asked, one by one.
    """

    name: str
    run: Callable[[], Any]
    repeat: int = 1
    cache: Callable[[], Iterator[torch.Tensor]] = lambda: iter(())


def traced_phases(source: Buildable, workload: Workload) -> dict[str, Phase]:
    with FakeTensorMode(), torch.no_grad():
        module = source.build()
        passes = passes_of(module, source.dtype, workload)
        return {p.name: Phase(traced(module, p, source.card), p.repeat) for p in passes}


def traced(module: Any, one: Pass, card: str | None = None) -> TracedLayer:
    recording = record(module, one.run, before=one.cache(), card=card)
    held = sum(t.nbytes for t in one.cache())
    return layer_of(recording.events, recording.used, module, held)


def passes_of(module: Any, dtype: str, workload: Workload) -> Iterator[Pass]:
    """By the kind of model, on the tensors in force. Each is to be run before the next is asked
    for; it may run again, and a decode step then sees one token more.

    Raises ``CalibError`` for a kind that has no passes here.
    """
    made = Inputs(module, workload, getattr(torch, dtype))
    encodes = getattr(module.config, "is_encoder_decoder", False)
    if encodes and hasattr(module.config, "num_mel_bins"):
        return speech(made)
    if module.main_input_name == "pixel_values":
        return vision(made)
    if module.main_input_name == "input_ids" and not encodes and hasattr(module, "lm_head"):
        return text(made)
    raise CalibError(
        f"hf.config: {type(module).__name__} takes {module.main_input_name}: expected a causal "
        "language model, one that sees images, a vision model, or speech to text"
    )


@dataclass(frozen=True)
class Inputs:
    """Random inputs of a workload on ``module``."""

    module: Any
    workload: Workload
    dtype: torch.dtype

    @property
    def batch(self) -> int:
        return self.workload.batch

    @property
    def side(self) -> int:
        """That of the workload, or the model's own."""
        config = getattr(self.module.config, "vision_config", self.module.config)
        side = self.workload.side or getattr(config, "image_size", None) or 224
        return int(side[0] if isinstance(side, list | tuple) else side)

    def noise(self, *shape: int) -> torch.Tensor:
        return torch.randn(self.batch, *shape).to(self.dtype)

    def pixels(self) -> torch.Tensor:
        config = getattr(self.module.config, "vision_config", self.module.config)
        return self.noise(getattr(config, "num_channels", 3), self.side, self.side)

    def tokens(self, count: int) -> torch.Tensor:
        vocabulary = self.module.config.get_text_config().vocab_size
        return torch.randint(vocabulary, (self.batch, count))


# Images


def vision(made: Inputs) -> Iterator[Pass]:
    """One forward over the images; a model of masks is asked for those of one point."""
    module, given = made.module, {"pixel_values": made.pixels()}
    if "input_points" in inspect.signature(module.forward).parameters:
        given["input_points"] = made.noise(1, 1, 2)

    def run() -> Any:
        try:
            return module(**given)
        except ValueError as error:
            raise CalibError(f"workload.side = {made.side}: {error}") from None

    yield Pass("vision", run)


# Text


def cached(cache: Any) -> Iterator[torch.Tensor]:
    """Keys and values that are held; of both caches where a decoder looks at an encoder too.

    One by one, so that nothing but the cache keeps them alive.
    """
    both = [getattr(cache, n, None) for n in ("self_attention_cache", "cross_attention_cache")]
    for part in [p for p in both if p is not None] or [cache]:
        for layer in part.layers:
            if layer.keys is not None:
                yield layer.keys
                yield layer.values


def lengthen(cache: Any, tokens: int) -> None:
    """As if ``tokens`` more had been decoded."""
    for layer in cache.layers if tokens > 0 else ():
        more = (torch.zeros_like(t[:, :, :1]) for t in (layer.keys, layer.values))
        layer.update(*(t.expand(-1, -1, tokens, -1) for t in more))


def step_length(prompt: int, steps: int) -> int:
    """Tokens to lengthen the cache by, for a decode step at the mean context, rounded up."""
    return math.ceil(mean_context(prompt, steps)) - 1 - prompt


def text(made: Inputs) -> Iterator[Pass]:
    """Prefill, then a decode step at the mean context; before them the image, if there is one."""
    from transformers import DynamicCache

    module, w = made.module, made.workload
    config = module.config.get_text_config()
    images, state = 0, dict[str, Any]()
    if w.side is not None:
        yield Pass("vision", image_features(made, state))
        rows = state["features"]
        parts = list(rows) if isinstance(rows, list | tuple) else [rows]
        images = sum(part.numel() // part.shape[-1] for part in parts) // w.batch
    length = images + w.prompt_tokens
    if length < 1:
        raise CalibError(f"workload.prompt_tokens = {w.prompt_tokens}: expected at least 1")
    wide = made.noise(length, config.hidden_size) * EMBEDDING_DEVIATION if images else None
    prompt = {"input_ids": made.tokens(length)} if wide is None else {"inputs_embeds": wide}

    def prefill() -> Any:
        state["cache"] = DynamicCache(config=config)
        return read(module, {**prompt, "past_key_values": state["cache"]}, w.logits)

    def held() -> Iterator[torch.Tensor]:
        return cached(state["cache"]) if "cache" in state else iter(())

    yield Pass("prefill", prefill, cache=held)
    lengthen(state["cache"], step_length(length, w.decode_steps))
    one = made.tokens(1)

    def step() -> Any:
        return read(module, {"input_ids": one, "past_key_values": state["cache"]}, "all")

    yield Pass("decode", step, w.decode_steps, held)


EMBEDDING_DEVIATION = 0.02
"""Of the random features that stand for an embedded page."""


def image_features(made: Inputs, state: dict[str, Any]) -> Callable[[], Any]:
    """Run the part of a model that sees; its features go to ``state``."""
    module = made.module
    inner = getattr(module, "model", module)
    if not hasattr(inner, "get_image_features"):
        raise CalibError(
            f"workload.side = {made.workload.side}: {type(module).__name__} reads text only: "
            "expected a workload without an image, such as text_512"
        )
    image = made.pixels()

    def run() -> None:
        found = inner.get_image_features(image)
        state["features"] = getattr(found, "pooler_output", found)

    return run


def read(module: Any, given: dict[str, Any], logits: str) -> Any:
    """A model that sees images reads through its language model alone."""
    given = {**given, "use_cache": True}
    inner = getattr(module.model, "language_model", None)
    if inner is None:
        if "logits_to_keep" in inspect.signature(module.forward).parameters:
            given["logits_to_keep"] = 1 if logits == "last" else 0
        return module(**given)
    hidden = inner(**given).last_hidden_state
    return module.lm_head(hidden if logits == "all" else hidden[:, -1:])


# Speech


def speech(made: Inputs) -> Iterator[Pass]:
    """The encoder over one window of sound, the prompt, then a decode step."""
    from transformers import DynamicCache, EncoderDecoderCache

    module, w, config = made.module, made.workload, made.module.config
    frames = 2 * config.max_source_positions  # the encoder's convolutions halve them
    sound, encoder, state = made.noise(config.num_mel_bins, frames), module.get_encoder(), {}

    def encode() -> None:
        state["seen"] = encoder(sound)

    def held() -> Iterator[torch.Tensor]:
        return cached(state["cache"]) if "cache" in state else iter(())

    def decode(ids: torch.Tensor) -> Any:
        given = {"encoder_outputs": state["seen"], "past_key_values": state["cache"]}
        return module(decoder_input_ids=ids, use_cache=True, **given)

    def prefill() -> Any:
        state["cache"] = EncoderDecoderCache(
            DynamicCache(config=config), DynamicCache(config=config)
        )
        return decode(prompt)

    yield Pass("encoder", encode)
    length = max(w.prompt_tokens, 1)
    prompt, one = made.tokens(length), made.tokens(1)
    yield Pass("prefill", prefill, cache=held)
    lengthen(state["cache"].self_attention_cache, step_length(length, w.decode_steps))
    yield Pass("decode", lambda: decode(one), w.decode_steps, held)
