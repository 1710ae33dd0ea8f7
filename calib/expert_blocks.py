"""How a fused expert layer cuts its work, by two rules, and what each says of the time.

An expert's tokens are padded to whole tiles of rows. Each tile of rows meets each tile of columns,
once for gate and up together and once for down. Around the two products lie a gather, an activation
and a sum over the experts of a token, whose traffic counts where experts are narrow. Two rules:

- ``default``: tiles of 16 rows up to one token an expert, then of 64: what vLLM's Triton kernel
  does without a tuned file (``get_default_config``);
- ``tuned``: as many rows as the mean expert has, from 16 to 128.

:mod:`calib.prior` keeps the rule that explains the times. A width that is no multiple of 16 numbers
leaves rows of weights unaligned, and they are loaded in pieces: that has a cost of its own.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from calib.hardware import Hardware
from model.ops import MoeMlp, expert_load

_SHARES = (np.arange(16) + 0.5) / 16
"""Where the spread of tokens over experts is read."""
_COLUMNS = 64
"""Columns of a tile."""
_ALIGNED = 16
"""Numbers that a row must be a multiple of to be loaded whole."""
_SMALLEST, _LARGEST = 4, 7
"""Binary logarithms of the rows of a tile."""


def expert_columns(op: MoeMlp, hardware: Hardware) -> dict[str, np.ndarray]:
    """Columns of both rules, each [n]: ``serial`` as the prior reads them, per multiprocessor, and
    what the trees read besides."""
    picks = op.tokens * op.top_k
    mean = np.ceil(np.log2(picks / op.experts_read))
    rules = {
        "default": np.where(op.tokens <= op.experts, 16.0, 64.0),
        "tuned": 2.0 ** np.clip(mean, _SMALLEST, _LARGEST),
    }
    width = np.asarray(op.intermediate).astype(int)
    columns = {
        "tile width": np.log2(np.gcd(width, 2**_LARGEST)),
        "tile busiest": np.log(_load(op, _SHARES[-1])),
    }
    for rule, rows in rules.items():
        columns |= {f"{name} {rule}": v for name, v in _rule(op, rows, hardware.sm_count).items()}
    return columns


def _rule(op: MoeMlp, rows: np.ndarray, sms: int) -> dict[str, np.ndarray]:
    """Of tiles of ``rows`` rows [n]. ``loads``: what a tile reads of the weights, ``products``:
    what it multiplies, ``rows`` and ``between``: traffic of the picks, ``tokens``: of the tokens.
    """
    tiles, picks = _tiles(op, rows), op.tokens * op.top_k
    up = np.ceil(tiles * np.ceil(2 * op.intermediate / _COLUMNS) / sms)
    down = np.ceil(tiles * np.ceil(op.hidden / _COLUMNS) / sms)
    inner = np.ceil(op.intermediate / _COLUMNS) * _COLUMNS
    unaligned = np.asarray(op.intermediate % _ALIGNED != 0, dtype=float)
    return {
        "serial start": up + down,
        "serial loads": up * op.hidden + down * inner,
        "serial products": rows * (up * op.hidden + down * inner),
        "serial unaligned loads": down * inner * unaligned,
        "serial unaligned products": rows * down * inner * unaligned,
        "serial tokens": np.asarray(op.tokens * op.hidden / sms),
        "serial rows": np.asarray(picks * op.hidden / sms),
        "serial between": np.asarray(picks * op.intermediate / sms),
        "tile waves": np.log(up + down),
        "tile used": np.asarray(picks / (tiles * rows)),
    }


def _load(op: MoeMlp, share: float) -> Any:
    return expert_load(op.distribution, op.experts, op.top_k, op.tokens, share)


def _tiles(op: MoeMlp, rows: np.ndarray) -> np.ndarray:
    """[n] expected tiles of ``rows`` rows over all experts."""
    tiles = sum(np.ceil(np.rint(_load(op, share)) / rows) for share in _SHARES)
    return np.asarray(op.experts_read * tiles / len(_SHARES))
