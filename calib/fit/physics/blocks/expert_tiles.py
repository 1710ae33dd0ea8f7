"""Which tile a fused expert layer computes with, by three rules.

vLLM's Triton kernel looks for tiles that were tuned for the very card, number of experts and width;
where there are none it goes by the number of tokens. Both are read off its source, so they are
known before anything is timed (``try_get_optimal_moe_config`` and ``get_default_config`` of vLLM,
Apache-2.0):

- ``stepped``: tuned, or by tokens as vLLM 0.24 does;
- ``older``: tuned, or by tokens and experts as vLLM did before that (0.14);
- ``mean``: as many rows as the mean expert has, from 16 to 128: a kernel whose rule is not known.

``calib/expert_tiles.json`` holds the tuned tiles in bfloat16 of the cards of ``conf/hw``: card,
then "experts/width", then tokens. ``python -m benchmarks.expert_tiles`` writes it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from calib.hardware.datasheet import Hardware
from model.ops import MoeMlp

PATH = Path(__file__).with_name("expert_tiles.json")
_SMALLEST, _LARGEST = 4, 7
"""Binary logarithms of the rows of a tile of the mean expert."""


@dataclass(frozen=True)
class Tile:
    """Of each operator [n]: a block of ``warps`` computes ``rows`` by ``cols`` of the output and
    walks the depth in steps of ``depth``, as many as ``stages`` of them loaded ahead; ``group``
    tiles of rows are worked off before the next columns; ``tuned``: 1 where this was looked up."""

    rows: np.ndarray
    cols: np.ndarray
    depth: np.ndarray
    group: np.ndarray
    warps: np.ndarray
    stages: np.ndarray
    tuned: np.ndarray


def tiles_by_rule(op: MoeMlp, hardware: Hardware) -> dict[str, Tile]:
    """The tile of each operator by each rule."""
    shape = (op.tokens, op.experts, op.top_k, op.intermediate, op.experts_read)
    tokens, experts, top_k, width, touched = np.broadcast_arrays(
        *(np.atleast_1d(np.asarray(value, dtype=float)) for value in shape)
    )
    tuned = _tuned(hardware.name, tokens, experts, width)
    mean = 2.0 ** np.clip(np.ceil(np.log2(tokens * top_k / touched)), _SMALLEST, _LARGEST)
    rest = [np.full(len(tokens), value) for value in (64.0, 64.0, 1.0, 4.0, 3.0)]
    return {
        "stepped": _tile(tuned, _stepped(tokens, experts)),
        "older": _tile(tuned, _older(tokens, experts)),
        "mean": _tile(np.full_like(tuned, np.nan), [mean, *rest]),
    }


def _stepped(tokens: np.ndarray, experts: np.ndarray) -> list[np.ndarray]:
    few = tokens <= 64
    return [
        np.select([tokens <= 32, tokens <= 96, tokens <= 512], [16.0, 32.0, 64.0], 128.0),
        np.where(few, 64.0, 128.0),
        np.where(few, 128.0, 64.0),
        np.where(np.floor(tokens / experts) > 128, 16.0, 1.0),
        np.where(tokens <= 128, 4.0, 8.0),
        np.where(tokens <= 32, 4.0, 3.0),
    ]


def _older(tokens: np.ndarray, experts: np.ndarray) -> list[np.ndarray]:
    few = tokens <= experts
    pairs = [(16.0, 64.0), (32.0, 64.0), (64.0, 32.0), (1.0, 8.0)]
    unsaid = [np.full(len(tokens), 4.0), np.full(len(tokens), 3.0)]  # what Triton takes then
    return [*(np.where(few, least, most) for least, most in pairs), *unsaid]


def _tile(tuned: np.ndarray, otherwise: list[np.ndarray]) -> Tile:
    is_tuned = np.isfinite(tuned[0])
    rows, cols, depth, group, warps, stages = np.where(is_tuned, tuned, np.stack(otherwise))
    return Tile(rows, cols, depth, group, warps, stages, is_tuned.astype(float))


def _tuned(card: str, tokens: np.ndarray, experts: np.ndarray, width: np.ndarray) -> np.ndarray:
    """[6, n] tuned tiles, those of the nearest number of tokens; nan where there are none."""
    found = np.full((6, len(tokens)), np.nan)
    for (some_experts, some_width), (counts, tiles) in _table().get(card, {}).items():
        rows = np.flatnonzero((experts == some_experts) & (width == some_width))
        nearest = np.abs(tokens[rows, None] - counts).argmin(axis=1)
        found[:, rows] = tiles[nearest].T
    return found


@lru_cache(maxsize=1)
def _table() -> dict[str, dict[tuple[int, int], tuple[np.ndarray, np.ndarray]]]:
    """Card -> (experts, width) -> tokens [t], ascending, and tiles [t, 6]."""
    stored = json.loads(PATH.read_text("utf-8"))["tiles"]
    table: dict[str, dict[tuple[int, int], tuple[np.ndarray, np.ndarray]]] = {}
    for card, shapes in stored.items():
        for shape, tiles in shapes.items():
            experts, width = (int(part) for part in shape.split("/"))
            counts = np.array([int(tokens) for tokens in tiles])
            known = (counts, np.array(list(tiles.values()), dtype=float))
            table.setdefault(card, {})[experts, width] = known
    return table
