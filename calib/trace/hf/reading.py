"""From a file to the class that ``transformers`` registers for it, and its configuration."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from calib.errors import CalibError, shown, wrong
from calib.trace.diffusion.model import NAMED, Denoiser, class_and_arguments
from calib.trace.hf.backbones import with_own_backbone
from calib.trace.hf.guard import (
    KEY,
    check_sizes,
    offline,
    one_line,
    read,
    without_loaders,
)
from calib.trace.hf.model import HFModel
from calib.trace.weights.stored import weights_of


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
    if not isinstance(kind_name, str) and NAMED in given:
        return denoiser(file, given, dtype, assumed)
    if not isinstance(kind_name, str):
        raise CalibError(f"{KEY} = {file}: it has no model_type: expected a transformers config")
    offline()
    with one_line(f"{file}: {kind_name}"):
        plain = without_loaders(given)
        check_sizes(plain)
        config = configuration(file, kind_name, plain, "auto_map" in given)
        config = with_own_backbone(config)
        kind = model_class(file, config, plain)
        chosen, is_assumed = chosen_dtype(given, dtype, assumed)
        weights = weights_of(file, given)
        unnamed = tuple(n for n in getattr(type(config), "sub_configs", {}) if not given.get(n))
        model = HFModel(name_of(file), kind, config, chosen, is_assumed, weights, unnamed=unnamed)
        _ = model.dimensions  # which a report says
    return model


def denoiser(file: Path, given: dict[str, Any], dtype: str | None, assumed: str) -> Denoiser:
    """The model of a file of ``diffusers``."""
    offline()
    with one_line(f"{file}: {shown(given[NAMED])}"):
        plain = without_loaders(given)
        check_sizes(plain)
        kind, arguments = class_and_arguments(file, plain)
        return Denoiser(name_of(file), kind, arguments, *chosen_dtype(given, dtype, assumed))


def chosen_dtype(given: Mapping[str, Any], dtype: str | None, assumed: str) -> tuple[str, bool]:
    """The dtype of a model's tensors, and whether it is but assumed."""
    named = dtype or named_dtype(given)
    chosen = named or assumed
    if chosen not in ("bfloat16", "float16", "float32"):
        raise CalibError(wrong("hf.dtype", chosen, "bfloat16, float16 or float32"))
    return chosen, named is None


def named_dtype(given: Mapping[str, Any]) -> Any:
    """That of the file; else of its text, then of the first part that names one."""
    for part in (given, given.get("text_config"), *given.values()):
        if isinstance(part, Mapping):
            name = part.get("dtype") or part.get("torch_dtype")
            if name and name != "auto":
                return name.removeprefix("torch.") if isinstance(name, str) else name
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


TASKS = ("CAUSAL_LM", "IMAGE_TEXT_TO_TEXT", "IMAGE_CLASSIFICATION", "MASK_GENERATION", "CTC")
PAIRS = ("SPEECH_SEQ_2_SEQ", "SEQ_TO_SEQ_CAUSAL_LM", "IMAGE_TEXT_TO_TEXT")
"""What a class is looked for by, where the file names none: in this order, of an encoder that is
decoded from in the second. A model whose text is masked is an encoder, unless told to decode."""


def model_class(file: Path, config: Any, given: dict[str, Any]) -> type:
    """The class that the file names, if it is registered for its ``model_type``, however it is
    spelled; else the first."""
    import transformers

    names = class_names(config)
    listed = given.get("architectures") or [None]
    first = listed[0] if isinstance(listed, list) else listed
    wanted = first or (names[0] if names else None)
    alike = {plain_name(name): name for name in names}
    name = wanted if wanted in names else alike.get(plain_name(str(wanted)))
    if name is None:
        known = ", ".join(list(dict.fromkeys(names))[:20]) or "none"
        raise CalibError(
            f"{KEY} = {file}: architectures = [{shown(wanted)}]: transformers has for "
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
