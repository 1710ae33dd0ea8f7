"""A workload beyond what was sampled says so, and by how much."""

from __future__ import annotations

from dataclasses import replace

import pytest

from calib.cards.corrected import Corrected
from calib.cards.older.shipped import load_torch
from calib.cards.shipped import load_card
from calib.estimates.reach import beyond, reach_notes
from calib.fit.calibration import uncalibrated
from calib.fit.fitting import fit
from calib.hardware.datasheet import load_hardware
from calib.samples.sample import Sample
from model.ops import Attention, GroupedMatmul, Matmul, Norm

H100, H200 = load_hardware("h100"), load_hardware("h200")
SIZES = (64, 128, 256, 512, 1024)


@pytest.fixture(scope="module")
def fitted():
    """Products of up to 1024 rows, of one width."""
    shapes = [Matmul(m, 256, k) for m in SIZES for k in (128, 256)]
    samples = [Sample(op, [1e-6 * (1 + op.flops / 1e9)] * 3, "h200", "torch") for op in shapes]
    return fit(samples, H200)


def test_the_ratio_is_that_of_the_dimension_furthest_outside(fitted) -> None:
    inside, far, small = Matmul(300, 256, 200), Matmul(64 * 1024, 256, 128), Matmul(64, 256, 16)
    answers = beyond(fitted, [inside, far, Norm(3, 5), small], "torch")
    assert answers[0] == (1.0, "") and answers[2] == (1.0, "")  # of norms there are no samples
    assert answers[1] == (pytest.approx(64), "m")
    assert answers[3] == (pytest.approx(8), answers[3][1]) and answers[3][1]
    assert beyond(fitted, [far], "triton") == beyond(uncalibrated(H200), [far], "torch")


def test_it_is_said_where_it_takes_part_of_the_time(fitted) -> None:
    inside, far = Matmul(300, 256, 200), Matmul(64 * 1024, 256, 128)
    rows = [(inside, 0.75, "interpolated"), (far, 0.25, "extrapolated")]
    (said,) = reach_notes(fitted, rows, "torch")
    assert "25% of the kernels' time" in said and "by up to 64 times (matmul, m)" in said
    assert reach_notes(fitted, [rows[0], (far, 0.01, "extrapolated")], "torch") == []
    assert reach_notes(fitted, [rows[0], (far, 0.25, "measured")], "torch") == []
    assert reach_notes(fitted, [], "torch") == []
    assert reach_notes(fitted, [(inside, float("nan"), "unknown")], "torch") == []


def test_what_ships_is_asked_for_what_stands_in() -> None:
    """An expert's product is looked up as the layer that holds it, a norm as bytes that move."""
    card = load_card(H200)
    usual = [GroupedMatmul(512, 64, 6, 896, 1280), Norm(512, 1280), Matmul(512, 4096, 4096)]
    assert [ratio < 2 for ratio, _ in beyond(card, usual, "torch")] == [True] * 3
    ((ratio, name),) = beyond(card, [Matmul(2**30, 4096, 4096)], "torch")
    assert ratio > 1000 and name == "m"


def test_samples_of_another_kernel_reach_nothing() -> None:
    """Twice the keys of an L40S's tables are outside, whatever cuDNN's samples hold."""
    hardware = load_hardware("l40s")
    far = Attention(batch=1, q_len=1, kv_len=2**18, heads=32, kv_heads=8, head_dim=128)
    pair = [load_card(hardware, taught=flag) for flag in (True, False)]
    told, alone = (beyond(card, [far], "torch") for card in pair)
    assert told == alone and told[0][0] > 1.5


def test_a_flag_is_not_a_length(fitted) -> None:
    """A bias that no sample had is another kernel, and no multiple of anything."""
    ((ratio, name),) = beyond(fitted, [Matmul(300, 256, 200, bias=True)], "torch")
    assert (ratio, name) == (1.0, "")


def test_torch_by_an_older_cuda_reaches_as_far_as_what_tells_of_it() -> None:
    """float32's attention by today's tables, all else by what the traces correct; and own samples
    over both."""
    today = load_card(H100)
    older = load_torch(replace(H100, cuda="12.4"))
    near, far = Matmul(512, 4096, 4096), Matmul(2**30, 4096, 4096)
    whole = Attention(1, 2**26, 2**26, 8, 8, 64, dtype="float32")
    answers = beyond(older, [near, whole, far], "torch")
    assert answers[0][0] < 2 and answers[2][0] > 1000
    assert answers[1:2] == beyond(today, [whole], "torch")
    samples = [Sample(Matmul(m, 256, 256), [1e-5] * 3, "h100", "torch") for m in SIZES]
    over = Corrected(older, fit(samples, H100))
    assert beyond(over, [near, far], "torch") == beyond(older, [near, far], "torch")


def test_products_by_an_older_cuda_reach_as_far_as_the_card() -> None:
    older, near = load_torch(replace(H100, cuda="12.9")), Matmul(512, 4096, 4096)
    far, other = Matmul(2**30, 4096, 4096), Attention(1, 512, 512, 8, 8, 64)
    asked = [near, far, other]
    assert beyond(older, asked, "torch") == beyond(load_card(H100), asked, "torch")
