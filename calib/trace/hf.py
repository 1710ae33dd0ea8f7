"""A Hugging Face configuration as a model: built without weights, traced, estimated like ours.

The class is one that ``transformers`` itself registers for the configuration's ``model_type``; no
code is loaded from anywhere else, nothing is downloaded, and parameters are fake tensors, which
hold no numbers. What runs is what an eager CPU would dispatch, fused attention included. The
experts of a mixture run as one grouped product; those touched are the expectation under uniform
routing.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from calib.errors import CalibError
from calib.trace.backbones import with_own_backbone
from model.causal_lm import mean_context
from model.workload import Phase, Workload

if TYPE_CHECKING:
    import torch

    from calib.trace.passes import Traced

ROUTING = (
    "Experts touched are the expectation under uniform routing; real routing touches fewer, so "
    "a batch's experts are read at most as often as said."
)
KEY = "hf.config"
FURTHER = 4
"""How much longer the prompt is whose activations tell how they grow."""
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
    """A class of ``transformers`` and its configuration. ``name``: as :func:`name_of` says.
    ``assumed``: the file names no dtype."""

    name: str
    kind: type
    config: Any
    dtype: str
    assumed: bool = False
    traced: dict[Workload, Traced] = field(default_factory=dict, repr=False)
    further: dict[Workload, Traced] = field(default_factory=dict, repr=False)

    @property
    def dimensions(self) -> dict[str, Any]:
        """What the report says of the model."""
        text = self.config.get_text_config(decoder=True)
        found: dict[str, Any] = {"model_type": self.config.model_type, "class": self.kind.__name__}
        for ours, theirs in SIZES.items():
            values = (getattr(text, name, None) for name in theirs)
            value = next((v for v in values if isinstance(v, int)), None)
            if value is not None:
                found[ours] = value
        return {**found, "dtype": self.dtype}

    @property
    def notes(self) -> list[str]:
        """What a reader must know, of the workloads that were traced too."""
        found = [ROUTING] if self.dimensions.get("experts") else []
        if self.assumed:
            found.append(f"{KEY} names no dtype: {self.dtype} is assumed (hf.dtype=... to choose).")
        return found + [note for traced in self.traced.values() for note in traced.notes]

    def phases(self, workload: Workload, routing: None = None) -> dict[str, Phase]:
        """The passes of ``workload``, traced once: of text, ``prefill`` and a ``decode`` step at
        the mean context, rounded up; of images ``vision``; of what is only read ``encode``; of
        an encoder that is decoded from, ``encoder`` before them.

        Raises ``CalibError`` for a kind of model, or a side of an image, that cannot be traced.
        """
        return self.trace(workload).phases

    def trace(self, workload: Workload) -> Traced:
        """The passes, and what they leave in memory."""
        if workload not in self.traced:
            from calib.trace.passes import traced_phases

            self.traced[workload] = traced_phases(self, workload)
        return self.traced[workload]

    def weight_bytes(self, workload: Workload) -> float:
        """Of all parameters, those that no pass of ``workload`` touches included."""
        return float(self.trace(workload).weight_bytes)

    def prompt_length(self, workload: Workload) -> int | None:
        """Tokens before the first that is decoded; None of a model whose text does not grow."""
        known = self._alike(workload)
        traced = self.trace(known)
        if not traced.is_text:
            return None
        return traced.length + workload.prompt_tokens - known.prompt_tokens

    def working(self, workload: Workload) -> dict[str, tuple[float, float]]:
        """KV cache at the end, and activations at the peak [bytes], of each phase.

        From a traced pass of the same workload at another batch and prompt: both grow with the
        batch, at most in proportion; with the prompt a cache as it is laid out, and activations
        as :meth:`calib.trace.passes.Traced.working` says.
        """
        known = self._alike(workload)
        traced = self.trace(known)
        more = workload.prompt_tokens - known.prompt_tokens
        further = self._further(known) if more else None
        parts = traced.working(more, workload.decode_steps, further)
        times = workload.batch / known.batch
        return {name: (c * times, a * times) for name, (c, a) in parts.items()}

    def _alike(self, workload: Workload) -> Workload:
        """One that was traced, equal but for its batch and, where text grows, its prompt."""
        for known, traced in self.traced.items():
            prompt = workload.prompt_tokens if traced.is_text else known.prompt_tokens
            if replace(known, batch=workload.batch, prompt_tokens=prompt) == workload:
                return known
        return workload

    def _further(self, known: Workload) -> Traced:
        """The passes up to a prompt several times as long."""
        from calib.trace.passes import traced_phases

        if known not in self.further:
            longer = replace(known, prompt_tokens=FURTHER * max(known.prompt_tokens, 1))
            self.further[known] = traced_phases(self, longer, last="prefill")
        return self.further[known]

    def formulas(self, workload: Workload) -> dict[str, Phase]:
        """The same passes by our own layers, where they have the architecture; else nothing."""
        from calib.trace.formulas import FORMULAS

        if self.config.model_type not in FORMULAS:
            return {}
        ours = FORMULAS[self.config.model_type](self.config, self.dtype)
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
        return built


def load(path: str | Path | None, dtype: str | None = None, assumed: str = "float32") -> HFModel:
    """The model of a ``config.json``. ``dtype``: of its tensors, in place of the file's;
    ``assumed``: where neither names one.

    Raises ``CalibError`` naming ``hf.config``, for a file that is missing or broken, a
    ``model_type`` or class that ``transformers`` does not have, and one that needs remote code.
    """
    if not path:
        raise CalibError(f"{KEY} is missing: expected the path of a config.json")
    file = Path(path).expanduser()
    file = file / "config.json" if file.is_dir() else file
    given = read(file)
    kind_name = given.get("model_type")
    if not isinstance(kind_name, str) and "_class_name" in given:
        raise CalibError(
            f"{KEY} = {file}: {given['_class_name']} is a model of diffusers: expected one of "
            "transformers, or calib.trace.trace(module, *inputs) of the module itself"
        )
    if not isinstance(kind_name, str):
        raise CalibError(f"{KEY} = {file}: it has no model_type: expected a transformers config")
    config = with_own_backbone(configuration(file, kind_name, given))
    kind = model_class(file, config, given)
    named = dtype or named_dtype(given)
    chosen = named or assumed
    if chosen not in ("bfloat16", "float16", "float32"):
        raise CalibError(f"hf.dtype = {chosen!r}: expected bfloat16, float16 or float32")
    return HFModel(name_of(file), kind, config, chosen, assumed=named is None)


def named_dtype(given: Mapping[str, Any]) -> str | None:
    """That of the file; else of its text, then of the first part that names one."""
    parts = [given, given.get("text_config"), *given.values()]
    for part in parts:
        if isinstance(part, Mapping):
            name = part.get("dtype") or part.get("torch_dtype")
            if isinstance(name, str) and name != "auto":
                return name.removeprefix("torch.")
    return None


def name_of(file: Path) -> str:
    """What a configuration is called: its file, or its folder where that is a ``config.json``; in
    the cache of the hub, ``models--meta-llama--Llama-3.1-8B/snapshots/<hash>``, the repository."""
    if file.name != "config.json":
        return file.stem
    folder = file.absolute().parent  # and not where the cache's link leads
    if folder.parent.name == "snapshots":
        return folder.parent.parent.name.split("--")[-1]
    return folder.name


def read(file: Path) -> dict[str, Any]:
    try:
        given = json.loads(file.read_text("utf-8"))
    except OSError as error:
        raise CalibError(
            f"{KEY} = {file}: {error.strerror or error}: expected the path of a config.json"
        ) from None
    except ValueError as error:
        raise CalibError(f"{KEY} = {file}: not JSON ({error})") from None
    if not isinstance(given, dict):
        raise CalibError(f"{KEY} = {file}: expected a JSON object")
    return given


def configuration(file: Path, kind: str, given: dict[str, Any]) -> Any:
    from transformers import AutoConfig
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

    if kind not in CONFIG_MAPPING_NAMES:
        if "auto_map" in given:
            raise CalibError(
                f"{KEY} = {file}: model_type {kind!r} needs code from the hub (auto_map), which "
                "is never run: expected a model_type that transformers has"
            )
        raise CalibError(
            f"{KEY} = {file}: model_type = {kind!r}: expected one of the "
            f"{len(CONFIG_MAPPING_NAMES)} that transformers has, such as llama, vit or whisper"
        )
    plain = {k: v for k, v in given.items() if k not in ("model_type", "auto_map", "architectures")}
    try:
        return AutoConfig.for_model(kind, **plain)
    except Exception as error:  # whatever its validation raises, the file is what is wrong
        raise CalibError(f"{KEY} = {file}: {str(error).strip().splitlines()[-1]}") from None


TASKS = ("CAUSAL_LM", "IMAGE_TEXT_TO_TEXT", "IMAGE_CLASSIFICATION", "MASK_GENERATION", "CTC")
PAIRS = ("SPEECH_SEQ_2_SEQ", "SEQ_TO_SEQ_CAUSAL_LM", "IMAGE_TEXT_TO_TEXT")
"""What a class is looked for by, where the file names none: in this order, of an encoder that is
decoded from in the second. A model whose text is masked is an encoder, unless told to decode."""


def model_class(file: Path, config: Any, given: dict[str, Any]) -> type:
    """The class that the file names, if it is registered for its ``model_type``, however it is
    spelled; else the first."""
    import transformers

    names = class_names(config)
    wanted = (given.get("architectures") or [None])[0] or (names[0] if names else None)
    alike = {plain_name(name): name for name in names}
    name = wanted if wanted in names else alike.get(plain_name(str(wanted)))
    if name is None:
        known = ", ".join(dict.fromkeys(names)) or "none"
        raise CalibError(
            f"{KEY} = {file}: architectures = [{wanted!r}]: transformers has for "
            f"{config.model_type}: {known}"
        )
    kind: type = getattr(transformers, name)
    return kind


def class_names(config: Any) -> list[str]:
    """The classes that are registered for a configuration, the likeliest first."""
    from transformers.models.auto import modeling_auto as auto

    first: list[str] = []
    towers = auto.MODEL_FOR_ZERO_SHOT_IMAGE_CLASSIFICATION_MAPPING_NAMES
    if config.model_type in set(towers) - set(auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES):
        first = ["ZERO_SHOT_IMAGE_CLASSIFICATION"]  # two towers, and not one of them
    elif getattr(config, "is_encoder_decoder", False):
        first = [*PAIRS]
    elif config.model_type in auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES:
        first = [] if getattr(config, "is_decoder", False) else ["MASKED_LM"]
    tables = [f"MODEL_FOR_{task}_MAPPING_NAMES" for task in [*first, *TASKS]]
    tables += ["MODEL_MAPPING_NAMES"]
    tables += sorted(t for t in vars(auto) if t.endswith("MAPPING_NAMES") and "CONFIG" not in t)
    names: list[str] = []
    for table in tables:
        found = getattr(auto, table, {}).get(config.model_type, ())
        names += [found] if isinstance(found, str) else list(found)
    return names


def plain_name(name: str) -> str:
    return name.replace("_", "").lower()
