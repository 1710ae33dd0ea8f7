"""Tiles by architecture, what fits a card, and which of them a shape gets.

Three steps, none of which runs anything:

1. ``TILES`` lists a few candidates a kernel and family of cards, the largest first;
2. :func:`shipped` drops those whose operands do not fit the card's shared memory or whose
   accumulators do not fit its registers, by arithmetic;
3. :func:`fastest` picks among the rest by a model of the card with no fitted number in it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache

from kernels.launch import Architecture


@dataclass(frozen=True)
class Tile:
    """What one program computes: ``m`` x ``n`` of the output, ``k`` of the reduction at a time.

    Attention reads it as ``m`` queries x ``n`` keys (its ``k`` is the head dimension), a norm as
    ``m`` rows x ``n`` columns. ``stages``: loads of the loop in flight, each with its own buffer.
    """

    m: int
    n: int
    k: int = 0
    warps: int = 4
    stages: int = 1

    def __str__(self) -> str:
        sizes = (self.m, self.n, self.k) if self.k else (self.m, self.n)
        return f"{'x'.join(map(str, sizes))} w{self.warps} s{self.stages}"

    def blocks(self, sides: str) -> dict[str, int]:
        """The block sizes as a kernel names them: "mn" gives BM and BN."""
        return {f"B{side.upper()}": getattr(self, side) for side in sides}

    def for_item(self, item: int) -> Tile:
        """The same bytes along ``k`` for elements of ``item`` bytes; tables are in 16-bit ones."""
        return replace(self, k=self.k * 2 // item)


@dataclass(frozen=True)
class Footprint:
    """What a tile takes: bytes of shared memory, and fp32 accumulators of the whole block."""

    shared: int
    accumulators: int


TILES: dict[tuple[str, str], tuple[Tile, ...]] = {
    ("linear", "mma"): (
        Tile(128, 128, 64, 8, 3),
        Tile(128, 64, 64, 4, 3),
        Tile(64, 64, 64, 4, 3),
        Tile(16, 64, 128, 4, 3),
    ),
    ("linear", "wgmma"): (
        Tile(128, 256, 64, 8, 4),
        Tile(128, 128, 64, 8, 4),
        Tile(64, 128, 64, 4, 4),
        Tile(64, 64, 64, 4, 4),
        Tile(16, 64, 128, 4, 4),
    ),
    ("linear", "tcgen05"): (
        Tile(128, 256, 64, 8, 4),
        Tile(128, 128, 64, 8, 4),
        Tile(64, 128, 64, 4, 4),
        Tile(16, 64, 128, 4, 4),
    ),
    ("swiglu", "mma"): (
        Tile(128, 64, 32, 8, 3),
        Tile(64, 64, 32, 4, 3),
        Tile(16, 32, 64, 4, 3),
    ),
    ("swiglu", "wgmma"): (
        Tile(128, 128, 64, 8, 4),
        Tile(64, 64, 64, 4, 4),
        Tile(16, 64, 64, 4, 4),
    ),
    ("swiglu", "tcgen05"): (
        Tile(128, 128, 64, 8, 3),
        Tile(64, 64, 64, 4, 4),
        Tile(16, 64, 64, 4, 4),
    ),
    ("grouped", "mma"): (
        Tile(128, 128, 64, 8, 3),
        Tile(64, 64, 64, 4, 3),
        Tile(16, 64, 128, 4, 3),
    ),
    ("grouped", "wgmma"): (
        Tile(128, 128, 64, 8, 4),
        Tile(64, 128, 64, 4, 4),
        Tile(16, 64, 128, 4, 4),
    ),
    ("grouped", "tcgen05"): (
        Tile(128, 128, 64, 8, 4),
        Tile(64, 128, 64, 4, 4),
        Tile(16, 64, 128, 4, 4),
    ),
    ("conv2d", "mma"): (
        Tile(128, 128, 64, 8, 3),
        Tile(64, 128, 64, 8, 3),
        Tile(32, 64, 64, 4, 3),
    ),
    ("conv2d", "wgmma"): (
        Tile(128, 128, 64, 8, 4),
        Tile(64, 128, 64, 8, 3),
        Tile(32, 64, 64, 4, 3),
    ),
    ("conv2d", "tcgen05"): (
        Tile(128, 128, 64, 8, 4),
        Tile(64, 128, 64, 8, 3),
        Tile(32, 64, 64, 4, 3),
    ),
    ("attention", "mma"): (
        Tile(128, 32, 0, 8, 2),
        Tile(64, 32, 0, 4, 2),
        Tile(16, 32, 0, 4, 1),
    ),
    ("attention", "wgmma"): (Tile(128, 128, 0, 8, 2), Tile(64, 64, 0, 4, 2), Tile(64, 32, 0, 8, 2)),
    ("attention", "tcgen05"): (
        Tile(128, 128, 0, 8, 2),
        Tile(64, 64, 0, 4, 2),
        Tile(64, 32, 0, 8, 2),
    ),
    ("attention_masked", "mma"): (
        Tile(64, 64, 0, 8, 2),
        Tile(64, 32, 0, 4, 2),
        Tile(16, 32, 0, 4, 1),
    ),
    ("attention_masked", "wgmma"): (Tile(128, 64, 0, 8, 2), Tile(64, 32, 0, 8, 2)),
    ("attention_masked", "tcgen05"): (Tile(128, 64, 0, 8, 2), Tile(64, 32, 0, 8, 2)),
    ("backward", "mma"): (Tile(32, 64, 0, 8, 1), Tile(32, 32, 0, 8, 1), Tile(16, 16, 0, 4, 1)),
    ("backward", "wgmma"): (Tile(64, 128, 0, 8, 2), Tile(64, 64, 0, 8, 1), Tile(32, 32, 0, 8, 1)),
    ("backward", "tcgen05"): (Tile(64, 64, 0, 8, 2), Tile(64, 64, 0, 8, 1), Tile(32, 32, 0, 8, 1)),
    ("decode", "mma"): (Tile(16, 64, 0, 4, 2), Tile(16, 32, 0, 4, 2), Tile(16, 32, 0, 4, 1)),
    ("decode", "wgmma"): (Tile(16, 64, 0, 4, 3), Tile(16, 32, 0, 4, 2)),
    ("decode", "tcgen05"): (Tile(16, 64, 0, 4, 3), Tile(16, 32, 0, 4, 2)),
}
"""(kernel, family of cards) -> candidates; kernels that only stream have one tile each, below."""

NEARLY = 1.05
"""Within so much of the least clocks the larger tile is taken: it moves fewer bytes for the same
work, which the clocks of one SM do not show."""

FILL_CLOCKS = 1500
"""A program's first operands and its last stores: two trips to memory that nothing hides."""


