"""Models that read, see or hear and generate nothing: one forward, or one of each tower."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from calib.trace.passes.forms import Form, Pass
from calib.trace.passes.images import pixel_forms
from calib.trace.passes.inputs import Inputs, found, parameters
from calib.trace.passes.sound import sound_forms

IMAGES = ("pixel_values", "pixel_values_videos")
SOUNDS = ("input_features", "input_values", "audio_values", "audio_mel", "spectrogram")


def forward_once(made: Inputs) -> Iterator[Pass]:
    """One forward of the whole module over what it takes first, and whatever else it needs."""
    module = made.module
    main = main_input(module)
    yield Pass("vision" if main in IMAGES else "encode", forward_forms(made, module, main))


def main_input(module: Any) -> str:
    named = module.main_input_name
    named = [named] if isinstance(named, str) else list(named)
    takes = parameters(module.forward)
    return next((n for n in named if n in takes), next(iter(takes), named[0]))


def forward_forms(made: Inputs, module: Any, main: str) -> list[Form]:
    takes = parameters(module.forward)
    forms = list[Form]()
    for given, side in main_forms(made, module, main):
        needed = [n for n, needs in takes.items() if needs and n not in given]
        forms.append(form(made, module, {**given, **others(made, needed, takes, given)}, side))
    return forms


def form(made: Inputs, module: Any, given: dict[str, Any], side: Any) -> Form:
    def run() -> Any:
        result = module(**given)
        if side is not None:
            made.side_note(side)
        return result

    return run


def main_forms(made: Inputs, module: Any, main: str) -> Iterator[tuple[dict[str, Any], Any]]:
    if main in IMAGES:
        yield from pixel_forms(made, module.forward, module, main)
    elif main in SOUNDS:
        yield from (({main: sound}, None) for sound in sound_forms(made))
    elif main == "flattened_patches":
        patch = found(made.config, "patch_size") or 16
        yield {main: made.noise(2048, 2 + made.channels() * patch * patch)}, None
    elif main in ("past_values", "past_observed_values"):
        length = found(made.config, "context_length", "context_window") or 512
        lags = max(found(made.config, "lags_sequence") or [0])
        variables = found(made.config, "num_input_channels") or 1
        for shape in ((length + lags, variables), (length + lags,)):
            yield {main: made.noise(*shape)}, None
    elif main in ("inputs", "hidden_states", "inputs_embeds"):
        yield from (({main: made.tokens(text_length(made))}, None),)
        for given, side in pixel_forms(made, module.forward, module, main):
            yield given, side
        width = found(made.config, "hidden_size", "d_model") or 256
        yield {main: made.noise(text_length(made), width)}, None
    else:
        yield {main: made.tokens(text_length(made))}, None


def text_length(made: Inputs) -> int:
    config = made.config.get_text_config()
    return made.shortened(max(made.workload.prompt_tokens, 1), config)


OTHERS = {"input_ids", "decoder_input_ids", "input_points", "bbox", "attention_mask"}


def others(
    made: Inputs, needed: list[str], takes: dict[str, bool], given: dict[str, Any]
) -> dict[str, Any]:
    """What a module needs beside its main input."""
    found_ = dict[str, Any]()
    tokens = next((t for t in given.values() if t.ndim == 2), None)
    length = tokens.shape[1] if tokens is not None else text_length(made)
    if "input_points" in takes:  # a model of masks is asked for those of one point
        found_["input_points"] = made.noise(1, 1, 2)
    if "bbox" in takes:
        found_["bbox"] = made.ones(length, 4)
    if getattr(made.config, "is_encoder_decoder", False) and "decoder_input_ids" in takes:
        found_["decoder_input_ids"] = made.tokens(1 if "pixel_values" in given else length)
    for name in needed:
        if name in found_:
            continue
        if name in IMAGES:
            found_ |= next(iter(pixel_forms(made, made.module.forward, made.module, name)))[0]
        elif name in SOUNDS:
            found_[name] = next(iter(sound_forms(made)))
        elif name in ("input_ids", "qformer_input_ids", "decoder_input_ids"):
            found_[name] = made.tokens(length)
        elif name in ("attention_mask", "pixel_mask", "qformer_attention_mask"):
            found_[name] = made.ones(length)
        elif name == "past_observed_mask" or name == "past_time_features":
            main = next(iter(given.values()))
            last = found(made.config, "num_time_features") or 1
            shape = main.shape[1:] if name.endswith("mask") else (main.shape[1], last)
            found_[name] = made.noise(*shape)
        elif name == "visual_feats":
            found_[name] = made.noise(36, found(made.config, "visual_feat_dim") or 2048)
        elif name == "visual_pos":
            found_[name] = made.noise(36, found(made.config, "visual_pos_dim") or 4)
    return found_


def two_towers(made: Inputs) -> Iterator[Pass]:
    """An image and a text, each by its own tower."""
    module, w = made.module, made.workload
    forms = pixel_forms(made, module.get_image_features, module)
    if w.side is not None or w.prompt_tokens == 0 or w.task is None:
        yield Pass("vision", [tower_form(made, g, side) for g, side in forms])
    if w.prompt_tokens > 0:
        text = getattr(made.config, "text_config", None) or made.config
        ids = made.tokens(made.shortened(w.prompt_tokens, text))
        yield Pass("encode", [lambda: module.get_text_features(input_ids=ids)])


def tower_form(made: Inputs, given: dict[str, Any], side: tuple[int, int]) -> Form:
    def run() -> Any:
        result = made.module.get_image_features(**given)
        made.side_note(side)
        return result

    return run
