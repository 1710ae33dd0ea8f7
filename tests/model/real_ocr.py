"""The implementation that we count against: full size, and no memory taken.

``fake_model``: its tensors know shape, type and device, so that what the CPU would execute is
dispatched. ``meta_model``: eager attention and batched experts on ``meta``, since torch's FLOP
counter sees neither the fused attention of the CPU nor grouped products.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
from dispatched import record
from live_memory import live_memory
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

transformers = pytest.importorskip("transformers")
if not hasattr(transformers, "UnlimitedOcrConfig"):
    reason = f"transformers {transformers.__version__} has no UnlimitedOcr to count against"
    pytest.skip(reason, allow_module_level=True)

from benchmarks.reference_models import (  # noqa: E402  (after the checks above)
    EAGER,
    NO_MASKS,
    build_reference,
    deepseek_ocr,
)
from model.layer import Call  # noqa: E402

Tiles = tuple[int, int] | None


@cache
def fake_model() -> tuple[FakeTensorMode, Any]:
    mode = FakeTensorMode()
    with mode:
        return mode, build_reference(*deepseek_ocr())


SMALL: dict[str, Any] = {
    "hidden": 64,
    "layers": 3,
    "dense_layers": 1,
    "heads": 2,
    "kv_heads": 2,
    "head_dim": 32,
    "intermediate": 96,
    "experts": 8,
    "top_k": 3,
    "expert_intermediate": 48,
    "shared_experts": 1,
    "vocabulary": 97,
}
"""Dimensions, as our model names them, of a language model that really runs."""


def small_model(dtype: torch.dtype) -> Any:
    kind, config = deepseek_ocr()
    theirs = {
        "hidden_size": SMALL["hidden"],
        "num_hidden_layers": SMALL["layers"],
        "num_attention_heads": SMALL["heads"],
        "num_key_value_heads": SMALL["kv_heads"],
        "head_dim": SMALL["head_dim"],
        "intermediate_size": SMALL["intermediate"],
        "n_routed_experts": SMALL["experts"],
        "num_experts_per_tok": SMALL["top_k"],
        "moe_intermediate_size": SMALL["expert_intermediate"],
        "n_shared_experts": SMALL["shared_experts"],
        "vocab_size": SMALL["vocabulary"],
        "mlp_layer_types": ["dense", "sparse", "sparse"],
        "layer_types": ["full_attention"] * SMALL["layers"],
    }
    for key, value in theirs.items():
        setattr(config.text_config, key, value)
    sizes = (config.vision_config.sam_config, config.vision_config.encoder_config)
    for vision in sizes:
        vision.hidden_size, vision.num_attention_heads, vision.num_hidden_layers = 32, 2, 1
    return build_reference(kind, config, dtype)


@cache
def meta_model() -> Any:
    with torch.device("meta"):
        return build_reference(*deepseek_ocr(), implementation=EAGER)


def pixels(side: int, batch: int, model: Any) -> torch.Tensor:
    parameter = next(model.parameters())
    return torch.empty(batch, 3, side, side, dtype=parameter.dtype, device=parameter.device)


def image_features(model: Any, side: int, tiles: Tiles, batch: int) -> Callable[[], Any]:
    """A page an image and, with tiles, all tiles of 640 in a batch."""
    local: dict[str, Any] = {}
    if tiles is not None:
        pieces = tiles[0] * tiles[1]
        local = {
            "pixel_values_local": pixels(640, batch * pieces, model),
            "num_local_patches": [pieces] * batch,
            "patches_grid": [[tiles[1], tiles[0]]] * batch,
        }
    page = pixels(side, batch, model)
    return lambda: model.model.get_image_features(page, **local)


def dispatched_vision(side: int, tiles: Tiles = None, batch: int = 1) -> list[Call]:
    mode, model = fake_model()
    with mode:
        return record(model.model, image_features(model, side, tiles, batch), "model")


def dispatched_language(tokens: int, batch: int = 1) -> tuple[list[Call], list[Call]]:
    """A prefill of ``tokens`` and the decode step after it, at full size."""
    mode, model = fake_model()
    with mode:
        return run_language(model, tokens, batch)


def run_language(model: Any, tokens: int, batch: int = 1) -> tuple[list[Call], list[Call]]:
    text = model.model.language_model
    cache = transformers.DynamicCache(config=model.config.text_config)
    features = torch.randn(batch, tokens, text.config.hidden_size).to(model.lm_head.weight.dtype)
    ids = torch.zeros(batch, 1, dtype=torch.long)

    def run(**inputs: Any) -> list[Call]:
        passed = {"past_key_values": cache, "use_cache": True, **inputs}
        return record(model, lambda: model.lm_head(text(**passed).last_hidden_state))

    return run(inputs_embeds=features), run(input_ids=ids)


def flops(run: Callable[[], Any]) -> int:
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()


def language_flops(tokens: int, batch: int = 1) -> tuple[int, int]:
    """FLOPs of a prefill of ``tokens`` and of the decode step after it, on ``meta``."""
    model = meta_model()
    text = model.model.language_model
    cache = transformers.DynamicCache(config=model.config.text_config)
    with torch.device("meta"):
        features = torch.empty(batch, tokens, text.config.hidden_size, dtype=torch.bfloat16)
        ids = torch.zeros(batch, 1, dtype=torch.long)

    def run(**inputs: Any) -> int:
        positions = {"attention_mask": NO_MASKS, "past_key_values": cache, "use_cache": True}
        return flops(lambda: model.lm_head(text(**inputs, **positions).last_hidden_state))

    return run(inputs_embeds=features), run(input_ids=ids)


def forward_and_backward_flops(run: Callable[[], torch.Tensor]) -> tuple[int, int]:
    """FLOPs of a pass and of the gradient of its sum."""
    with FlopCounterMode(display=False) as counter:
        result = run()
        forward = counter.get_total_flops()
        result.sum().backward()
    return forward, counter.get_total_flops() - forward


def vision_training_flops(side: int, tiles: Tiles) -> tuple[int, int]:
    features = image_features(meta_model(), side, tiles, 1)
    return forward_and_backward_flops(lambda: torch.cat(features().pooler_output))


def language_training_flops(tokens: int, batch: int) -> tuple[int, int]:
    """Of features that need a gradient, since the vision tower is trained too."""
    model = meta_model()
    text = model.model.language_model
    features = torch.empty(
        batch,
        tokens,
        text.config.hidden_size,
        dtype=torch.bfloat16,
        device="meta",
        requires_grad=True,
    )
    given = {"inputs_embeds": features, "attention_mask": NO_MASKS, "use_cache": False}
    return forward_and_backward_flops(lambda: model.lm_head(text(**given).last_hidden_state))


def language_peaks(tokens: int, batch: int, logits: str) -> tuple[int, int]:
    """The most bytes, the KV cache among them, that a prefill and a decode step hold at once."""
    mode, model = fake_model()
    text = model.model.language_model
    kept = slice(None) if logits == "all" else slice(-1, None)
    with mode:
        cache = transformers.DynamicCache(config=model.config.text_config)
        features = torch.empty(batch, tokens, text.config.hidden_size, dtype=torch.bfloat16)
        ids = torch.zeros(batch, 1, dtype=torch.long)

        def run(**given: Any) -> Any:
            hidden = text(past_key_values=cache, use_cache=True, **given).last_hidden_state
            return model.lm_head(hidden[:, kept])

        first, _ = live_memory(model, lambda: run(inputs_embeds=features))
        before = (tensor for layer in cache.layers for tensor in (layer.keys, layer.values))
        second, _ = live_memory(model, lambda: run(input_ids=ids), before=before)
    return first, second
