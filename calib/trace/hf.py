"""A Hugging Face configuration as a model: built without weights, traced, estimated like ours.

The class is one that ``transformers`` itself registers for the configuration's ``model_type``; no
code is loaded from anywhere else, nothing is downloaded, and parameters are fake tensors, which
hold no numbers. What runs is what an eager CPU would dispatch, fused attention included. The
experts of a mixture run as one grouped product; those touched are the expectation under uniform
routing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from calib.errors import CalibError, shown, wrong
from calib.trace.guard import (
    KEY,
    check_sizes,
    offline,
    one_line,
    read,
    without_loaders,
)
from calib.trace.weights.stored import Weights, weights_of
from model.architectures import build
from model.causal_lm import mean_context
from model.workload import Phase, Workload

if TYPE_CHECKING:
    import pandas as pd
    import torch

ROUTING = (
    "Experts touched are the expectation under uniform routing; real routing touches fewer, so "
    "a batch's experts are read at most as often as said."
)
SIZES = {
    "hidden": ("hidden_size", "d_model"),
    "layers": ("num_hidden_layers",),
    "heads": ("num_attention_heads",),
    "kv_heads": ("num_key_value_heads",),
    "intermediate": ("intermediate_size", "encoder_ffn_dim"),
    "vocabulary": ("vocab_size",),
    "experts": ("num_experts", "num_local_experts", "n_routed_experts"),
    "top_k": ("num_experts_per_tok",),
}
"""Our names of dimensions, for the report, and theirs."""


@dataclass(frozen=True, eq=False)
class HFModel:
    """A class of ``transformers`` and its configuration. ``name``: as :func:`name_of` says;
    ``card``: the compute capability of the card whose kernels are asked; None: a CPU's."""

    name: str
    kind: type
    config: Any
    dtype: str
    card: str | None = None
    traced: dict[Workload, dict[str, Phase]] = field(default_factory=dict, repr=False)
    weights: Weights = field(default_factory=Weights, repr=False)

    @property
    def dimensions(self) -> dict[str, Any]:
        """What the report says of the model."""
        text = self.config.get_text_config()
        found: dict[str, Any] = {"model_type": self.config.model_type, "class": self.kind.__name__}
        for ours, theirs in SIZES.items():
            values = (getattr(text, name, None) for name in theirs)
            value = next((v for v in values if isinstance(v, int)), None)
            if value is not None:
                found[ours] = value
        return {**found, "dtype": self.dtype}

    @property
    def notes(self) -> list[str]:
        routed = [ROUTING] if self.dimensions.get("experts") else []
        return [*routed, *self.weights.notes]

    def phases(self, workload: Workload, routing: None = None) -> dict[str, Phase]:
        """The passes of ``workload``, traced once: of text, ``prefill`` and a ``decode`` step at
        the mean context, rounded up; of images ``vision``; of speech ``encoder`` before them.

        Raises ``CalibError`` for a kind of model, or a side of an image, that cannot be traced.
        """
        if workload not in self.traced:
            from calib.trace.passes import traced_phases

            with one_line(f"{self.name}: {self.kind.__name__}"):
                phases = traced_phases(self, workload)
                self.traced[workload] = self.weights.lowered(phases, self.dtype, self.card)
        return self.traced[workload]

    def working(self, workload: Workload) -> tuple[float, float, str]:
        """KV cache and activations [bytes] of the phase that needs most, and its name.

        From a traced pass of the same workload at another batch: both grow with it, at most in
        proportion. The cache of decoding is brought from the mean context to the last.
        """
        alike = (w for w in self.traced if replace(w, batch=workload.batch) == workload)
        known = next(alike, workload)
        times = workload.batch / known.batch
        found = []
        for name, phase in self.phases(known).items():
            cache = float(phase.layer.kv_cache_bytes())
            if name == "decode":
                steps, prompt = workload.decode_steps, workload.prompt_tokens
                cache *= (prompt + steps) / mean_context(prompt, steps)
            found.append((cache * times, float(phase.layer.activation_bytes()) * times, name))
        return max(found, key=lambda one: one[0] + one[1])

    def formulas(self, workload: Workload) -> dict[str, Phase]:
        """The same passes by our own layers, where they have the architecture; else nothing."""
        if self.config.model_type not in FORMULAS or self.weights.scheme is not None:
            return {}
        try:
            ours = FORMULAS[self.config.model_type](self.config, self.dtype)
        except (AttributeError, TypeError, ValueError, ZeroDivisionError):
            return {}  # the file has what our layers have not
        found: dict[str, Phase] = ours.phases(workload)
        if "decode" in found:  # at the context that is traced
            mean = mean_context(ours.prompt_length(workload), workload.decode_steps)
            layer = ours.decode_layer(math.ceil(mean), workload.batch)
            found["decode"] = Phase(layer, workload.decode_steps)
        return found

    def build(self) -> torch.nn.Module:
        """The model without values, on whatever kind of tensors is in force."""
        import torch
        from transformers.initialization import no_init_weights

        before = torch.get_default_dtype()
        torch.set_default_dtype(getattr(torch, self.dtype))
        try:
            with no_init_weights():
                module: Any = self.kind(self.config).eval()
            module.tie_weights()  # which the library does when it loads weights
        finally:
            torch.set_default_dtype(before)
        built: torch.nn.Module = module
        return self.weights.of(built)


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


