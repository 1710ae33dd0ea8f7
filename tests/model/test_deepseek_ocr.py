"""DeepSeek-OCR against the published counts and against what ``transformers`` executes."""

from __future__ import annotations

import pytest
from dispatched import assert_same_operators

from model.deepseek_ocr import DeepseekOCRModel
from model.layer import Call, Layer, total
from model.workload import Workload

PUBLISHED_PARAMETERS = {
    "sam": 95_569_152,
    "clip": 303_177_728,
    "projector": 2_622_720,
    "newline and separator": 2_560,
    "embedding": 165_478_400,
    "decoder layers": 2_603_776_000,
    "norm": 1_280,
    "lm_head": 165_478_400,
}
UNUSED_PATCH_CONVOLUTION = 602_112
MODEL = DeepseekOCRModel()


def tensor_core_flops(calls: list[Call]) -> int:
    return total(calls, lambda op: op.tensor_core_flops)


def test_parameters_are_the_published_ones() -> None:
    assert MODEL.component_parameters() == PUBLISHED_PARAMETERS
    assert MODEL.parameters() == 3_336_106_240


@pytest.mark.parametrize("side", [512, 1024])
def test_phases_hold_every_parameter_once(side: int) -> None:
    vision = MODEL.vision_layer(side, tiles=(2, 2)).weight_parameters()
    for language in (MODEL.prefill_layer(283), MODEL.decode_layer(284)):
        assert vision + language.weight_parameters() == MODEL.parameters()


def test_parameters_of_every_module_are_those_of_the_real_one() -> None:
    from real_ocr import meta_model

    real = meta_model()
    ours = {}
    for root in (MODEL.vision_layer(1024), MODEL.decode_layer(284)):
        ours |= {node.path: node.layer for node in root.nodes()}
    modules = dict(real.named_modules())
    without_parameters = {"model.language_model.rotary_emb"}
    assert ours.keys() - modules.keys() == set()
    for path in ours.keys() - {"", "model"}:
        expected = sum(p.numel() for p in modules[path].parameters())
        if path.endswith(("vision_tower", "vision_encoder", "embeddings")):
            expected += UNUSED_PATCH_CONVOLUTION
        assert ours[path].weight_parameters() == expected, path
        assert expected or path in without_parameters or "act" in path


@pytest.mark.parametrize(
    ("side", "tiles", "tokens"),
    [
        (512, None, 73),
        (640, None, 111),
        (1024, None, 273),
        (1280, None, 421),
        (1024, (1, 2), 483),
        (1024, (2, 1), 493),
        (1024, (2, 3), 893),
        (1024, (3, 3), 1203),
    ],
)
def test_image_tokens(side: int, tiles: tuple[int, int] | None, tokens: int) -> None:
    assert MODEL.image_tokens(side, tiles) == tokens


def test_large_tiles_beside_a_large_page() -> None:
    assert MODEL.image_tokens(1280, (2, 1), tile_side=1024) == 421 + 2 * 16 * (16 + 1)


def test_kv_cache_takes_61440_bytes_a_token() -> None:
    assert MODEL.prefill_layer(283, batch=3).kv_cache_bytes() == 3 * 283 * 61_440
    assert MODEL.decode_layer(284).kv_cache_bytes() == 284 * 61_440
    assert MODEL.vision_layer(512).kv_cache_bytes() == 0


def test_weights_take_two_bytes_a_parameter_in_bfloat16() -> None:
    model = MODEL.vision_layer(1024), MODEL.decode_layer(284)
    assert sum(layer.weight_bytes() for layer in model) == 2 * MODEL.parameters()
    # Wide types stay where a quantised checkpoint keeps them: embedding, router, norms, head.
    quantised = DeepseekOCRModel(weight_dtype="int4").decode_layer(284)
    layers = PUBLISHED_PARAMETERS["decoder layers"]
    wide = 12 * 2 * 1280 + 11 * 64 * 1280
    outside = sum(PUBLISHED_PARAMETERS[name] for name in ("embedding", "norm", "lm_head"))
    assert quantised.weight_bytes() == (layers - wide) / 2 + 2 * (wide + outside)


