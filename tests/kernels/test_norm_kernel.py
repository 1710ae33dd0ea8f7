"""Norms and softmax against torch in float32: rows that fit a block and rows that do not."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from kernel_cases import DTYPES, assert_near, draw

from kernels import norm, softmax_shared
from kernels.configs import pick, ways
from kernels.configs.candidates import Tile
from kernels.launch import ARCHITECTURES, counters

pytestmark = pytest.mark.usefixtures("poisoned")

BF16 = torch.bfloat16
TILES = {
    "whole rows": Tile(2, 128),
    "blocks of a row": Tile(2, 32),
    "as picked": None,
}
full = pytest.mark.gpu


def check(rows: int, columns: int, dtype: torch.dtype, device: str, tile: Tile | None) -> None:
    """An offset of the input tells a variance from a mean square."""
    x = draw(rows, columns, dtype=dtype, device=device) + 3
    weight, bias = (draw(columns, dtype=dtype, device=device, seed=i) for i in (1, 2))
    got = norm.rms_norm(x, weight, tile=tile)
    assert_near(got, norm.rms_norm_reference(x, weight), products=False)
    got = norm.layer_norm(x, weight, bias, tile=tile)
    assert_near(got, norm.layer_norm_reference(x, weight, bias), products=False)
    assert_near(norm.softmax(x, tile), norm.softmax_reference(x), products=False)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("tile", TILES)
def test_rows(dtype: torch.dtype, tile: str, device: str) -> None:
    check(7, 77, dtype, device, TILES[tile])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("way", [ways.SHARED, ways.LAGGED])
def test_rows_shared_by_programs(way: str, dtype: torch.dtype, device: str) -> None:
    """Masked from the first part on, and in all of the last one."""
    x = draw(5, 77, dtype=dtype, device=device)
    x[0, :40], x[1, 40:] = float("-inf"), float("-inf")
    got = norm.softmax(x, Tile(1, 32, way=way))
    assert_near(got, norm.softmax_reference(x), products=False)


@pytest.mark.parametrize("rows, threads", [(1, 2048), (9, 2048), (9, 128), (9, 0)])
def test_a_program_writes_what_lies_a_lag_behind(rows: int, threads: int, device: str) -> None:
    """All rows behind the last sum, or the first written while later ones are summed; never before
    a row is. Counts are zero again after each launch."""
    x = draw(rows, 77, dtype=torch.float32, device=device)
    card = replace(ARCHITECTURES["sm_90"], sms=1, threads_per_sm=threads)
    for _ in range(2):
        o = torch.full_like(x, float("nan"))
        (launch,) = softmax_shared.lagged_launches(x, o, card, Tile(1, 32, way=ways.LAGGED))
        assert 3 <= launch.arguments["lag"] <= 3 * rows
        launch.run()
        assert_near(o, norm.softmax_reference(x), products=False)
    assert not counters(x.device, rows, "softmax").any()


@pytest.mark.parametrize("columns", [40, 256, 1280, 4096, 16384, 129280])
def test_ways_of_rows(columns: int) -> None:
    """Whole rows where a program holds one, and no more threads than a block may have."""
    found = ways.row_ways(columns, can_share=True)
    assert all(1 <= t.warps <= 16 for t in found)
    assert all(t.n >= columns for t in found) == (columns <= ways.LONGEST_ROW)
    shared = {t.way for t in found if t.way}
    assert shared == ({ways.SHARED, ways.LAGGED} if columns > ways.LONGEST_ROW else set())
    assert not pick.pick_rows("softmax", 4096, columns, 2, ARCHITECTURES["sm_90"]).way


def test_rows_of_a_view(device: str) -> None:
    x = draw(3, 5, 80, dtype=torch.float16, device=device)[:, :, ::2]
    assert_near(norm.softmax(x), norm.softmax_reference(x), products=False)


def test_softmax_of_masked_scores(device: str) -> None:
    """-inf over a whole first block, and over all of a row, which torch makes NaN."""
    x = draw(3, 77, dtype=torch.float32, device=device)
    x[0, :40] = float("-inf")
    x[1, 40:] = float("-inf")
    got = norm.softmax(x, Tile(1, 32))
    assert_near(got, norm.softmax_reference(x), products=False)


def test_layer_norm_far_from_zero(device: str) -> None:
    """A mean of 1e3 over a spread of 1: sums of squares would cancel, merged spreads do not."""
    x = draw(2, 77, dtype=torch.float32, device=device) + 1e3
    one, zero = torch.ones(77, device=device), torch.zeros(77, device=device)
    want = norm.layer_norm_reference(x.double(), one, zero)
    got = norm.layer_norm(x, one, zero, tile=Tile(2, 32))
    torch.testing.assert_close(got, want.float(), atol=2e-4, rtol=0)


def test_bad_input_is_named(device: str) -> None:
    x = draw(3, 8, dtype=BF16, device=device)
    with pytest.raises(ValueError, match=r"parameter: \(7,\), expected .*\(8,\)"):
        norm.rms_norm(x, x[0, :7])


@full
@pytest.mark.parametrize("rows, columns", [(493, 1280), (4097, 4096), (5, 20001)])
def test_full_size(rows: int, columns: int, device: str) -> None:
    check(rows, columns, BF16, device, None)


@full
def test_softmax_over_a_vocabulary(device: str) -> None:
    x = draw(63, 129280, dtype=BF16, device=device)
    for tile in (None, *ways.row_ways(129280, can_share=True)):
        assert_near(norm.softmax(x, tile), norm.softmax_reference(x), products=False)
