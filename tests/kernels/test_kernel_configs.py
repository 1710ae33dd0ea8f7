"""What a card may get fits it, and the pick does what its page says."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from kernels.configs import footprint, pick, pick_heads, tuned, ways
from kernels.configs.candidates import Tile
from kernels.configs.footprint import Footprint
from kernels.configs.pick import Product
from kernels.launch import ARCHITECTURES, architecture_of, described

EVERY = pytest.mark.parametrize("card", ARCHITECTURES)
SM_90, SM_120 = ARCHITECTURES["sm_90"], ARCHITECTURES["sm_120"]


def test_a_hopper_tile_is_pruned_on_sm_120_by_arithmetic() -> None:
    """Four stages of 128 and 256 rows of 64 elements: 196,608 B, where a block has 101,376."""
    tile = Tile(128, 256, 64, 8, 4)
    takes = footprint.linear_footprint(tile, 2, factors=1, by_element=False)
    assert takes.shared == 4 * (128 + 256) * 64 * 2 == 196_608
    assert footprint.fits(tile, takes, SM_90)
    assert not footprint.fits(tile, takes, SM_120)


def test_accumulators_are_pruned_by_registers() -> None:
    tile = Tile(128, 256, 64, 4, 2)
    assert not footprint.fits(tile, Footprint(0, 128 * 256), SM_90)  # 256 a thread
    assert footprint.fits(tile, Footprint(0, 128 * 128), SM_90)


@EVERY
@pytest.mark.parametrize("item", [2, 4])
def test_every_size_of_head_and_element_has_a_tile(card: str, item: int) -> None:
    architecture = ARCHITECTURES[card]
    for kernel in ("linear", "swiglu", "grouped", "conv2d"):
        for by_element in (False, True):
            assert footprint.linear_tiles(kernel, item, architecture, by_element)
    for head_dim in (8, 64, 72, 128, 256):
        assert footprint.attention_tiles(head_dim, item, architecture)
        assert footprint.attention_tiles(head_dim, item, architecture, masked=True)
        assert footprint.backward_tiles(head_dim, item, architecture)
        assert footprint.decode_tiles(head_dim, item, architecture)


@EVERY
def test_few_rows_get_a_low_tile_and_many_a_large_one(card: str) -> None:
    architecture = ARCHITECTURES[card]
    tiles = footprint.linear_tiles("linear", 2, architecture)
    assert pick.pick_linear(Product("linear", 16, 1280, 1280, 2), architecture).m == 16
    large = pick.pick_linear(Product("linear", 8192, 8192, 8192, 2), architecture)
    assert replace(large, way="") in tiles[:2]


@pytest.mark.parametrize("m", [5, 73, 493, 4096])
def test_pick_is_near_the_least_of_its_own_model(m: int) -> None:
    product = Product("linear", m, 1280, 6848, 2, can_split=True)
    picked = pick.pick_linear(product, SM_90)
    tiles = pick.product_tiles(product, SM_90)
    clocks = {tile: pick.linear_clocks(tile, product, SM_90) for tile in tiles}
    limit = 1.05 if picked.splits > 1 else 1.2  # a whole tile is kept unless a fifth is to gain
    assert clocks[picked] <= limit * min(clocks.values())
    assert clocks[picked] <= 1.05 * min(c for t, c in clocks.items() if t.splits == 1)


def test_of_near_equals_the_first_is_taken() -> None:
    tiles = (Tile(128, 128), Tile(64, 64), Tile(16, 16))
    assert pick.fastest(tiles, dict(zip(tiles, (1.04, 1.0, 2.0), strict=True)).get) == tiles[0]
    assert pick.fastest(tiles, dict(zip(tiles, (1.06, 1.0, 2.0), strict=True)).get) == tiles[1]


def test_decode_splits_fill_the_card_but_never_a_tile() -> None:
    splits = pick_heads.pick_decode(8192, 1, 128, 10, 2, SM_90).splits
    assert 10 * splits >= 2 * SM_90.sms > 10 * (splits - 1)
    tile = pick_heads.pick_decode(100, 1, 128, 10, 2, SM_90)
    assert tile.splits == -(-100 // tile.n)
    assert pick_heads.pick_decode(8192, 1, 128, 1000, 2, SM_90).splits == 1


def test_what_is_timed_of_a_new_token() -> None:
    """Whatever a class got, a shorter context of it has a block of keys for every split; of a group
    whose parts one program cannot hold, none are joined."""
    with tuned.overheard() as heard:
        pick_heads.pick_decode(2049, 4, 128, 8, 2, SM_90)
    (question,) = heard
    assert question.key == "decode 2x8x4x4096x128" and question.untuned in question.tiles
    assert {t.way for t in question.tiles} == {"", ways.JOINED}
    with tuned.forced("decode 2x8x4x256x128", Tile(16, 64, 0, 4, 2, splits=33, way=ways.JOINED)):
        assert pick_heads.pick_decode(129, 4, 128, 8, 2, SM_90).splits == 3
    blocks = footprint.decode_blocks(ways.DECODE, 128, 2, SM_90, 128)
    assert blocks and not any(t.way for t in ways.decode_ways(blocks, 9000, 128, 128, 1, 132))


def test_a_long_reduction_over_few_tiles_is_split_into_one_wave() -> None:
    """16 rows against DeepSeek-OCR's [1280, 6848] are 20 tiles for 132 SMs; a wide output is none
    of that, nor is a reduction too short to share."""
    long = Product("linear", 16, 1280, 6848, 2, can_split=True)
    tile = pick.pick_linear(long, SM_90)
    assert tile.splits > 1 and SM_90.sms / 2 < long.tiles(tile) * tile.splits <= SM_90.sms
    for product in (Product("linear", 16, 129280, 1280, 2), Product("linear", 16, 1280, 128, 2)):
        assert pick.pick_linear(replace(product, can_split=True), SM_90).splits == 1
    assert pick.pick_linear(replace(long, can_split=False), SM_90).splits == 1


def test_a_short_prefill_gets_lower_tiles_than_a_long_one() -> None:
    """283 tokens of 10 heads are 30 tiles of 128 queries on 132 SMs; 2048 of 32 are 512."""
    assert pick_heads.pick_attention(283, 283, 128, 10, 2, SM_90).m == 64
    assert pick_heads.pick_attention(2048, 2048, 128, 32, 2, ARCHITECTURES["sm_100"]).m == 128


def test_an_h200_gets_two_programs_an_sm_of_attention() -> None:
    """One's exponentials beside the other's products: so it was fastest there in every class."""
    for queries, head_dim, heads, masked in ((2048, 128, 32, False), (4096, 64, 12, True)):
        sizes = (queries, queries, head_dim, heads, 2)
        tile = pick_heads.model_attention(*sizes, SM_90, masked)
        assert tile == Tile(64, 64, 0, 4, 3, way=ways.DESCRIBED)


def test_a_wide_product_of_few_rows_gets_no_tile_of_mostly_empty_rows() -> None:
    wide = Product("linear", 8, 129280, 1280, 2, can_split=True)
    assert pick.pick_linear(wide, SM_90).m == 16
    few = Product("swiglu", 1, 6848, 1280, 2)
    assert pick.product_tiles(few, SM_90)[0].m == 16  # the lowest there is


def test_decode_tiles_grow_with_the_group_and_still_fit() -> None:
    """Multi-query attention of 128 heads: the queries alone take what a small card has left."""
    for architecture in ARCHITECTURES.values():
        tile = pick_heads.pick_decode(4096, 128, 128, 1, 2, architecture)
        assert tile.m == 128
        takes = footprint.attention_footprint(tile, 128, 2, architecture)
        assert footprint.fits(tile, takes, architecture)


def test_a_float32_tile_holds_the_same_bytes() -> None:
    assert Tile(64, 64, 64).for_item(4).k == 32
    assert Tile(64, 64, 64).for_item(2).k == 64


def test_a_cpu_without_the_interpreter_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    import triton

    described.cache_clear()
    monkeypatch.setattr(triton.knobs.runtime, "interpret", False)
    with pytest.raises(ValueError, match="TRITON_INTERPRET=1 set before triton is imported"):
        architecture_of(torch.device("cpu"))


def test_a_card_that_is_not_the_current_one_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    with pytest.raises(ValueError, match=r"cuda:1: the current device is 0.*torch\.cuda\.device"):
        architecture_of(torch.device("cuda:1"))
