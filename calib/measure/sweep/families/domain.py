"""Ranges of shapes: a kind of operator over its axes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from model.ops import Operator

_EDGES = 0.2
"""Share of a domain's points that lie at the edges of tiles, where it has such an axis."""

_OFFSETS = (-1, 0, 1)


@dataclass(frozen=True)
class Axis:
    """One dimension: [low, high], log-uniform, rounded to a multiple of ``step``.

    ``tiled``: kernels cut it into tiles, so that one more than a multiple of 64 or 128 may cost a
    tile more.
    """

    low: int
    high: int
    step: int = 1
    tiled: bool = False

    def at(self, u: float) -> int:
        value = np.exp(np.log(self.low) + u * (np.log(self.high) - np.log(self.low)))
        return max(self.low, round(value / self.step) * self.step)

    def edge(self, u: float, offset: int) -> int:
        """The tile's edge next to ``at(u)``, ``offset`` beside it; a short length stays."""
        value = self.at(u)
        tile = 128 if value >= 512 else 64
        return min(round(value / tile) * tile + offset, self.high) if value >= 48 else value


@dataclass(frozen=True)
class OneOf:
    """One dimension that models have few values of."""

    values: tuple[int, ...]
    tiled = False

    def at(self, u: float) -> int:
        return self.values[min(int(u * len(self.values)), len(self.values) - 1)]


@dataclass(frozen=True)
class Domain:
    """A kind of operator over its axes. ``share``: points for each one of a domain of share 1."""

    name: str
    share: float
    axes: dict[str, Any]
    build: Callable[..., Operator]
    cache: str

    def points(self, seed: int = 0) -> Iterator[Operator]:
        """Endless and always the same for one seed: a Halton sequence, whose prefixes all fill."""
        from scipy.stats import qmc

        sampler = qmc.Halton(len(self.axes) + 1, rng=seed)
        while True:
            for *row, side in sampler.random(64):
                yield self.build(**self._shape(row, side))

    def at_random(self, rng: np.random.Generator) -> Operator:
        """One shape, each dimension drawn by itself."""
        return self.build(**self._shape(list(rng.random(len(self.axes))), rng.random()))

    def _shape(self, row: list[float], side: float) -> dict[str, int]:
        """[axes] numbers in [0, 1) -> sizes; ``side`` says whether, and which, edge of a tile."""
        shape = {name: axis.at(u) for (name, axis), u in zip(self.axes.items(), row, strict=True)}
        if side < _EDGES:
            offset = _OFFSETS[int(side / _EDGES * len(_OFFSETS))]
            for (name, axis), u in zip(self.axes.items(), row, strict=True):
                if axis.tiled:
                    shape[name] = axis.edge(u, offset)
        return shape
