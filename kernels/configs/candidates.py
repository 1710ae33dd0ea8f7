"""The tiles that come into question: a few a kernel and family of cards, the largest first.

A family is named by its matrix instruction: ``mma`` of one warp (sm_80 to sm_89, sm_120), ``wgmma``
of four (sm_90), ``tcgen05`` of a block (sm_100). Tables are in 16-bit elements; kernels that only
stream have one tile each (``kernels.configs.pick``).
"""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Tile:
    """What one program computes: ``m`` x ``n`` of the output, ``k`` of the reduction at a time.

    Attention reads it as ``m`` queries x ``n`` keys (its ``k`` is the head dimension), a norm as
    ``m`` rows x ``n`` columns. ``stages``: loads of the loop in flight, each with its own buffer.
    ``splits``: programs that share the reduction of one tile, each leaving a partial sum; a linear
    layer and a convolution know it, the others leave it at 1.
    """

    m: int
    n: int
    k: int = 0
    warps: int = 4
    stages: int = 1
    splits: int = 1
    way: str = ""
    """How the kernel goes about it, where it has several ways (``kernels.configs.ways``)."""

    def __str__(self) -> str:
        sizes = (self.m, self.n, self.k) if self.k else (self.m, self.n)
        shared = f" /{self.splits}" * (self.splits > 1)
        way = f" {self.way}" * bool(self.way)
        return f"{'x'.join(map(str, sizes))} w{self.warps} s{self.stages}{shared}{way}"

    def blocks(self, sides: str) -> dict[str, int]:
        """The block sizes as a kernel names them: "mn" gives BM and BN."""
        return {f"B{side.upper()}": getattr(self, side) for side in sides}

    def for_item(self, item: int) -> Tile:
        """The same bytes along ``k`` for elements of ``item`` bytes; tables are in 16-bit ones."""
        return replace(self, k=self.k * 2 // item)


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
        Tile(64, 64, 64, 4, 3),
    ),
    ("conv2d", "tcgen05"): (
        Tile(128, 128, 64, 8, 4),
        Tile(64, 128, 64, 8, 3),
        Tile(64, 64, 64, 4, 3),
    ),
    ("attention", "mma"): (
        Tile(128, 32, 0, 8, 2),
        Tile(64, 32, 0, 4, 2),
        Tile(64, 32, 0, 8, 2),
        Tile(16, 32, 0, 4, 1),
    ),
    ("attention", "wgmma"): (
        Tile(128, 128, 0, 8, 2),
        Tile(64, 64, 0, 4, 2),
        Tile(128, 32, 0, 8, 2),
        Tile(64, 32, 0, 8, 2),
    ),
    ("attention", "tcgen05"): (
        Tile(128, 128, 0, 8, 2),
        Tile(64, 64, 0, 4, 2),
        Tile(64, 32, 0, 8, 2),
    ),
    ("attention_masked", "mma"): (
        Tile(64, 64, 0, 8, 2),
        Tile(64, 32, 0, 4, 2),
        Tile(64, 32, 0, 8, 2),
        Tile(16, 32, 0, 4, 1),
    ),
    ("attention_masked", "wgmma"): (
        Tile(128, 64, 0, 8, 2),
        Tile(128, 32, 0, 8, 2),
        Tile(64, 32, 0, 8, 2),
    ),
    ("attention_masked", "tcgen05"): (Tile(128, 64, 0, 8, 2), Tile(64, 32, 0, 8, 2)),
    ("backward", "mma"): (
        Tile(32, 64, 0, 8, 2),
        Tile(32, 64, 0, 8, 1),
        Tile(32, 32, 0, 8, 1),
        Tile(16, 16, 0, 4, 1),
    ),
    ("backward", "wgmma"): (
        Tile(64, 128, 0, 8, 2),
        Tile(64, 64, 0, 8, 2),
        Tile(64, 64, 0, 8, 1),
        Tile(32, 32, 0, 8, 1),
    ),
    ("backward", "tcgen05"): (Tile(64, 64, 0, 8, 2), Tile(64, 64, 0, 8, 1), Tile(32, 32, 0, 8, 1)),
    ("decode", "mma"): (Tile(16, 64, 0, 4, 2), Tile(16, 32, 0, 4, 2), Tile(16, 32, 0, 4, 1)),
    ("decode", "wgmma"): (Tile(16, 64, 0, 4, 3), Tile(16, 32, 0, 4, 2)),
    ("decode", "tcgen05"): (Tile(16, 64, 0, 4, 3), Tile(16, 32, 0, 4, 2)),
}
"""(kernel, family of cards) -> candidates; kernels that only stream have one tile each, below."""
