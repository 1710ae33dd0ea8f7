"""The rest of the family as ``transformers`` builds it, full size, on fake or meta tensors."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import pytest
import torch
from dispatched import Dispatched, record
from live_memory import live_memory
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

transformers = pytest.importorskip("transformers")
EAGER = {"attn_implementation": "eager", "experts_implementation": "batched_mm"}


def llama() -> tuple[type, Any]:
    config = transformers.LlamaConfig(
        hidden_size=4096,
        intermediate_size=14336,
        num_hidden_layers=32,
        num_attention_heads=32,
        num_key_value_heads=8,
        vocab_size=128256,
        max_position_embeddings=131072,
    )
    return transformers.LlamaForCausalLM, config


def qwen3_moe() -> tuple[type, Any]:
    config = transformers.Qwen3MoeConfig(
        hidden_size=2048,
        intermediate_size=6144,
        num_hidden_layers=48,
        num_attention_heads=32,
        num_key_value_heads=4,
        head_dim=128,
        moe_intermediate_size=768,
        num_experts=128,
        num_experts_per_tok=8,
        norm_topk_prob=True,
        vocab_size=151936,
    )
    return transformers.Qwen3MoeForCausalLM, config


def vit() -> tuple[type, Any]:
    config = transformers.ViTConfig(
        hidden_size=1024,
        num_hidden_layers=24,
        num_attention_heads=16,
        intermediate_size=4096,
        num_labels=1000,
    )
    return transformers.ViTForImageClassification, config


def deepseek_ocr_2() -> tuple[type, Any]:
    if not hasattr(transformers, "DeepseekOcr2ForConditionalGeneration"):
        pytest.skip(f"transformers {transformers.__version__} has no DeepseekOcr2")
    config = transformers.DeepseekOcr2Config()
    encoder, text = config.vision_config.encoder_config, config.text_config
    values: list[tuple[Any, dict[str, Any]]] = [
        (
            encoder,
            {
                "hidden_size": 896,
                "intermediate_size": 4864,
                "num_hidden_layers": 24,
                "num_attention_heads": 14,
                "num_key_value_heads": 2,
                "layer_types": ["full_attention"] * 24,
            },
        ),
        (
            text,
            {
                "vocab_size": 129280,
                "hidden_size": 1280,
                "intermediate_size": 6848,
                "num_hidden_layers": 12,
                "num_attention_heads": 10,
                "num_key_value_heads": 10,
                "head_dim": 128,
                "n_routed_experts": 64,
                "n_shared_experts": 2,
                "num_experts_per_tok": 6,
                "moe_intermediate_size": 896,
                "mlp_layer_types": ["dense"] + ["sparse"] * 11,
            },
        ),
    ]
    for part, numbers in values:
        for key, value in numbers.items():
            setattr(part, key, value)
    return transformers.DeepseekOcr2ForConditionalGeneration, config


FAMILY = {
    "llama": llama,
    "qwen3_moe": qwen3_moe,
    "vit": vit,
    "deepseek_ocr_2": deepseek_ocr_2,
}


def without_initial_values() -> Any:
    """Drawing initial values needs data, which fake tensors have none of."""
    from transformers import initialization

    return initialization.no_init_weights()


def build(name: str, implementation: dict[str, str]) -> Any:
    kind, config = FAMILY[name]()
    for key, value in implementation.items():
        setattr(config, f"_{key}", value)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with without_initial_values():
            return kind(config).eval()
    finally:
        torch.set_default_dtype(before)


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


def dispatched_language(
    name: str, tokens: int, batch: int = 1
) -> tuple[list[Dispatched], list[Dispatched]]:
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
