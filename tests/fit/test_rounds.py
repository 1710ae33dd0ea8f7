"""Whole tiles on whole multiprocessors, against sums by hand and what strangers published."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from benchmarks.public_sizes import OTHERS, hardware_of, is_half, of_card, published
from calib.cards.shipped import load_card
from calib.fit.physics.limits.rounds import SMALLEST, knows_no_tiles, seconds_of_rounds
from calib.hardware.datasheet import load_hardware
from model.ops import Attention, Matmul, grid

CARD = load_hardware("rtx5090")  # 170 multiprocessors, 512 FLOP a cycle each
CYCLE = 512 * CARD.sm_count / CARD.peak_flops["bfloat16"]


@pytest.mark.parametrize(
    ("op", "terms"),
    [
        # 256 tiles of 128 x 128 are two rounds; 512 of half the size four, as long.
        (Matmul(2048, 2048, 2048), 2 * 128 * 128),
        # 2048 tiles of 64 x 128 are 13 rounds, fewer outputs than 7 of 128 x 128.
        (Matmul(4096, 4096, 4096), 13 * 64 * 128),
        (Matmul(512, 8192, 3840), 2 * 128 * 128),
        # What sticks out over the edge costs a whole tile.
        (Matmul(2049, 2048, 64, dtype="float16"), 4 * 64 * 128),
        # Seventeen copies of 16 tiles: 272 of 128 x 128, 544 of 64 x 128.
        (Matmul(512, 512, 64, batch=17), 2 * 128 * 128),
    ],
)
def test_rounds_by_hand(op: Matmul, terms: float) -> None:
    by_hand = terms * 2 * op.k / 512 * CYCLE
    assert seconds_of_rounds(op, CARD) == pytest.approx([by_hand])


def test_what_does_not_fill_the_card_is_not_told() -> None:
    little = [Matmul(1024, 1024, 1024), Matmul(16, 128256, 4096), Matmul(512, 4096, 14336)]
    other = [Attention(8, 512, 512, 16, 16, 64), Matmul(4096, 4096, 4096, dtype="float32")]
    assert seconds_of_rounds([*little, *other], CARD).tolist() == [0.0] * 5


def test_a_grid_is_told_as_its_operators_are() -> None:
    sizes = [256, 1024, 2048, 3000, 8192]
    many = grid(Matmul, m=sizes, n=4096, k=1024)
    alone = [Matmul(m, 4096, 1024) for m in sizes]
    assert seconds_of_rounds(many, CARD).tolist() == seconds_of_rounds(alone, CARD).tolist()
    assert (np.diff(seconds_of_rounds(many, CARD)) >= 0).all()


@pytest.mark.parametrize(
    ("name", "holds"),
    [("rtx5090", True), ("rtx4090", True), ("a10g", True), ("rtx_pro_6000", False), ("h20", False)],
)
def test_it_holds_where_a_fit_knows_no_tiles_and_warps_multiply(name: str, holds: bool) -> None:
    card = load_card(load_hardware(name))
    assert card is not None
    fit = card.figures.kinds["vllm", Matmul.operator, SMALLEST.dtype]
    assert knows_no_tiles(fit.prior, card.hardware) == holds
    ops = [Matmul(n, n, 4096, dtype="float16") for n in (1920, 2048, 2304, 2560, 4096)]
    for implementation in ("torch", "vllm"):
        held, free = (
            one.estimate(ops, implementation, [True] * len(ops))
            for one in (card, replace(card, in_rounds=False))
        )
        if not holds:
            assert held.equals(free)
            continue
        least = seconds_of_rounds(ops, card._fastest)
        assert (held["estimate_s"] > least).all() and (held["estimate_s"] <= held["high_s"]).all()
        assert (held["estimate_s"] >= free["estimate_s"]).all()
        assert held["low_s"].equals(free["low_s"])


def test_no_published_product_is_faster_than_its_tiles() -> None:
    """At a clock a seventh above the rated one at most, and a 5070 Ti is known to run there."""
    products = published()
    for name in dict.fromkeys(p.card for p in products):
        row = of_card(name, [p for p in products if p.card == name])
        assert row["least"] < 8 / 7, name
    halves = [name for name in OTHERS if is_half(hardware_of(name))]
    assert len(halves) == len(OTHERS)