def test_decoding_one_token_reads_its_active_parameters() -> None:
    """574,127,360 are active (the paper's A570M); the embedding is looked up, not read whole."""
    calls = MODEL.decode_step(context=1)
    read = total(calls, lambda op: op.weight_bytes_read)
    router = 11 * 64 * 1280
    assert read == pytest.approx(2 * (574_127_360 + router))


VIEWS = [
    (512, None, 1),
    (640, None, 1),
    (1024, None, 1),
    (1280, None, 1),
    (512, None, 2),
    (1024, (1, 2), 1),
    (1024, (2, 1), 1),
]


@pytest.mark.parametrize(("side", "tiles", "batch"), VIEWS)
def test_vision_dispatches_what_we_list(
    side: int, tiles: tuple[int, int] | None, batch: int
) -> None:
    from real_ocr import dispatched_vision

    calls = MODEL.vision(side, tiles, batch=batch)
    assert_same_operators(calls, dispatched_vision(side, tiles, batch))


@pytest.mark.parametrize(("tokens", "batch"), [(83, 1), (150, 3)])
def test_language_model_dispatches_what_we_list(tokens: int, batch: int) -> None:
    from real_ocr import dispatched_language

    prefill, decode = dispatched_language(tokens, batch)
    assert_same_operators(MODEL.prefill(tokens, batch), prefill)
    assert_same_operators(MODEL.decode_step(tokens + 1, batch), decode)
    assert sum(c.launches * c.count for c in MODEL.decode_step(tokens + 1)) == 797


@pytest.mark.parametrize("dtype", ["bfloat16", "float32", "float16"])
def test_a_small_model_really_run_dispatches_what_we_list(dtype: str) -> None:
    """Without fake tensors, at other dimensions; a float32 model has nothing to cast."""
    import torch
    from real_ocr import SMALL, run_language, small_model

    model = DeepseekOCRModel(**SMALL, dtype=dtype)
    prefill, decode = run_language(small_model(getattr(torch, dtype)), tokens=13)
    assert_same_operators(model.prefill(13), prefill)
    assert_same_operators(model.decode_step(14), decode)


@pytest.mark.parametrize("side", [512, 640, 1024, 1280])
def test_vision_tower_flops_are_those_of_the_counter(side: int) -> None:
    from real_ocr import flops, meta_model, pixels

    model = meta_model()
    page = pixels(side, 1, model)
    ours = MODEL.vision_tower(1, side).forward_tensor_core_flops()
    assert ours == flops(lambda: model.model.vision_tower(page))


@pytest.mark.parametrize("tiles", [(1, 2), (2, 3), (3, 3)])
def test_tiled_vision_flops_are_those_of_the_counter(tiles: tuple[int, int]) -> None:
    from real_ocr import flops, image_features, meta_model

    expected = flops(image_features(meta_model(), 1024, tiles, 1))
    assert tensor_core_flops(MODEL.vision(1024, tiles)) == expected


@pytest.mark.parametrize(("tokens", "batch"), [(83, 1), (83, 2), (1213, 1)])
def test_language_flops_are_those_of_the_counter(tokens: int, batch: int) -> None:
    from real_ocr import language_flops

    prefill, decode = language_flops(tokens, batch)
    assert tensor_core_flops(MODEL.prefill(tokens, batch)) == prefill
    assert tensor_core_flops(MODEL.decode_step(tokens + 1, batch)) == decode


@pytest.mark.parametrize(("index", "tokens"), [(0, 83), (1, 83), (0, 1), (11, 283)])
def test_decoder_layer_flops_are_those_of_the_counter(index: int, tokens: int) -> None:
    import torch
    from real_ocr import flops, meta_model

    text = meta_model().model.language_model
    with torch.device("meta"):
        hidden = torch.empty(1, tokens, 1280, dtype=torch.bfloat16)
        angles = torch.empty(1, tokens, 128, dtype=torch.bfloat16)
    expected = flops(lambda: text.layers[index](hidden, position_embeddings=(angles, angles)))
    layer: Layer = MODEL.decoder_layer(index, 1, tokens, tokens)
    assert layer.forward_tensor_core_flops() == expected


