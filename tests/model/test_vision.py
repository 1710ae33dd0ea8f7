"""Vision encoders against what ``transformers`` executes, at full size and without memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from dispatched import assert_same_operators, record

from model.deepseek_ocr import DeepseekOCRModel
from model.deepseek_ocr_2 import DeepseekOCR2Model
from model.sam import SamAttention, SamLayer
from model.vit import Vit

OCR, OCR2, VIT = DeepseekOCRModel(), DeepseekOCR2Model(), Vit()
Tiles = tuple[int, int] | None


def pages(model: Any, side: int, tiles: Tiles, batch: int) -> Callable[[], Any]:
    """DeepSeek-OCR-2's views: a page an image and tiles of 768."""
    from real_family import pixels

    local: dict[str, Any] = {}
    if tiles is not None:
        pieces = tiles[0] * tiles[1]
        local["pixel_values_local"] = pixels(model, 768, batch * pieces)
        local["num_local_patches"] = [pieces] * batch
    page = pixels(model, side, batch)
    return lambda: model.model.get_image_features(page, **local)


@pytest.mark.parametrize("batch", [1, 3])
def test_vit_dispatches_what_we_list(batch: int) -> None:
    from real_family import fake_model, pixels

    mode, model = fake_model("vit")
    with mode:
        images = pixels(model, 224, batch)
        rows = record(model, lambda: model(images))
    assert_same_operators(VIT.vision(224, batch), rows)


def test_vit_flops_are_those_of_the_counter() -> None:
    from real_family import flops, meta_model, pixels

    model = meta_model("vit")
    images = pixels(model, 224, 2)
    assert VIT.vision_layer(224, 2).forward_tensor_core_flops() == flops(lambda: model(images))


def test_vit_parameters_are_the_published_ones() -> None:
    from real_family import meta_model

    assert VIT.parameters() == 304_326_632
    modules = dict(meta_model("vit").named_modules())
    for node in VIT.vision_layer().nodes():
        expected = sum(p.numel() for p in modules[node.path].parameters())
        assert node.layer.weight_parameters() == expected, node.path


def test_vit_peak_memory_is_that_of_live_tensors() -> None:
    from live_memory import live_memory
    from real_family import fake_model, pixels

    mode, model = fake_model("vit")
    with mode:
        images = pixels(model, 224, 4)
        peak, _ = live_memory(model, lambda: model(images))
    assert VIT.vision_layer(224, 4).activation_bytes() == pytest.approx(peak, rel=0.001)


@pytest.mark.parametrize(
    ("side", "tiles", "batch"), [(1024, None, 1), (768, None, 1), (1024, (2, 1), 2)]
)
def test_query_tower_dispatches_what_we_list(side: int, tiles: Tiles, batch: int) -> None:
    from real_family import fake_model

    mode, model = fake_model("deepseek_ocr_2")
    with mode:
        rows = record(model.model, pages(model, side, tiles, batch), "model")
    assert_same_operators(OCR2.vision(side, tiles, 768, batch), rows)


@pytest.mark.parametrize(("side", "tiles"), [(1024, None), (768, None), (1024, (2, 3))])
def test_query_tower_flops_are_those_of_the_counter(side: int, tiles: Tiles) -> None:
    from real_family import flops, meta_model

    counted = flops(pages(meta_model("deepseek_ocr_2"), side, tiles, 1))
    assert OCR2.vision_layer(side, tiles).forward_tensor_core_flops() == counted


@pytest.mark.parametrize(("side", "tiles"), [(1024, None), (1024, (1, 2))])
def test_query_tower_peak_memory_is_that_of_live_tensors(side: int, tiles: Tiles) -> None:
    from live_memory import live_memory
    from real_family import fake_model

    mode, model = fake_model("deepseek_ocr_2")
    with mode:
        peak, _ = live_memory(model.model, pages(model, side, tiles, 1), "model")
    assert OCR2.vision_layer(side, tiles).activation_bytes() == pytest.approx(peak, rel=0.001)


@pytest.mark.parametrize(("side", "tiles", "tokens"), [(768, None, 145), (1024, (2, 3), 1121)])
def test_query_tokens(side: int, tiles: Tiles, tokens: int) -> None:
    assert OCR2.image_tokens(side, tiles) == tokens


@pytest.mark.parametrize(
    ("side", "tiles", "batch"),
    [(512, None, 1), (640, None, 2), (1024, None, 1), (1280, None, 1), (1024, (2, 3), 1)],
)
def test_peak_memory_of_sam_and_clip_is_that_of_live_tensors(
    side: int, tiles: Tiles, batch: int
) -> None:
    from live_memory import live_memory
    from real_ocr import fake_model, image_features

    mode, model = fake_model()
    with mode:
        run = image_features(model, side, tiles, batch)
        peak, spans = live_memory(model.model, run, "model")
    root = OCR.vision_layer(side, tiles, batch=batch)
    assert root.activation_bytes() == peak
    ours = {node.path: node.layer for node in root.nodes()}
    # Of a module that runs twice, our first run is the whole page, and so is their first.
    of_path = {span.path: span for span in reversed(spans)}
    for path, span in of_path.items():
        peak, kept = ours[path].live_bytes()
        assert kept == span.kept, path
        assert peak == pytest.approx(span.peak, rel=0.005), path


def test_windows_pad_the_grid_and_the_mlp_does_not_see_it() -> None:
    """At 1024 pixels 64 x 64 patches become 25 windows of 14 x 14."""
    layer = SamLayer(1, 64, 768, 12, 3072, window=14, table_grid=14)
    assert (layer.windows, layer.padded) == (5, 70 * 70)
    rows = {c.path: c.op.m for c in layer.calls() if c.op.operator == "matmul" and "." in c.path}
    assert rows == {
        "attn.qkv": 4900,
        "attn.proj": 4900,
        "mlp.lin1": 4096,
        "mlp.lin2": 4096,
    }


def test_global_attention_holds_its_bias_twice() -> None:
    """The sum of both axes and its copy in order: 403 MB each at 1024 pixels."""
    pairs = 12 * 4096 * 4096 * 2
    assert pairs == 402_653_184
    peak = SamAttention(1, 64, 768, 12, table_grid=64).activation_bytes()
    assert 2 * pairs < peak < 2.1 * pairs


def test_images_of_another_side_than_learned_are_refused() -> None:
    with pytest.raises(ValueError, match="side = 256: expected 224"):
        VIT.vision(256)
    with pytest.raises(ValueError, match="side = 100: expected a multiple of patch = 16"):
        Vit(side=100)
