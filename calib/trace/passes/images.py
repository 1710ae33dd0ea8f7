"""Images as the part of a model that sees takes them: pixels, tiles, or rows of patches."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch

from calib.trace.passes.forms import Form
from calib.trace.passes.inputs import Inputs, found, pair, parameters

GRIDS = ("image_grid_thw", "grid_thw", "image_grid_hw", "grid_hw", "grid_thws", "image_grids")
POSITIONS = ("image_position_ids", "pixel_position_ids")
TILES = (5, 1, 3, 2)
"""Numbers of tiles that an image of a model's own side may be cut into, the whole one included."""


def image_forms(made: Inputs, inner: Any, memory: Any) -> list[Form]:
    """Run ``inner.get_image_features``; its features go to ``memory``."""

    def form(given: dict[str, Any], side: tuple[int, int]) -> Form:
        def run() -> None:
            result = inner.get_image_features(**given)
            made.side_note(side)
            memory.features = features_of(result)

        return run

    return [form(given, side) for given, side in pixel_forms(made, inner.get_image_features, inner)]


def features_of(result: Any) -> Any:
    for name in ("pooler_output", "image_embeds", "last_hidden_state"):
        value = getattr(result, name, None)
        if value is not None:
            return value
    if isinstance(result, tuple) and result and isinstance(result[0], list | tuple | torch.Tensor):
        first = result[0]
        return first if isinstance(first, torch.Tensor) and first.ndim > 2 else result
    return result


Given = tuple[dict[str, Any], tuple[int, int]]


def pixel_forms(
    made: Inputs, function: Callable[..., Any], inner: Any, name: str = "pixel_values"
) -> Iterator[Given]:
    """Pixels and what goes with them, and (height, width), the likeliest first."""
    names = names_of(function, inner)
    for side in made.sides():
        if any(grid in names for grid in GRIDS):
            rows = grid_rows(made, names, side, name)
            yield rows, side
            patch, _ = pair(found(made.config, "patch_size") or 14)
            yield {**rows, name: rows[name].unflatten(1, (-1, patch, patch))}, side
        if "spatial_shapes" in names or any(n in names for n in POSITIONS):
            yield patches(made, names, side, name), side
        plain = ((), *((n,) for n in frames(made)))
        for leading in plain:
            shape = (*leading, made.channels(), *side)
            given = {name: made.noise(*shape)}
            yield {**given, **beside(made, names, side)}, side
            masked = [n for n in ("pixel_attention_mask", "pixel_mask") if names.get(n)]
            if masked:
                yield {**given, **{n: made.ones(*leading, *side) for n in masked}}, side
    for side in made.sides():
        yield patches(made, names, side, name), side


def names_of(function: Callable[..., Any], inner: Any) -> dict[str, bool]:
    """Those of the function; where it hides them, those of the tower behind it."""
    names = parameters(function)
    tower = inner.get_encoder(modality="image") if hasattr(inner, "get_encoder") else None
    if tower is not None and tower is not inner and hasattr(tower, "forward"):
        needed = parameters(tower.forward)
        names |= {n: True for n in GRIDS + POSITIONS if n in needed and n in names}
    return names


def frames(made: Inputs) -> list[int]:
    """Frames of a video, or tiles of an image."""
    own = found(made.config, "num_frames", "frames_per_clip")
    return list(dict.fromkeys([*([own] if isinstance(own, int) else []), *TILES]))


def beside(made: Inputs, names: dict[str, bool], side: tuple[int, int]) -> dict[str, Any]:
    """What a model wants to know of an image beside its pixels."""
    given = dict[str, Any]()
    for name in ("image_sizes", "target_sizes"):
        if name in names:
            given[name] = torch.tensor([list(side)] * made.batch)
    if names.get("vision_feature_layer"):
        given["vision_feature_layer"] = found(made.config, "vision_feature_layer")
    return given


def grid_rows(
    made: Inputs, names: dict[str, bool], side: tuple[int, int], name: str
) -> dict[str, Any]:
    """Rows of patches of all images, one after the other, and their grid."""
    patch, _ = pair(found(made.config, "patch_size") or 14)
    merge = found(made.config, "spatial_merge_size", "merge_size") or 2
    merge = merge if isinstance(merge, int) else pair(merge)[0]
    high, wide = (max(merge, n // patch // merge * merge) for n in side)
    times = found(made.config, "temporal_patch_size")
    times = times if isinstance(times, int) else 1
    width = made.channels() * times * patch * patch
    grid = next(n for n in GRIDS if n in names)
    rows = torch.randn(made.batch * high * wide, width).to(made.dtype)
    cells = [high, wide] if "hw" in grid and "thw" not in grid else [1, high, wide]
    return {name: rows, grid: torch.tensor([cells] * made.batch)}


def patches(
    made: Inputs, names: dict[str, bool], side: tuple[int, int], name: str
) -> dict[str, Any]:
    """[batch, patches, width], with their places."""
    patch, _ = pair(found(made.config, "patch_size") or 16)
    pool = found(made.config, "pooling_kernel_size", "downsample_factor") or 1
    high, wide = (max(pool, n // patch // pool * pool) for n in side)
    given = {name: made.noise(high * wide, made.channels() * patch * patch)}
    if "spatial_shapes" in names:
        given["spatial_shapes"] = torch.tensor([[high, wide]] * made.batch)
        given["pixel_attention_mask"] = made.ones(high * wide)
    for place in (n for n in POSITIONS if n in names):
        rows = torch.arange(high * wide)
        where = torch.stack([rows % wide, rows // wide], -1)
        given[place] = where.expand(made.batch, -1, -1).contiguous()
    return given
