"""The models that our counts are compared with, as ``transformers`` builds them, without weights.

Full size, on ``meta`` or on fake tensors: building one takes no memory and draws no values.
"""

from __future__ import annotations

from typing import Any

import torch
import transformers

EAGER = {"attn_implementation": "eager", "experts_implementation": "batched_mm"}
"""What torch's FLOP counter sees whole: it counts neither the CPU's fused attention nor grouped
products."""
NO_MASKS = {"full_attention": None, "reference_sliding_attention": None}
"""Building a mask looks at values, which tensors on ``meta`` have none of."""


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


def deepseek_ocr() -> tuple[type, Any]:
    """DeepSeek-OCR's dimensions are the defaults; its attention sees all tokens."""
    config: Any = transformers.UnlimitedOcrConfig()
    config.text_config.layer_types = ["full_attention"] * config.text_config.num_hidden_layers
    return transformers.UnlimitedOcrForConditionalGeneration, config


def deepseek_ocr_2() -> tuple[type, Any]:
    config: Any = transformers.DeepseekOcr2Config()
    encoder = {
        "hidden_size": 896,
        "intermediate_size": 4864,
        "num_hidden_layers": 24,
        "num_attention_heads": 14,
        "num_key_value_heads": 2,
        "layer_types": ["full_attention"] * 24,
    }
    text = {
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
    }
    update(config.vision_config.encoder_config, encoder)
    update(config.text_config, text)
    return transformers.DeepseekOcr2ForConditionalGeneration, config


def update(config: Any, values: dict[str, Any]) -> None:
    for key, value in values.items():
        setattr(config, key, value)


REFERENCES = {
    "deepseek_ocr": deepseek_ocr,
    "deepseek_ocr_2": deepseek_ocr_2,
    "llama": llama,
    "qwen3_moe": qwen3_moe,
    "vit": vit,
}
"""Class and configuration by the name of our architecture."""


def build_reference(
    kind: type,
    config: Any,
    dtype: torch.dtype = torch.bfloat16,
    implementation: dict[str, str] | None = None,
) -> Any:
    """``kind(config)`` in evaluation mode; ``implementation`` as :data:`EAGER` names it."""
    update(config, {f"_{key}": value for key, value in (implementation or {}).items()})
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        return kind(config).eval()
    finally:
        torch.set_default_dtype(before)


def without_initial_values() -> Any:
    """Within it a model is built without drawing weights: fake tensors have no values."""
    from transformers.initialization import no_init_weights

    return no_init_weights()
