"""Collectives of a card without tables: who lends, what is said, and how wide."""

from __future__ import annotations

import numpy as np
import pytest

from calib.cards.engines.card import load_engine_card
from calib.cards.engines.lent import lent_engine, likest
from calib.cards.engines.stored import LIBRARY, engine_cards, load_engine
from calib.fit.calibration import Calibration, linked, uncalibrated
from calib.hardware import load_hardware
from calib.steps.alternatives.overlap import together
from model.ops import AllGather, AllReduce, SendRecv, grid

SIZES = 2 ** np.arange(8, 28, 3)


@pytest.mark.parametrize(
    ("card", "lenders"),
    [
        ("h20", ["h100", "h200"]),  # as wide a link
        ("h800", ["a100"]),  # the nearest in bandwidth
        ("b200", ["b300"]),  # of four as wide, the one whose link spans as many cards
        ("gb200", ["gb300"]),
        ("rtx4090", ["l40s", "rtx_pro_6000"]),  # by PCIe, all alike
        ("cpu", []),
    ],
)
def test_lenders_are_joined_as_the_card_is(card: str, lenders: list[str]) -> None:
    assert likest(load_hardware(card), engine_cards()) == lenders


def test_what_is_lent_follows_the_lender_at_its_bandwidth() -> None:
    """An H20 has an H200's link and clock: what is lent is the mean of both lenders' fits."""
    h20 = load_hardware("h20")
    ops = grid(AllGather, elements=SIZES, ranks=8)
    found = lent_engine(h20, LIBRARY)
    assert found is not None
    told = [load_engine(card, LIBRARY) for card in ("h100", "h200")]
    nothing = found.lenders[0].held_out
    each = [Calibration(h20, f.kinds, nothing).estimates(ops, LIBRARY, True) for f in told if f]
    lent = found.estimates(ops, LIBRARY)
    expected = np.sqrt(each[0].seconds * each[1].seconds)
    np.testing.assert_allclose(lent.seconds, expected)
    assert (lent.high / lent.low > each[0].high / each[0].low).all()
    assert (lent.known_as == "transferred").all()
    assert (np.diff(lent.seconds[3:]) > 0).all()


def test_by_pcie_the_link_counts_as_one_more_lender() -> None:
    l4 = load_hardware("l4")
    ops = [AllReduce(int(n), 4) for n in SIZES]
    found = lent_engine(l4, LIBRARY)
    assert found is not None
    assert found.by_link
    each = [c.estimates(ops, LIBRARY, True).seconds for c in found.lenders]
    expected = np.exp(np.mean(np.log([*each, linked(ops, l4)[0]]), axis=0))
    np.testing.assert_allclose(found.estimates(ops, LIBRARY).seconds, expected)


def test_a_run_of_several_cards_takes_what_is_lent_where_it_can() -> None:
    """A message that no table knows, and one that leaves the node, are the link's."""
    h20 = load_hardware("h20")
    ops = [AllReduce(2**20, 8), SendRecv(2**20), AllReduce(2**20, 16, nodes=2)]
    found = together(uncalibrated(h20)).estimates(ops)
    assert found.known_as.tolist() == ["transferred", "roofline", "roofline"]
    own = together(uncalibrated(load_hardware("h200"))).estimates(ops[:1])
    assert own.known_as.tolist() == ["interpolated"]


@pytest.mark.parametrize("engine", ["vllm", "sglang", "trtllm"])
def test_an_engine_has_its_own_all_reduce_on_more_cards_than_kernels(engine: str) -> None:
    op = AllReduce(2**14, 4)
    here = load_engine_card("b300", engine)
    assert here.estimates([op]).known_as.tolist() == ["interpolated"]
    assert not here.is_told
    assert load_engine_card("h200", engine).is_told
    there = load_engine_card("h20", engine).estimates([op])
    assert there.known_as.tolist() == ["transferred"]
    library = load_engine_card("h200", engine).estimates([op])
    assert there.seconds[0] == pytest.approx(library.seconds[0], rel=0.3)
