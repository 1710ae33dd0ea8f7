"""How a grouped product is cut: each expert's rows into tiles of their own, all in one kernel.

A tile that is not full costs as much as a full one, so an expert with one row counts as one with a
whole tile of them. Multiprocessors take tiles one after the other, and walk over the depth of each:
where few experts are touched, most of them have nothing to do and the walk of one tile is the time.
Which tile a library takes is not asked for: each is a rule of its own
(:mod:`calib.fit.physics.prior`).
"""

from __future__ import annotations

import numpy as np

from calib.hardware.datasheet import Hardware
from model.ops import GroupedMatmul

TILES = ((64, 128), (128, 64), (128, 128), (128, 256))
"""Rows and columns of the output that one block computes."""
_SPREAD = np.array([-1.5, -0.9, -0.5, -0.15, 0.15, 0.5, 0.9, 1.5])
"""Where a normal spread of rows over experts is read, in standard deviations."""


def grouped_columns(op: GroupedMatmul, hardware: Hardware) -> dict[str, np.ndarray]:
    """Columns of all rules, each [n] or [1]: ``waves`` of tiles, and the ``steps`` of their walks,
    that a multiprocessor takes one after the other."""
    columns = {}
    for rows, cols in TILES:
        tiles = op.experts_read * _tiles_of_one(op, rows) * np.ceil(op.n / cols)
        waves = np.ceil(np.maximum(tiles / hardware.sm_count - 1e-9, 1e-9))
        rule = f"{rows}x{cols}"
        columns[f"serial waves {rule}"] = waves
        columns[f"serial steps {rule}"] = waves * op.k
    return {name: np.atleast_1d(np.asarray(value, float)) for name, value in columns.items()}


def _tiles_of_one(op: GroupedMatmul, rows: int) -> np.ndarray:
    """[n] or [1] mean tiles of an expert that is touched: it has a row at least."""
    mean = np.atleast_1d(np.asarray(op.rows / op.experts_read, dtype=float))
    loads = np.maximum(mean + np.sqrt(mean) * _SPREAD[:, None], 1.0)
    return np.asarray(np.ceil(loads / rows).mean(axis=0))
