"""Which of the tiles that fit a shape gets: a model of the card with no fitted number in it.

Programs run in waves, one on each SM. A program costs the filling of its pipeline and then, for
each step of its reduction, the slower of two things: the tensor cores, and the L2 that feeds them.

    clocks = waves x (fill + steps x max(multiply, load))

The pick is the largest tile within ``NEARLY`` of the least clocks. A choice that was timed on the
card at hand stands above the model (``kernels.configs.tuned``).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache

from kernels.configs.candidates import Tile
from kernels.configs.footprint import (
    attention_tiles,
    backward_tiles,
    decode_blocks,
    decode_tiles,
    fits,
    head_block,
    linear_tiles,
    power_of_two,
)
from kernels.configs.tuned import Question, answer
from kernels.configs.ways import (
    DECODE,
    DEPTHWISE,
    HEADS,
    JOINED,
    PERSISTENT,
    attention_ways,
    backward_ways,
    conv_ways,
    decode_ways,
    linear_ways,
    row_ways,
    way_footprint,
)
from kernels.launch import Architecture

NEARLY = 1.05
"""Within so much of the least clocks the larger tile is taken: it moves fewer bytes for the same
work, which the clocks of one SM do not show."""

FILL_CLOCKS = 1500
"""A program's first operands and its last stores: two trips to memory that nothing hides."""

SPLIT_GAIN = 1.2
"""A second kernel must promise that much: its start is the model's least certain part."""

HOPELESS = 2.0
"""Of 616 contenders timed on an H200 none beyond it was within a fifth of the best, but for tiles
of 16 rows where an output has 257."""

EXPONENTIALS_PER_CLOCK = 16
"""Of one SM of every card here (CUDA C++ Programming Guide, throughput of native arithmetic)."""


@dataclass(frozen=True)
class Product:
    """A product as the pick sees it: ``copies`` of [m, k] x [k, n] in elements of ``item`` bytes.

    ``kernel``: ``linear``, ``grouped``, ``conv2d`` or ``swiglu``, which has two columns for each of
    the result. Experts count as copies of equal size: how full each is, only the device knows.
    """

    kernel: str
    m: int
    n: int
    k: int
    item: int
    copies: int = 1
    by_element: bool = False
    can_split: bool = False
    windows_stride: int = 0
    """Of a convolution whose windows a descriptor can fetch (``kernels.conv_windows``)."""

    @property
    def factors(self) -> int:
        return 2 if self.kernel == "swiglu" else 1

    def tiles(self, tile: Tile) -> int:
        """Of the whole output."""
        return self.copies * cdiv(self.m, tile.m) * cdiv(self.n, tile.n)