@pytest.mark.parametrize(("side", "tiles"), [(512, None), (1024, (1, 2))])
def test_vision_gradient_flops_are_those_of_the_counter(
    side: int, tiles: tuple[int, int] | None
) -> None:
    """Twice the forward pass, less the gradient of the image, which nobody needs."""
    from real_ocr import vision_training_flops

    root = MODEL.vision_layer(side, tiles)
    ours = root.forward_tensor_core_flops(), root.backward_tensor_core_flops()
    assert ours == vision_training_flops(side, tiles)
    first = [c.op for c in root.calls() if c.gradient == "weights"]
    assert ours[1] == 2 * ours[0] - sum(op.tensor_core_flops for op in first)


@pytest.mark.parametrize(("tokens", "batch"), [(83, 1), (31, 3)])
def test_language_gradient_flops_are_those_of_the_counter(tokens: int, batch: int) -> None:
    from real_ocr import language_training_flops

    root = MODEL.prefill_layer(tokens, batch)
    ours = root.forward_tensor_core_flops(), root.backward_tensor_core_flops()
    assert ours == language_training_flops(tokens, batch)


@pytest.mark.parametrize(
    ("tokens", "batch", "logits"), [(83, 1, "all"), (283, 1, "all"), (283, 8, "last")]
)
def test_language_peak_memory_is_that_of_live_tensors(tokens: int, batch: int, logits: str) -> None:
    from real_ocr import language_peaks

    prefill = MODEL.prefill_layer(tokens, batch, logits)
    decode = MODEL.decode_layer(tokens + 1, batch)
    for layer, peak in zip((prefill, decode), language_peaks(tokens, batch, logits), strict=True):
        ours = layer.activation_bytes() + layer.kv_cache_bytes()
        assert ours == pytest.approx(peak, rel=0.001)


def test_logits_of_the_last_token_only_spare_the_head() -> None:
    every, last = MODEL.prefill_layer(283, logits="all"), MODEL.prefill_layer(283, logits="last")
    spared = every.forward_tensor_core_flops() - last.forward_tensor_core_flops()
    assert spared == 2 * 282 * 1280 * 129280


def test_routing_sets_the_experts_that_are_read() -> None:
    touched = [27.0 + i for i in range(11)]
    calls = MODEL.prefill(83, routing=touched)
    grouped = [c.op for c in calls if c.op.operator == "grouped_matmul"]
    assert [op.experts_read for op in grouped[::2]] == touched
    with pytest.raises(ValueError, match="expected 11 entries"):
        MODEL.prefill(83, routing=[6.0])


def test_phases_of_a_workload() -> None:
    phases = MODEL.phases(Workload("ocr_tiny", side=512))
    assert list(phases) == ["vision", "prefill", "decode"]
    assert [p.repeat for p in phases.values()] == [1, 1, 16]
    step = phases["decode"].layer
    total_of_steps = sum(
        MODEL.decode_layer(context).forward_io_bytes() for context in range(84, 100)
    )
    assert 16 * step.forward_io_bytes() == pytest.approx(total_of_steps, rel=1e-12)


@pytest.mark.parametrize("bad", [500, 0, -64, 512.0, True])
def test_a_side_that_holds_no_whole_tokens_is_refused(bad: object) -> None:
    with pytest.raises(ValueError, match="expected a positive multiple of 64"):
        MODEL.vision(side=bad)  # type: ignore[arg-type]


@pytest.mark.parametrize("bad", [(0, 2), (1,), (1, 2, 3), "2x3", (1.5, 2)])
def test_tiles_that_are_none_are_refused(bad: object) -> None:
    with pytest.raises(ValueError, match="tiles"):
        MODEL.vision(side=1024, tiles=bad)  # type: ignore[arg-type]


@pytest.mark.parametrize("dimension", [{"hidden": 0}, {"layers": -1}, {"sam_downsample": (0, 1)}])
def test_a_dimension_that_is_not_positive_is_refused(dimension: dict) -> None:
    with pytest.raises(ValueError, match=next(iter(dimension))):
        DeepseekOCRModel(**dimension)
