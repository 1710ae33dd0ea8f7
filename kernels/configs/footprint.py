"""What fits: shared memory and registers of a tile by arithmetic, before anything is compiled.

:func:`shipped` drops the candidates whose operands do not fit the card's shared memory, or whose
accumulators do not fit its registers. What the compiler then makes of the rest is read back by
``kernels.resources`` and held by a test.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache

from kernels.configs.candidates import TILES, Tile
from kernels.launch import Architecture

ACCUMULATORS = 190
"""Of the 255 registers that a thread has at most, those that may hold results; the rest are
pointers, masks and operands on their way."""


@dataclass(frozen=True)
class Footprint:
    """What a tile takes: bytes of shared memory, and fp32 accumulators of the whole block."""

    shared: int
    accumulators: int


def fits(tile: Tile, footprint: Footprint, architecture: Architecture) -> bool:
    """Whether the operands fit shared memory and the accumulators leave registers to work with."""
    per_thread = footprint.accumulators / (32 * tile.warps)
    return footprint.shared <= architecture.shared_per_block and per_thread <= ACCUMULATORS


def shipped(
    kernel: str,
    architecture: Architecture,
    item: int,
    footprint: Callable[[Tile], Footprint],
    shaped: Callable[[Tile], Tile] = lambda tile: tile,
) -> tuple[Tile, ...]:
    """The candidates of ``kernel``, ``shaped`` for the problem, that fit, for elements of ``item``
    bytes, the largest first.

    Raises ``ValueError`` if none does.
    """
    tiles = [shaped(t.for_item(item)) for t in TILES[kernel, architecture.family]]
    fitting = tuple(t for t in tiles if fits(t, footprint(t), architecture))
    if not fitting:
        raise ValueError(f"{kernel}: no tile fits {architecture.name} with {item}-byte elements")
    return fitting


def power_of_two(n: int) -> int:
    """The least power of two that is ``n`` or more."""
    return 1 << (n - 1).bit_length()


def head_block(head_dim: int) -> int:
    """The block that holds a head: ``tl.dot`` wants a power of two, 16 at least."""
    return max(16, power_of_two(head_dim))


def linear_footprint(tile: Tile, item: int, factors: int, by_element: bool) -> Footprint:
    """[m, k] and ``factors`` x [n, k] a stage; ``factors`` results of [m, n].

    ``by_element``: rows that 16 bytes do not divide pass through registers, each element with its
    value and its address, instead of being copied to shared memory in the background.
    """
    size = (tile.m + factors * tile.n) * tile.k * item
    passing = size if by_element else 0
    return Footprint(tile.stages * size, factors * tile.m * tile.n + passing)


@cache
def linear_tiles(
    kernel: str, item: int, architecture: Architecture, by_element: bool = False
) -> tuple[Tile, ...]:
    """Of ``linear``, ``grouped``, ``conv2d``, or ``swiglu``, which has two factors."""
    factors = 2 if kernel == "swiglu" else 1
    return shipped(
        kernel, architecture, item, lambda t: linear_footprint(t, item, factors, by_element)
    )


def attention_footprint(
    tile: Tile, block: int, item: int, architecture: Architecture, masked: bool = False
) -> Footprint:
    """Queries once, keys and values a stage in shared memory; in registers the output, the scores,
    these once more as they are rounded, and an address for each 16 bytes of keys and values.

    A warp's instruction (mma, and below 64 rows on every card) takes its queries from registers
    too. The others take float32 values only with the keys along memory, so those pass through
    registers one by one, each with its address. ``block``: the :func:`head_block`; ``masked``: a
    bias or a limit for each score.
    """
    scores, keys = tile.m * tile.n, tile.n * block
    held = tile.m * block + scores + scores * item // 4 + 2 * keys * item // 16
    held += scores * masked
    if architecture.family == "mma" or tile.m < 64:
        held += tile.m * block * item // 4
    elif item == 4:
        held += 2 * keys
    return Footprint(item * block * (tile.m + tile.stages * 2 * tile.n), held)


@cache
def attention_tiles(
    head_dim: int, item: int, architecture: Architecture, masked: bool = False
) -> tuple[Tile, ...]:
    """``masked``: with a window or a bias, whose code needs registers of its own."""
    block, kernel = head_block(head_dim), "attention_masked" if masked else "attention"

    def footprint(tile: Tile) -> Footprint:
        return attention_footprint(tile, block, item, architecture, masked)

    return shipped(kernel, architecture, item, footprint)


def backward_footprint(tile: Tile, block: int, item: int) -> Footprint:
    """The kernel that owns keys, the larger one: keys and values once, queries and their gradients
    a stage, two blocks of scores passed from product to product. In registers both gradients, three
    blocks of scores, and an address for each 16 bytes of what is walked along."""
    fixed = 2 * tile.n * block + 2 * tile.m * tile.n
    shared = item * (fixed + tile.stages * 2 * tile.m * block)
    walked = 2 * tile.m * block * item // 16
    return Footprint(shared, 2 * tile.n * block + 3 * tile.m * tile.n + walked)


@cache
def backward_tiles(head_dim: int, item: int, architecture: Architecture) -> tuple[Tile, ...]:
    block = head_block(head_dim)
    return shipped("backward", architecture, item, lambda t: backward_footprint(t, block, item))


@cache
def decode_tiles(
    head_dim: int, item: int, architecture: Architecture, group: int = 1
) -> tuple[Tile, ...]:
    """As high as the ``group`` of query heads that share a key head, 16 rows at least, and a warp
    for each 16 of them up to 8."""
    block, rows = head_block(head_dim), max(16, power_of_two(group))

    def raised(tile: Tile) -> Tile:
        return replace(tile, m=rows, warps=max(tile.warps, min(8, rows // 16)))

    def footprint(tile: Tile) -> Footprint:
        return attention_footprint(tile, block, item, architecture)

    return shipped("decode", architecture, item, footprint, raised)


@cache
def decode_blocks(
    blocks: tuple[tuple[int, int, int], ...],
    head_dim: int,
    item: int,
    architecture: Architecture,
    group: int,
) -> tuple[Tile, ...]:
    """Of ``blocks`` (keys, warps, stages) those that fit, as high as the ``group``."""
    block, rows = head_block(head_dim), max(16, power_of_two(group))
    tiles = (Tile(rows, n, 0, max(w, min(8, rows // 16)), stages) for n, w, stages in blocks)
    return tuple(
        t for t in tiles if fits(t, attention_footprint(t, block, item, architecture), architecture)
    )
