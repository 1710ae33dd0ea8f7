"""The models that the runs served, by the dimensions of their published configurations."""

from __future__ import annotations

from typing import Any

from model.causal_lm import CausalLM, Llama, Qwen3Moe

LLAMA_70B = {"hidden": 8192, "layers": 80, "dense_layers": 80, "heads": 64, "intermediate": 28672}
QWEN3_32B = {
    **{"hidden": 5120, "layers": 64, "dense_layers": 64, "heads": 64, "kv_heads": 8},
    **{"intermediate": 25600, "experts": 0, "top_k": 0, "expert_intermediate": 0},
}
QWEN3_235B = {
    **{"hidden": 4096, "layers": 94, "heads": 64, "kv_heads": 4},
    **{"experts": 128, "top_k": 8, "expert_intermediate": 1536},
}
MODELS: dict[str, tuple[str, type[CausalLM], dict[str, Any]]] = {
    "meta-llama/Llama-3.1-8B-Instruct": ("Llama-3.1-8B", Llama, {}),
    "nvidia/Llama-3.1-8B-Instruct-FP8": ("Llama-3.1-8B", Llama, {}),
    "meta-llama/Llama-3.1-70B": ("Llama-3.1-70B", Llama, LLAMA_70B),
    "Qwen/Qwen3-32B": ("Qwen3-32B", Qwen3Moe, QWEN3_32B),
    "nvidia/Qwen3-32B-NVFP4": ("Qwen3-32B", Qwen3Moe, QWEN3_32B),
    "Qwen/Qwen3-235B-A22B-FP8": ("Qwen3-235B", Qwen3Moe, QWEN3_235B),
}
"""The file's name of a model -> ours, its architecture and dimensions."""

BY_BLOCK = ("Qwen/Qwen3-235B-A22B-FP8",)
"""Checkpoints whose float8 weights have a scale for each block of 128 x 128, by the
``quantization_config`` of their ``config.json``."""


def build(path: str) -> CausalLM:
    """The model that the file calls ``path``."""
    _, architecture, dimensions = MODELS[path]
    return architecture(**dimensions)
