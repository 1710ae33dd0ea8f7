"""How cuBLAS cuts an aligned product on Hopper: tiles as large as fill the device once.

Its kernels (``nvjet_sm90`` in a profile) have tiles of every width in steps of eight, and nine in
ten products of an H200's record are one wave of them: of a side that is given, the other is the
least multiple of eight that leaves no more tiles than multiprocessors. Of at least twenty steps of
64 terms a part, the sum is split over blocks that would be idle, and a second kernel adds the parts
up, whatever the first one waited for. Of all such cuts that one is taken which costs least:

    waves * (steps * (step^3 + multiplied^3 + loaded^3)^(1/3) + store * area)               [cycles]
    multiplied = product * 2 * 64 * area / rate, loaded = load * (rows + cols) * busy

of 64 terms each, since a step's operands are loaded, and waited for, while the one before is
multiplied; what all load together is shared, so it counts by the share of multiprocessors that are
busy. Adding parts up is no bound, it comes after: ``reduce + reduce terms * parts * outputs``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from calib.fit.physics.blocks.product_blocks import CHOICE, HOPPER, UNALIGNED

WAVE = CHOICE + "wave "
COSTS = {
    WAVE + "step": float(np.log(190.0)),
    WAVE + "product": float(np.log(1.1)),
    WAVE + "load": float(np.log(1.5)),
    WAVE + "store": float(np.log(0.17)),
    WAVE + "reduce": float(np.log(3700.0)),
    WAVE + "reduce terms": float(np.log(0.4)),
}
"""Logarithms that a fit starts from: cycles of a step however small, of a FLOP at the peak rate, of
a row or column of a step, of an output; of the kernel that adds parts, and of an output of a part,
a multiprocessor's share. The first, second and fifth were read off an H200's profiles."""
_NAMES = tuple(name.removeprefix(WAVE) for name in COSTS)
_STEP = 64
_TALL = {64: 304, 128: 272, 192: 208, 256: 160, 384: 104, 512: 32}
"""Columns of a tile that its matrix instruction takes 64 at a time, and the most rows."""
_WIDE = {64: 56, 128: 168}
"""The same of tiles turned round: rows, and the most columns."""
_SPLITS = (2, 4)
_SPLIT = 64
"""The side of a tile whose sum is split."""
_LEAST_STEPS = 20
_TOGETHER, _HELD = 4, 10 / 11
"""Blocks that share what they load come in fours, for which a part of the device's
multiprocessors, grouped as they are, has no room: 120 of an H200's 132."""


def told_by(columns: Mapping[str, np.ndarray], hot: np.ndarray) -> bool:
    """Whether samples may tell these costs: all of Hopper, and some cold, as a sweep takes them.

    The public tables are hot, of an engine's kernels, and keep the rule that was found on them.
    """
    return HOPPER in columns and bool(columns[HOPPER].all()) and not hot.all()


