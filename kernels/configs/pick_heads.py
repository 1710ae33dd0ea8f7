"""Which tile attention gets, its gradient, and that of one new token, by the model of ``pick``."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

from kernels.configs.candidates import Tile
from kernels.configs.footprint import (
    attention_tiles,
    backward_tiles,
    decode_blocks,
    decode_tiles,
    head_block,
)
from kernels.configs.pick import FILL_CLOCKS, cdiv, fastest, waves
from kernels.configs.tuned import Question, answer
from kernels.configs.ways import DECODE, HEADS, attention_ways, backward_ways, decode_ways
from kernels.launch import Architecture

EXPONENTIALS_PER_CLOCK = 16
"""Of one SM of every card here (CUDA C++ Programming Guide, throughput of native arithmetic)."""


@cache
def model_attention(
    q_len: int,
    kv_len: int,
    head_dim: int,
    heads: int,
    item: int,
    architecture: Architecture,
    masked: bool,
) -> Tile:
    """The :func:`fastest`. A key takes two products of [m, head_dim], one to score, one to sum, and
    between them, waiting on the one and awaited by the other, an exponential for each query. Where
    an SM holds two programs, one's exponentials hide behind the other's products.

    On sm_90 by descriptor and with 64 keys a block: so it was fastest in each of five classes that
    were timed on an H200.
    """
    block = head_block(head_dim)

    def clocks(tile: Tile) -> float:
        programs = heads * cdiv(q_len, tile.m)
        multiply = 2 * tile.m * head_dim * item / 2 / architecture.fma_per_clock
        load = 2 * head_dim * item / architecture.l2_bytes_per_clock
        exponentials = tile.m / EXPONENTIALS_PER_CLOCK
        staged = tile.stages * (2 * tile.n * block + masked * tile.m * tile.n)
        shared = item * (tile.m * block + staged) + 1024
        if tile.way and tile.warps == 4 and 2 * shared <= architecture.shared_per_sm:
            key = 2 * max(multiply, exponentials, load)
            return cdiv(programs, 2 * architecture.sms) * (FILL_CLOCKS + kv_len * key)
        key = max(multiply + exponentials, load)
        return waves(programs, architecture) * (FILL_CLOCKS + kv_len * key)

    ways = attention_ways(head_dim, item, architecture, masked)
    described = tuple(t for t in ways if t.n == 64) if architecture.family == "wgmma" else ()
    return fastest(described or attention_tiles(head_dim, item, architecture, masked), clocks)


def pick_attention(
    q_len: int,
    kv_len: int,
    head_dim: int,
    heads: int,
    item: int,
    architecture: Architecture,
    masked: bool = False,
) -> Tile:
    """The tuned one, or the model's. ``heads``: of all images of a batch."""
    question = Question(
        architecture.card,
        f"attention{', masked' * masked}",
        (item, heads, q_len, kv_len, head_dim),
        attention_tiles(head_dim, item, architecture, masked)
        + attention_ways(head_dim, item, architecture, masked),
        architecture.name,
    )
    return answer(
        question,
        lambda: model_attention(q_len, kv_len, head_dim, heads, item, architecture, masked),
    )


def pick_backward(
    q_len: int,
    kv_len: int,
    head_dim: int,
    heads: int,
    group: int,
    item: int,
    architecture: Architecture,
    has_ways: bool = True,
) -> Tile:
    """The tuned one, or the largest that fits, on sm_90 by heads and in four warps, which was
    fastest in both classes that were timed on an H200. ``heads``: of queries, of all images of a
    batch; ``has_ways``: whether it can be done by columns, which a bias cannot."""
    tiles = backward_tiles(head_dim, item, architecture)
    ways = backward_ways(head_dim, item, architecture) if has_ways else ()
    by_heads = [t for t in ways if t.way == HEADS and t.warps == 4]
    model = [*by_heads, *tiles][0] if architecture.family == "wgmma" else tiles[0]
    question = Question(
        architecture.card,
        "attention, backward" + ", bias" * (not has_ways),
        (item, heads, group, q_len, kv_len, head_dim),
        tiles + ways,
        architecture.name,
    )
    return answer(question, lambda: model)


@cache
def model_decode(
    keys: int, group: int, head_dim: int, kv_heads: int, item: int, architecture: Architecture
) -> Tile:
    """The largest tile that fits, and splits of the keys that give each SM two programs."""
    tile = decode_tiles(head_dim, item, architecture, group)[0]
    splits = min(cdiv(2 * architecture.sms, kv_heads), cdiv(keys, tile.n))
    return replace(tile, splits=max(1, splits))


def pick_decode(
    keys: int, group: int, head_dim: int, kv_heads: int, item: int, architecture: Architecture
) -> Tile:
    """The tuned one, or the model's; ``splits`` of the keys, each of one block at least.

    ``group``: query heads to a key head; ``kv_heads``: of all sequences of a batch.
    """
    sizes = (item, kv_heads, group, keys, head_dim)
    model = model_decode(keys, group, head_dim, kv_heads, item, architecture)
    blocks = decode_blocks(DECODE, head_dim, item, architecture, group)
    ways = decode_ways(blocks, keys, group, head_dim, kv_heads, architecture.sms)
    tiles = tuple(dict.fromkeys((model, *ways)))
    question = Question(architecture.card, "decode", sizes, tiles, architecture.name)
    tile = answer(question, lambda: model)
    return replace(tile, splits=max(1, min(tile.splits, cdiv(keys, tile.n))))