def fits(tile: Tile, footprint: Footprint, architecture: Architecture) -> bool:
    """Whether the operands fit shared memory and the accumulators leave registers to work with.

    A thread has 255 registers at most; 190 of them may be accumulators, the rest are pointers,
    masks and operands on their way.
    """
    accumulators_per_thread = footprint.accumulators / (32 * tile.warps)
    return footprint.shared <= architecture.shared_per_block and accumulators_per_thread <= 190


def shipped(
    kernel: str, architecture: Architecture, item: int, footprint: Callable[[Tile], Footprint]
) -> tuple[Tile, ...]:
    """The candidates of ``kernel`` that fit, for elements of ``item`` bytes, the largest first.

    Raises ``ValueError`` if none does.
    """
    tiles = [t.for_item(item) for t in TILES[kernel, architecture.family]]
    fitting = tuple(t for t in tiles if fits(t, footprint(t), architecture))
    if not fitting:
        raise ValueError(f"{kernel}: no tile fits {architecture.name} with {item}-byte elements")
    return fitting


def fastest(tiles: tuple[Tile, ...], clocks: Callable[[Tile], float]) -> Tile:
    """The largest (the first) of those that nearly reach the least clocks."""
    least = min(clocks(t) for t in tiles)
    return next(t for t in tiles if clocks(t) <= NEARLY * least)


