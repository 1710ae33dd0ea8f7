"""How a fused attention kernel cuts its work, by three rules, and what each says of the time.

A block takes a tile of queries and walks over the keys that they see. Two rules are written here:

- ``packed``: the queries of all heads that share a key are packed into one tile, and the keys are
  split over blocks where the tiles alone would leave multiprocessors idle; blocks take up work as
  they become free (FlashAttention 3 as engines call it);
- ``plain``: a head has tiles of its own and nothing is split, except where one query is asked for,
  heads share keys and there is no window: then as above. Blocks move in waves (FlashAttention 2).

``cudnn`` is torch's alone (:mod:`calib.fit.physics.blocks.attention.cudnn`), ``flash`` that of
FlashAttention 2 where nothing is paged (:mod:`calib.fit.physics.blocks.attention.flash`).
Which of the others a kernel follows is not asked: :mod:`calib.fit.physics.prior` keeps the one that
explains its times. Source of the rules and tiles: ``set_params_splitkv``, ``num_splits_heuristic``,
``tile_size_fwd_sm90`` and ``run_mha_fwd_hdim*`` of FlashAttention (Dao, 2023); the split is here in
closed form. Work is counted per multiprocessor, so that it means the same on another card.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from calib.fit.physics.blocks.attention.cudnn import RULE as CUDNN
from calib.fit.physics.blocks.attention.cudnn import cudnn_columns
from calib.fit.physics.blocks.attention.flash import FLASH, flash_columns
from calib.fit.physics.blocks.attention.flash import RULE as DENSE
from calib.hardware.datasheet import Hardware, multiprocessor_rate, share_missed
from model.ops import Attention, item_bytes

_RESIDENT = 2
"""Blocks that the rule for splitting wants on a multiprocessor."""
_QUERY_TILE = 64
"""Queries of a tile of the plain rule."""
_NO_BOUND = -60.0
"""Logarithm of a bound where there is none: below any that counts."""
_EDGE = 1.3
"""Working set over the L2 at which half the reads miss. Read off the times of one query over long
contexts, which jump between one and two times the L2."""


@dataclass(frozen=True)
class Blocks:
    """Of each operator [n]: ``blocks`` that each walk over ``keys`` keys of [head_dim] on average
    and ``longest`` at most; ``rows`` queries that a tile holds; ``splits`` blocks that share a
    tile, whose parts a second kernel combines; ``shared`` heads packed together; ``waves`` of
    blocks on the busiest multiprocessor."""

    blocks: np.ndarray
    keys: np.ndarray
    longest: np.ndarray
    rows: np.ndarray
    splits: np.ndarray
    shared: np.ndarray
    tile: np.ndarray
    waves: np.ndarray


def attention_columns(op: Attention, hardware: Hardware, hot: Any) -> dict[str, np.ndarray]:
    """Columns of all rules, each [n]: ``serial``, ``bound`` and ``added`` as the prior reads
    them, and what the trees read besides. ``hot``: [n] bool."""
    group = op.heads / op.kv_heads
    rate = multiprocessor_rate(op, hardware)
    columns = {"tile group": _log(group), "tile keys": _log(op.keys_seen / op.q_len)}
    for rule, by in (("packed", packed(op, hardware)), ("plain", plain(op, hardware))):
        fill = by.blocks / hardware.sm_count
        walk = by.waves * by.keys * op.both_dims / 2
        # Of one query all blocks walk equally far.
        last = np.where(np.asarray(op.q_len) > 1, _log(by.longest * op.both_dims / 2), _NO_BOUND)
        columns |= {
            f"serial start {rule}": by.waves,
            f"serial rows {rule}": by.waves * by.rows * op.both_dims / 2,
            f"serial walk {rule}": walk,
            f"bound longest {rule}": last,
            f"serial products {rule}": 4 * walk * by.tile / rate,
            f"serial scores {rule}": by.waves * by.keys * by.tile,
            f"bound missed {rule}": _log(_missed(op, hardware, hot, by)),
            f"added combine {rule}": (by.splits > 1).astype(float),
            f"tile split {rule}": _log(by.splits),
            f"tile waves {rule}": _log(fill),
            f"tile fill {rule}": fill / np.ceil(fill),
            f"tile left {rule}": fill / by.waves,
            f"tile work {rule}": _log(walk),
            f"tile steps {rule}": _log(by.longest),
            f"tile rows {rule}": _log(by.rows),
        }
    return columns | cudnn_columns(op, hardware, hot) | flash_columns(op, hardware, hot)


def followed(x: dict[str, np.ndarray], implementation: str) -> dict[str, np.ndarray]:
    """The columns without those of a rule that ``implementation`` cannot follow: engines bring
    their own kernels, only torch asks cuDNN, and what is known to be one kernel has its rule."""
    known = _FOLLOWED.get(implementation, ENGINES)
    strange = tuple(f" {rule}" for rule in {*ENGINES, CUDNN, DENSE} - {*known})
    return {name: values for name, values in x.items() if not name.endswith(strange)}


ENGINES = ("packed", "plain")
_FOLLOWED = {"torch": (*ENGINES, CUDNN), FLASH: (DENSE,)}


def packed(op: Attention, hardware: Hardware) -> Blocks:
    """The work as the packed rule cuts it; multiprocessors share it evenly."""
    query_tile = np.where(op.head_dim <= 64, 192, 128)
    key_tile = np.where(op.head_dim <= 128, 128, np.where(op.head_dim <= 192, 96, 64))
    sms = hardware.sm_count
    return _cut(op, sms, True, query_tile, key_tile, lambda n: np.maximum(n / sms, 1.0))


def plain(op: Attention, hardware: Hardware) -> Blocks:
    """The work as the plain rule cuts it: waves of as many blocks as shared memory holds."""
    is_split = np.equal(op.q_len, 1) & (op.heads > op.kv_heads) & (op.window is None)
    key_tile = np.where(op.head_dim <= 64, 256, np.where(op.head_dim <= 128, 128, 64))
    per_block = (_QUERY_TILE + 2 * key_tile) * op.head_dim * item_bytes(op.dtype)
    held = np.floor(((hardware.shared_memory_per_block or 0) + _RESERVED) / per_block)
    sms, held = hardware.sm_count, np.maximum(held, 1.0)
    return _cut(op, sms, is_split, _QUERY_TILE, key_tile, lambda n: np.ceil(n / (sms * held)))


_RESERVED = 1024
"""Bytes of a multiprocessor's shared memory that the system keeps from a block."""


