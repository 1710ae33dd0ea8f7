"""Loads of experts, from how many of them are touched."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from calib.checkout import ROOT
from model.ops import agreement, distinct_experts, spread, whole_loads


@given(
    experts=st.integers(2, 128),
    tokens=st.integers(1, 4000),
    share=st.floats(0, 1),
    data=st.data(),
)
def test_loads_of_a_router_touch_as_many_experts_as_told(
    experts: int, tokens: int, share: float, data: st.DataObject
) -> None:
    top_k = data.draw(st.integers(1, max(experts // 2, 1)))
    _as_many_as_told(experts, top_k, tokens, share)


@pytest.mark.parametrize("share", [0.0, 0.0078125, 0.05])
def test_no_pick_is_lost_where_all_want_one_expert(share: float) -> None:
    _as_many_as_told(experts=52, top_k=1, tokens=37, share=share)


def _as_many_as_told(experts: int, top_k: int, tokens: int, share: float) -> None:
    most = float(distinct_experts(experts, top_k, tokens))
    touched = top_k + share * (most - top_k)
    alike = agreement(experts, top_k, tokens, touched)
    assert 0 <= alike[0] <= 1
    chance, loads = spread(experts, top_k, tokens, alike)
    assert loads.max() <= tokens * (1 + 1e-6) and loads.min() >= 1 - 1e-6
    if alike[0]:
        assert experts * (chance * loads).mean() == pytest.approx(tokens * top_k, rel=1e-5)
    coarse = max(1.2 * top_k, top_k + experts / len(chance))  # for the ranks that stand for experts
    if most - 0.5 > touched > coarse:
        assert experts * chance.mean() == pytest.approx(touched, rel=0.02)


@given(experts=st.integers(1, 96), tokens=st.integers(1, 500), data=st.data())
def test_whole_loads_are_those_of_all_rows(experts: int, tokens: int, data: st.DataObject) -> None:
    top_k = data.draw(st.integers(1, experts))
    touched = data.draw(st.integers(top_k, min(experts, tokens * top_k)))
    loads = whole_loads(experts, top_k, tokens, touched)
    assert (len(loads), sum(loads)) == (touched, tokens * top_k)
    assert min(loads) >= 1
    assert max(loads) <= tokens


def test_the_busiest_expert_is_about_what_was_counted() -> None:
    """Of a model of random weights, layer by layer (``python -m benchmarks.random_routing``)."""
    counted = json.loads((ROOT / "benchmarks/data/random_routing.json").read_text())["models"]
    for layer in counted["qwen3_30b_a3b"]:
        loads = whole_loads(128, 8, 512, layer["touched"])
        assert loads[0] == pytest.approx(layer["busiest"], rel=0.25)
