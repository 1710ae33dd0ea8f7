"""How cuDNN's fused attention cuts its work: what torch runs on Hopper and Blackwell cards.

Which calls it takes, :mod:`calib.hardware.attention_backend` says. Three kernels share the work,
told apart on an H200 by their grids and times (torch 2.11; ``docs/calibration.md``):

- **one query**: the heads that share keys are one block, which walks over keys 64 at a time. From
  ``_SPLIT_FROM`` keys on, multiprocessors that would idle take a part of them; a second kernel
  combines;
- **many queries**: a block a head and 128 queries walks over keys 128 at a time, one block a
  multiprocessor, in waves; nothing is packed or split;
- **a bias**: the same, with a dense matrix to be read beside each tile. A window is one too, since
  torch hands it over as a mask. Rows of an odd number of keys are aligned to two bytes only,
  and are read in pieces: 1.75 times the time.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from calib.hardware.datasheet import Hardware, multiprocessor_rate, share_missed
from model.ops import Attention

RULE = "cudnn"
_SPLIT_FROM = 512
_ROWS_OF_ONE, _ROWS = 16, 128
"""Queries of a tile, for one query and for many."""
_KEYS_OF_ONE, _KEYS = 64, 128
_EDGE = 1.0
"""Working set over the L2 at which half the reads miss."""


def cudnn_columns(op: Attention, hardware: Hardware, hot: Any) -> dict[str, np.ndarray]:
    """The columns of this rule, each [n]. ``hot``: [n] bool."""
    one = np.equal(op.q_len, 1)
    rows, keys = np.where(one, _ROWS_OF_ONE, _ROWS), np.where(one, _KEYS_OF_ONE, _KEYS)
    steps, mean, splits, blocks = cut(op, hardware.sm_count)
    fill = blocks / hardware.sm_count
    waves = np.ceil(fill)
    # Blocks of a causal mask are not equally long; the longest starts in the first wave.
    walk = (steps + mean * (waves - 1)) * keys
    biased, many = is_biased(op), ~one
    odd = biased & np.not_equal(np.floor(np.asarray(op.kv_len) / 2) * 2, op.kv_len)
    scores, rate = walk * rows, multiprocessor_rate(op, hardware)
    misses = np.where(hot, share_missed(op.bytes / hardware.l2_bytes, _EDGE), 1.0)
    columns = {
        "added many": many,
        "added bias": biased,
        "added odd": odd,
        "added combine": splits > 1,
        "serial start": np.where(many, waves, 0.0),
        "serial bias": np.where(biased, waves, 0.0),
        "serial keys": np.where(one, walk, 0.0),
        "serial walk": np.where(one, walk * op.both_dims / 2, 0.0),
        "serial scores": np.where(many, scores, 0.0),
        "serial products": np.where(many, 2 * scores * op.both_dims / rate, 0.0),
        "serial biases": np.where(biased, scores, 0.0),
        "serial pieces": np.where(odd, scores, 0.0),
        "serial missed": op.bytes * misses / hardware.bandwidth * hardware.clock_hz,
        "tile waves": np.log(fill),
        "tile fill": fill / waves,
        "tile work": np.log(walk * op.both_dims / 2),
        "tile steps": np.log(steps),
        "tile split": np.log(splits),
        "tile odd": odd,
    }
    return {f"{name} {RULE}": np.asarray(value, dtype=float) for name, value in columns.items()}


def cut(op: Attention, sms: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """[n] steps over keys of the longest block and of a block on average, parts that the keys are
    split into, and blocks."""
    one, causal = np.equal(op.q_len, 1), np.asarray(op.causal, dtype=bool) & ~is_windowed(op)
    packed = np.ceil(op.heads / op.kv_heads / _ROWS_OF_ONE) * op.kv_heads
    row_tiles = np.ceil(np.asarray(op.q_len) / _ROWS)
    tiles = op.batch * np.where(one, packed, op.heads * row_tiles)
    steps = np.ceil(np.asarray(op.kv_len) / np.where(one, _KEYS_OF_ONE, _KEYS))
    most = np.clip(np.floor(sms / tiles), 1.0, steps)
    splits = np.where(one & np.greater_equal(op.kv_len, _SPLIT_FROM), most, 1.0)
    longest = np.ceil(steps / splits)
    mean = longest - np.where(causal & ~one, (row_tiles - 1) / 2, 0.0)
    return longest, np.maximum(mean, 1.0), splits, np.asarray(tiles * splits, dtype=float)


def is_biased(op: Attention) -> np.ndarray:
    """[n] whether a matrix is added to the scores."""
    return np.asarray(+op.bias + +op.mask, dtype=bool) | is_windowed(op)


def is_windowed(op: Attention) -> np.ndarray:
    """[n] whether a window cuts keys away."""
    return np.asarray(False if op.window is None else np.less(op.window, op.kv_len))
