"""Experts that a model of random weights touches, by the law, beside counts."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.random_routing import known
from benchmarks.recorded.routing import of_random_weights
from calib.trace.tree import TracedLayer
from model.layer import Call
from model.ops import Attention, GroupedMatmul
from model.workload import Phase

COUNTED = (
    # sequences, tokens of each, experts, top_k, touched behind the second layer (least, most)
    (1, 16, 128, 8, (19, 24)),
    (1, 512, 128, 8, (30, 38)),
    (4, 512, 128, 8, (86, 104)),
    (8, 64, 128, 8, (107, 119)),
    (16, 1, 128, 8, (78, 84)),
    (1, 128, 64, 8, (22, 29)),
    (4, 512, 64, 8, (55, 62)),
    (16, 1, 8, 2, (7, 8)),
    (1, 512, 8, 2, (6, 7)),
)
"""Of random models of ``transformers`` on a CPU: Qwen3-MoE, OLMoE and Mixtral, made small."""


def routed(sequences: int, length: int, experts: int, top_k: int, layer: int) -> Any:
    attention = Attention(sequences, length, length, 4, 4, 16, causal=True)
    op = GroupedMatmul(sequences * length, experts, top_k, n=32, k=16)
    path = f"model.layers.{layer}.mlp.experts"
    calls = (Call(f"model.layers.{layer}.self_attn", attention), Call(path, op))
    found = of_random_weights("nobodys", Phase(TracedLayer("nobodys", calls)))
    return found.layer.calls()[1].op


@pytest.mark.parametrize("case", COUNTED)
def test_the_law_meets_what_was_counted(case: Any) -> None:
    *given, (least, most) = case
    op = routed(*given, layer=4)
    assert least * 0.85 <= op.active_experts <= most * 1.15
    assert op.active_experts >= op.top_k and op.max_load <= op.tokens


def test_the_law_meets_the_record_s_model() -> None:
    for layer, counted in enumerate(known()["qwen3_30b_a3b"]):
        op = routed(1, 512, 128, 8, layer)
        assert op.active_experts == pytest.approx(counted["touched"], rel=0.3)
        assert op.max_load >= counted["busiest"]


def test_experts_grow_with_tokens_and_sequences() -> None:
    by_tokens = [routed(2, n, 128, 8, 3).active_experts for n in (1, 2, 16, 512, 4096)]
    by_batch = [routed(b, 64, 128, 8, 3).active_experts for b in (1, 2, 8, 64)]
    assert by_tokens == sorted(by_tokens) and by_batch == sorted(by_batch)
    assert routed(1, 1, 128, 8, 0).active_experts == pytest.approx(8)


def test_without_attention_that_says_what_sequences_are_routing_is_uniform() -> None:
    call = Call("model.layers.0.mlp", GroupedMatmul(64, 8, 2, n=32, k=16))
    found = of_random_weights("nobodys", Phase(TracedLayer("nobodys", (call,))))
    assert found.layer.calls() == [call]
