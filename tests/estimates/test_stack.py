"""A model as an engine runs it: the same work by fewer kernels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from calib.estimates.stack.formats import BLOCK, KV8, Formats
from calib.estimates.stack.lower import fused, lowered
from calib.estimates.stack.patterns import PATTERNS
from calib.estimates.stack.roles import OTHER, role_of
from model.causal_lm import CausalLM, Llama, Qwen3Moe
from model.layer import Call
from model.ops import Matmul, MoeMlp
from model.parallel import Layout
from model.parallel.one_card import Place

MODELS = (
    Llama(layers=3, dense_layers=3),
    Qwen3Moe(layers=3, hidden=1024, experts=16, top_k=2),
    Qwen3Moe(layers=3, dense_layers=3, experts=0, top_k=0, intermediate=4096),
)


def flops(calls: Sequence[Any]) -> Any:
    return sum(c.op.tensor_core_flops * c.count for c in calls)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("formats", [Formats(), Formats("fp8_block", "fp8_block", "fp8", "qoud")])
def test_products_are_neither_lost_nor_added(model: CausalLM, formats: Formats) -> None:
    for calls in (model.decode_step(301, 7), model.prefill(301, 7, "last")):
        kernels = lowered(calls, formats)
        assert flops(kernels) == flops(calls)
        assert len(kernels) < len(calls)


@pytest.mark.parametrize("model", MODELS)
def test_every_call_has_a_role(model: CausalLM) -> None:
    calls = model.decode_step(301, 7)
    assert OTHER not in {role_of(call) for call in calls}


def test_a_dense_layer_is_nine_kernels() -> None:
    layer = [c for c in fused(MODELS[0].decode_step(301, 7)) if ".layers.1" in c.path]
    names = [c.path.rpartition("layers.1.")[2] for c in layer]
    assert names == [
        *("input_layernorm", "self_attn.q_proj", "self_attn", "self_attn", "self_attn.o_proj"),
        *("post_attention_layernorm", "mlp.gate_proj", "mlp.act_fn", "mlp.down_proj"),
    ]
    products = [c.op for c in layer if isinstance(c.op, Matmul)]
    assert [p.n for p in products] == [4096 + 2 * 1024, 4096, 2 * 14336, 4096]


def test_a_sum_over_cards_takes_the_norm_along() -> None:
    place = Place(Layout(tp=2), 0, (7, 7))
    calls: list[Call] = place.of_root(MODELS[0].decode_layer(301, 7)).calls()
    kernels = fused(calls)
    assert sum(c.op.operator == "all_reduce" for c in kernels) == 1 + 2 * 3
    assert sum(c.path.endswith("norm") for c in kernels) == 1  # the first, behind the embedding


def test_experts_are_one_layer() -> None:
    experts = [k for k in lowered(MODELS[1].decode_step(301, 7), Formats()) if "experts" in k.path]
    assert {type(k.op) for k in experts} == {MoeMlp}
    assert sum(k.count for k in experts) == 3


def test_formats_name_the_kernels() -> None:
    kernels = lowered(MODELS[0].decode_step(301, 7), Formats("fp8_block", "bfloat16", "fp8", "q"))
    by_path = {k.path.rpartition(".")[2]: k for k in kernels}
    assert by_path["o_proj"].name == BLOCK
    assert by_path["self_attn"].name == KV8
    assert (by_path["lm_head"].name, by_path["lm_head"].op.dtype) == ("", "bfloat16")
    narrowed = [k for k in kernels if k.op.operator == "elementwise" and "q_proj" in k.path]
    assert [k.op.elements for k in narrowed] == [7 * 4096] * len(narrowed)


def test_arrays_of_shapes_are_lowered_alike() -> None:
    contexts, batches = np.array([301, 5]), np.array([7, 1])
    arrays = lowered(MODELS[0].decode_step(contexts, batches), Formats())
    singly = [
        lowered(MODELS[0].decode_step(int(c), int(b)), Formats())
        for c, b in zip(contexts, batches, strict=True)
    ]
    for i, kernels in enumerate(singly):
        for both, alone in zip(arrays, kernels, strict=True):
            assert np.broadcast_to(both.op.bytes, 2)[i] == alone.op.bytes


def test_every_pattern_says_why() -> None:
    assert all(pattern.why for pattern in PATTERNS)
