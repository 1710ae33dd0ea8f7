"""How a library may cut a product, and what the best of its cuts costs.

A product is cut into tiles of its output; where these are few, its sum over ``k`` may be split over
blocks as well. Which cut a library takes is not known, but it takes about the best, so time follows
the soft minimum, over candidates, of what the busiest multiprocessor does one after the other:

    waves * step * k + rounds * ((product * area / rate + load * (rows + cols)) * k + store * area)
    + reduce + reduce_terms * terms, where the sum is split                                 [cycles]

``rounds`` are the tiles of a multiprocessor, ``waves`` those that it cannot hold at once, ``k`` the
terms that a block sums. A single row may also go to a kernel without tiles, at a cost of its own.
The costs are fitted, few and shared by all candidates; units are counted per multiprocessor, so
that they mean the same on another card. Tiles as in Osama et al., Stream-K, PPoPP 2023.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from calib.hardware.datasheet import Hardware, multiprocessor_rate
from calib.hardware.datasheet import share_missed as hardware_share_missed
from model.ops import Matmul, Operator, item_bytes

CHOICE, MISSED = "choice ", "tile missed"
"""Beginning of the names of what candidates are made of, and of their costs; the logarithm of the
share of bytes that main memory moves, the L2 the rest."""
_RATE, _DEPTH = CHOICE + "rate", CHOICE + "depth"
UNALIGNED, HOPPER = CHOICE + "unaligned", CHOICE + "hopper"
BIAS = "added bias"
"""No table has a product with one."""
_SHAPE = (*(CHOICE + n for n in ("rows", "cols", "depth", "copies", "multiprocessors")), _RATE)
_MARGIN = 1.25
"""Rates within a quarter count as one."""
COSTS = {
    CHOICE + "step": 0.5,
    CHOICE + "product": 0.0,
    CHOICE + "load": -3.0,
    CHOICE + "pieces": float(np.log(0.08)),
    CHOICE + "waits": float(np.log(3.0)),
    CHOICE + "store": -3.0,
    CHOICE + "reduce": 8.0,
    CHOICE + "reduce terms": -2.0,
    CHOICE + "reluctance": 0.0,
    CHOICE + "vector": 8.0,
    CHOICE + "sharpness": float(np.log(3.0)),
}
"""Logarithms that a fit starts from: cycles of a term of a block's sum, of a FLOP at the peak rate,
of a term of a row or column that is loaded, of an output; of the second kernel that a split needs,
and of an output of each part; how much dearer a split of a small product seems to the library than
it is, less one; cycles of the kernel for one row; how sharply the least counts (1: harmonic)."""
TILES = ((32, 32), (64, 64), (64, 128), (128, 128), (128, 256))
"""Rows and columns of a tile. More of them fit no better (docs/calibration.md)."""
_OUTPUTS, _MOST_BLOCKS = 16384, 8
"""Outputs that the registers of a multiprocessor hold beside operands; blocks that it holds."""
_LEAST_DEPTH, _LEAST_SCALAR = 128, 32
"""Terms of a part at least, where a sum is split; of scalar arithmetic, whose libraries split into
as many parts as there are multiprocessors (float32 on an H200: 114 parts of 64 terms)."""
_SCALAR_RATE = 512
"""FLOP a cycle of a multiprocessor up to which it is scalar arithmetic."""
_LEAST_ADDED = 512
"""Outputs of a multiprocessor that take as long as one where scalar parts are added up: a thread
each, which reads one part after the other (4 parts 1.4, 44 parts 3.0, 114 parts 5.4 us)."""
_SMALL, _DEEP = 2**21, 8192
"""Multiply-adds below which, and terms up to which, some libraries do not split: read off the L40S
and the RTX PRO 6000, where 7 x 32 x 8192 takes 30 us and 8 x 32 x 8192 takes 4 us."""
_COPIES = 6
"""Hot products, as the public tables replay them, take so many weights in turn; input and output
stay. Read off the times, which double where so many weights exceed the L2."""
share_missed = partial(hardware_share_missed, edge=0.9)
"""Half the reads miss where the working set fills nine tenths of the L2."""


def told_apart(
    columns: dict[str, np.ndarray], op: Operator, hardware: Hardware
) -> dict[str, np.ndarray]:
    """``columns`` of samples of other devices, without candidates where these say too little.

    Terms of a sum are priced by what multiplies and by what loads them. At one rate the two cannot
    be told apart, so of a device beyond the rates of ``columns`` the candidates say nothing.
    """
    rates = columns.get(_RATE)
    if rates is None:
        return columns
    rate = multiprocessor_rate(op, hardware)
    if rates.min() / _MARGIN <= rate <= rates.max() * _MARGIN:
        return columns
    return {name: values for name, values in columns.items() if not name.startswith(CHOICE)}


def product_columns(op: Matmul, hardware: Hardware, hot: Any) -> dict[str, np.ndarray]:
    """What candidates are made of, and ``MISSED``: each [n] or [1]. ``hot``: [n] bool."""
    columns = shape_columns((op.m, op.n, op.k, op.batch), op, hardware)
    weights = op.weight_bytes_read
    once = op.bytes - weights
    missed = weights * share_missed((_COPIES * weights + once) / hardware.l2_bytes)
    missed = missed + once * share_missed(op.bytes / hardware.l2_bytes)
    share = np.where(hot, np.maximum(missed / op.bytes, _LEAST), 1.0)
    pieces = unaligned(op)
    if multiprocessor_rate(op, hardware) > _SCALAR_RATE:
        depth, stepped = columns[_DEPTH], np.ceil(columns[_DEPTH] / _UNALIGNED_STEP)
        columns[_DEPTH] = np.where(pieces > 0, stepped * _UNALIGNED_STEP, depth)
    return columns | {
        MISSED: np.atleast_1d(np.log(share)),
        UNALIGNED: pieces,
        HOPPER: np.atleast_1d(1.0 * is_cut_in_waves(op, hardware)),
        "tile unaligned": pieces,
        **({BIAS: np.atleast_1d(1.0 * np.asarray(op.bias))} if np.any(op.bias) else {}),
    }


def is_cut_in_waves(op: Matmul, hardware: Hardware) -> bool:
    """Whether cuBLAS has the kernels of :mod:`calib.fit.physics.one_wave` for aligned shapes."""
    is_scalar = multiprocessor_rate(op, hardware) <= _SCALAR_RATE
    return hardware.compute_capability == "9.0" and not is_scalar


def unaligned(op: Matmul) -> np.ndarray:
    """[n] or [1]: halvings of the 16 bytes of one load until they fit into a row of every factor;
    none for one row, which is no tile."""
    item = item_bytes(op.dtype)
    fits = [np.gcd((np.asarray(n) * item).astype(int), _LOAD) for n in (op.n, op.k)]
    return np.atleast_1d(np.where(op.m == 1, 0.0, np.log2(_LOAD / np.minimum(*fits))))


def whole_loads(op: Matmul, dtype: str) -> Matmul:
    """``op`` with the columns and terms that make whole loads of as many columns, and of as many
    bytes of terms, of ``dtype``; one row, which is no tile, as it is."""
    wide, deep = _LOAD / item_bytes(dtype), _LOAD / item_bytes(op.dtype)
    n, k = (np.ceil(np.asarray(v) / of) * of for v, of in ((op.n, wide), (op.k, deep)))
    found = [np.where(np.equal(op.m, 1), v, w).astype(int) for v, w in ((op.n, n), (op.k, k))]
    cols: Any
    terms: Any
    cols, terms = (v if v.ndim else int(v) for v in found)
    return replace(op, n=cols, k=terms)


_LOAD, _UNALIGNED_STEP = 16, 32
"""Bytes of a load; terms of a step of the kernels that take unaligned rows, by their names."""


def shape_columns(
    shape: tuple[Any, Any, Any, Any], op: Operator, hardware: Hardware
) -> dict[str, np.ndarray]:
    """What candidates are made of: ``shape`` is rows, columns, depth, copies, each [n] or one."""
    values = (*shape, hardware.sm_count, multiprocessor_rate(op, hardware))
    return {n: np.atleast_1d(np.asarray(v, float)) for n, v in zip(_SHAPE, values, strict=True)}


_LEAST = 1e-9


@dataclass(frozen=True)
class Candidates:
    """Ways to cut each of ``n`` products: first whole sums, then split ones, a tile a row.

    ``area``, ``sides``: [c, 1] rows times, and plus, columns of the tile. ``rounds`` [c, n];
    ``steps``, ``terms``: [c, n] of sums, of waves and of rounds, infinite where the candidate is
    none. ``parts``: [c, n] terms a multiprocessor that split sums add up in the end, 0 of whole
    ones.
    ``rate``: [n] FLOP a cycle of a multiprocessor. ``is_small``, ``is_vector``: [n] bool.
    """

    area: np.ndarray
    sides: np.ndarray
    rounds: np.ndarray
    steps: np.ndarray
    terms: np.ndarray
    parts: np.ndarray
    rate: np.ndarray
    is_small: np.ndarray
    is_vector: np.ndarray
    pieces: np.ndarray

    @classmethod
    def of(cls, columns: Mapping[str, np.ndarray]) -> Candidates | None:
        """None where the columns tell of no product on a GPU."""
        if any(name not in columns for name in _SHAPE):
            return None
        rows, cols, depth, copies, sms, rate = (columns[name] for name in _SHAPE)
        tall, wide = np.array(TILES, dtype=float).T[:, :, None]
        held = np.clip(np.floor(_OUTPUTS / (tall * wide)), 1, _MOST_BLOCKS)
        tiles = np.ceil(rows / tall) * np.ceil(cols / wide) * copies
        scalar, outputs = rate <= _SCALAR_RATE, rows * cols * copies / sms
        least = np.where(scalar, _LEAST_SCALAR, _LEAST_DEPTH)
        room = sms * np.where(scalar, 1, held)
        splits = np.clip(np.floor(room / tiles), 1, np.maximum(depth // least, 1))
        blocks = np.concatenate([tiles, tiles * splits])
        terms = np.concatenate([np.broadcast_to(depth, tiles.shape), depth / splits])
        rounds, waves = np.ceil(blocks / sms), np.ceil(blocks / (sms * np.tile(held, (2, 1))))
        none = np.zeros_like(tiles)
        return cls(
            area=np.tile(tall * wide, (2, 1)),
            sides=np.tile(tall + wide, (2, 1)),
            rounds=rounds,
            steps=waves * terms + np.concatenate([none, np.where(splits > 1, 0.0, np.inf)]),
            terms=rounds * terms,
            parts=np.concatenate([none, splits * np.maximum(outputs, _LEAST_ADDED * scalar)]),
            rate=rate,
            is_small=(rows * cols * depth * copies < _SMALL) & (depth <= _DEEP),
            is_vector=rows == 1,
            pieces=columns.get(UNALIGNED, np.zeros_like(rows)),
        )

    def cycles(self, costs: Mapping[str, float]) -> np.ndarray:
        """[c + 1, n] of each candidate, infinite where it is none; the last is that of one row."""
        known = {**COSTS, **costs}
        cost = {name.removeprefix(CHOICE): np.exp(value) for name, value in known.items()}
        time = self.steps * (cost["step"] + cost["waits"] * self.pieces)
        time += self.terms * (cost["product"] * 2 * self.area / self.rate)
        time += self.terms * (cost["load"] + cost["pieces"] * self.pieces) * self.sides
        time += self.rounds * (cost["store"] * self.area)
        split = time[len(TILES) :]
        split += cost["reduce"] + cost["reduce terms"] * self.parts[len(TILES) :]
        split *= 1 + cost["reluctance"] * self.is_small
        row = np.where(self.is_vector, cost["vector"], np.inf)
        return np.concatenate([time, row[None]])

    def log_cycles(self, costs: Mapping[str, float]) -> np.ndarray:
        """[n] logarithm of the soft minimum, (sum of cycles^-q)^(-1/q): below each candidate's."""
        time, power = self.cycles(costs), np.exp(costs[CHOICE + "sharpness"])
        least = time.min(axis=0)
        return np.asarray(np.log(least) - np.log(((time / least) ** -power).sum(axis=0)) / power)
