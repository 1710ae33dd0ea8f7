"""How FlashAttention 2 cuts its work where nothing is paged: what torch runs on Ampere, Ada and
consumer Blackwell cards, of many queries.

A block takes a tile of queries of one head and walks over the keys that they see; nothing is
packed. As many blocks as a multiprocessor gets are worked off at its rate, one after the other: on
an A100 9 heads of 2048, 4096 and 8192 queries over 62,208 keys are 1.3, 2.7 and 5.3 tiles of each,
and take as long as 2, 3 and 6. Heads are padded to the next for which there is a kernel. Where the
tiles would leave more than a fifth of twice the multiprocessors idle, keys are split, by tiles of
another size, and a second kernel combines. Engines page their keys, for which they always take that
other kernel, and write them into the cache besides: an A100's tables say 1.25 times what dense keys
take. Long ones draw what the board may draw: 1.5 to 1.7 pJ a FLOP, of padded heads, on an A100 of
300 W, an L40S and an RTX PRO 6000, as products do (:mod:`calib.fit.physics.limits.power`).
Sources: ``run_mha_fwd_hdim*``, ``set_params_splitkv`` and ``num_splits_heuristic`` of
FlashAttention 2.7 (Dao), of which torch has a copy.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from calib.hardware.attention_backend import FLASH as BACKEND
from calib.hardware.datasheet import Hardware, multiprocessor_rate, share_missed
from model.ops import Attention, AttentionBackward

RULE = "flash"
FLASH = BACKEND.name
"""The implementation whose samples follow it."""
HEADS = (32, 64, 96, 128, 192, 256)
"""Sizes of heads for which there is a kernel."""
_SPLIT_ROWS = 64
_MOST_SPLITS, _BUSY, _GOOD = 128, 0.8, 0.85
_LAST = 2 / 3
"""Of the longest walk under a causal mask, by which the busiest multiprocessor ends after the mean
one, as of cuDNN's tiles."""
_EDGE = 1.3
"""Working set over the L2 at which half the reads miss, as of the other rules."""
_COSTS = {
    **{"added split": 3000.0, "serial start": 1500.0, "serial work": 1.0},
    **{"bound missed": 1.1, "bound power": 1.6},
}
STARTS = {f"{name} {RULE}": float(np.log(cycles)) for name, cycles in _COSTS.items()}
"""Logarithms that a fit starts from [cycles a unit; picojoules a FLOP]: that the work costs what it
is, and a FLOP what it costs in products."""
_LEAST = 1e-9
_BESIDE = 1e-3
"""Cycles that a score takes for each column of its head beside the products, which hide none of
it: 0.8e-3 to 1.1e-3 by an A100's heads of 128, in tiles of 128 queries and of 64, and by an RTX
PRO 6000's of 64 and 96, whose matrix rates differ by two."""

_BACKWARD = 1.2
"""A gradient's time over the forward pass's, by the ratio of their products: the middle of ten of
an A100 (64 heads of 128 over eight of keys, 2048 to 32,768 tokens; cudnn-frontend,
attention_training), 1.11 to 1.28."""


def backward(op: AttentionBackward) -> Any:
    """What a gradient takes over the forward pass's time by the ratio of their floors: scores are
    computed again, whether or not ``op`` counts that product."""
    return _BACKWARD * replace(op, recompute=True).flops_of_a_score / op.flops_of_a_score


def flash_columns(op: Attention, hardware: Hardware, hot: Any) -> dict[str, np.ndarray]:
    """The columns of this rule, each [n]. ``hot``: [n] bool."""
    sms, width = hardware.sm_count, padded(op)
    rows, keys, splits = cut(op, hardware)
    blocks = op.batch * op.heads * np.ceil(np.asarray(op.q_len) / rows) * splits
    fill = blocks / sms
    reach = op.keys_read if op.window is None else np.minimum(op.keys_read, op.window + rows)
    steps = np.ceil(np.asarray(reach) / splits / keys)
    whole = np.asarray(op.keys_seen) / op.q_len + (rows + keys) / 2
    mean = np.minimum(np.ceil(whole / splits / keys), steps)
    unequal = np.asarray(op.causal, dtype=bool) & (fill > 1)
    waves = np.ceil(fill)
    walk = np.where(unequal, fill * mean + _LAST * steps, steps + mean * (waves - 1))
    scores = walk * keys * rows
    misses = np.where(hot, share_missed(op.bytes / hardware.l2_bytes, _EDGE), 1.0)
    missed = op.bytes * misses / hardware.bandwidth * hardware.clock_hz
    columns = {
        "added split": splits > 1,
        "serial start": waves,
        "serial work": scores * width * (4 / multiprocessor_rate(op, hardware) + _BESIDE),
        "bound missed": np.log(np.maximum(missed, _LEAST)),
        "bound power": _energy(op, width, hardware),
        "tile waves": np.log(fill),
        "tile fill": fill / waves,
        "tile work": np.log(scores * width),
        "tile steps": np.log(steps),
        "tile split": np.log(splits),
        "tile padding": np.log(width / op.head_dim),
    }
    return {f"{name} {RULE}": np.asarray(value, dtype=float) for name, value in columns.items()}