def load(path: str | Path | None, dtype: str | None = None) -> HFModel:
    """The model of a ``config.json``. ``dtype``: of its tensors, in place of the file's.

    Raises ``CalibError`` naming ``hf.config``, for a file that is missing or broken, a
    ``model_type`` or class that ``transformers`` does not have, and one that needs remote code.
    """
    if not path:
        raise CalibError(f"{KEY} is missing: expected the path of a config.json")
    file = Path(path).expanduser()
    file = file / "config.json" if file.is_dir() else file
    given = read(file)
    kind_name = given.get("model_type")
    if not isinstance(kind_name, str):
        raise CalibError(f"{KEY} = {file}: it has no model_type: expected a transformers config")
    offline()
    with one_line(f"{file}: {kind_name}"):
        plain = without_loaders(given)
        check_sizes(plain)
        config = configuration(file, kind_name, plain, "auto_map" in given)
        kind = model_class(file, config, plain)
        chosen = dtype or given.get("dtype") or given.get("torch_dtype") or "float32"
        if chosen not in ("bfloat16", "float16", "float32"):
            raise CalibError(wrong("hf.dtype", chosen, "bfloat16, float16 or float32"))
        model = HFModel(name_of(file), kind, config, chosen, weights=weights_of(file, given))
        _ = model.dimensions  # which a report says
    return model


def name_of(file: Path) -> str:
    """What a configuration is called: its file, or its folder where that is a ``config.json``; in
    the cache of the hub, ``models--meta-llama--Llama-3.1-8B/snapshots/<hash>``, the repository."""
    if file.name != "config.json":
        return file.stem
    folder = file.absolute().parent  # and not where the cache's link leads
    if folder.parent.name == "snapshots":
        return folder.parent.parent.name.split("--")[-1]
    return folder.name


def configuration(file: Path, kind: str, given: dict[str, Any], remote: bool = False) -> Any:
    """``remote``: the file names code of its own."""
    from transformers import AutoConfig
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

    if kind not in CONFIG_MAPPING_NAMES:
        if remote:
            raise CalibError(
                f"{KEY} = {file}: model_type {shown(kind)} needs code from the hub (auto_map), "
                "which is never run: expected a model_type that transformers has"
            )
        raise CalibError(
            f"{KEY} = {file}: model_type = {shown(kind)}: expected one of the "
            f"{len(CONFIG_MAPPING_NAMES)} that transformers has, such as llama, vit or whisper"
        )
    plain = {k: v for k, v in given.items() if k not in ("model_type", "architectures")}
    return AutoConfig.for_model(kind, **plain)


TASKS = (
    *("CAUSAL_LM", "IMAGE_TEXT_TO_TEXT", "SPEECH_SEQ_2_SEQ", "SEQ_TO_SEQ_CAUSAL_LM"),
    *("IMAGE_CLASSIFICATION", "MASK_GENERATION"),
)
"""What a class is looked for by, where the file names none, in this order."""


def model_class(file: Path, config: Any, given: dict[str, Any]) -> type:
    """The class that the file names, if it is registered for its ``model_type``; else the first."""
    import transformers
    from transformers.models.auto import modeling_auto as auto

    names: list[str] = []
    tables = [f"MODEL_FOR_{task}_MAPPING_NAMES" for task in TASKS]
    tables += sorted(t for t in vars(auto) if t.endswith("MAPPING_NAMES") and "CONFIG" not in t)
    for table in tables:
        found = getattr(auto, table, {}).get(config.model_type, ())
        names += [found] if isinstance(found, str) else list(found)
    listed = given.get("architectures") or [None]
    first = listed[0] if isinstance(listed, list) else listed
    wanted = first or (names[0] if names else None)
    if wanted not in names:
        known = ", ".join(list(dict.fromkeys(names))[:20]) or "none"
        raise CalibError(
            f"{KEY} = {file}: architectures = [{shown(wanted)}]: transformers has for "
            f"{config.model_type}: {known}"
        )
    kind: type = getattr(transformers, str(wanted))
    return kind
