"""How costs must grow, whatever the dimensions: laws, tried on drawn sizes."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.causal_lm import CausalLM, Llama, Qwen3Moe
from model.deepseek_ocr import DeepseekOCRModel
from model.deepseek_ocr_2 import DeepseekOCR2Model
from model.layer import Call, Layer, total
from model.ops import TensorCoreOperator

SMALL = {"hidden": 256, "heads": 8, "kv_heads": 4, "head_dim": 32, "vocabulary": 1000}
MODELS: dict[str, CausalLM] = {
    "dense": Llama(**SMALL, layers=2, dense_layers=2, intermediate=512),
    "sparse": Qwen3Moe(**SMALL, layers=2, experts=16, top_k=3, expert_intermediate=96),
    "ocr": DeepseekOCRModel(
        **SMALL, layers=2, intermediate=512, experts=16, top_k=3, expert_intermediate=96
    ),
}
COSTS = ("flops", "cuda_core_flops", "bytes", "weight_bytes_read", "min_flops")
drawn = settings(max_examples=15, deadline=None)
names = st.sampled_from(list(MODELS))
tokens = st.integers(2, 600)
batches = st.integers(1, 40)


def costs(layer: Layer) -> dict[str, Any]:
    calls = layer.calls()
    sums = {name: total(calls, lambda op, name=name: getattr(op, name)) for name in COSTS}
    sums["kv"] = layer.kv_cache_bytes()
    sums["activations"] = layer.activation_bytes()
    return sums


def assert_no_cost_falls(less: Layer, more: Layer) -> None:
    before, after = costs(less), costs(more)
    for name, cost in before.items():
        assert after[name] >= cost * (1 - 1e-12), name


@drawn
@given(name=names, length=tokens, longer=st.integers(1, 600), batch=batches)
def test_no_cost_falls_with_the_sequence(name: str, length: int, longer: int, batch: int) -> None:
    model = MODELS[name]
    assert_no_cost_falls(
        model.prefill_layer(length, batch), model.prefill_layer(length + longer, batch)
    )
    assert_no_cost_falls(
        model.decode_layer(length, batch), model.decode_layer(length + longer, batch)
    )


@drawn
@given(name=names, length=tokens, batch=batches, more=batches)
def test_no_cost_falls_with_the_batch(name: str, length: int, batch: int, more: int) -> None:
    model = MODELS[name]
    assert_no_cost_falls(
        model.prefill_layer(length, batch), model.prefill_layer(length, batch + more)
    )
    assert_no_cost_falls(
        model.decode_layer(length, batch), model.decode_layer(length, batch + more)
    )


@drawn
@given(
    name=names,
    length=tokens,
    dimension=st.sampled_from(
        ["hidden", "layers", "heads", "head_dim", "vocabulary", "experts", "expert_intermediate"]
    ),
    factor=st.integers(2, 4),
)
def test_no_cost_falls_with_a_dimension(
    name: str, length: int, dimension: str, factor: int
) -> None:
    model = MODELS[name]
    changed = {dimension: getattr(model, dimension) * factor}
    if name == "dense" and dimension == "layers":
        changed["dense_layers"] = changed["layers"]
    wider = replace(model, **changed)
    assert_no_cost_falls(model.prefill_layer(length), wider.prefill_layer(length))
    assert wider.parameters() >= model.parameters()


@drawn
@given(name=names, length=tokens, batch=batches)
def test_products_and_caches_are_linear_in_the_batch(name: str, length: int, batch: int) -> None:
    model = MODELS[name]
    one, many = model.prefill_layer(length), model.prefill_layer(length, batch)
    assert many.kv_cache_bytes() == batch * one.kv_cache_bytes()
    assert many.forward_tensor_core_flops() == batch * one.forward_tensor_core_flops()
    unmasked = [total(products(layer), lambda op: op.min_flops) for layer in (one, many)]
    assert unmasked[1] == batch * unmasked[0]


def products(layer: Layer) -> list[Call]:
    return [c for c in layer.calls() if isinstance(c.op, TensorCoreOperator)]


@drawn
@given(name=names, length=tokens)
def test_products_are_quadratic_in_the_sequence_through_attention_alone(
    name: str, length: int
) -> None:
    """Third differences vanish; the second is twice attention's 4 * heads * head_dim a layer."""
    model = MODELS[name]
    flops = [model.prefill_layer(length + step).forward_tensor_core_flops() for step in range(0, 4)]
    second = np.diff(flops, n=2).tolist()
    attention = 4 * model.heads * model.head_dim * model.layers
    assert second == [2 * attention] * 2


