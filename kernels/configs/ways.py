"""Other ways to the same result, beside the one that a kernel takes by itself.

A way below is taken where it was timed to be the fastest on a card (``kernels.configs.tuned``), or
where a caller names it; the model of ``kernels.configs.pick`` knows the plain ways, and on sm_90
those two that won wherever they were timed.

linear       persistent   as many programs as the SMs hold, each with tile after tile; the next
                          tile's loads are on their way while the last one's results leave
             described    a program a tile, whose results leave by descriptor: two or three
                          programs an SM
             joined       a split sum, added up by the last program of a tile to arrive
attention    described    keys, values and biases by descriptor
backward     heads        by columns of keys, of one query head each, and by rows for dq
             atomic       by columns alone; dq is added up in memory
conv2d       windows      windows of a channels-last image by descriptor, strided ones too
depthwise    taps         weights copied first, so that channels lie side by side
             strips       so too, and a program walks along one row of outputs
softmax      shared       a row too long for one program is shared by several, in two kernels
             lagged       so too, in one: programs read ahead of where they write, less than the L2
                          holds
"""

from __future__ import annotations

from dataclasses import replace
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

PERSISTENT, DESCRIBED, JOINED = "persistent", "described", "joined"
HEADS, ATOMIC = "heads", "atomic"
SHARED, LAGGED = "shared", "lagged"
WINDOWS = "windows"
TAPS, STRIPS = "taps", "strips"
DEPTH = 64
"""Channels of a step of :data:`CONV`."""
LONGEST_ROW = 16384
"""Columns that one program holds; longer rows are read twice, or shared."""
FEW, SOME = 64, 512
"""Rows of a product: up to so many its weights are read and little else; up to so many an output
has few tiles for the card."""


def _ways(way: str, *sizes: tuple[int, int, int, int, int]) -> tuple[Tile, ...]:
    """(m, n, k, warps, stages) each."""
    return tuple(Tile(m, n, k, warps, stages, way=way) for m, n, k, warps, stages in sizes)


LOW: tuple[Tile, ...] = (
    *_ways("", (16, 32, 128, 4, 4), (16, 32, 256, 4, 4), (16, 64, 256, 4, 3)),
    *_ways("", (16, 16, 256, 2, 4), (16, 16, 512, 4, 3)),
    *_ways(JOINED, (16, 64, 128, 4, 4), (16, 32, 256, 4, 3)),
)
"""Of at most ``FEW`` rows: 64 columns of 1,280 are 20 programs, 16 are 80."""

LINEAR: dict[str, tuple[tuple[Tile, ...], tuple[Tile, ...]]] = {
    "mma": (
        _ways(JOINED, (64, 64, 64, 4, 3)),
        _ways(PERSISTENT, (128, 128, 64, 8, 3), (64, 128, 64, 4, 3)),
    ),
    "wgmma": (
        (
            *_ways(PERSISTENT, (128, 256, 64, 8, 4), (64, 256, 64, 8, 4)),
            *_ways(DESCRIBED, (128, 192, 64, 8, 4), (64, 256, 64, 4, 2), (64, 192, 64, 4, 3)),
            *_ways(DESCRIBED, (64, 128, 64, 4, 3)),
            *_ways(DESCRIBED, (128, 128, 128, 8, 3), (64, 128, 128, 4, 4), (64, 64, 128, 4, 4)),
            *_ways(DESCRIBED, (64, 32, 128, 4, 4)),
            *_ways(JOINED, (128, 128, 64, 8, 4), (64, 128, 64, 4, 4), (64, 64, 128, 4, 3)),
        ),
        (
            *_ways(PERSISTENT, (128, 256, 64, 8, 4), (256, 128, 64, 8, 3), (128, 128, 64, 8, 3)),
            *_ways(PERSISTENT, (128, 128, 64, 4, 3)),
            *_ways(DESCRIBED, (128, 256, 64, 8, 4), (128, 192, 64, 8, 4), (128, 192, 64, 8, 2)),
            *_ways(DESCRIBED, (128, 128, 64, 8, 3), (128, 128, 64, 4, 3), (64, 192, 64, 4, 3)),
            *_ways(DESCRIBED, (64, 256, 64, 4, 2)),
        ),
    ),
    "tcgen05": (
        (
            *_ways(DESCRIBED, (128, 128, 64, 8, 3), (64, 128, 64, 4, 4)),
            *_ways(JOINED, (128, 128, 64, 8, 4)),
        ),
        (
            *_ways(PERSISTENT, (128, 256, 64, 8, 4), (256, 128, 64, 8, 3), (128, 128, 64, 8, 4)),
            *_ways(DESCRIBED, (128, 256, 64, 8, 4), (128, 128, 64, 8, 3)),
        ),
    ),
}
"""Family of cards -> ways of a linear layer of ``SOME`` rows, and of more; elements of 16 bits."""


def widths(tile: Tile) -> tuple[int, int]:
    """The blocks of a tile's columns, which are powers of two: 192 are 128 and 64."""
    first = power_of_two(tile.n + 1) // 2
    return first, tile.n - first


def halves(tile: Tile) -> int:
    """In how many parts the results of a tile of one block leave."""
    return 2 if tile.way == PERSISTENT and tile.n >= 128 and not widths(tile)[1] else 1