def _energy(op: Attention, width: np.ndarray, hardware: Hardware) -> np.ndarray:
    """[n] logarithm of the cycles in which the board may spend a picojoule on each FLOP."""
    flops = 4 * np.asarray(op.batch * op.heads) * np.asarray(op.keys_seen, dtype=float) * width
    watts = hardware.power_w
    return np.log(flops * _PICO / watts * hardware.clock_hz) if watts else _NEVER + 0 * flops


_PICO, _NEVER = 1e-12, -50.0


def padded(op: Attention) -> np.ndarray:
    """[n] or []: columns of the kernel that takes these heads."""
    width = np.maximum(np.asarray(op.head_dim), np.asarray(op.value_dim))
    at = np.minimum(np.searchsorted(HEADS, width), len(HEADS) - 1)
    return np.maximum(np.asarray(HEADS)[at], width).astype(float)


def cut(op: Attention, hardware: Hardware) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """[n] or [] each: queries of a tile, keys of a step, and blocks that share a walk."""
    width = padded(op)
    rows, keys = _tile(width, np.asarray(op.causal, dtype=bool), hardware)
    splits = parts(op, hardware)
    is_split = splits > 1
    rows = np.where(is_split, _SPLIT_ROWS, rows)
    return rows, np.where(is_split, _split_keys(width), keys), splits


def _tile(
    width: np.ndarray, causal: np.ndarray, hardware: Hardware
) -> tuple[np.ndarray, np.ndarray]:
    """As compiled: cards of 8.6 and 8.9 hold 100 KB, and take less of heads above 64."""
    held = hardware.shared_memory_per_block or 0
    small = hardware.compute_capability not in (None, "8.0") and str(
        hardware.compute_capability
    ).startswith("8.")
    short = small & causal & (width > 64) & (width <= 128)
    wide = (width > 192) & (not _WIDE_FROM <= held < _WIDE_TO)
    rows = np.where(short | wide, 64, 128)
    keys = np.where(width <= 64, 128, 64)
    return rows, np.where(small & ~causal & (width == 128), 32, keys)


_WIDE_FROM, _WIDE_TO = 131_072, 195_584
"""Bytes of shared memory of a block with which heads of 256 get tiles of 128 queries."""


def _split_keys(width: np.ndarray) -> np.ndarray:
    return np.where(width <= 64, 256, np.where(width <= 128, 128, 64))


def parts(op: Attention, hardware: Hardware) -> np.ndarray:
    """[n] or []: blocks that share a walk over keys."""
    slots = 2 * hardware.sm_count
    tiles = np.asarray(op.batch * op.heads * np.ceil(np.asarray(op.q_len) / _SPLIT_ROWS))
    steps = np.ceil(np.asarray(op.kv_len) / _split_keys(padded(op)))
    tiles, steps = np.broadcast_arrays(tiles, steps)
    found, few = np.ones(tiles.shape), tiles < _BUSY * slots
    pairs, at = np.unique(tiles[few] + 1j * steps[few], return_inverse=True)
    split = [_parts(pair.real, pair.imag, slots) for pair in pairs.tolist()]
    found[few] = np.array(split, dtype=float)[at]
    return found


def _parts(tiles: float, steps: float, slots: int) -> int:
    """The fewest that fill the slots 0.85 times as well as any number does."""
    number = np.arange(1, int(min(_MOST_SPLITS, slots, steps)) + 1)
    share = np.ceil(steps / number)
    waves = tiles * number / slots
    full = np.where(np.diff(share, prepend=np.inf) == 0, 0.0, waves / np.ceil(waves))
    return int(number[np.argmax(full >= _GOOD * full.max())])
