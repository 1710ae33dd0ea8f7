"""What is traced beside our own layers, for configurations whose architecture they have too."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from model.architectures import build
from model.workload import Phase

if TYPE_CHECKING:
    import pandas as pd


def _llama(config: Any, dtype: str) -> Any:
    return build("llama", **_text(config), dense_layers=config.num_hidden_layers, dtype=dtype)


def _qwen3_moe(config: Any, dtype: str) -> Any:
    return build(
        "qwen3_moe",
        **{**_text(config), "intermediate": 0},
        experts=config.num_experts,
        top_k=config.num_experts_per_tok,
        expert_intermediate=config.moe_intermediate_size,
        dtype=dtype,
    )


def _text(config: Any) -> dict[str, int]:
    heads = config.num_attention_heads
    return {
        "hidden": config.hidden_size,
        "layers": config.num_hidden_layers,
        "heads": heads,
        "kv_heads": config.num_key_value_heads,
        "head_dim": getattr(config, "head_dim", None) or config.hidden_size // heads,
        "intermediate": config.intermediate_size,
        "vocabulary": config.vocab_size,
    }


def _vit(config: Any, dtype: str) -> Any:
    return build(
        "vit",
        hidden=config.hidden_size,
        layers=config.num_hidden_layers,
        heads=config.num_attention_heads,
        intermediate=config.intermediate_size,
        side=config.image_size,
        patch=config.patch_size,
        channels=config.num_channels,
        classes=config.num_labels,
        dtype=dtype,
    )


def _deepseek_ocr2(config: Any, dtype: str) -> Any:
    text, sees = config.text_config, config.vision_config
    tower, encoder = sees.sam_config, sees.encoder_config
    dense = sum(kind == "dense" for kind in text.mlp_layer_types)
    return build(
        "deepseek_ocr_2",
        **_text(text),
        dense_layers=dense,
        experts=text.n_routed_experts,
        top_k=text.num_experts_per_tok,
        expert_intermediate=text.moe_intermediate_size,
        shared_experts=text.n_shared_experts,
        sam_hidden=tower.hidden_size,
        sam_layers=tower.num_hidden_layers,
        sam_heads=tower.num_attention_heads,
        sam_intermediate=tower.mlp_dim,
        sam_global_layers=tuple(tower.global_attn_indexes),
        sam_downsample=tuple(tower.downsample_channels),
        encoder_layers=encoder.num_hidden_layers,
        encoder_heads=encoder.num_attention_heads,
        encoder_kv_heads=encoder.num_key_value_heads,
        encoder_intermediate=encoder.intermediate_size,
        dtype=dtype,
    )


FORMULAS: dict[str, Callable[[Any, str], Any]] = {
    "llama": _llama,
    "qwen3_moe": _qwen3_moe,
    "vit": _vit,
    "deepseek_ocr2": _deepseek_ocr2,
}
"""Our model of a configuration, by its ``model_type``."""


def formula_columns(modules: pd.DataFrame, formulas: Mapping[str, Phase]) -> pd.DataFrame:
    """``modules`` with ``formula_flops`` and ``formula_bytes``: of the same module by our layers,
    inclusive, of the whole phase. Null where they have no such module."""
    found: dict[tuple[str, str], list[float]] = {}
    for phase, passed in formulas.items():
        for call in passed.layer.calls():
            times = call.count * passed.repeat
            parts = call.path.split(".") if call.path else []
            for depth in range(len(parts) + 1):
                sums = found.setdefault((phase, ".".join(parts[:depth])), [0.0, 0.0])
                sums[0] += float(call.op.flops) * times
                sums[1] += float(call.op.bytes) * times
    nothing = [float("nan")] * 2
    keys = zip(modules["phase"], modules["path"], strict=True)
    flops, moved = zip(*(found.get(key, nothing) for key in keys), strict=True)
    return modules.assign(formula_flops=flops, formula_bytes=moved)


def agreement(modules: pd.DataFrame) -> list[str]:
    """One line a phase that our layers have too: how far the trace is from them."""
    found = []
    for phase, path, *costs in modules[["phase", "path", *_COMPARED]].itertuples(index=False):
        flops, moved, our_flops, our_bytes = (float(cost) for cost in costs)
        if path == "" and our_flops > 0:
            found.append(
                f"{phase}: traced FLOPs / those of our formulas = {flops / our_flops:.6f}, "
                f"bytes {moved / our_bytes:.6f}."
            )
    return found


_COMPARED = ("flops", "bytes", "formula_flops", "formula_bytes")
