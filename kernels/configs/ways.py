"""Other ways to the same result, beside the one that a kernel takes by itself: for timing only.

The model of ``kernels.configs.pick`` knows the plain way alone, so a way below is taken where it
was timed to be the fastest on a card (``kernels.configs.tuned``), or where a caller names it.

linear       persistent   as many programs as SMs, each with tile after tile; the next tile's loads
                          are on their way while the last one's results leave, in two halves
             specialised  the same, one group of warps fetching and two multiplying (wgmma)
             stream       stream-K: programs share the steps of the reduction evenly, whatever the
                          tiles; of a tile under 64 rows the weights stand in the rows of the
                          matrix instruction
attention    described    keys, values and biases by descriptor
             turns        the same with two blocks of queries in turn
backward     heads        by columns of keys, of one query head each, and by rows for dq
             atomic       by columns alone; dq is added up in memory
conv2d       windows      windows of a channels-last image by descriptor, strided ones too
depthwise    taps         weights copied first, so that channels lie side by side
             rows         so too, and several rows of outputs share the inputs that they read
norm,        ahead        programs that stay, with the next rows on their way
softmax      shared       (softmax) a row too long for one program is shared by several
"""

from __future__ import annotations

from functools import cache

from kernels.configs.candidates import Tile
from kernels.configs.footprint import (
    Footprint,
    fits,
    head_block,
    linear_footprint,
    power_of_two,
)
from kernels.launch import Architecture

PERSISTENT, SPECIALISED, STREAM = "persistent", "specialised", "stream"
DESCRIBED, TURNS = "described", "turns"
HEADS, ATOMIC = "heads", "atomic"
AHEAD, SHARED = "ahead", "shared"
WINDOWS = "windows"
TAPS, ROWS = "taps", "rows"
DEPTH = 64
"""Channels of a step of :data:`CONV`."""
LONGEST_ROW = 16384
"""Columns that one program holds; longer rows are read twice, or shared."""


def _ways(way: str, *sizes: tuple[int, int, int, int, int]) -> tuple[Tile, ...]:
    """(m, n, k, warps, stages) each."""
    return tuple(Tile(m, n, k, warps, stages, way=way) for m, n, k, warps, stages in sizes)


LINEAR: dict[str, tuple[Tile, ...]] = {
    "mma": (
        *_ways(PERSISTENT, (128, 128, 64, 8, 3), (64, 128, 64, 4, 3)),
        *_ways(STREAM, (128, 128, 64, 8, 3), (64, 64, 64, 4, 3), (16, 64, 128, 4, 3)),
    ),
    "wgmma": (
        *_ways(PERSISTENT, (128, 256, 64, 8, 4), (256, 128, 64, 8, 3), (128, 128, 64, 8, 4)),
        *_ways(SPECIALISED, (128, 256, 64, 4, 3), (256, 128, 64, 4, 3), (128, 128, 64, 4, 4)),
        *_ways(STREAM, (128, 128, 64, 8, 4), (64, 128, 64, 4, 4)),
        *_ways(STREAM, (64, 128, 128, 4, 4), (32, 128, 128, 4, 4), (16, 128, 128, 4, 4)),
    ),
    "tcgen05": (
        *_ways(PERSISTENT, (128, 256, 64, 8, 4), (256, 128, 64, 8, 3), (128, 128, 64, 8, 4)),
        *_ways(SPECIALISED, (128, 256, 64, 8, 3)),
        *_ways(STREAM, (128, 128, 64, 8, 4), (16, 128, 128, 4, 4)),
    ),
}
"""Family of cards -> ways of a linear layer, for elements of 16 bits."""


def consumers(tile: Tile, architecture: Architecture) -> int:
    """Groups of ``tile.warps`` that multiply: two on sm_90 where another group fetches."""
    return 2 if tile.way == SPECIALISED and architecture.family == "wgmma" else 1


def halves(tile: Tile) -> int:
    """In how many parts results leave. Triton 3.6 does not split those of specialised warps."""
    return 2 if tile.way == PERSISTENT and tile.n >= 128 else 1


def is_swapped(tile: Tile, architecture: Architecture) -> bool:
    """Whether weights stand in the rows of the matrix instruction, which has 64 at least where a
    group of four warps or a block multiplies."""
    return tile.way == STREAM and tile.m < 64 and architecture.family != "mma"


def way_footprint(tile: Tile, item: int, architecture: Architecture) -> Footprint:
    """That of the plain way, and room for results that leave by descriptor while the next tile's
    operands arrive."""
    plain = linear_footprint(tile, item, 1, by_element=False)
    staged = 0
    if tile.way != STREAM and architecture.has_bulk_copy:
        staged = tile.m * tile.n * max(item, 2) // halves(tile)  # float8 leaves as bfloat16
    each = plain.accumulators // consumers(tile, architecture)
    return Footprint(plain.shared + staged + 512, each)


@cache
def linear_ways(m: int, item: int, architecture: Architecture) -> tuple[Tile, ...]:
    """Those that fit the card, none of which three quarters of the rows would be empty."""
    tiles = (t.for_item(item) for t in LINEAR[architecture.family])
    return tuple(
        t
        for t in tiles
        if t.m <= 2 * power_of_two(max(8, m))
        and (t.m >= 64 or m <= 64)
        and fits(t, way_footprint(t, item, architecture), architecture)
    )


