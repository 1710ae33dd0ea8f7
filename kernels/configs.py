"""Tiles by architecture, what fits a card, and which of them a shape gets.

Three steps, none of which runs anything:

1. ``TILES`` lists a few candidates a kernel and family of cards, the largest first;
2. :func:`shipped` drops those whose operands do not fit the card's shared memory or whose
   accumulators do not fit its registers, by arithmetic;
3. :func:`fastest` picks among the rest by a model of the card with no fitted number in it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
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

    def for_item(self, item: int) -> Tile:
        """The same bytes along ``k`` for elements of ``item`` bytes; the table is in 16-bit ones."""
        return replace(self, k=self.k * 2 // item)


@dataclass(frozen=True)
class Footprint:
    """What a tile takes: bytes of shared memory, and fp32 accumulators of the whole block."""

    shared: int
    accumulators: int


TILES: dict[tuple[str, str], tuple[Tile, ...]] = {
    ("linear", "mma"): (
        Tile(128, 256, 64, 8, 3),
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
        Tile(128, 128, 64, 4, 4),
        Tile(64, 128, 64, 4, 4),
        Tile(16, 64, 128, 4, 4),
    ),
    ("swiglu", "mma"): (
        Tile(128, 128, 64, 8, 3),
        Tile(128, 64, 32, 8, 3),
        Tile(64, 64, 32, 4, 3),
        Tile(16, 64, 64, 4, 3),
    ),
    ("swiglu", "wgmma"): (
        Tile(128, 128, 64, 8, 4),
        Tile(64, 64, 64, 4, 4),
        Tile(16, 64, 128, 4, 3),
    ),
    ("swiglu", "tcgen05"): (
        Tile(128, 128, 64, 8, 3),
        Tile(64, 64, 64, 4, 4),
        Tile(16, 64, 128, 4, 3),
    ),
    ("attention", "mma"): (
        Tile(128, 64, 0, 8, 2),
        Tile(128, 32, 0, 8, 2),
        Tile(64, 64, 0, 4, 2),
        Tile(64, 32, 0, 4, 2),
        Tile(16, 32, 0, 4, 2),
    ),
    ("attention", "wgmma"): (
        Tile(128, 128, 0, 8, 2),
        Tile(128, 64, 0, 8, 2),
        Tile(64, 64, 0, 4, 2),
        Tile(64, 32, 0, 4, 2),
    ),
    ("attention", "tcgen05"): (
        Tile(128, 128, 0, 8, 2),
        Tile(128, 64, 0, 8, 2),
        Tile(64, 64, 0, 4, 2),
        Tile(64, 32, 0, 4, 2),
    ),
}


def fits(tile: Tile, footprint: Footprint, architecture: Architecture) -> bool:
    """Whether the operands fit shared memory and the accumulators leave registers to work with.

    A thread has 255 registers at most; 200 of them may be accumulators, the rest are pointers,
    masks and operands on their way.
    """
    accumulators_per_thread = footprint.accumulators / (32 * tile.warps)
    return footprint.shared <= architecture.shared_per_block and accumulators_per_thread <= 200