def cdiv(a: int, b: int) -> int:
    return -(-a // b)


def waves(programs: int, architecture: Architecture) -> int:
    """Rounds in which every SM works on one program."""
    return cdiv(programs, architecture.sms)


def fastest(tiles: tuple[Tile, ...], clocks: Callable[[Tile], float]) -> Tile:
    """The largest (the first) of those that nearly reach the least clocks."""
    least = min(clocks(t) for t in tiles)
    return next(t for t in tiles if clocks(t) <= NEARLY * least)


def product_clocks(m: float, n: float, item: int, architecture: Architecture) -> float:
    """Clocks of one SM for one step of an [m, n] product along its reduction.

    Either the tensor cores set the pace or the L2 that feeds both operands; tf32 runs at half the
    rate of 16-bit elements.
    """
    multiply = m * n * item / 2 / architecture.fma_per_clock
    return max(multiply, (m + n) * item / architecture.l2_bytes_per_clock)


def finish_clocks(product: Product, splits: int, architecture: Architecture) -> float:
    """Clocks of a second kernel that sums partial results: the first one's end, its own start and
    fill, and float32 written and read again by all SMs."""
    moved = 2 * 4 * product.copies * product.m * product.n * splits
    return 3 * FILL_CLOCKS + moved / (architecture.l2_bytes_per_clock * architecture.sms)


def linear_clocks(tile: Tile, product: Product, architecture: Architecture) -> float:
    """Clocks until the last program is done, and the sum of the parts where there are any."""
    wide = product.factors * tile.n
    step = product_clocks(tile.m, wide, product.item, architecture)
    rounds = waves(product.tiles(tile) * tile.splits, architecture)
    clocks = rounds * (FILL_CLOCKS + product.k / tile.splits * step)
    if tile.splits > 1:
        clocks += finish_clocks(product, tile.splits, architecture)
    return clocks


def split(tile: Tile, product: Product, architecture: Architecture) -> Tile:
    """``tile`` with as many programs to a reduction as one wave takes, each with four steps to do
    at least; itself where its tiles fill half of the card already."""
    splits = min(architecture.sms // max(1, product.tiles(tile)), product.k // (4 * tile.k))
    return replace(tile, splits=max(1, splits))


@cache
def product_tiles(product: Product, architecture: Architecture) -> tuple[Tile, ...]:
    """The tiles that fit, whole, and split where the kernel can and the shape leaves SMs idle; none
    of which more than three quarters of the rows would be empty, if there is another."""
    fitting = linear_tiles(product.kernel, product.item, architecture, product.by_element)
    highest = 2 * power_of_two(max(1, product.m))
    tiles = tuple(t for t in fitting if t.m <= highest) or fitting[-1:]
    if product.can_split:
        tiles += tuple(split(t, product, architecture) for t in tiles)
    return tuple(dict.fromkeys(tiles))


def stayed(tile: Tile, product: Product, architecture: Architecture) -> Tile:
    """A whole tile of 128 x 256 by programs that stay, on sm_90: there it took less than the plain
    one in each of 22 classes that were timed on an H200."""
    stays = replace(tile, way=PERSISTENT)
    is_wide = tile.m * tile.n >= 128 * 256 and tile.splits == 1 and product.kernel == "linear"
    if architecture.family != "wgmma" or not is_wide or product.by_element:
        return tile
    return (
        stays
        if fits(stays, way_footprint(stays, product.item, architecture), architecture)
        else tile
    )


@cache
def model_linear(product: Product, architecture: Architecture) -> Tile:
    """The :func:`fastest` whole tile, or a split one where that gains ``SPLIT_GAIN``."""

    def clocks(tile: Tile) -> float:
        return linear_clocks(tile, product, architecture)

    tiles = product_tiles(product, architecture)
    whole = fastest(tuple(t for t in tiles if t.splits == 1), clocks)
    parts = tuple(t for t in tiles if SPLIT_GAIN * clocks(t) <= clocks(whole))
    return fastest(parts, clocks) if parts else stayed(whole, product, architecture)


@cache
def contenders(product: Product, architecture: Architecture) -> tuple[Tile, ...]:
    """What is timed: the tiles that the model knows, but for those that it gives ``HOPELESS`` times
    the least clocks, and the other ways of the kernel."""
    plain = product_tiles(product, architecture)
    clocks = {tile: linear_clocks(tile, product, architecture) for tile in plain}
    tiles = [t for t in plain if clocks[t] <= HOPELESS * min(clocks.values())]
    if product.kernel == "linear" and not product.by_element:
        for tile in linear_ways(product.m, product.item, architecture):
            parts = split(tile, product, architecture) if tile.way == JOINED else tile
            if tile.way != JOINED or parts.splits > 1:
                tiles.append(parts)
    if product.windows_stride:
        tiles += conv_ways(product.item, architecture)
    return tuple(dict.fromkeys([*tiles, model_linear(product, architecture)]))


def pick_linear(product: Product, architecture: Architecture) -> Tile:
    """The tuned tile, or the model's."""
    limits = ", by element" * product.by_element + ", whole" * (not product.can_split)
    if product.windows_stride:
        limits += f", windows by {product.windows_stride}"
    question = Question(
        architecture.card,
        product.kernel + limits,
        (product.item, product.copies, product.m, product.n, product.k),
        contenders(product, architecture),
        architecture.name,
    )
    return shared_by(
        answer(question, lambda: model_linear(product, architecture)), product, architecture
    )


def shared_by(tile: Tile, product: Product, architecture: Architecture) -> Tile:
    """A class holds shapes of up to twice the rows and columns: of one with more tiles than the
    shape that was timed, a sum has no more parts than make a wave."""
    if tile.splits == 1:
        return tile
    splits = min(tile.splits, split(tile, product, architecture).splits)
    return replace(tile, splits=splits, way="" if splits == 1 and tile.way == JOINED else tile.way)


@cache
def pick_vector(m: int, n: int, item: int, gated: bool, architecture: Architecture) -> Tile:
    """The most columns a program that still leave each SM four programs to hide latency behind.

    A lane holds 16 bytes of weights a load; 32 accumulators a thread at most.
    """
    block_m = power_of_two(m)
    columns = [c for c in (8, 4, 2, 1) if block_m * c * (1 + gated) <= 8]
    n_tile = next((c for c in columns if cdiv(n, c) >= 4 * architecture.sms), columns[-1])
    return Tile(block_m, n_tile, 1024 // item, 4, 3)


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


@cache
def model_rows(rows: int, columns: int, architecture: Architecture) -> Tile:
    """Whole rows up to 16384 columns, as many of them as make 4096 elements while each SM still
    gets two programs; 16 elements a thread."""
    n = min(power_of_two(columns), 16384)
    m = max(1, min(4096 // n, rows // (2 * architecture.sms)))
    m = 1 << (m.bit_length() - 1)
    return Tile(m, n, 0, min(16, max(1, m * n // 512)))


def pick_rows(kernel: str, rows: int, columns: int, item: int, architecture: Architecture) -> Tile:
    """The tuned one, or the model's. ``kernel``: ``rms_norm``, ``layer_norm`` or ``softmax``."""
    model = model_rows(rows, columns, architecture)
    ways = row_ways(columns, kernel == "softmax")
    question = Question(
        architecture.card, kernel, (item, rows, columns), (model, *ways), architecture.name
    )
    return answer(question, lambda: model)


def pick_finish(columns: int) -> Tile:
    """Sums of partial results: 16 bytes a thread and part, two rows or one."""
    return Tile(2, 256) if columns >= 256 else Tile(4, 128)


def pick_depthwise(
    channels: int,
    positions: int,
    batch: int,
    kernel: int,
    stride: int,
    item: int,
    channels_last: bool,
    architecture: Architecture,
) -> Tile:
    """The tuned one, or positions x channels with the longer side along memory."""
    if not channels_last:
        return Tile(512, 1)
    model = Tile(8, 128)
    question = Question(
        architecture.card,
        f"depthwise {kernel}x{kernel}, stride {stride}",
        (item, batch, channels, positions),
        (model, *DEPTHWISE),
        architecture.name,
    )
    return answer(question, lambda: model)


def pick_stream(item: int, architecture: Architecture) -> Tile:
    """8 KiB a program: four loads of 16 bytes in flight a thread, enough for every card here."""
    return Tile(1, 8192 // item)