ATTENTION: tuple[Tile, ...] = (
    *_ways(DESCRIBED, (128, 128, 0, 8, 2), (128, 64, 0, 8, 3), (64, 128, 0, 4, 2)),
    *_ways(DESCRIBED, (64, 64, 0, 4, 3), (64, 32, 0, 4, 4)),
    *_ways(TURNS, (128, 64, 0, 8, 2), (128, 32, 0, 8, 3), (64, 64, 0, 4, 3), (64, 32, 0, 4, 3)),
)
"""Of cards with bulk copies; by queries of a block and keys, for elements of 16 bits."""


@cache
def attention_ways(
    head_dim: int, item: int, architecture: Architecture, masked: bool
) -> tuple[Tile, ...]:
    """``masked``: with a window or a bias. Of each block of queries the output, its scores and
    these rounded are held, and with a bias a tile of it a stage."""
    block = head_block(head_dim)

    def footprint(tile: Tile) -> Footprint:
        blocks = 2 if tile.way == TURNS else 1
        scores = tile.m * tile.n
        shared = blocks * tile.m * block + tile.stages * (2 * tile.n * block + masked * scores)
        held = tile.m * block + scores + scores * item // 4 + masked * scores // 2
        return Footprint(item * shared + 512, blocks * held)

    if not architecture.has_bulk_copy or item != 2:
        return ()
    return tuple(t for t in ATTENTION if fits(t, footprint(t), architecture))


BACKWARD: dict[int, tuple[Tile, ...]] = {
    64: (
        *_ways(HEADS, (64, 128, 0, 8, 2), (64, 64, 0, 8, 2), (64, 64, 0, 4, 2)),
        *_ways(ATOMIC, (64, 128, 0, 8, 2), (64, 64, 0, 8, 2), (64, 64, 0, 4, 2)),
    ),
    128: (
        *_ways(HEADS, (32, 128, 0, 8, 2), (64, 64, 0, 8, 2), (32, 64, 0, 4, 2)),
        *_ways(ATOMIC, (64, 64, 0, 8, 2), (32, 128, 0, 8, 2)),
    ),
}
"""By the block of a head -> queries and keys, for elements of 16 bits."""


@cache
def backward_ways(head_dim: int, item: int, architecture: Architecture) -> tuple[Tile, ...]:
    """Of cards with bulk copies. In shared memory keys, values, a block of scores and of its
    gradient, and queries with theirs a stage. On sm_100 the pass for dq spills where blocks of
    queries and keys differ."""
    block = head_block(head_dim)

    def fits_shared(t: Tile) -> bool:
        held = 2 * t.n * block + 2 * t.m * t.n + t.stages * 2 * t.m * block
        return item * held + 1024 <= architecture.shared_per_block

    def keeps(t: Tile) -> bool:
        return architecture.family != "tcgen05" or t.way == ATOMIC or t.m == t.n

    if not architecture.has_bulk_copy or item != 2:
        return ()
    return tuple(t for t in BACKWARD.get(block, ()) if fits_shared(t) and keeps(t))


@cache
def row_ways(columns: int, item: int, can_share: bool) -> tuple[Tile, ...]:
    """Of rows that a program holds: one, two or four of them, with 8 to 32 elements a thread, plain
    and ahead. Of longer ones: smaller blocks, whose programs fit an SM beside each other, and rows
    that are shared."""
    n = power_of_two(columns)
    if n > LONGEST_ROW:
        blocks = ((4096, 4), (4096, 8), (8192, 8))
        plain = tuple(Tile(1, block, 0, warps) for block, warps in blocks)
        shared = tuple(Tile(1, b, 0, w, way=SHARED) for b, w in ((8192, 8), (16384, 16)))
        return plain + shared * can_share
    found: list[Tile] = []
    for rows in (1, 2, 4):
        for each in (8, 16, 32):
            warps = rows * n // (32 * each)
            if 1 <= warps <= 16 and rows * n <= 2 * LONGEST_ROW:
                found.append(Tile(rows, n, 0, warps))
                if each == 16 and 3 * rows * n * item <= 48 * 1024:
                    found += [Tile(rows, n, 0, warps, stages, way=AHEAD) for stages in (2, 3)]
    return tuple(found)


CONV: tuple[Tile, ...] = _ways(
    WINDOWS,
    *((128, 256, DEPTH, 8, 3), (128, 128, DEPTH, 8, 4), (128, 64, DEPTH, 4, 4)),
    *((64, 128, DEPTH, 4, 4), (64, 64, DEPTH, 4, 4), (64, 32, DEPTH, 4, 4)),
)
"""Positions of a window, output and input channels, for elements of 16 bits and bulk copies."""


@cache
def conv_ways(item: int, architecture: Architecture) -> tuple[Tile, ...]:
    if item != 2 or not architecture.has_bulk_copy:
        return ()
    return tuple(t for t in CONV if fits(t, linear_footprint(t, item, 1, False), architecture))


DEPTHWISE: tuple[Tile, ...] = (
    *_ways(TAPS, (8, 128, 0, 4, 1), (8, 32, 0, 4, 1), (16, 32, 0, 4, 1)),
    *_ways(ROWS, (8, 32, 4, 4, 1), (8, 32, 8, 4, 1), (16, 32, 4, 4, 1), (8, 64, 4, 4, 1)),
    *_ways(ROWS, (16, 32, 2, 4, 1), (4, 128, 4, 4, 1)),
)
"""Of channels-last images: columns, channels, and (``k``) rows of outputs of a program."""
