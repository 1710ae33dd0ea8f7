"""How a grouped product is cut: each expert's rows into tiles of their own, all in one kernel.

A tile that is not full costs as much as a full one, so an expert with one row counts as one with a
whole tile of them, and uneven loads need more tiles than even ones. Multiprocessors take tiles one
after the other, and walk over the depth of each: where few experts are touched, most of them have
nothing to do and the walk of one tile is the time.

Torch's ``_grouped_mm`` on a Hopper is known (``RULE``; ``ATen/native/cuda/GroupMM.cu`` of torch
2.11, and all 103 names of kernels that ``benchmarks/data/h200`` holds): clusters of two blocks
share a tile of weights, so rows count in pairs of tiles. By mean rows a group, touched or not:

    up to 128 rows, or up to 128 columns:  64 x 128 outputs a block, 128 terms a step
    else:                                 128 x 256 outputs a block,  64 terms a step

Of any other library each of four tiles is a rule of its own (:mod:`calib.fit.physics.prior`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from calib.hardware.datasheet import Hardware, multiprocessor_rate
from model.ops import GroupedMatmul, agreement, spread

TILES = ((64, 128), (128, 64), (128, 128), (128, 256))
"""Rows and columns of the output that one block computes."""
RULE = "paired"
_SMALL, _LARGE = (64, 128, 128), (128, 256, 64)
"""Rows, columns and terms of a step of one block of the two."""
_FEW = 128
_PAIR = 2
_TILES = f"bound tiles {RULE}"
STARTS = {_TILES: float(np.log(1 / 0.77))}
"""Of the peak, what a large product reaches on an H200 (764 of 989 TFLOP/s at 4096 cubed): where
the record has no grouped product so large, a fit stays there."""


def grouped_columns(op: GroupedMatmul, hardware: Hardware) -> dict[str, np.ndarray]:
    """Columns of all rules, each [n] or [1]: ``waves`` of tiles, and the ``steps`` of their walks,
    that a multiprocessor takes one after the other. Beside them, smooth, how ``uneven`` the loads
    are: what was learned of even ones does not hold far from them."""
    columns, loads = {}, _Loads.of(op)
    for rows, cols in TILES:
        tiles = loads.tiles(rows) * np.ceil(op.n / cols)
        waves = _whole(tiles / hardware.sm_count)
        rule = f"{rows}x{cols}"
        columns[f"serial waves {rule}"] = waves
        columns[f"serial steps {rule}"] = waves * op.k
    columns |= {"uneven": np.log(loads.busiest()), **_paired(op, loads, hardware)}
    return {name: np.atleast_1d(np.asarray(value, float)) for name, value in columns.items()}


def followed(
    columns: dict[str, np.ndarray], implementation: str, hardware: Hardware
) -> dict[str, np.ndarray]:
    """The columns of a rule that ``implementation`` can follow: torch's own where it is known."""
    names = {name for name in columns if name.endswith(f" {RULE}")}
    if not names:
        return columns
    if implementation == _CALLER and (hardware.compute_capability or "").startswith("9."):
        names = {n for n in columns if n.startswith("serial ")} - names
    elif implementation == _CALLER:
        names = set()
    return {name: values for name, values in columns.items() if name not in names}


_CALLER = "torch"


def _paired(op: GroupedMatmul, loads: _Loads, hardware: Hardware) -> dict[str, np.ndarray]:
    """Columns of torch's rule, [n] or [1].

    ``waves``, ``steps``, ``products``, ``stores``: blocks of a multiprocessor, their terms, those
    times the outputs of a block, and these outputs; ``reads``: cycles of main memory for the
    weights of the experts touched, in whole tiles, since those of an expert with many tiles of rows
    come from the cache; ``tiles``: cycles of the matrix units for whole tiles at the peak.
    """
    small = np.asarray((op.rows / op.experts <= _FEW) | (np.asarray(op.n) <= _FEW))
    rows, cols, depth = (np.where(small, a, b) for a, b in zip(_SMALL, _LARGE, strict=True))
    area, terms = rows * cols, np.ceil(op.k / depth) * depth
    across = np.ceil(op.n / cols)
    few, many = (loads.tiles(_PAIR * tile[0]) for tile in (_SMALL, _LARGE))
    waves = _whole(np.where(small, few, many) * across / (hardware.sm_count // _PAIR))
    weights = op.weight_bytes_read * (across * cols * terms / (op.n * op.k))
    unit = area / (_SMALL[0] * _SMALL[1])
    return {
        f"serial waves {RULE}": waves,
        f"serial steps {RULE}": waves * terms,
        f"serial products {RULE}": waves * terms * unit,
        f"serial stores {RULE}": waves * unit,
        f"serial reads {RULE}": weights / hardware.bandwidth * hardware.clock_hz,
        _TILES: np.log(2 * waves * terms * area / multiprocessor_rate(op, hardware)),
    }


def _whole(waves: np.ndarray) -> np.ndarray:
    return np.maximum(np.ceil(waves - 1e-6), 1.0)


@dataclass(frozen=True)
class _Loads:
    """[n] each: what says how rows spread over experts; ``alike``: 0 where they do evenly."""

    experts: np.ndarray
    top_k: np.ndarray
    tokens: np.ndarray
    touched: np.ndarray
    alike: np.ndarray

    @classmethod
    def of(cls, op: GroupedMatmul) -> _Loads:
        asked = (op.experts, op.top_k, op.tokens, op.experts_read)
        known = np.stack(np.broadcast_arrays(*(np.atleast_1d(np.asarray(v, float)) for v in asked)))
        parts = [agreement(*known[:, i : i + _CHUNK]) for i in range(0, known.shape[1], _CHUNK)]
        experts, top_k, tokens, touched = known
        return cls(experts, top_k, tokens, touched, np.concatenate(parts))

    @property
    def mean(self) -> np.ndarray:
        """[n] rows of an expert that is touched."""
        return np.asarray(self.tokens * self.top_k / self.touched)

    def tiles(self, rows: int) -> np.ndarray:
        """[n] expected tiles of ``rows`` rows over all experts."""
        found = self.touched * np.ceil(self.mean / rows - 1e-9)
        for some, chance, loads in self.uneven():
            tiles = (chance * np.ceil(loads / rows - 1e-9)).mean(axis=0)
            found[some] = self.experts[some] * tiles
        return np.asarray(found)

    def busiest(self) -> np.ndarray:
        """[n] rows of the busiest expert over those of the mean one that is touched."""
        found = np.ones(len(self.alike))
        for some, _, loads in self.uneven():
            found[some] = np.maximum(loads[-1] / self.mean[some], 1.0)
        return found

    def uneven(self) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Which of the n, and of these :func:`model.ops.spread`."""
        every = np.flatnonzero(self.alike)
        for i in range(0, len(every), _CHUNK):
            some = every[i : i + _CHUNK]
            given = (self.experts, self.top_k, self.tokens, self.alike)
            yield some, *spread(*(values[some] for values in given))


_CHUNK = 4096
