"""What a card may get fits it, and the pick does what its page says."""

from __future__ import annotations

import pytest
import torch

from kernels import configs
from kernels.configs import Footprint, Tile
from kernels.launch import ARCHITECTURES, architecture_of

EVERY = pytest.mark.parametrize("card", ARCHITECTURES)
SM_90, SM_120 = ARCHITECTURES["sm_90"], ARCHITECTURES["sm_120"]


def test_a_hopper_tile_is_pruned_on_sm_120_by_arithmetic() -> None:
    """Four stages of 128 and 256 rows of 64 elements: 196,608 B, where a block has 101,376."""
    tile = Tile(128, 256, 64, 8, 4)
    footprint = configs.linear_footprint(tile, 2, factors=1, by_element=False)
    assert footprint.shared == 4 * (128 + 256) * 64 * 2 == 196_608
    assert configs.fits(tile, footprint, SM_90)
    assert not configs.fits(tile, footprint, SM_120)


def test_accumulators_are_pruned_by_registers() -> None:
    tile = Tile(128, 256, 64, 4, 2)
    assert not configs.fits(tile, Footprint(0, 128 * 256), SM_90)  # 256 a thread
    assert configs.fits(tile, Footprint(0, 128 * 128), SM_90)


@EVERY
@pytest.mark.parametrize("item", [2, 4])
def test_every_size_of_head_and_element_has_a_tile(card: str, item: int) -> None:
    architecture = ARCHITECTURES[card]
    for kernel in ("linear", "swiglu", "grouped", "conv2d"):
        for by_element in (False, True):
            assert configs.linear_tiles(kernel, item, architecture, by_element)
    for head_dim in (8, 64, 72, 128, 256):
        assert configs.attention_tiles(head_dim, item, architecture)
        assert configs.attention_tiles(head_dim, item, architecture, masked=True)
        assert configs.backward_tiles(head_dim, item, architecture)
        assert configs.decode_tiles(head_dim, item, architecture)


@EVERY
def test_few_rows_get_a_low_tile_and_many_a_large_one(card: str) -> None:
    architecture = ARCHITECTURES[card]
    tiles = configs.linear_tiles("linear", 2, architecture)
    assert configs.pick_linear("linear", 16, 1280, 1280, 2, architecture).m == 16
    assert configs.pick_linear("linear", 8192, 8192, 8192, 2, architecture) in tiles[:2]


@pytest.mark.parametrize("m", [5, 73, 493, 4096])
def test_pick_is_near_the_least_of_its_own_model(m: int) -> None:
    shape = (m, 1280, 6848, 2, SM_90)
    picked = configs.pick_linear("linear", *shape)
    clocks = [configs.linear_clocks(t, *shape) for t in configs.linear_tiles("linear", 2, SM_90)]
    assert configs.linear_clocks(picked, *shape) <= 1.05 * min(clocks)


def test_of_near_equals_the_first_is_taken() -> None:
    tiles = (Tile(128, 128), Tile(64, 64), Tile(16, 16))
    assert configs.fastest(tiles, dict(zip(tiles, (1.04, 1.0, 2.0), strict=True)).get) == tiles[0]
    assert configs.fastest(tiles, dict(zip(tiles, (1.06, 1.0, 2.0), strict=True)).get) == tiles[1]


def test_decode_splits_fill_the_card_but_never_a_tile() -> None:
    tile, splits = configs.pick_decode(8192, 1, 128, 10, 2, SM_90)
    assert 10 * splits >= 2 * SM_90.sms > 10 * (splits - 1)
    tile, splits = configs.pick_decode(100, 1, 128, 10, 2, SM_90)
    assert splits == -(-100 // tile.n)
    assert configs.pick_decode(8192, 1, 128, 1000, 2, SM_90)[1] == 1


def test_a_float32_tile_holds_the_same_bytes() -> None:
    assert Tile(64, 64, 64).for_item(4).k == 32
    assert Tile(64, 64, 64).for_item(2).k == 64


def test_a_cpu_without_the_interpreter_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    import triton

    architecture_of.cache_clear()
    monkeypatch.setattr(triton.knobs.runtime, "interpret", False)
    with pytest.raises(ValueError, match="TRITON_INTERPRET=1 set before triton is imported"):
        architecture_of(torch.device("cpu"))
