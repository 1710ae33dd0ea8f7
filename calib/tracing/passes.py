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
from calib.trace import record
from calib.tracing.tree import TracedLayer, layer_of
from model.causal_lm import mean_context
from model.workload import Phase, Workload


class Buildable(Protocol):
    """What is traced: a module built on the tensors in force, and its configuration."""

    @property
    def dtype(self) -> str: ...

    def build(self) -> torch.nn.Module: ...


def traced_phases(source: Buildable, workload: Workload) -> dict[str, Phase]:
    with FakeTensorMode(), torch.no_grad():
        return passes_of(source.build(), source, workload)


def passes_of(module: Any, source: Buildable, workload: Workload) -> dict[str, Phase]:
    """By the kind of model; the tensors are those in force."""
    encodes = getattr(module.config, "is_encoder_decoder", False)
    if encodes and hasattr(module.config, "num_mel_bins"):
        return Speech(module, source, workload).phases()
    if module.main_input_name == "pixel_values":
        return {"vision": Phase(vision(module, source, workload))}
    if module.main_input_name == "input_ids" and not encodes and hasattr(module, "lm_head"):
        return Text(module, source, workload).phases()
    raise CalibError(
        f"hf.config: {type(module).__name__} takes {module.main_input_name}: expected a causal "
        "language model, one that sees images, a vision model, or speech to text"
    )


def traced(module: Any, run: Callable[[], Any], cache: Any = None) -> tuple[TracedLayer, Any]:
    """The layer that ``run`` is, and what it returns; ``cache``: what it reads and replaces."""
    recording = record(module, run, before=cached(cache) if cache is not None else ())
    held = sum(t.nbytes for t in cached(cache)) if cache is not None else 0
    return layer_of(recording.events, recording.used, module, held), recording.result


# Images


def side_of(module: Any, workload: Workload) -> int:
    """That of the workload, or the model's own."""
    config = getattr(module.config, "vision_config", module.config)
    side = workload.side or getattr(config, "image_size", None) or 224
    return int(side[0] if isinstance(side, list | tuple) else side)


def pixels(module: Any, source: Buildable, workload: Workload) -> torch.Tensor:
    side = side_of(module, workload)
    config = getattr(module.config, "vision_config", module.config)
    channels = getattr(config, "num_channels", 3)
    return torch.empty(workload.batch, channels, side, side, dtype=getattr(torch, source.dtype))


def vision(module: Any, source: Buildable, workload: Workload) -> TracedLayer:
    """One forward over the images; a model of masks is asked for those of one point."""
    given = {"pixel_values": pixels(module, source, workload)}
    if "input_points" in inspect.signature(module.forward).parameters:
        given["input_points"] = given["pixel_values"].new_empty(workload.batch, 1, 1, 2)
    try:
        return traced(module, lambda: module(**given))[0]
    except ValueError as error:
        raise CalibError(f"workload.side = {side_of(module, workload)}: {error}") from None


# Text


def cached(cache: Any) -> Iterator[torch.Tensor]:
    """Keys and values that are held; of both caches where a decoder looks at an encoder too.

    One by one, so that nothing but the cache keeps them alive.
    """
    parts = [getattr(cache, n, None) for n in ("self_attention_cache", "cross_attention_cache")]
    for part in (p for p in parts if p is not None) if any(parts) else (cache,):
        for layer in part.layers:
            if layer.keys is not None:
                yield layer.keys
                yield layer.values


def lengthen(cache: Any, tokens: int) -> None:
    """As if ``tokens`` more had been decoded."""
    if tokens <= 0:
        return
    for layer in cache.layers:
        keys = layer.keys
        more = keys.new_empty(*keys.shape[:2], tokens, keys.shape[3])
        layer.update(more, layer.values.new_empty(*layer.values.shape[:2], tokens, more.shape[3]))


