"""How an operator falls onto a GPU's multiprocessors: columns for a fit, none with a unit.

A product is cut into tiles of its output; each multiprocessor works one off after the other, so
time moves in waves of tiles, and a tile that sticks out over the edge costs as much as a full one.
Which tile a library picks is its secret: the columns describe a few, and the fit weighs them.
Every column is the logarithm of a ratio (tiles over multiprocessors, bytes over the L2) or of a
count that no device changes, so it means the same on another card.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from calib.hardware.convolutions import window
from calib.hardware.datasheet import Hardware
from model.ops import Attention, Conv2d, Convolution, GroupedMatmul, Matmul, MoeMlp, Operator

TILES = ((64, 64), (128, 64), (128, 128), (128, 256), (256, 128))
"""Rows and columns of the output that one block computes, as vendors' libraries choose them."""


@dataclass(frozen=True)
class Work:
    """An operator seen as ``copies`` products of [rows, depth] x [depth, cols]."""

    rows: Any
    cols: Any
    depth: Any
    copies: Any


def work(op: Operator) -> Work | None:
    """The products inside ``op``; None for an operator that has none."""
    if isinstance(op, Matmul):
        return Work(op.m, op.n, op.k, op.batch)
    if isinstance(op, GroupedMatmul):
        return Work(op.rows / op.experts_read, op.n, op.k, op.experts_read)
    if isinstance(op, MoeMlp):
        rows = op.tokens * op.top_k / op.experts_read
        return Work(rows, 2 * op.intermediate, op.hidden, op.experts_read)
    if isinstance(op, Attention):
        return Work(op.q_len, op.value_dim, op.keys_seen / op.q_len, op.batch * op.heads)
    if isinstance(op, Conv2d | Convolution):
        depth = op.in_channels / op.groups * window(op)
        rows = op.batch * (op.windows if isinstance(op, Convolution) else op.out_positions)
        return Work(rows, op.out_channels / op.groups, depth, op.groups)
    return None


def tile_columns(op: Operator, hardware: Hardware) -> dict[str, np.ndarray]:
    """Columns of ``op`` on a GPU: ``tile ...``, each [n] or a scalar."""
    columns = {"cache": _log(op.bytes / hardware.l2_bytes)}
    if np.any(op.weight_bytes_read):
        columns["weights in cache"] = _log(op.weight_bytes_read / hardware.l2_bytes)
    if not isinstance(op, Attention) and (view := work(op)) is not None:
        columns["outputs"] = _log(view.rows * view.cols)
        columns["aspect"] = _log(view.rows / view.cols)
        for rows, cols in TILES:
            columns |= _tiles(view, rows, cols, hardware.sm_count)
    return {f"tile {name}": np.atleast_1d(value) for name, value in columns.items()}


def _tiles(view: Work, rows: int, cols: int, sms: int) -> dict[str, np.ndarray]:
    """Waves; how full the last one is; share of the tiles that is output; depth per SM."""
    tiles = np.ceil(view.rows / rows) * np.ceil(view.cols / cols)
    waves = tiles * view.copies / sms
    whole = np.ceil(waves)
    name = f"{rows}x{cols}"
    return {
        f"waves {name}": _log(waves),
        f"fill {name}": waves / whole,
        f"used {name}": view.rows * view.cols / (tiles * rows * cols),
        f"depth {name}": _log(view.depth * whole),
    }


def _log(value: Any) -> np.ndarray:
    return np.asarray(np.log(np.maximum(np.asarray(value, dtype=float), 1e-12)))