@dataclass(frozen=True)
class OneWave:
    """Cuts of those of ``n`` products that are cut so, ``rows`` [n] bool: [c, r] each.

    ``tall``, ``wide``: columns and rows of a tile; ``parts``: of its sum, 1 of a whole one;
    ``waves`` of tiles, ``steps`` of each; ``busy``: share of the multiprocessors that load;
    ``possible``: bool. ``rate``, ``outputs``: [r] FLOP a cycle, and outputs, of a multiprocessor.
    """

    rows: np.ndarray
    tall: np.ndarray
    wide: np.ndarray
    parts: np.ndarray
    possible: np.ndarray
    waves: np.ndarray
    steps: np.ndarray
    busy: np.ndarray
    rate: np.ndarray
    outputs: np.ndarray

    @classmethod
    def of(cls, columns: Mapping[str, np.ndarray]) -> OneWave | None:
        """None where the columns tell of no such product."""
        if HOPPER not in columns or not columns[HOPPER].any():
            return None
        rows = (columns[HOPPER] > 0) & (columns[UNALIGNED] == 0)
        shape = Shape(*(columns[CHOICE + name][rows] for name in Shape.__annotations__))
        cuts = zip(*_cuts(shape), strict=True)
        tall, wide, parts, possible = (np.stack(some) for some in cuts)
        blocks = shape.tiles(tall, wide) * parts / shape.multiprocessors
        return cls(
            rows=rows,
            tall=tall,
            wide=wide,
            parts=parts,
            possible=possible,
            waves=np.ceil(blocks),
            steps=np.ceil(shape.depth / _STEP) / parts,
            busy=np.minimum(blocks, 1),
            rate=columns[CHOICE + "rate"][rows],
            outputs=shape.outputs,
        )

    def cycles(self, costs: Mapping[str, float]) -> tuple[np.ndarray, np.ndarray]:
        """[r] of the cut that costs least, and [r] of adding up its parts."""
        work, added = self._cycles({n: np.exp(costs[WAVE + n]) for n in _NAMES})
        best = self._least(work, added)
        return work[best], added[best]

    def best(self, costs: Mapping[str, float]) -> tuple[np.ndarray, ...]:
        """[r] columns and rows of the tile of that cut, and its parts."""
        chosen = self._least(*self._cycles({n: np.exp(costs[WAVE + n]) for n in _NAMES}))
        return self.tall[chosen], self.wide[chosen], self.parts[chosen]

    def _cycles(self, cost: Mapping[str, float]) -> tuple[np.ndarray, np.ndarray]:
        """[c, r] of each cut, and of adding up its parts."""
        area = self.tall * self.wide
        product = cost["product"] * 2 * _STEP * area / self.rate
        load = cost["load"] * (self.tall + self.wide) * self.busy
        step = np.cbrt(cost["step"] ** 3 + product * product * product + load * load * load)
        added = cost["reduce"] + cost["reduce terms"] * self.parts * self.outputs
        work = self.waves * (self.steps * step + cost["store"] * area)
        return work, np.where(self.parts > 1, added, 0.0)

    def _least(self, work: np.ndarray, added: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The positions in [c, r] of the cuts that cost least."""
        best = np.where(self.possible, work + added, np.inf).argmin(axis=0)
        return best, np.arange(work.shape[1])


@dataclass(frozen=True)
class Shape:
    """[r] each."""

    rows: np.ndarray
    cols: np.ndarray
    depth: np.ndarray
    copies: np.ndarray
    multiprocessors: np.ndarray

    @property
    def outputs(self) -> np.ndarray:
        """A multiprocessor."""
        return self.rows * self.cols * self.copies / self.multiprocessors

    def tiles(self, tall: np.ndarray, wide: np.ndarray) -> np.ndarray:
        return np.ceil(self.cols / tall) * np.ceil(self.rows / wide) * self.copies


def _cuts(shape: Shape) -> Iterator[tuple[np.ndarray, ...]]:
    """Columns and rows of a tile, parts of its sum, and whether there is such a cut: [r] each."""
    rows, cols, copies, room = shape.rows, shape.cols, shape.copies, shape.multiprocessors
    held, one, yes = np.floor(_HELD * room), np.ones_like(rows), np.ones(len(rows), dtype=bool)
    for side, most in _TALL.items():
        yield side * one, _fill(rows, cols / side, copies, room, most), one, yes
    for side, most in _WIDE.items():
        yield _fill(cols, rows / side, copies, room, most), side * one, one, yes
    short = _SPLIT * one
    for split in _SPLITS:
        wide = _fill(rows, cols / _SPLIT, copies, held / split, _TALL[_SPLIT])
        yield short, wide, *_parts(shape, short, wide, held, split)
        tall = _fill(cols, rows / _SPLIT, copies, held / split, _WIDE[_SPLIT])
        yield tall, short, *_parts(shape, tall, short, held, split)


def _fill(
    size: np.ndarray, across: np.ndarray, copies: np.ndarray, room: np.ndarray, most: int
) -> np.ndarray:
    """[r] the least side, in eights, by which tiles of ``size`` fit into as many times ``room`` as
    those of side ``most`` need; ``across``: tiles, and parts of one, in the other direction."""
    across = np.ceil(across) * copies
    waves = np.ceil(np.ceil(size / most) * across / room)
    along = np.floor(waves * room / across)
    return np.ceil(size / along / 8) * 8


def _parts(
    shape: Shape, tall: np.ndarray, wide: np.ndarray, held: np.ndarray, split: int
) -> tuple[np.ndarray, np.ndarray]:
    """[r] parts of a sum, and whether they are several: as many as blocks have room, of the
    narrowest tiles, else ``split`` at most."""
    blocks = np.ceil(shape.tiles(tall, wide) / _TOGETHER) * _TOGETHER
    steps = np.floor(shape.depth / (_LEAST_STEPS * _STEP))
    parts = np.minimum(np.floor(held / blocks), steps)
    parts = np.where(wide > 8, np.minimum(parts, split), parts)
    return np.maximum(parts, 1), parts > 1
