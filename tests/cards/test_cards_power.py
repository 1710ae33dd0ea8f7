"""What a power limit makes of large products, by round numbers."""

from dataclasses import replace

import pytest

from calib.cards.build.power import Sustained, at_limit_of, foretold, is_akin, sustained
from calib.hardware.datasheet import load_hardware
from calib.samples.sample import Sample
from model.ops import Attention, Matmul

L40S, RTX4090, L4 = (load_hardware(name) for name in ("l40s", "rtx4090", "l4"))
SIDE = 8192
SHORT = 2048
"""A side at which a product takes less than a millisecond."""


def product(share, side=SIDE):
    """A sample of a product that reaches ``share`` of an L40S's rate."""
    op = Matmul(side, side, side)
    return Sample(op, (2 * side**3 / (share * L40S.peak_flops["bfloat16"]),), "l40s", "vllm")


def test_the_plateau_is_what_long_products_reach() -> None:
    small = Sample(Matmul(16, 16, 16), (1e-5,), "l40s", "vllm")
    known = sustained([product(s / 100) for s in range(50, 75)] + [small] * 99, L40S)
    assert known is not None
    assert known.plateau == pytest.approx(0.62)
    assert known.joules == pytest.approx(350 / (0.62 * 362e12))
    assert sustained([product(0.6)] * 5 + [small] * 99, L40S) is None


def test_a_card_with_watts_to_spare_is_free_and_one_without_is_not() -> None:
    """1.5 pJ a FLOP: an RTX 4090 would need 248 W of its 450; an L4 182 W of its 72."""
    known = [Sustained(L40S, 350 / (1.5e-12 * 362e12))]
    free, capped = foretold(RTX4090, known, 0.9), foretold(L4, known, 0.9)
    assert free is not None and capped is not None
    assert free.plateau == 0.9
    assert capped.plateau == pytest.approx(72 / (1.5e-12 * 121e12))
    assert foretold(replace(L4, power_w=None), known, 0.9) is None
    assert foretold(L4, [], 0.9) is None


def test_a_lent_sample_is_freed_of_its_cards_limit_as_far_as_it_drew_upon_it() -> None:
    donor, target = Sustained(L40S, 0.6), Sustained(RTX4090, 0.9)
    attention = Sample(Attention(1, 512, 512, 8, 8, 64), (1e-4,), "l40s", "vllm")
    lent = {"l40s": [product(0.3), product(0.3, SHORT), attention], "h100": [product(0.6)]}
    at_limit = at_limit_of(target, lent, {"l40s": donor})
    before = [s.median for s in lent["l40s"]]
    full, half, other = (s.median for s in at_limit["l40s"])
    assert full == pytest.approx(before[0] * 0.6 / 0.9)
    assert half == pytest.approx(before[1] * (1 + (0.6 / 0.9 - 1) / 2))
    assert other == before[2]
    assert at_limit["h100"] == lent["h100"]
    assert at_limit_of(None, lent, {"l40s": donor}) == lent


def test_a_card_lends_itself_what_it_measured() -> None:
    known = Sustained(L40S, 0.6)
    assert at_limit_of(known, {"l40s": [product(0.5)]}, {"l40s": known})["l40s"][0].seconds == (
        pytest.approx(product(0.5).seconds)
    )


def test_joules_carry_over_between_cards_of_one_kind_of_instruction() -> None:
    assert is_akin(L40S, load_hardware("rtx3090")) and is_akin(L40S, load_hardware("rtx5090"))
    assert is_akin(load_hardware("h100"), load_hardware("h20"))
    assert not is_akin(load_hardware("h200"), load_hardware("b200"))
    assert not any(is_akin(load_hardware(name), load_hardware("t4")) for name in ("t4", "a100"))
