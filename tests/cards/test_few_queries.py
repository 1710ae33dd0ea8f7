"""A few queries over many keys: one is packed and split, more are what the kernel makes of it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from calib.cards.shipped import load_card
from calib.cards.tables.splits import is_split, side_by_side
from calib.fit.physics.blocks.attention.flash import parts
from calib.hardware.datasheet import load_hardware
from model.ops import Attention, AttentionBackward, grid

FLASH, CUDNN = ("a100", "l40s", "rtx4090", "rtx5090", "a10g"), ("h100", "h200")
STEP = Attention(batch=1, q_len=1, kv_len=8192, heads=32, kv_heads=8, head_dim=128)
FEW = (2, 3, 4, 8, 16, 32, 64)


def seconds(card: str, ops: list[Attention] | Attention) -> np.ndarray:
    shipped = load_card(load_hardware(card))
    assert shipped is not None
    return shipped.estimates(ops).seconds


@pytest.mark.parametrize("card", (*FLASH, *CUDNN))
@pytest.mark.parametrize("kv_len", [2048, 8192])
def test_up_to_a_tile_more_queries_take_as_long(card: str, kv_len: int) -> None:
    """Queries are padded to a tile of 64 or 128."""
    told = seconds(card, [replace(STEP, q_len=q, kv_len=kv_len) for q in FEW])
    assert told.max() < 1.4 * told.min()


@pytest.mark.parametrize("card", FLASH)
@pytest.mark.parametrize("kv_len", [2048, 8192, 32768])
def test_where_no_heads_share_keys_one_query_is_split_as_two_are(card: str, kv_len: int) -> None:
    """Engines' tables hold a kernel that splits it only where they do: one is told by two heads to
    the same keys there, two by shorter walks of the kernel that torch calls."""
    alone = replace(STEP, heads=16, kv_heads=16, kv_len=kv_len)
    assert is_split(alone, load_hardware(card))
    told = seconds(card, [alone, replace(alone, q_len=2)])
    assert 0.6 < told[0] / told[1] < 1.6


@pytest.mark.parametrize("card", CUDNN)
def test_on_hopper_the_second_query_costs_a_walk_that_is_not_split(card: str) -> None:
    """cuDNN's kernel of many queries gives a head one block, which walks over all keys:
    thirty-two on 132 multiprocessors. The jump is the kernel's (docs/cards.md)."""
    one, two = seconds(card, [replace(STEP, kv_len=16384), replace(STEP, q_len=2, kv_len=16384)])
    assert two > 2 * one


def test_what_is_split_is_known_by_who_takes_it() -> None:
    a100, h100 = load_hardware("a100"), load_hardware("h100")
    two = replace(STEP, q_len=2)
    assert is_split(two, a100) and not is_split(two, h100)
    assert not is_split(replace(two, causal=True), a100)  # the efficient kernel's, of an offset
    assert not is_split(replace(two, mask=True), a100)
    assert not is_split(replace(two, batch=64), a100)
    many = int(parts(two, a100))
    apart = side_by_side(two, a100)
    assert (apart.batch, apart.q_len) == (many, 2)
    assert 0 <= apart.batch * apart.kv_len - two.kv_len < many


def test_a_grid_is_told_as_its_operators_are() -> None:
    queries, keys = [1, 2, 64, 512, 2], [4096, 4096, 16384, 512, 128]
    fixed = {"batch": 1, "heads": 16, "kv_heads": 16, "head_dim": 128}
    many = grid(Attention, q_len=queries, kv_len=keys, **fixed)
    each = [Attention(q_len=q, kv_len=k, **fixed) for q, k in zip(queries, keys, strict=True)]
    assert seconds("a100", many) == pytest.approx(seconds("a100", each))


def test_a_gradient_is_not_split() -> None:
    sizes = {"batch": 1, "q_len": 64, "kv_len": 4096, "heads": 8, "kv_heads": 8, "head_dim": 64}
    assert seconds("a100", [AttentionBackward(**sizes)])[0] > 0
