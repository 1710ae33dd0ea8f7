"""Keys that torch's FlashAttention 2 splits over blocks, of which engines' tables know nothing."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from calib.fit.physics.blocks.attention.flash import parts
from calib.hardware.attention_backend import FLASH, backends_of
from calib.hardware.datasheet import Hardware
from model.ops import Attention


def is_split(op: Attention, hardware: Hardware) -> np.ndarray:
    """[n] or []: whether FlashAttention 2, which torch takes, splits the keys that all queries see.

    Engines call it with sequences one after the other, of which it splits a lone query's keys where
    heads share them, and no others (``mha_varlen_fwd``); torch of a batch, of which it splits
    wherever blocks are few (``mha_fwd``)."""
    here = backends_of(op, hardware.compute_capability) == FLASH.name
    seen = ~(np.asarray(op.causal, dtype=bool) & np.greater(op.q_len, 1))
    return np.asarray(here & seen & (parts(op, hardware) > 1))


def side_by_side(op: Attention, hardware: Hardware) -> Attention:
    """Keys that are split, as so many shorter walks at once."""
    many = parts(op, hardware)
    batch, kv_len = op.batch * many, np.ceil(op.kv_len / many)
    if not np.ndim(batch):
        return replace(op, batch=int(batch), kv_len=int(kv_len), causal=False)
    whole: list[Any] = [n.astype(np.int64) for n in (batch, kv_len)]
    return replace(op, batch=whole[0], kv_len=whole[1], causal=False)
