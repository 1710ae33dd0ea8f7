"""Models that read, see or hear and generate nothing: one forward, or one of each tower."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch

from calib.trace.passes.forms import Form, Pass
from calib.trace.passes.images import pixel_forms
from calib.trace.passes.inputs import Inputs, found, parameters, sound_forms

IMAGES = ("pixel_values", "pixel_values_videos")
TEXTS = ("input_ids", "qformer_input_ids", "decoder_input_ids")
MASKS = ("attention_mask", "pixel_mask", "qformer_attention_mask")
SERIES = ("past_values", "past_observed_values")
REGIONS = 36
"""Of an image, for a model that reads what a detector found in it."""
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


def main_forms(made: Inputs, module: Any, main: str) -> Iterator[tuple[dict[str, Any], Any]]:
    """The main input in the forms it may have, with the side of an image."""
    if main in IMAGES:
        yield from pixel_forms(made, module.forward, module, main)
    elif main in SOUNDS:
        yield from (({main: sound}, None) for sound in sound_forms(made))
    elif main == "flattened_patches":
        patch = found(made.config, "patch_size") or 16
        yield {main: made.noise(2048, 2 + made.channels() * patch * patch)}, None
    elif main in SERIES:
        yield from (({main: made.noise(*shape)}, None) for shape in series_shapes(made))
    elif main in ("inputs", "hidden_states", "inputs_embeds"):
        yield {main: made.tokens(text_length(made))}, None
        yield from pixel_forms(made, module.forward, module, main)
        width = found(made.config, "hidden_size", "d_model") or 256
        yield {main: made.noise(text_length(made), width)}, None
    else:
        text = {main: made.tokens(text_length(made), ends=True)}
        yield text, None
        takes = parameters(module.forward)
        for name in (n for n in IMAGES if n in takes):  # that a model needs and does not demand
            for given, side in pixel_forms(made, module.forward, module, name):
                yield {**text, **given}, side
        if "visual_feats" in takes:
            yield {**text, **regions(made)}, None


def series_shapes(made: Inputs) -> Iterator[tuple[int, ...]]:
    """[steps, variables] or [steps] of a series' past."""
    steps = found(made.config, "context_length", "context_window") or 512
    steps += max(found(made.config, "lags_sequence") or [0])
    yield steps, found(made.config, "num_input_channels") or 1
    yield (steps,)


def regions(made: Inputs) -> dict[str, Any]:
    """Features of the regions that a detector found in an image, and where they are."""
    width = found(made.config, "visual_feat_dim") or 2048
    place = found(made.config, "visual_pos_dim") or 4
    return {"visual_feats": made.noise(REGIONS, width), "visual_pos": made.noise(REGIONS, place)}


def text_length(made: Inputs) -> int:
    config = made.config.get_text_config()
    return made.shortened(max(made.workload.prompt_tokens, 1), config)


def others(
    made: Inputs, needed: list[str], takes: dict[str, bool], given: dict[str, Any]
) -> dict[str, Any]:
    """What a module needs beside its main input."""
    tokens = next((t for t in given.values() if t.ndim == 2), None)
    length = tokens.shape[1] if tokens is not None else text_length(made)
    more = dict[str, Any]()
    if "input_points" in takes:  # a model of masks is asked for those of one point
        more["input_points"] = made.noise(1, 1, 2)
    if "bbox" in takes:
        more["bbox"] = made.ones(length, 4)
    if getattr(made.config, "is_encoder_decoder", False) and "decoder_input_ids" in takes:
        more["decoder_input_ids"] = made.tokens(1 if "pixel_values" in given else length, ends=True)
    for name in (n for n in needed if n not in more and n not in given):
        more |= other(made, name, length, next(iter(given.values())))
    return more


def other(made: Inputs, name: str, length: int, main: torch.Tensor) -> dict[str, Any]:
    """One input by its name; nothing where it is not known."""
    if name in IMAGES:
        return next(iter(pixel_forms(made, made.module.forward, made.module, name)))[0]
    if name in SOUNDS:
        return {name: next(iter(sound_forms(made)))}
    steps = main.shape[1:]  # of a series
    made_of: dict[str, Callable[[], torch.Tensor]] = {
        **dict.fromkeys(TEXTS, lambda: made.tokens(length)),
        **dict.fromkeys(MASKS, lambda: made.ones(length)),
        "past_observed_mask": lambda: made.noise(*steps),
        "past_time_features": lambda: made.noise(
            steps[0], found(made.config, "num_time_features") or 1
        ),
    }
    return {name: made_of[name]()} if name in made_of else {}


TOWERS = {"image": "vision", "audio": "sound"}
"""What a tower beside that of text takes, and the name of its pass."""


def towers_of(module: Any) -> list[str]:
    """What the towers beside that of text take; none where there are no such two."""
    if not hasattr(module, "get_text_features"):
        return []
    return [kind for kind in TOWERS if hasattr(module, f"get_{kind}_features")]


def two_towers(made: Inputs) -> Iterator[Pass]:
    """An image or a sound, and a text, each by its own tower."""
    module, w = made.module, made.workload
    for kind in towers_of(module):
        function = getattr(module, f"get_{kind}_features")
        yield Pass(TOWERS[kind], [form(made, function, *f) for f in forms(made, kind)])
    if w.prompt_tokens > 0:
        text = getattr(made.config, "text_config", None) or made.config
        ids = made.tokens(made.shortened(w.prompt_tokens, text), ends=True)
        yield Pass("encode", [lambda: module.get_text_features(input_ids=ids)])


def forms(made: Inputs, kind: str) -> Iterator[tuple[dict[str, Any], Any]]:
    if kind == "image":
        yield from pixel_forms(made, made.module.get_image_features, made.module)
        return
    takes = parameters(made.module.get_audio_features)
    name = next((n for n in SOUNDS if n in takes), SOUNDS[0])
    yield from (({name: sound}, None) for sound in sound_forms(made))


def form(made: Inputs, function: Callable[..., Any], given: dict[str, Any], side: Any) -> Form:
    """``function`` on what it is given; an image's ``side`` is told where it is not the asked."""

    def run() -> Any:
        result = function(**given)
        if side is not None:
            made.side_note(side)
        return result

    return run