@drawn
@given(name=names, context=tokens, batch=batches)
def test_a_decode_step_is_linear_in_its_context(name: str, context: int, batch: int) -> None:
    model = MODELS[name]
    steps = [costs(model.decode_layer(context + step, batch)) for step in range(3)]
    for cost in ("flops", "bytes", "kv"):
        first, second, third = (step[cost] for step in steps)
        assert third - second == pytest.approx(second - first, rel=1e-9)


@drawn
@given(name=names, prefilled=tokens, count=st.integers(1, 9), batch=batches)
def test_decoding_in_closed_form_is_the_sum_of_its_steps(
    name: str, prefilled: int, count: int, batch: int
) -> None:
    model = MODELS[name]
    together = model.decode(prefilled, count, batch)
    steps = [model.decode_step(prefilled + 1 + step, batch) for step in range(count)]
    for cost in COSTS:
        whole = total(together, lambda op, cost=cost: getattr(op, cost))
        parts = sum(total(step, lambda op, cost=cost: getattr(op, cost)) for step in steps)
        assert whole == pytest.approx(parts, rel=1e-12)
    assert sum(c.count * c.launches for c in together) == sum(
        c.count * c.launches for step in steps for c in step
    )


@settings(max_examples=6, deadline=None)
@given(
    model=st.sampled_from([DeepseekOCRModel(), DeepseekOCR2Model()]),
    side=st.integers(8, 24).map(lambda n: n * 64),
    batch=st.integers(1, 5),
)
def test_no_vision_cost_falls_with_the_side_or_the_batch(model: Any, side: int, batch: int) -> None:
    base = costs(model.vision_layer(side, batch=batch))
    larger = costs(model.vision_layer(side + 448, batch=batch))
    more = costs(model.vision_layer(side, batch=batch + 1))
    for name in ("flops", "bytes", "activations", "cuda_core_flops"):
        assert larger[name] >= base[name], name
        assert more[name] >= base[name], name


@drawn
@given(name=names, length=tokens)
def test_a_gradient_costs_twice_its_pass(name: str, length: int) -> None:
    layer = MODELS[name].prefill_layer(length)
    assert layer.backward_tensor_core_flops() == 2 * layer.forward_tensor_core_flops()
    assert layer.backward_cuda_core_flops() > 0
    assert layer.backward_io_bytes() > layer.forward_io_bytes()


def flops_and_bytes(lengths: Any, batch: Any) -> list[tuple[Any, Any]]:
    """Of the vision tower, the prefill and 16 decode steps of DeepSeek-OCR."""
    model = DeepseekOCRModel()
    passes = (
        model.vision(1024, batch=batch),
        model.prefill(lengths, batch),
        model.decode(lengths, 16, batch),
    )
    return [(total(c, lambda op: op.flops), total(c, lambda op: op.bytes)) for c in passes]


def test_ten_thousand_points_are_one_pass_of_array_arithmetic() -> None:
    rng = np.random.default_rng(0)
    lengths, sizes = rng.integers(2, 8192, 10_000), rng.integers(1, 64, 10_000)
    start = time.process_time()
    found = flops_and_bytes(lengths, sizes)
    together = time.process_time() - start
    start, points = time.process_time(), (0, 77, 9_999)
    for point in points:
        alone = flops_and_bytes(int(lengths[point]), int(sizes[point]))
        for (flops, moved), (one_flops, one_moved) in zip(found, alone, strict=True):
            assert flops[point] == one_flops
            assert moved[point] == pytest.approx(one_moved, rel=1e-12)
    each = (time.process_time() - start) / len(points)
    assert together < 10_000 * each / 50  # some 0.3 s against 25 ms for a single point


def test_memory_of_ten_thousand_points_is_that_of_each() -> None:
    sizes = np.arange(1, 65)
    model = DeepseekOCRModel()
    vision = model.vision_layer(512, batch=sizes).activation_bytes()
    prefill = model.prefill_layer(283, sizes).activation_bytes()
    for batch in (1, 2, 64):
        assert vision[batch - 1] == model.vision_layer(512, batch=batch).activation_bytes()
        assert prefill[batch - 1] == model.prefill_layer(283, batch).activation_bytes()
