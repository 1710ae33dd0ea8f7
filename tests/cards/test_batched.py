"""Batched products on cards whose torch nobody sampled: one product of all rows, more or less."""

from __future__ import annotations

import numpy as np
import pytest

from calib.cards.build.published import published_products
from calib.cards.card import Card
from calib.cards.shipped import load_card
from calib.fit.calibration import TRANSFERRED
from calib.hardware.datasheet import load_hardware
from model.ops import Matmul, grid

SIZES = [(2, 512, 1024, 512), (4, 1024, 256, 512), (4, 1024, 512, 1024), (2, 4096, 2048, 1024)]


def of(name: str) -> Card:
    card = load_card(load_hardware(name))
    assert card is not None
    return card


def batched(dtype: str = "bfloat16") -> list[Matmul]:
    return [Matmul(m, n, k, batch, dtype=dtype) for batch, m, n, k in SIZES]


@pytest.mark.parametrize("dtype", ["bfloat16", "tf32", "float8_e4m3fn"])
@pytest.mark.parametrize("name", ["a100", "b200", "h100", "l40s", "rtx_pro_6000"])
def test_a_batch_of_full_tiles_is_one_product_of_its_rows(name: str, dtype: str) -> None:
    """175 such on an H100 and on a B200 are, to 1% in the median (XLA's tables). Told by the
    H200's batched samples, beside the card's own table for the one, they were 0.8 to 1.3 of it."""
    if dtype not in load_hardware(name).peak_flops:
        pytest.skip("no unit for it")
    card, many = of(name), batched(dtype)
    one = [Matmul(op.m * op.batch, op.n, op.k, dtype=dtype) for op in many]
    told, rows = (card.estimates(some, "torch", True) for some in (many, one))
    np.testing.assert_allclose(told.seconds / rows.seconds, 1.0, atol=0.15)
    assert (told.high / told.low > rows.high / rows.low).all()
    assert set(told.known_as) == {TRANSFERRED}


@pytest.mark.parametrize("name", ["a100", "a100_pcie_40gb"])
def test_batches_that_were_timed_on_the_card_are_told_by_that(name: str) -> None:
    """Of float32: 329 of NeuSight's, 17% off by the ratio."""
    some = [s for s in published_products(load_hardware(name)) if vars(s.op)["batch"] > 1][::5]
    told = of(name).estimates([s.op for s in some], "torch", True).seconds
    assert np.median(np.abs(told / [s.seconds[0] for s in some] - 1)) < 0.07


@pytest.mark.parametrize("name", ["a100", "b200", "h100"])
def test_rows_that_fill_no_tile_and_weights_of_their_own_cost_more(name: str) -> None:
    card = of(name)
    short, whole = Matmul(8, 512, 512, 256), Matmul(8 * 256, 512, 512)
    told, rows = card.estimates([short, whole], "torch", False).seconds
    assert told > 2 * rows
    assert told > 0.5 * float(short.weight_bytes_read) / load_hardware(name).bandwidth


def test_a_grid_of_batches_and_a_mixed_list_say_the_same() -> None:
    card, (batch, m, n, k) = of("b200"), np.array(SIZES).T
    asked = [Matmul(512, 512, 512), *batched(), Matmul(8, 512, 4096, weight_dtype="int8")]
    mixed = card.estimates(asked, "torch", [True, False, True, False, True, True])
    alone = card.estimates(batched(), "torch", [False, True, False, True])
    some = grid(Matmul, m=m, n=n, k=k, batch=batch)
    table = card.estimates(some, "torch", np.array([False, True, False, True]))
    for mine, theirs in ((mixed.seconds[1:5], alone.seconds), (table.high, alone.high)):
        np.testing.assert_allclose(mine, theirs, rtol=1e-6)
    assert mixed.seconds[0] == card.estimates(asked[:1], "torch", True).seconds[0]
    np.testing.assert_allclose(table.floor, alone.floor)