def waves(programs: int, architecture: Architecture) -> int:
    """Rounds in which every SM works on one program."""
    return -(-programs // architecture.sms)


def cdiv(a: int, b: int) -> int:
    return -(-a // b)


def power_of_two(n: int) -> int:
    """The least power of two that is ``n`` or more."""
    return 1 << (n - 1).bit_length()


def product_clocks(m: float, n: float, item: int, architecture: Architecture) -> float:
    """Clocks of one SM for one step of an [m, n] product along its reduction.

    Either the tensor cores set the pace or the L2 that feeds both operands; tf32 runs at half the
    rate of 16-bit elements.
    """
    multiply = m * n * item / 2 / architecture.fma_per_clock
    return max(multiply, (m + n) * item / architecture.l2_bytes_per_clock)


def linear_footprint(tile: Tile, item: int, factors: int, by_element: bool) -> Footprint:
    """[m, k] and ``factors`` x [n, k] a stage; ``factors`` results of [m, n].

    ``by_element``: rows that 16 bytes do not divide pass through registers, each element with its
    value and its address, instead of being copied to shared memory in the background.
    """
    elements = (tile.m + factors * tile.n) * tile.k
    passing = 2 * elements if by_element else 0
    return Footprint(tile.stages * elements * item, factors * tile.m * tile.n + passing)


@cache
def linear_tiles(
    kernel: str, item: int, architecture: Architecture, by_element: bool = False
) -> tuple[Tile, ...]:
    """Of ``linear``, ``grouped``, ``conv2d``, or ``swiglu``, which has two factors."""
    factors = 2 if kernel == "swiglu" else 1
    return shipped(
        kernel, architecture, item, lambda t: linear_footprint(t, item, factors, by_element)
    )


def linear_clocks(
    tile: Tile, m: int, n: int, k: int, item: int, architecture: Architecture, copies: int = 1
) -> float:
    """Clocks until the last of ``copies`` products [m, k] x [k, n] is done."""
    programs = copies * cdiv(m, tile.m) * cdiv(n, tile.n)
    one = FILL_CLOCKS + k * product_clocks(tile.m, tile.n, item, architecture)
    return waves(programs, architecture) * one


@cache
def pick_linear(
    kernel: str,
    m: int,
    n: int,
    k: int,
    item: int,
    architecture: Architecture,
    copies: int = 1,
    by_element: bool = False,
) -> Tile:
    """The :func:`fastest`. SwiGLU has two columns for each of the result; experts count as
    ``copies`` of equal size: how full each is, only the device knows."""
    factors = 2 if kernel == "swiglu" else 1

    def clocks(tile: Tile) -> float:
        wide = replace(tile, n=factors * tile.n)
        return linear_clocks(wide, m, factors * n, k, item, architecture, copies)

    return fastest(linear_tiles(kernel, item, architecture, by_element), clocks)


@cache
def pick_vector(m: int, n: int, item: int, gated: bool, architecture: Architecture) -> Tile:
    """The most columns a program that still leave each SM four programs to hide latency behind.

    A lane holds 16 bytes of weights a load; 32 accumulators a thread at most.
    """
    block_m = power_of_two(m)
    columns = [c for c in (8, 4, 2, 1) if block_m * c * (1 + gated) <= 8]
    n_tile = next((c for c in columns if cdiv(n, c) >= 4 * architecture.sms), columns[-1])
    return Tile(block_m, n_tile, 1024 // item, 4, 3)


def attention_footprint(tile: Tile, head_block: int, item: int) -> Footprint:
    """Queries once, keys and values a stage; the output, the scores, and these once more."""
    shared = item * head_block * (tile.m + tile.stages * 2 * tile.n)
    return Footprint(shared, tile.m * head_block + tile.m * tile.n + tile.m * tile.n * item // 4)


@cache
def attention_tiles(
    head_dim: int, item: int, architecture: Architecture, masked: bool = False
) -> tuple[Tile, ...]:
    """``masked``: with a window or a bias, whose code needs registers of its own."""
    block = max(16, power_of_two(head_dim))
    kernel = "attention_masked" if masked else "attention"
    return shipped(kernel, architecture, item, lambda t: attention_footprint(t, block, item))


@cache
def pick_attention(
    q_len: int,
    kv_len: int,
    head_dim: int,
    heads: int,
    item: int,
    architecture: Architecture,
    masked: bool = False,
) -> Tile:
    """The :func:`fastest`. ``heads``: of all images of a batch.

    A step along the keys is two products of [m, head_dim], one to score, one to sum.
    """
    tiles = attention_tiles(head_dim, item, architecture, masked)

    def clocks(tile: Tile) -> float:
        programs = heads * cdiv(q_len, tile.m)
        multiply = tile.m * head_dim * item / 2 / architecture.fma_per_clock
        load = head_dim * item / architecture.l2_bytes_per_clock
        return waves(programs, architecture) * (FILL_CLOCKS + 2 * kv_len * max(multiply, load))

    return fastest(tiles, clocks)


def backward_footprint(tile: Tile, head_block: int, item: int) -> Footprint:
    """The kernel that owns keys, the larger one: keys and values once, queries and their gradients
    a stage, two blocks of scores passed from product to product."""
    fixed = 2 * tile.n * head_block + 2 * tile.m * tile.n
    shared = item * (fixed + tile.stages * 2 * tile.m * head_block)
    return Footprint(shared, 2 * tile.n * head_block + 2 * tile.m * tile.n)


@cache
def backward_tiles(head_dim: int, item: int, architecture: Architecture) -> tuple[Tile, ...]:
    block = max(16, power_of_two(head_dim))
    return shipped("backward", architecture, item, lambda t: backward_footprint(t, block, item))


def pick_backward(head_dim: int, item: int, architecture: Architecture) -> Tile:
    """The largest that fits."""
    return backward_tiles(head_dim, item, architecture)[0]


@cache
def decode_tiles(head_dim: int, item: int, architecture: Architecture) -> tuple[Tile, ...]:
    block = max(16, power_of_two(head_dim))
    return shipped("decode", architecture, item, lambda t: attention_footprint(t, block, item))


@cache
def pick_decode(
    keys: int, group: int, head_dim: int, kv_heads: int, item: int, architecture: Architecture
) -> tuple[Tile, int]:
    """The largest tile that fits, and splits of the keys that give each SM two programs.

    ``group``: query heads to a key head; ``kv_heads``: of all sequences of a batch.
    """
    tile = decode_tiles(head_dim, item, architecture)[0]
    tile = replace(tile, m=max(16, power_of_two(group)))
    splits = min(cdiv(2 * architecture.sms, kv_heads), cdiv(keys, tile.n))
    return tile, max(1, splits)


@cache
def pick_rows(rows: int, columns: int, architecture: Architecture) -> Tile:
    """Whole rows up to 16384 columns, as many of them as make 4096 elements while each SM still
    gets two programs; 16 elements a thread."""
    n = min(power_of_two(columns), 16384)
    m = max(1, min(4096 // n, rows // (2 * architecture.sms)))
    m = 1 << (m.bit_length() - 1)
    return Tile(m, n, 0, min(16, max(1, m * n // 512)))


def pick_depthwise(channels_last: bool) -> Tile:
    """Positions x channels: the longer side lies along memory."""
    return Tile(8, 128) if channels_last else Tile(512, 1)


def pick_stream(item: int, architecture: Architecture) -> Tile:
    """8 KiB a program: four loads of 16 bytes in flight a thread, enough for every card here."""
    return Tile(1, 8192 // item)
