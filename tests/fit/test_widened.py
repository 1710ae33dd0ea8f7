"""Products of narrow weights: never the plain product's time in silence, never slower at decode."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from calib.cards.shipped import load_card
from calib.fit.calibration import ROOFLINE, TRANSFERRED, fitted_dtype, uncalibrated
from calib.fit.physics.widened import is_widened, plain_products, widened_floor, width
from calib.hardware.datasheet import floor, load_hardware
from model.ops import GroupedMatmul, Matmul, grid

H200 = load_hardware("h200")
SHAPES = [(4096, 4096), (14336, 4096), (8192, 8192), (1024, 4096)]
DTYPES = (None, "float8_e4m3fn", "int4")


def test_widened_is_what_lies_narrower_than_it_is_multiplied() -> None:
    assert is_widened(Matmul(1, 8, 8, weight_dtype="int4"))
    assert is_widened(GroupedMatmul(4, 8, 2, 8, 8, weight_dtype="float8_e4m3fn"))
    assert not is_widened(Matmul(1, 8, 8, dtype="float8_e4m3fn", out_dtype="bfloat16"))
    assert not is_widened(Matmul(1, 8, 8, weight_dtype="bfloat16"))
    assert not is_widened(Matmul(1, 8, 8, weight_dtype="float32"))
    assert fitted_dtype(Matmul(1, 8, 8, weight_dtype="int4")) == "bfloat16 x int4"


def test_plain_products_read_as_many_bytes_or_do_as_much() -> None:
    op = Matmul(1, 4096, 4096, weight_dtype="int4")
    short, same = plain_products(op, H200)
    assert short.op == Matmul(1, 4096, 1024) and same.op == Matmul(1, 4096, 4096)
    assert same.scale == 1 and short.scale == pytest.approx(1, rel=1e-3)
    many = Matmul(8192, 4096, 4096, weight_dtype="int4")
    flops, widened = many.flops / 989e12, 2 * 4096 * 4096 * 64 / 67e12
    assert widened_floor(many, H200) == pytest.approx(flops + widened)
    assert plain_products(many, H200)[1].scale == pytest.approx(1 + widened / flops)


def test_the_interval_narrows_with_what_is_read() -> None:
    sizes = grid(Matmul, m=1, n=np.array([64, 1024, 4096, 65536]), k=4096, weight_dtype="int4")
    widths = width(sizes, H200)
    assert all(b <= a for a, b in pairwise(widths)) and widths[0] == 1.2 and widths[-1] == 0.42


@pytest.mark.parametrize("card", ["h200", "a100", "l4"])
@pytest.mark.parametrize("taught", [True, False])
def test_narrower_weights_never_take_longer_at_decode(card: str, taught: bool) -> None:
    known = load_card(load_hardware(card), taught=taught)
    assert known is not None
    for m in (1, 16):
        for n, k in SHAPES:
            ops = [Matmul(m, n, k, weight_dtype=dtype) for dtype in DTYPES]
            found = known.estimate(ops, hot=False)
            wide, half, quarter = found["estimate_s"]
            assert half <= wide and quarter <= wide
            if (n, k) != (1024, 4096):  # which is the latency of a kernel
                assert quarter < half < 0.95 * wide
            assert set(found["provenance"][1:]) == {TRANSFERRED}
            assert (found["high_s"] / found["low_s"])[1:].min() > 1.5


def test_many_rows_cost_at_least_the_plain_product() -> None:
    card = load_card(H200)
    assert card is not None
    plain, narrow = card.estimate(
        [Matmul(8192, 8192, 8192, weight_dtype=d) for d in (None, "int4")]
    )["estimate_s"]
    assert plain <= narrow <= 1.2 * plain


def test_a_list_and_a_grid_agree_and_mix_with_others() -> None:
    card = load_card(H200)
    assert card is not None
    ops = [Matmul(m, 4096, 4096, weight_dtype="int4") for m in (1, 2, 64)]
    alone = card.estimate(ops, hot=False)["estimate_s"].to_numpy()
    made = grid(Matmul, m=np.array([1, 2, 64]), n=4096, k=4096, weight_dtype="int4")
    np.testing.assert_allclose(card.estimate(made, hot=False)["estimate_s"], alone)
    mixed = card.estimate([Matmul(1, 4096, 4096), *ops], hot=False)["estimate_s"].to_numpy()
    np.testing.assert_allclose(mixed[1:], alone)


def test_experts_follow_the_bytes_that_they_read() -> None:
    card = load_card(H200)
    assert card is not None
    ops = [GroupedMatmul(1, 128, 8, 1536, 2048, weight_dtype=dtype) for dtype in DTYPES]
    found = card.estimate(ops, hot=False)["estimate_s"].to_numpy()
    assert found[2] <= found[1] <= found[0]


def test_without_samples_it_is_the_roofline() -> None:
    op = Matmul(1, 4096, 4096, weight_dtype="int4")
    found = uncalibrated(H200).estimate([op])
    assert found["provenance"][0] == ROOFLINE
    assert found["estimate_s"][0] == pytest.approx(float(floor(op, H200)))
