"""How a fused expert layer cuts its work, by several rules, and what each says of the time.

An expert's tokens are padded to whole tiles of rows. Each tile of rows meets each tile of columns,
once for gate and up together and once for down. A block walks the depth in steps, for which it
holds several tiles of its inputs in shared memory; so many blocks as fit there share a
multiprocessor. Around the two products lie a gather, an activation and a sum over the experts of a
token, whose traffic counts where experts are narrow.

:mod:`calib.fit.physics.blocks.expert_tiles` has the tiles by each rule;
:mod:`calib.fit.physics.prior` keeps the rule that explains the times. A width that is no multiple
of 16 numbers leaves rows of weights unaligned, and they are loaded in pieces: that has a cost of
its own.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from calib.fit.physics.blocks.expert_tiles import Tile, tiles_by_rule
from calib.hardware.datasheet import Hardware
from model.ops import MoeMlp, expert_load, item_bytes

_SHARES = (np.arange(16) + 0.5) / 16
"""Where the spread of tokens over experts is read."""
_ALIGNED = 16
"""Numbers that a row must be a multiple of to be loaded whole."""
_MOST_ALIGNED = 128
_RESERVED = 1024
"""Bytes of a multiprocessor's shared memory that the system keeps from a block."""
_REGISTERS, _LEAST_REGISTERS, _MOST_REGISTERS = 65536, 64, 255
"""Of a multiprocessor; of a thread, at least and at most."""
_OTHER_REGISTERS = 40
"""Of a thread, beside the sums that it holds: addresses and the next inputs, about."""
_MOST_BLOCKS = 16
_WARP = 32
_WARP_GROUP_ROWS = 64
"""Rows from which a Hopper multiplies straight from shared memory, so no stage is free early."""


def expert_columns(op: MoeMlp, hardware: Hardware) -> dict[str, np.ndarray]:
    """Columns of all rules, each [n]: ``serial`` as the prior reads them, per multiprocessor, and
    what the trees read besides."""
    width = np.asarray(op.intermediate).astype(int)
    loads = np.stack([np.atleast_1d(_load(op, share)) for share in _SHARES])
    columns = {
        "tile width": np.log2(np.gcd(width, _MOST_ALIGNED)),
        "tile busiest": np.log(loads[-1]),
    }
    loads = np.rint(loads)
    for rule, tile in tiles_by_rule(op, hardware).items():
        columns |= {f"{name} {rule}": v for name, v in _rule(op, loads, tile, hardware).items()}
    return columns


def _rule(op: MoeMlp, loads: np.ndarray, tile: Tile, hardware: Hardware) -> dict[str, np.ndarray]:
    """Columns of one rule. ``loads`` [shares, n]: tokens of an expert.

    ``start``: waves of blocks; ``steps``: that a wave takes one after the other; ``loads`` and
    ``products``: numbers read and multiplied; ``rows`` and ``between``: traffic of the picks,
    ``tokens``: of the tokens.
    """
    sms, picks, tiles = hardware.sm_count, op.tokens * op.top_k, _tiles(op, loads, tile.rows)
    places = sms * blocks_held(tile, hardware, item_bytes(op.dtype))
    ups, downs = (
        tiles * np.ceil(2 * op.intermediate / tile.cols),
        tiles * np.ceil(op.hidden / tile.cols),
    )
    up, down = np.ceil(ups / places), np.ceil(downs / places)
    up_steps, down_steps = np.ceil(op.hidden / tile.depth), np.ceil(op.intermediate / tile.depth)
    last = np.maximum(downs / sms, 1.0) * down_steps
    steps = np.maximum(ups / sms, 1.0) * up_steps + last
    loaded, multiplied = (tile.rows + tile.cols) * tile.depth, tile.rows * tile.cols * tile.depth
    unaligned = np.asarray(op.intermediate % _ALIGNED != 0, dtype=float)
    return {
        "serial start": up + down,
        "serial steps": up * up_steps + down * down_steps,
        "serial loads": steps * loaded,
        "serial products": steps * multiplied,
        "serial unaligned loads": last * loaded * unaligned,
        "serial unaligned products": last * multiplied * unaligned,
        "serial tokens": np.asarray(op.tokens * op.hidden / sms),
        "serial rows": np.asarray(picks * op.hidden / sms),
        "serial between": np.asarray(picks * op.intermediate / sms),
        "tile waves": np.log(up + down),
        "tile fill up": ups / places / up,
        "tile fill down": downs / places / down,
        "tile share down": np.log(downs * down_steps / (ups * up_steps)),
        "tile used": np.asarray(picks / (tiles * tile.rows)),
        "tile held": places / sms,
        "tile rows": np.log(tile.rows),
        "tile cols": np.log(tile.cols),
        "tile depth": np.log(tile.depth),
        "tile group": np.log(tile.group),
        "tile warps": tile.warps,
        "tile stages": tile.stages,
        "tile tuned": tile.tuned,
    }


def blocks_held(tile: Tile, hardware: Hardware, itemsize: float) -> np.ndarray:
    """[n] blocks that a multiprocessor holds at once, by shared memory and by registers.

    Triton keeps one input tile less than it has stages, since a step's inputs are in registers when
    it multiplies; all of them where the matrix unit reads shared memory itself (Hopper).
    """
    is_direct = (hardware.compute_capability or "").startswith("9.")
    waits = np.where(is_direct & (tile.rows >= _WARP_GROUP_ROWS), 0.0, 1.0)
    nbytes = (tile.stages - waits) * (tile.rows + tile.cols) * tile.depth * itemsize
    memory = ((hardware.shared_memory_per_block or 0) + _RESERVED) / (nbytes + _RESERVED)
    threads = _WARP * tile.warps
    sums = tile.rows * tile.cols / threads
    registers = np.clip(sums + _OTHER_REGISTERS, _LEAST_REGISTERS, _MOST_REGISTERS) * threads
    held = np.floor(np.minimum(memory, _REGISTERS / registers))
    return np.asarray(np.clip(held, 1, _MOST_BLOCKS))


def _load(op: MoeMlp, share: float) -> Any:
    return expert_load(op.distribution, op.experts, op.top_k, op.tokens, share)


def _tiles(op: MoeMlp, loads: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """[n] expected tiles of ``rows`` rows over all experts."""
    return np.asarray(op.experts_read * np.ceil(loads / rows).mean(axis=0))