def _cut(
    op: Attention,
    sms: int,
    is_packed: Any,
    query_tile: Any,
    key_tile: Any,
    waves: Callable[[np.ndarray], np.ndarray],
) -> Blocks:
    """``waves``: of so many blocks. Keys are split where heads are packed."""
    shared = np.where(is_packed, op.heads / op.kv_heads, 1.0)
    rows = op.q_len * shared
    tiles = op.batch * op.heads / shared * np.ceil(rows / query_tile)
    queries = np.minimum(query_tile / shared, op.q_len)
    reach = op.keys_read if op.window is None else np.minimum(op.keys_read, op.window + queries)
    steps = np.ceil(reach / key_tile)
    splits = np.where(is_packed, np.clip(np.floor(_RESIDENT * sms / tiles), 1, steps), 1.0)
    keys = np.minimum(op.keys_seen / op.q_len + (queries + key_tile) / 2, steps * key_tile)
    longest = np.ceil(steps / splits) * key_tile
    held = np.minimum(rows, query_tile)
    blocks = tiles * splits
    return Blocks(
        blocks,
        keys / splits,
        longest,
        held,
        splits,
        shared,
        np.asarray(query_tile),
        waves(blocks),
    )


def _missed(op: Attention, hardware: Hardware, hot: Any, by: Blocks) -> np.ndarray:
    """[n] cycles that main memory needs for what the L2 does not hold.

    Heads that share keys without being packed come one after the other. Those of one wave read
    together; a later wave reads again, where the keys of one head do not fit.
    """
    head = op.batch * op.keys_read * op.both_dims * item_bytes(op.dtype)
    together = np.minimum(hardware.sm_count / op.batch, 1.0) / op.kv_heads
    waves = np.ceil(by.blocks / hardware.sm_count)
    passes = np.clip(waves * together, 1.0, op.heads / op.kv_heads)
    again = np.where(by.shared > 1, 0.0, passes - 1) * op.kv_heads * head
    first = op.bytes * np.where(hot, share_missed(op.bytes / hardware.l2_bytes, _EDGE), 1.0)
    nbytes = first + again * share_missed(head / hardware.l2_bytes, _EDGE)
    return np.asarray(nbytes / hardware.bandwidth * hardware.clock_hz)


def _log(value: Any) -> np.ndarray:
    return np.asarray(np.log(np.maximum(np.asarray(value, dtype=float), 1e-9)))
