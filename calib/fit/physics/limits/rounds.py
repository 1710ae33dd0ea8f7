"""What whole tiles on whole multiprocessors take at least, where a product fills the card.

A matrix unit spends ``2 rows cols k / rate`` cycles on a tile of the output, whatever hides behind
it, and a multiprocessor works whole tiles. So the busiest one takes, by the best of the tiles,

    ceil(tiles / multiprocessors) * 2 rows cols k / rate                                    [cycles]

2048 cubed is 3.01 tiles of 64 x 128 for each of 170 multiprocessors, 1.51 of 128 x 128 and 0.75 of
128 x 256: a quarter of the card waits, whichever is taken. Published products of cards that
accumulate in float32 at half the rate of their die keep to it (``python -m
benchmarks.public_sizes``). Smaller tiles are possible, and slow: those of 64 x 64 reach 90 TFLOP/s
on an RTX 4090, where 128 x 128 reach 156 (github.com/pytorch/pytorch, issue 181718).

Fits that know tiles do not need it (:mod:`calib.fit.physics.blocks.product_blocks`), and it says
something only where the output has a whole tile of 128 x 128 for each multiprocessor: with fewer,
libraries split the sum instead, and for few rows they have tiles of fewer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from calib.fit.physics.blocks.product_blocks import CHOICE
from calib.fit.physics.prior import Prior
from calib.hardware.datasheet import Hardware, peak
from calib.hardware.rates import instruction
from model.ops import Matmul, Operator

TILES = ((64, 128), (128, 64), (128, 128), (64, 256), (256, 64), (128, 256), (256, 128))
"""Rows and columns."""
_FILLING = 128
_DTYPES = ("bfloat16", "float16", "tf32")
SMALLEST = Matmul(16, 64, 64)
"""Takes what a call costs."""


def knows_no_tiles(prior: Prior, hardware: Hardware) -> bool:
    """Whether ``prior`` leaves them out on a card whose warps multiply."""
    told = any(name.startswith(CHOICE) for name in prior.costs)
    return not told and instruction(hardware.compute_capability) == "mma"


def seconds_of_rounds(ops: Sequence[Operator] | Operator, hardware: Hardware) -> np.ndarray:
    """[n] of the busiest multiprocessor at the clock of ``hardware``; 0 of what is no product, or
    does not fill the card."""
    if not isinstance(ops, Operator):
        return np.array([seconds_of_rounds(op, hardware)[0] for op in ops])
    if not isinstance(ops, Matmul) or ops.dtype not in _DTYPES:
        return np.zeros(1)
    area, sms = np.inf, hardware.sm_count
    for rows, cols in TILES:
        rounds = np.ceil(_tiles(ops, rows, cols) / sms)
        area = np.minimum(area, rounds * rows * cols)
    seconds = area * 2 * np.asarray(ops.k, dtype=float) * sms / peak(ops, hardware)
    is_narrow = np.minimum(ops.m, ops.n) < _FILLING
    is_idle = _tiles(ops, _FILLING, _FILLING) < sms
    return np.atleast_1d(np.where(is_narrow | is_idle, 0.0, seconds))


def _tiles(op: Matmul, rows: int, cols: int) -> Any:
    return np.ceil(np.asarray(op.m) / rows) * np.ceil(np.asarray(op.n) / cols) * op.batch
