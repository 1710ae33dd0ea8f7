"""Language models against what ``transformers`` executes, at full size and without memory."""

from __future__ import annotations

from typing import Any

import pytest
from dispatched import assert_same_operators

from model.architectures import build
from model.causal_lm import CausalLM, Llama, Qwen3Moe
from model.layer import total
from model.moe import Experts, Router, Routing

PUBLISHED = {"llama": 8_030_261_248, "qwen3_moe": 30_532_122_624, "deepseek_ocr_2": 3_389_119_360}
LANGUAGE_MODELS = list(PUBLISHED)


@pytest.mark.parametrize("name", LANGUAGE_MODELS)
def test_parameters_are_the_published_ones(name: str) -> None:
    assert build(name).parameters() == PUBLISHED[name]


@pytest.mark.parametrize("name", LANGUAGE_MODELS)
def test_parameters_of_every_module_are_those_of_the_real_one(name: str) -> None:
    from real_family import meta_model

    modules = dict(meta_model(name).named_modules())
    nodes = build(name).decode_layer(84).nodes()
    assert {node.path for node in nodes} <= modules.keys()
    for node in nodes:
        if node.path:
            expected = sum(p.numel() for p in modules[node.path].parameters())
            assert node.layer.weight_parameters() == expected, node.path


@pytest.mark.parametrize(
    ("name", "tokens", "batch"),
    [("llama", 83, 1), ("qwen3_moe", 31, 2), ("deepseek_ocr_2", 83, 1), ("deepseek_ocr_2", 31, 2)],
)
def test_dispatches_what_we_list(name: str, tokens: int, batch: int) -> None:
    from real_family import dispatched_language

    model = build(name)
    prefill, decode = dispatched_language(name, tokens, batch)
    assert_same_operators(model.prefill(tokens, batch), prefill)
    assert_same_operators(model.decode_step(tokens + 1, batch), decode)


@pytest.mark.parametrize("name", LANGUAGE_MODELS)
def test_flops_are_those_of_the_counter(name: str) -> None:
    from real_family import language_flops

    model = build(name)
    prefill, decode = language_flops(name, 83, batch=2)
    assert model.prefill_layer(83, 2).forward_tensor_core_flops() == prefill
    assert model.decode_layer(84, 2).forward_tensor_core_flops() == decode


@pytest.mark.parametrize(
    ("name", "tokens", "batch"),
    [("llama", 65, 4), ("qwen3_moe", 283, 1), ("deepseek_ocr_2", 65, 4)],
)
def test_peak_memory_is_that_of_live_tensors(name: str, tokens: int, batch: int) -> None:
    from real_family import language_peaks

    model = build(name)
    layers = model.prefill_layer(tokens, batch), model.decode_layer(tokens + 1, batch)
    for layer, peak in zip(layers, language_peaks(name, tokens, batch), strict=True):
        ours = layer.activation_bytes() + layer.kv_cache_bytes()
        assert ours == pytest.approx(peak, rel=0.001)


@pytest.mark.parametrize("model", [Llama(), Qwen3Moe()])
@pytest.mark.parametrize(("prefilled", "steps", "batch"), [(84, 16, 1), (7, 3, 5), (1000, 1, 2)])
def test_decoding_in_closed_form_is_the_sum_of_its_steps(
    model: CausalLM, prefilled: int, steps: int, batch: int
) -> None:
    def costs(calls: list[Any]) -> dict[str, Any]:
        names = ("tensor_core_flops", "cuda_core_flops", "min_flops", "bytes_read", "bytes_written")
        return {n: total(calls, lambda op, n=n: getattr(op, n)) for n in names}

    together = costs(model.decode(prefilled, steps, batch))
    contexts = range(prefilled + 1, prefilled + steps + 1)
    one_by_one = [costs(model.decode_step(context, batch)) for context in contexts]
    for name, cost in together.items():
        assert cost == pytest.approx(sum(step[name] for step in one_by_one), rel=1e-13)
    for whole in ("tensor_core_flops", "min_flops"):
        assert together[whole] == sum(step[whole] for step in one_by_one)


def test_grouped_heads_share_their_keys() -> None:
    """Llama-3.1-8B keeps 8 of 32 heads' keys and values: 128 KiB a token in bfloat16."""
    assert Llama().decode_layer(1).kv_cache_bytes() == 131_072


def test_a_routing_is_what_the_router_counted() -> None:
    routing = Routing.from_counts([0, 7, 1, 0, 4])
    assert (routing.active_experts, routing.max_load) == (3, 7)
    model = Qwen3Moe()
    calls = model.prefill(83, routing=[routing] * 48)
    grouped = [c.op for c in calls if c.op.operator == "grouped_matmul"]
    assert {(op.experts_read, op.max_load) for op in grouped} == {(3, 7)}
    uniform = [c.op for c in model.prefill(83) if c.op.operator == "grouped_matmul"]
    assert sum(op.bytes for op in grouped) < sum(op.bytes for op in uniform)
    assert sum(op.flops for op in grouped) == sum(op.flops for op in uniform)


def test_uniform_routing_touches_the_expected_experts() -> None:
    """The mean over many draws of a router that picks 6 of 64 experts at random."""
    import numpy as np

    rng = np.random.default_rng(0)
    draws = np.argsort(rng.random((4000, 8, 64)), axis=-1)[..., :6]  # [draws, tokens, top_k]
    touched = np.mean([len(np.unique(draw)) for draw in draws])
    grouped = next(
        c.op for c in Experts(8, 64, 32, 64, 6).calls() if c.op.operator == "grouped_matmul"
    )
    assert grouped.experts_read == pytest.approx(touched, rel=0.01)


def test_narrow_weights_are_read_narrow() -> None:
    wide, narrow = Llama(), Llama(weight_dtype="int4")
    read = [total(m.decode_step(10), lambda op: op.weight_bytes_read) for m in (wide, narrow)]
    layers = wide.component_parameters()["decoder layers"] - 32 * 2 * 4096
    assert read[0] - read[1] == layers * 1.5
    assert wide.decode_layer(10).weight_bytes() - narrow.decode_layer(10).weight_bytes() == (
        layers * 1.5
    )


def test_the_router_works_in_float32() -> None:
    products = [c.op for c in Router(83, 1280, 64, 6).calls() if c.op.operator == "matmul"]
    assert [op.dtype for op in products] == ["float32"]


@pytest.mark.parametrize(
    ("dimensions", "message"),
    [
        ({"heads": 0}, "heads = 0: expected an integer >= 1"),
        ({"layers": -3}, "layers = -3"),
        ({"hidden": 4096.5}, "hidden = 4096.5"),
        ({"dense_layers": 16}, "experts = 0: expected a number >= 1"),
        ({"dtype": "bf16"}, "dtype = 'bf16': expected one of"),
        ({"weight_dtype": "int3"}, "dtype = 'int3': expected one of"),
    ],
)
def test_dimensions_that_make_no_model_are_refused(dimensions: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Llama(**dimensions)
