"""What a power limit makes of large products, by round numbers."""

from dataclasses import replace

import numpy as np
import pytest

from calib.fit.fitting import fit
from calib.fit.physics.features import Features, features_of_list
from calib.fit.physics.limits.power import (
    Sustained,
    foretold,
    is_akin,
    is_limited,
    limited,
    slowed,
    sustained,
)
from calib.hardware.datasheet import Hardware, floor, load_hardware
from calib.samples.sample import Sample
from model.ops import Attention, Matmul, Operator

L40S, RTX4090, L4, H100 = (load_hardware(name) for name in ("l40s", "rtx4090", "l4", "h100"))
SIDE, SHORT = 8192, 2048
"""Sides at which a product takes more, and less, than a millisecond."""


def products(shares: list[float], side: int = SIDE) -> tuple[Features, np.ndarray]:
    """Products that reach ``shares`` of an L40S's rate."""
    x = features_of_list([Matmul(side, side, side)] * len(shares), L40S)
    return x, x.compute_s / np.array(shares)


def test_the_plateau_is_what_long_products_reach() -> None:
    shares = [s / 100 for s in range(50, 75)]
    known = sustained(*products(shares), L40S)
    assert known is not None
    assert known.plateau == pytest.approx(0.62)
    assert known.joules == pytest.approx(350 / (0.62 * 362e12))
    assert sustained(*products([0.6] * 5), L40S) is None
    assert sustained(*products([0.6] * 99, SHORT), L40S) is None


def test_a_card_with_watts_to_spare_is_free_and_one_without_is_not() -> None:
    """1.5 pJ a FLOP: an RTX 4090 would need 248 W of its 450; an L4 182 W of its 72."""
    known = [Sustained(L40S, 350 / (1.5e-12 * 362e12))]
    free, capped = foretold(replace(RTX4090, measured={}), known), foretold(L4, known)
    assert free is not None and capped is not None
    assert free.plateau == 0.9
    assert capped.plateau == pytest.approx(72 / (1.5e-12 * 121e12))
    assert foretold(replace(L4, power_w=None), known) is None
    assert (
        foretold(
            L4,
            [],
        )
        is None
    )
    assert foretold(H100, known) is None


def test_a_lent_product_is_freed_of_its_cards_limit_as_far_as_it_drew_upon_it() -> None:
    donor, target = Sustained(L40S, 0.6), Sustained(RTX4090, 0.9)
    for side, gain in ((SIDE, 1.0), (SHORT, 0.5)):
        x, seconds = products([0.3], side)
        expected = seconds * (1 + (0.6 / 0.9 - 1) * gain)
        np.testing.assert_allclose(slowed(x, seconds, donor, target), expected)
    x, seconds = products([0.5])
    for pair in ((None, target), (donor, None), (donor, Sustained(H100, 0.8))):
        np.testing.assert_array_equal(slowed(x, seconds, *pair), seconds)
    np.testing.assert_allclose(slowed(x, seconds, donor, donor), seconds)


def test_only_products_tell_of_it() -> None:
    assert is_limited(Matmul(1, 2, 3))
    assert not is_limited(Matmul(1, 2, 3, dtype="float8_e4m3fn"))
    assert not is_limited(Attention(1, 512, 512, 8, 8, 64))


def test_joules_carry_over_between_cards_of_one_kind_of_instruction() -> None:
    assert is_akin(L40S, load_hardware("rtx3090")) and is_akin(L40S, load_hardware("rtx5090"))
    assert is_akin(H100, load_hardware("h20"))
    assert not is_akin(load_hardware("h200"), load_hardware("b200"))
    assert not any(is_akin(load_hardware(name), load_hardware("t4")) for name in ("t4", "a100"))


def at_its_limit(op: Operator, card: Hardware) -> float:
    """1.5 pJ a FLOP, whatever the card: long products take the joules over the limit."""
    assert card.power_w is not None
    return 4e-6 + max(float(floor(op, card)) / 0.9, 1.5e-12 * float(op.min_flops) / card.power_w)


@pytest.mark.parametrize("donors", [["rtx_pro_6000"], ["rtx_pro_6000", "a100", "h100"]])
def test_a_fit_to_other_cards_knows_the_limit_of_one_that_nobody_measured(
    donors: list[str],
) -> None:
    """An L40S of 350 W reaches 0.64 of its rate; the cards that lend reach 0.85 and more."""
    rng = np.random.default_rng(0)
    shapes = np.exp(rng.uniform(np.log(256), np.log(16384), (400, 3))).astype(int) // 8 * 8
    ops = [Matmul(int(m), int(n), int(k)) for m, n, k in shapes]
    samples = [
        Sample(op, [at_its_limit(op, load_hardware(card))], card, "torch", cache="hot")
        for card in donors
        for op in ops
    ]
    large = [Matmul(side, side, side) for side in (6000, 8000, 12000)]
    known = fit(samples, L40S).estimate(large)["estimate_s"].to_numpy()
    true = np.array([at_its_limit(op, L40S) for op in large])
    np.testing.assert_allclose(known, true, rtol=0.12)


def test_a_card_whose_fastest_products_were_published_sustains_those() -> None:
    known = [Sustained(L40S, 350 / (1.5e-12 * 362e12))]
    rate = 0.8 * RTX4090.peak_flops["bfloat16"]
    measured = {"products.bfloat16": {"low": rate * 0.9, "high": rate * 1.1, "source": "a test"}}
    told = foretold(replace(RTX4090, measured=measured), known)
    assert told is not None and told.plateau == pytest.approx(0.8)
    untold = foretold(replace(RTX4090, measured={}), known)
    assert untold is not None and untold.plateau == 0.9


def test_no_short_product_is_faster_than_the_fastest_that_was_published() -> None:
    donor, target = Sustained(L40S, 0.6), Sustained(RTX4090, 0.9, is_most=True)
    x, seconds = products([0.7, 0.3], SHORT)
    free = slowed(x, seconds, donor, replace(target, is_most=False))
    np.testing.assert_allclose(x.compute_s / free, [1.05, 0.36])
    np.testing.assert_allclose(x.compute_s / slowed(x, seconds, donor, target), [0.9, 0.36])


def test_a_card_that_its_limit_held_tells_those_of_its_process() -> None:
    """An RTX A6000 of 300 W reaches 123.3 of 154.8 TFLOP/s, by which an A10 of 150 W sustains half
    of that; an RTX 3090 and an RTX 4090 were held by their rates."""
    known = [Sustained(L40S, 350 / (1.5e-12 * 362e12))]
    assert [s.hardware.name for s in limited(load_hardware("a10"))] == ["rtx_a6000"]
    told = foretold(load_hardware("a10"), known)
    assert told is not None and told.plateau == pytest.approx(123.3 / 2 / 125, rel=0.01)
    assert not limited(L4) and not limited(load_hardware("rtx_a6000"))
    assert not limited(load_hardware("a30"))
