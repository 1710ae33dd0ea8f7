"""A step of a diffusion model: the latent of an image or a video, the time, and what it is of.

Such a model is asked once a step, always alike; what turns text into the condition, and the latent
into pixels, are models of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch

from calib.trace.passes.forms import Form, Pass
from calib.trace.passes.inputs import Inputs, found, pair, parameters

SHRINKS = 8
"""Pixels of a side for one of the latent, by the autoencoders of these models."""
PACKED = 2
"""Latents of a side that are packed into one row, where rows are asked for."""
WORDS = 77
"""Of a condition, where the workload has no prompt: CLIP's."""
FRAMES = 21
"""Latent frames of a video: 81 frames, of which four are one but for the first."""
CONDITIONS = (
    *("caption_channels", "text_embed_dim", "text_dim", "caption_feat_dim", "cap_feat_dim"),
    *("joint_attention_dim", "cross_attention_dim"),
)
"""Width of a word of the condition: as it is given first, as it is used after."""


TIMES = ("timestep", "timesteps", "timestep_ratio", "t")


def denoise(made: Inputs) -> Iterator[Pass]:
    """As many steps as the workload decodes, at least one; of an autoencoder, once through."""
    takes = parameters(made.module.forward)
    if not any(name in takes for name in TIMES):
        made.note("An image is encoded and decoded again: one forward.")
        yield Pass("vision", forms(made))
        return
    steps, of = max(made.workload.decode_steps, 1), condition(made)
    told = f" on a condition of {words(made)} words" if of else ""
    made.note(f"{steps} steps of denoising{told}, a forward each; no text encoder, no autoencoder.")
    yield Pass("denoise", forms(made), repeat=steps)


def forms(made: Inputs) -> list[Form]:
    takes = parameters(made.module.forward)
    main = next(iter(takes))
    return [
        form(made, {main: latent, **beside(made, takes, latent, grid)})
        for latent, grid in latents(made, takes)
    ]


def form(made: Inputs, given: dict[str, Any]) -> Form:
    return lambda: made.module(**given, return_dict=False)


def latents(made: Inputs, takes: dict[str, bool]) -> Iterator[tuple[torch.Tensor, tuple[int, int]]]:
    """Noise in the forms it may have, the likeliest first, and rows and columns of its grid."""
    high, wide = grid = side(made)
    width = made.channels()
    rows = [(high // PACKED * (wide // PACKED), width)]
    images = [(width, high, wide)]
    videos = [(width, FRAMES, high, wide), (FRAMES, width, high, wide)]
    if any(n in takes for n in ("img_ids", "img_shapes")):
        shapes = [*rows, *images]
    elif "3D" in type(made.module).__name__ or "Video" in type(made.module).__name__:
        shapes = [*videos, (FRAMES * high * wide, width)]
    else:
        shapes = [*images, *rows, *videos]
    for shape in shapes:
        yield made.noise(*shape), grid


def side(made: Inputs) -> tuple[int, int]:
    """(height, width) of the latent: of the workload's image, else the model's own."""
    own = found(made.config, "sample_size")
    conditioned = any(found(made.config, name) for name in CONDITIONS)
    asked = made.workload.side
    if not asked:
        return pair(own) if own else (64, 64)
    high, wide = pair(asked)
    in_pixels = made.channels() == 3 and not conditioned
    return (high, wide) if in_pixels else (high // SHRINKS, wide // SHRINKS)


def beside(
    made: Inputs, takes: dict[str, bool], latent: torch.Tensor, grid: tuple[int, int]
) -> dict[str, Any]:
    """What a step is told beside the latent, by name."""
    count, axes = words(made), len(found(made.config, "axes_dims_rope") or (0, 0, 0))
    high, wide = (n // PACKED for n in grid)
    makers: dict[str, Callable[[], Any]] = {
        "timestep": lambda: torch.ones(made.batch, dtype=made.dtype),
        "encoder_hidden_states": lambda: made.noise(count, condition(made)),
        "encoder_attention_mask": lambda: made.ones(count),
        "encoder_hidden_states_mask": lambda: made.ones(count),
        "pooled_projections": lambda: made.noise(found(made.config, "pooled_projection_dim")),
        "class_labels": lambda: torch.zeros(made.batch, dtype=torch.long),
        "img_ids": lambda: torch.zeros(high * wide, axes, dtype=made.dtype),
        "txt_ids": lambda: torch.zeros(count, axes, dtype=made.dtype),
        "img_shapes": lambda: [[(1, high, wide)]] * made.batch,
        "guidance": lambda: torch.ones(made.batch, dtype=made.dtype),
        "num_frames": lambda: FRAMES,
        "height": lambda: grid[0],
        "width": lambda: grid[1],
        "added_cond_kwargs": lambda: added(made),
    }
    return {name: makers[name]() for name in takes if name in makers and is_told(made, name)}


def is_told(made: Inputs, name: str) -> bool:
    """Whether the model has something for an input that not all of its class have."""
    config = made.config
    needs: dict[str, Callable[[], Any]] = {
        "encoder_hidden_states": lambda: condition(made),
        "pooled_projections": lambda: found(config, "pooled_projection_dim"),
        "class_labels": lambda: found(config, "num_embeds_ada_norm", "num_class_embeds"),
        "guidance": lambda: found(config, "guidance_embeds"),
        "added_cond_kwargs": lambda: (
            found(config, "addition_embed_type")
            or getattr(made.module, "use_additional_conditions", False)
        ),
    }
    return name not in needs or bool(needs[name]())


def words(made: Inputs) -> int:
    """Of the condition: as many as a model takes that takes but one number, else the prompt's."""
    fixed = found(made.config, "max_text_seq_length")
    return fixed if isinstance(fixed, int) else made.workload.prompt_tokens or WORDS


def condition(made: Inputs) -> Any:
    """Width of a word of the condition; None of a model without."""
    width = found(made.config, *CONDITIONS)
    return width[0] if isinstance(width, list | tuple) else width


def added(made: Inputs) -> dict[str, torch.Tensor]:
    """SDXL's pooled text and six sizes; PixArt's resolution and ratio."""
    sizes = found(made.config, "addition_time_embed_dim")
    whole = found(made.config, "projection_class_embeddings_input_dim")
    if sizes and whole:
        return {"text_embeds": made.noise(whole - 6 * sizes), "time_ids": made.noise(6)}
    return {"resolution": made.noise(2), "aspect_ratio": made.noise(1)}
