"""Engines' kernels on a card: what ships, what it leans on, and that it says so."""

from __future__ import annotations

import numpy as np
import pytest

from calib.cards.engines.card import load_engine_card
from calib.cards.engines.stored import ENGINES, engine_cards, load_engine
from calib.errors import CalibError
from model.ops import AllReduce, Attention, Elementwise, Matmul, MoeMlp, grid

FP8 = "float8_e4m3fn"


@pytest.mark.parametrize("engine", ENGINES)
def test_its_own_kernels_are_interpolated(engine: str) -> None:
    card = load_engine_card("h200", engine)
    ops = [Attention(16, 1, 3001, 32, 8, 128, causal=True), Matmul(17, 6144, 4096)]
    found = card.estimates(ops)
    assert found.known_as.tolist() == ["interpolated"] * 2
    assert (found.floor < found.seconds).all()
    assert (found.low < found.seconds).all()
    assert (found.seconds < found.high).all()


def test_another_engine_stands_in_and_says_so() -> None:
    layer = MoeMlp(64, 128, 8, 4096, 768, FP8, "power_law_1.2")
    own = load_engine_card("h200", "trtllm").estimates([layer])
    lent = load_engine_card("h200", "sglang").estimates([layer])
    assert own.known_as.tolist() == ["interpolated"]
    assert lent.known_as.tolist() == ["transferred"]
    assert lent.high[0] / lent.seconds[0] > own.high[0] / own.seconds[0]


def test_a_card_without_engine_tables_leans_on_its_own() -> None:
    card = load_engine_card("l40s", "trtllm")
    found = card.estimates([Matmul(17, 6144, 4096)])
    assert found.seconds[0] > found.floor[0]


def test_narrow_products_take_the_least_of_the_tables() -> None:
    products = grid(Matmul, m=np.array([1, 16, 256]), n=8192, k=4096, dtype=FP8)
    by = [load_engine_card("h200", engine).estimates(products).seconds for engine in ENGINES]
    np.testing.assert_allclose(by[0], by[1], rtol=1e-6)
    np.testing.assert_allclose(by[0], by[2], rtol=1e-6)


def test_a_grid_and_a_list_agree() -> None:
    card = load_engine_card("b200", "vllm")
    elements = [1024, 70_001, 9_000_000]
    listed = card.estimates([AllReduce(n, 8) for n in elements])
    gridded = card.estimates(grid(AllReduce, elements=np.array(elements), ranks=8))
    np.testing.assert_allclose(listed.seconds, gridded.seconds)
    assert (np.diff(listed.seconds) > 0).all()


def test_what_streams_counts_by_its_bytes() -> None:
    card = load_engine_card("h200", "vllm")
    one, two = card.estimates([Elementwise(2**24, 1, 1), Elementwise(2**24, 3, 1)]).seconds
    assert 1.5 < two / one < 2.5


def test_names_are_checked() -> None:
    with pytest.raises(CalibError, match="engine = 'tgi': expected one of vllm, sglang, trtllm"):
        load_engine_card("h200", "tgi")
    assert load_engine("h200", "tgi") is None
    assert {"h100", "h200", "b200"} <= set(engine_cards())
