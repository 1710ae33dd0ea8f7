"""How cuDNN's fused attention cuts its work: what torch runs on Hopper and Blackwell cards.

Which calls it takes, :mod:`calib.hardware.attention_backend` says. Four kernels share the work,
told apart on an H200 by their names, grids and times (torch 2.11; ``docs/calibration.md``):

- **one query, up to 256 keys**: the heads that share keys are one block, which walks over keys 64
  at a time;
- **one query, more keys**: 128 at a time. Where at least four blocks a walk fit twice onto the
  multiprocessors, keys are split: into the largest power of two of parts that fits, and of which
  each has more than one step. A second kernel combines;
- **many queries**: a block a head and 128 queries walks over keys 128 at a time. As many blocks as
  there are multiprocessors take up one such tile after the other, a head after the other, by a
  counter in memory that is cleared before: a second kernel. Nothing is packed or split;
- **a bias**: the same, with a dense matrix to be read beside each tile. A window is one too, since
  torch hands it over as a mask. Rows of an odd number of keys are aligned to two bytes only,
  and are read in pieces: 1.75 times the time; others that are no multiple of 16 bytes in larger
  ones.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from calib.hardware.attention_backend import ROWS_OF_ONE, parts, step
from calib.hardware.datasheet import Hardware, multiprocessor_rate, share_missed
from model.ops import Attention

RULE = "cudnn"
_ROWS = 128
"""Queries of a tile of many."""
_HELD = 3
"""Blocks of one query that a multiprocessor works on at once."""
_STEP = 48
"""Columns of keys and values that take as long as what a step waits for besides."""
_LAST = 2 / 3
"""Of the longest walk under a causal mask, by which the busiest multiprocessor ends after the
mean one: tiles taken up head after head, simulated over the record's shapes (0.66 to 0.82)."""
_FILL = 1e4
"""Cycles of main memory that come on top where one query has keys to fetch: until it flows."""
_EDGE = 1.0
"""Working set over the L2 at which half the reads miss."""
_COSTS = {
    **{"added many": 1800.0, "added busy": 1800.0, "added bias": 120.0},
    **{"added combine": 2700.0, "added parts": 55.0, "added waves": 2200.0, "added missed": 0.87},
    **{"serial start": 1300.0, "serial width": 20.0, "serial bias": 350.0, "serial odd": 1500.0},
    **{"serial walk": 0.11, "bound waits": 0.13, "serial scores": 0.08, "serial products": 0.6},
    **{"serial biases": 0.08, "serial pieces": 0.2, "serial ragged": 0.02},
    **{"serial missed": 0.4, "bound missed": 1.13},
}
STARTS = {f"{name} {RULE}": float(np.log(cycles)) for name, cycles in _COSTS.items()}
"""Logarithms that a fit starts from [cycles a unit]: those of the H200's record, rounded."""
_ALIGNED = 8
"""Numbers of a row that one load takes."""
_NEVER = -50.0


def cudnn_columns(op: Attention, hardware: Hardware, hot: Any) -> dict[str, np.ndarray]:
    """The columns of this rule, each [n]. ``hot``: [n] bool."""
    one = np.equal(op.q_len, 1)
    many, biased = ~one, is_biased(op)
    keys = step(op)
    steps, mean, splits, blocks = cut(op, hardware.sm_count)
    fill = blocks / hardware.sm_count
    waves = np.ceil(fill)
    shared, tiles = _shared(op, steps, mean, fill)
    odd, ragged = (biased & (np.asarray(op.kv_len) % n > 0) for n in (2, _ALIGNED))
    scores, rate = shared * keys * _ROWS, multiprocessor_rate(op, hardware)
    misses = np.where(hot, share_missed(op.bytes / hardware.l2_bytes, _EDGE), 1.0)
    missed = op.bytes * misses / hardware.bandwidth * hardware.clock_hz
    walk, width = shared * keys, op.both_dims / 2
    waits = np.ceil(fill / _HELD) * steps * keys * (width + _STEP)
    columns = {
        "added many": many,
        "added busy": np.where(many, np.minimum(fill, 1.0), 0.0),
        "added bias": biased,
        "added combine": splits > 1,
        "added parts": np.where(splits > 1, splits, 0.0),
        "added waves": np.where(one, waves, 0.0),
        "added missed": np.where(one, np.minimum(missed, _FILL), 0.0),
        "serial start": np.where(many, tiles, 0.0),
        "serial width": np.where(many, tiles * width, 0.0),
        "serial bias": np.where(biased, tiles, 0.0),
        "serial odd": np.where(odd, tiles, 0.0),
        "serial walk": np.where(one, walk * width, 0.0),
        "bound waits": np.where(one, np.log(waits), _NEVER),
        "serial scores": np.where(many, scores, 0.0),
        "serial products": np.where(many, 2 * scores * op.both_dims / rate, 0.0),
        "serial biases": np.where(biased, scores, 0.0),
        "serial pieces": np.where(odd, scores, 0.0),
        "serial ragged": np.where(ragged, scores, 0.0),
        "serial missed": np.where(many, missed, 0.0),
        "bound missed": np.where(one, np.log(np.maximum(missed, _LEAST)), _NEVER),
        "tile waves": np.log(fill),
        "tile fill": fill / waves,
        "tile work": np.log(walk * width),
        "tile steps": np.log(steps),
        "tile split": np.log(splits),
        "tile odd": odd,
    }
    return {f"{name} {RULE}": np.asarray(value, dtype=float) for name, value in columns.items()}


_LEAST = 1e-9


def _shared(
    op: Attention, steps: np.ndarray, mean: np.ndarray, fill: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """[n] steps, and tiles, of the busiest multiprocessor.

    Equal blocks move in waves. Those of a causal mask are unequal, and who is done takes the next.
    """
    waves = np.ceil(fill)
    unequal = is_causal(op) & (fill > 1)
    taken = np.where(unequal, fill * mean + _LAST * steps, steps + mean * (waves - 1))
    return taken, np.where(unequal, fill + 0.5, waves)


def cut(op: Attention, sms: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """[n] steps over keys of the longest block and of a block on average, parts that the keys are
    split into, and blocks."""
    packed = np.ceil(op.heads / op.kv_heads / ROWS_OF_ONE) * op.kv_heads
    row_tiles = np.ceil(np.asarray(op.q_len) / _ROWS)
    tiles = op.batch * np.where(np.equal(op.q_len, 1), packed, op.heads * row_tiles)
    splits = parts(op, sms)
    longest = np.ceil(np.ceil(np.asarray(op.kv_len) / step(op)) / splits)
    mean = longest - np.where(is_causal(op), (row_tiles - 1) / 2, 0.0)
    return longest, np.maximum(mean, 1.0), splits, np.asarray(tiles * splits, dtype=float)


def is_causal(op: Attention) -> np.ndarray:
    """[n] whether rows of queries see unequally many keys."""
    many = np.not_equal(op.q_len, 1)
    return np.asarray(many & np.asarray(op.causal, dtype=bool) & ~is_windowed(op))


def is_biased(op: Attention) -> np.ndarray:
    """[n] whether a matrix is added to the scores."""
    return np.asarray(+op.bias + +op.mask, dtype=bool) | is_windowed(op)


def is_windowed(op: Attention) -> np.ndarray:
    """[n] whether a window cuts keys away."""
    return np.asarray(False if op.window is None else np.less(op.window, op.kv_len))
