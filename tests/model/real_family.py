"""The rest of the family as ``transformers`` builds it, full size, on fake or meta tensors."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import pytest
import torch
from dispatched import record
from live_memory import live_memory
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

transformers = pytest.importorskip("transformers")

from benchmarks.reference_models import (  # noqa: E402  (after the check above)
    EAGER,
    REFERENCES,
    build_reference,
    without_initial_values,
)
from model.layer import Call  # noqa: E402


def build(name: str, implementation: dict[str, str]) -> Any:
    if name == "deepseek_ocr_2" and not hasattr(transformers, "DeepseekOcr2Config"):
        pytest.skip(f"transformers {transformers.__version__} has no DeepseekOcr2")
    with without_initial_values():
        return build_reference(*REFERENCES[name](), implementation=implementation)


@cache
def fake_model(name: str) -> tuple[FakeTensorMode, Any]:
    mode = FakeTensorMode()
    with mode:
        return mode, build(name, {})


@cache
def meta_model(name: str) -> Any:
    with torch.device("meta"):
        return build(name, EAGER)


def flops(run: Callable[[], Any]) -> int:
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()


def language_passes(
    model: Any, tokens: int, batch: int
) -> tuple[Any, Callable[[], Any], Callable[[], Any]]:
    """A cache, a prefill and the decode step after it, to be called in this order.

    A model of text reads tokens; one that sees pages is given features.
    """
    device = model.device
    cache = transformers.DynamicCache(config=model.config.get_text_config())
    text = model.model.language_model if hasattr(model.model, "language_model") else model.model
    one = torch.zeros(batch, 1, dtype=torch.long, device=device)
    prompt = torch.zeros(batch, tokens, dtype=torch.long, device=device)
    inputs: dict[str, Any] = {"input_ids": prompt}
    if text is not model.model:
        features = torch.empty(batch, tokens, text.config.hidden_size, device=device)
        inputs = {"inputs_embeds": features.to(torch.bfloat16)}

    def run(given: dict[str, Any]) -> Any:
        hidden = text(past_key_values=cache, use_cache=True, **given).last_hidden_state
        return model.lm_head(hidden)

    return cache, lambda: run(inputs), lambda: run({"input_ids": one})


def dispatched_language(name: str, tokens: int, batch: int = 1) -> tuple[list[Call], list[Call]]:
    mode, model = fake_model(name)
    with mode:
        _, prefill, decode = language_passes(model, tokens, batch)
        return record(model, prefill), record(model, decode)


def language_flops(name: str, tokens: int, batch: int = 1) -> tuple[int, int]:
    _, prefill, decode = language_passes(meta_model(name), tokens, batch)
    return flops(prefill), flops(decode)


def pixels(model: Any, side: int, batch: int) -> torch.Tensor:
    return torch.empty(batch, 3, side, side, dtype=torch.bfloat16, device=model.device)


def language_peaks(name: str, tokens: int, batch: int) -> tuple[int, int]:
    """The most bytes, the KV cache among them, that a prefill and a decode step hold at once."""
    mode, model = fake_model(name)
    with mode:
        cache, prefill, decode = language_passes(model, tokens, batch)
        first, _ = live_memory(model, prefill)
        second, _ = live_memory(model, decode, before=cached_tensors(cache))
    return first, second


def cached_tensors(cache: Any) -> Iterator[torch.Tensor]:
    for layer in cache.layers:
        yield layer.keys
        yield layer.values
