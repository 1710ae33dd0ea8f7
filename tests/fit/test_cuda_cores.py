"""Products of float32 on cores that integers share, by round numbers and by what was published."""

from dataclasses import replace
from statistics import median

import numpy as np
import pytest

from benchmarks.public_products import most, published
from calib.cards.shipped import load_card
from calib.fit.physics.limits.cuda_cores import (
    foretold_rate,
    multiplying,
    published_cards,
    published_rate,
    rise,
    sustained_rate,
    unheld_rate,
)
from calib.hardware.datasheet import Hardware, floor, load_hardware
from model.ops import Matmul


def told(name: str, rate: float, **figures: float) -> Hardware:
    measured = {"products.float32": {"low": rate, "high": rate, "source": "a test"}}
    return replace(load_hardware(name), measured=measured, **figures)  # type: ignore[arg-type]


def test_a_card_is_bound_by_its_watts_or_by_the_highest_share() -> None:
    """5 J a TFLOP at 0.6 of the rate: what has twice the watts a FLOP/s is bound by the share."""
    known = [told("l40s", 60e12, power_w=300.0, cuda_core_flops=100e12)]
    asked = replace(load_hardware("rtx4090"), cuda_core_flops=80e12, power_w=100.0)
    assert foretold_rate(asked, known) == pytest.approx(20e12)
    assert foretold_rate(replace(asked, power_w=800.0), known) == pytest.approx(48e12)
    assert foretold_rate(replace(asked, power_w=None), known) == pytest.approx(48e12)
    assert foretold_rate(asked, []) is None
    assert foretold_rate(asked, [load_hardware("a100")]) is None


def test_the_likest_card_tells_the_joules() -> None:
    known = [told("l40s", 50e12, power_w=500.0), told("rtx3090", 10e12, power_w=500.0)]
    asked = replace(load_hardware("l4"), power_w=1.0)
    assert foretold_rate(asked, known) == pytest.approx(0.1e12)
    assert foretold_rate(replace(load_hardware("a40"), power_w=1.0), known) == pytest.approx(
        0.02e12
    )


def test_a_board_with_fewer_watts_spends_fewer_joules_on_a_flop() -> None:
    """Four times the watts for twice the rate: the rate goes up as the root of the watts."""
    hungry, frugal = ("l40s", 60e12, 400.0), ("rtx4090", 30e12, 100.0)
    known = [
        told(name, rate, power_w=watts, cuda_core_flops=100e12)
        for name, rate, watts in (hungry, frugal)
    ]
    assert rise(known) == pytest.approx(0.5)
    asked = replace(load_hardware("l4"), power_w=25.0, cuda_core_flops=100e12)
    assert foretold_rate(asked, known) == pytest.approx(15e12)
    assert rise(known[:1]) == rise([told("l40s", 1e12), told("rtx3090", 9e12)]) == 1.0


def test_an_l4_multiplies_as_others_timed_it() -> None:
    """``benchmarks/data/public_models.csv``: some 12 TFLOP/s of float32, of which 9.1 were told."""
    assert sustained_rate(load_hardware("l4")) == pytest.approx(12.2e12, rel=0.05)


@pytest.mark.parametrize("name", ["a100", "h100", "h200", "b200", "t4", "v100_32gb", "p100"])
def test_other_cores_are_fed(name: str) -> None:
    assert sustained_rate(load_hardware(name)) is None


def test_what_stands_in_the_configuration_is_what_was_published() -> None:
    """But for an A10, which another source has (its file names it)."""
    reports = published()
    cards = published_cards()
    assert len(cards) == 6
    for card in (c for c in cards if c.name != "a10"):
        known = card.measured["products.float32"]
        rates = reports[card.name, "float32"]
        assert min(rates) * 0.999 <= known["low"] <= known["high"] <= max(rates) * 1.001
        assert published_rate(card) == pytest.approx(median(rates), rel=0.02)


@pytest.mark.parametrize("card", published_cards(), ids=lambda card: card.name)
def test_each_card_is_foretold_from_the_others(card: Hardware) -> None:
    rate = foretold_rate(card, [c for c in published_cards() if c.name != card.name])
    assert rate == pytest.approx(published_rate(card), rel=0.12)
    untold = replace(card, measured={})
    assert sustained_rate(untold) == rate
    assert sustained_rate(card) == published_rate(card)


@pytest.mark.parametrize("name", ["rtx3090", "rtx4090", "rtx5090", "rtx_pro_6000", "l40s", "a10"])
def test_a_large_product_takes_as_long_as_the_cores_sustain(name: str) -> None:
    """Before, they were told to multiply float32 at the share that matrix units reach."""
    card = load_hardware(name)
    found = most(card, "float32")
    assert found["rate"] == pytest.approx(sustained_rate(card), rel=0.2)


def test_every_dtype_that_the_cores_multiply_follows_and_no_other() -> None:
    card = load_hardware("rtx5090")
    slow = multiplying(card, 1e12)
    for dtype in ("float32", "int32"):
        assert float(floor(Matmul(4096, 4096, 4096, dtype=dtype), slow)) == pytest.approx(
            0.1374, 1e-3
        )
    for dtype in ("bfloat16", "tf32", "int8"):
        op = Matmul(4096, 4096, 4096, dtype=dtype)
        assert float(floor(op, slow)) == float(floor(op, card))


def test_the_floor_that_is_reported_is_the_datasheets() -> None:
    card = load_hardware("rtx5090")
    known = load_card(card)
    assert known is not None
    op = Matmul(8192, 8192, 8192, dtype="float32")
    table = known.estimate([op])
    np.testing.assert_allclose(table["floor_s"], float(op.flops) / card.cuda_core_flops)


def test_watts_that_hold_matrix_units_do_not_hold_the_cores() -> None:
    """An H100 PCIe's 350 W keep bfloat16 at half of its rate; float32 draws less, and sustains of
    its own what an H200's does."""
    pcie, h200 = load_hardware("h100_pcie"), load_hardware("h200")
    published_share = published_rate(h200) / h200.cuda_core_flops  # type: ignore[operator]
    assert unheld_rate(pcie, 0.5) == pytest.approx(published_share * pcie.cuda_core_flops)
    assert unheld_rate(pcie, 0.8) is None  # bfloat16 sustains more
    assert unheld_rate(h200, 0.5) is None  # its own was published
    assert unheld_rate(load_hardware("l4"), 0.3) is None  # other cores
    assert unheld_rate(load_hardware("a100_pcie_80gb"), 0.5) is None  # nothing of its capability
    card = load_card(pcie)
    assert card is not None
    product = Matmul(4096, 4096, 4096, dtype="float32")
    seconds = card.estimates([product], "torch", [True]).seconds[0]
    rate = product.flops / seconds / pcie.cuda_core_flops
    assert rate == pytest.approx(published_share, rel=0.1)