@dataclass
class Text:
    """Prefill, then a decode step at the mean context; before them the image, if there is one."""

    module: Any
    source: Buildable
    workload: Workload

    def phases(self) -> dict[str, Phase]:
        from transformers import DynamicCache

        w, found = self.workload, dict[str, Phase]()
        images = 0
        if w.side is not None:
            found["vision"], images = self.vision()
        tokens = images + w.prompt_tokens
        if tokens < 1:
            raise CalibError(f"workload.prompt_tokens = {w.prompt_tokens}: expected at least 1")
        self.cache = DynamicCache(config=self.module.config.get_text_config())
        prompt = {"input_ids": torch.zeros(w.batch, tokens, dtype=torch.long)}
        if images:
            hidden = self.module.config.get_text_config().hidden_size
            wide = torch.empty(w.batch, tokens, hidden, dtype=getattr(torch, self.source.dtype))
            prompt = {"inputs_embeds": wide}
        layer, _ = traced(self.module, lambda: self.run(prompt, w.logits), self.cache)
        found["prefill"] = Phase(layer)
        context = math.ceil(mean_context(tokens, w.decode_steps))
        lengthen(self.cache, context - 1 - tokens)
        one = {"input_ids": torch.zeros(w.batch, 1, dtype=torch.long)}
        layer, _ = traced(self.module, lambda: self.run(one, "all"), self.cache)
        found["decode"] = Phase(layer, w.decode_steps)
        return found

    def vision(self) -> tuple[Phase, int]:
        """The image's features, and how many tokens an image becomes."""
        module, w = self.module, self.workload
        inner = getattr(module, "model", module)
        if not hasattr(inner, "get_image_features"):
            raise CalibError(
                f"workload.side = {w.side}: {type(module).__name__} reads text only: expected a "
                "workload without an image, such as text_512"
            )
        image = pixels(module, self.source, w)
        layer, features = traced(module, lambda: inner.get_image_features(image))
        rows = features.pooler_output if hasattr(features, "pooler_output") else features
        rows = torch.cat(list(rows)) if isinstance(rows, list | tuple) else rows
        return Phase(layer), rows.numel() // rows.shape[-1] // w.batch

    def run(self, given: dict[str, Any], logits: str) -> Any:
        """A model that sees images reads features through its language model alone."""
        module, passed = self.module, {**given, "past_key_values": self.cache, "use_cache": True}
        inner = getattr(module.model, "language_model", None)
        if inner is None:
            if "logits_to_keep" in inspect.signature(module.forward).parameters:
                passed["logits_to_keep"] = 1 if logits == "last" else 0
            return module(**passed)
        hidden = inner(**passed).last_hidden_state
        return module.lm_head(hidden if logits == "all" else hidden[:, -1:])


# Speech


@dataclass
class Speech:
    """The encoder over one window of sound, the prompt, then a decode step."""

    module: Any
    source: Buildable
    workload: Workload

    def phases(self) -> dict[str, Phase]:
        from transformers import DynamicCache, EncoderDecoderCache

        module, w, config = self.module, self.workload, self.module.config
        frames = 2 * config.max_source_positions  # the encoder's convolutions halve them
        sound = torch.empty(w.batch, config.num_mel_bins, frames)
        sound = sound.to(getattr(torch, self.source.dtype))
        encoder = module.get_encoder()
        encoding, states = traced(module, lambda: encoder(sound))
        cache = EncoderDecoderCache(DynamicCache(config=config), DynamicCache(config=config))

        def step(tokens: int) -> TracedLayer:
            ids = torch.zeros(w.batch, tokens, dtype=torch.long)
            given = {"encoder_outputs": states, "past_key_values": cache, "use_cache": True}
            layer, _ = traced(module, lambda: module(decoder_input_ids=ids, **given), cache)
            return layer

        prompt = max(w.prompt_tokens, 1)
        prefill = step(prompt)
        context = math.ceil(mean_context(prompt, w.decode_steps))
        lengthen(cache.self_attention_cache, context - 1 - prompt)
        return {
            "encoder": Phase(encoding),
            "prefill": Phase(prefill),
            "decode": Phase(step(1), w.decode_steps),
        }