def way_footprint(tile: Tile, item: int, architecture: Architecture) -> Footprint:
    """That of the plain way, and where a program stays room for results that leave by descriptor
    while the next tile's operands arrive; float8 leaves as bfloat16."""
    plain = linear_footprint(tile, item, 1, by_element=False)
    results = tile.m * tile.n * max(item, 2) // halves(tile) if architecture.has_bulk_copy else 0
    if tile.way == PERSISTENT:
        return Footprint(plain.shared + results + 512, plain.accumulators)
    return Footprint(max(plain.shared, results) + 512, plain.accumulators)


def resident(tile: Tile, item: int, architecture: Architecture) -> int:
    """Programs of a tile that one SM holds, by its shared memory and by accumulators with 48 more
    registers a thread; two at most."""
    takes, threads = way_footprint(tile, item, architecture), 32 * tile.warps
    registers = (takes.accumulators // threads + 48) * threads
    by_shared = architecture.shared_per_sm // (takes.shared + 1024)
    return max(1, min(2, by_shared, architecture.registers_per_sm // registers))


@cache
def linear_ways(m: int, item: int, architecture: Architecture) -> tuple[Tile, ...]:
    """Those for so many rows that fit the card. ``pick.contenders`` sets how many parts a sum is
    joined of."""
    few, many = LINEAR[architecture.family]
    tiles = LOW if m <= FEW else few if m <= SOME else many
    return tuple(
        t
        for t in (t.for_item(item) for t in tiles)
        if fits(t, way_footprint(t, item, architecture), architecture)
    )


ATTENTION: tuple[Tile, ...] = _ways(
    DESCRIBED,
    *((128, 128, 0, 8, 2), (128, 64, 0, 8, 3), (64, 128, 0, 4, 2)),
    *((64, 64, 0, 4, 3), (64, 64, 0, 4, 2), (64, 32, 0, 4, 4)),
)
"""Of cards with bulk copies; by queries of a block and keys, for elements of 16 bits."""
MASKED_KEYS = 64
"""Of a block with a bias: 128 took an H200 8 times as long on SAM's windows, and a seventh longer
on its whole image."""


@cache
def attention_ways(
    head_dim: int, item: int, architecture: Architecture, masked: bool
) -> tuple[Tile, ...]:
    """``masked``: with a window or a bias. Of a block of queries the output, its scores and these
    rounded are held, and with a bias a tile of it a stage."""
    block = head_block(head_dim)

    def footprint(tile: Tile) -> Footprint:
        scores = tile.m * tile.n
        shared = tile.m * block + tile.stages * (2 * tile.n * block + masked * scores)
        held = tile.m * block + scores + scores * item // 4 + masked * scores // 2
        return Footprint(item * shared + 512, held)

    if not architecture.has_bulk_copy or item != 2:
        return ()
    return tuple(
        t
        for t in ATTENTION
        if fits(t, footprint(t), architecture) and (t.n <= MASKED_KEYS or not masked)
    )


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
def row_ways(columns: int, can_share: bool) -> tuple[Tile, ...]:
    """Of rows that a program holds: one, two or four of them, with 8 to 32 elements a thread. Of
    longer ones: smaller blocks, whose programs fit an SM beside each other, and rows that are
    shared."""
    n = power_of_two(columns)
    if n > LONGEST_ROW:
        plain = tuple(Tile(1, block, 0, 8) for block in (4096, 8192))
        shared = [Tile(1, b, 0, w, way=SHARED) for b, w in ((4096, 4), (8192, 8), (16384, 16))]
        lagged = [Tile(1, b, 0, w, way=LAGGED) for b, w in ((4096, 8), (8192, 16))]  # two at once
        return (*plain, *shared, *lagged) if can_share else plain
    kinds = ((1, 8), (1, 16), (1, 32), (2, 16), (2, 32), (4, 32))
    tiles = (Tile(rows, n, 0, rows * n // (32 * each)) for rows, each in kinds)
    return tuple(t for t in tiles if 1 <= t.warps <= 16 and t.m * n <= 2 * LONGEST_ROW)


DECODE: tuple[tuple[int, int, int], ...] = (
    *((32, 4, 4), (64, 4, 2), (64, 4, 3), (128, 4, 2), (128, 8, 2)),
)
"""Keys, warps and stages of a program that holds one new token's queries."""
JOINED_VALUES = 16384
"""Of partial outputs that one program of four warps adds up: 128 a thread."""


@cache
def decode_ways(
    fitting: tuple[Tile, ...], keys: int, group: int, head_dim: int, heads: int, sms: int
) -> tuple[Tile, ...]:
    """The ``fitting`` blocks, their keys split so that an SM gets one program, two or four at
    most, and the parts added up by a second kernel or by who comes last."""
    found: list[Tile] = []
    for tile in fitting:
        most = max(1, -(-keys // tile.n))
        for splits in sorted({max(1, min(most, each * sms // heads)) for each in (1, 2, 4)}):
            found.append(replace(tile, splits=splits))
            values = power_of_two(group) * power_of_two(splits) * head_block(head_dim)
            if splits > 1 and values <= JOINED_VALUES:
                found.append(replace(tile, splits=splits, way=JOINED))
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
    *_ways(TAPS, (16, 32, 0, 4, 1), (32, 32, 0, 4, 1)),
    *_ways(STRIPS, (64, 32, 0, 2, 1), (64, 32, 0, 4, 1), (32, 32, 0, 2, 1), (16, 32, 0, 2, 1)),
)
"""Of channels-last images: positions (of one row in ``STRIPS``) and channels of a program."""
