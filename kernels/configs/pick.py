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
from kernels.configs.footprint import fits, linear_tiles, power_of_two
from kernels.configs.tuned import Question, answer
from kernels.configs.ways import (
    DEPTHWISE,
    JOINED,
    PERSISTENT,
    SOME,
    conv_ways,
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
"""Of 50 tiles beyond it that an H200 timed none was the best, and six came within a quarter."""


LONG = 8192
"""Bytes: of more than ``SOME`` rows and so long a reduction no tile of 64 rows is timed. On an H200
they took 1.05 (float8) and 1.1 to 1.7 times the best."""


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
    """A whole tile of 128 x 256 by programs that stay, on sm_90: in each of 19 classes an H200 took
    7 to 21% less time so (then the plain one waited for every product, see ``mlp.product``)."""
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
        is_large = product.m > SOME and product.item * product.k >= LONG
        tiles = [t for t in tiles if t.m >= 128 or not is_large]
        for tile in linear_ways(product.m, product.item, architecture):
            if tile.m < 128 and is_large:
                continue
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
