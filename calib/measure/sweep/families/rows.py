"""Ranges of norms, softmax, sums and look-ups."""

from __future__ import annotations

from collections.abc import Callable

from calib.measure.sweep.families.domain import Axis, Domain, OneOf
from model import ops
from model.ops import Operator

GRIDS = {"rows": Axis(64, 8192), "cols": Axis(256, 1536, 64)}
"""Feature maps of a vision tower, walked across their memory."""


def rowwise(reach: int) -> list[Domain]:
    """Norms, softmax and rows of a table."""
    rows, cols = Axis(1, 4096 * reach), Axis(256, 4096 * min(reach, 2), 64)
    scores = {"rows": Axis(64, 16384 * reach), "cols": Axis(64, 1024 * reach)}
    vocabulary = {"rows": Axis(1, 64 * reach), "cols": Axis(2048, 2**17)}
    table = {"rows": Axis(1, 2048 * reach), "cols": Axis(1, 2048 * min(reach, 2))}
    feature_map = {"positions": Axis(49, 2**14), "channels": Axis(64, 2048, 64)}
    few = {"rows": Axis(64, 2**19 * reach), "cols": OneOf((2, 4, 6, 8))}
    row = {"rows": rows, "cols": Axis(64, 8192)}
    return [
        Domain("layernorm", 2, {"rows": rows, "cols": cols}, _layernorm, "hot"),
        Domain("norm across", 1, GRIDS, _norm_across, "hot"),
        Domain("norm by channel", 1, feature_map, _batch_norm, "hot"),
        Domain("rmsnorm", 2, {"rows": Axis(1, 1024 * reach), "cols": cols}, ops.Norm, "hot"),
        Domain("softmax", 1, {"rows": Axis(1, 8192), "cols": Axis(16, 1024)}, _softmax, "hot"),
        Domain("scores' softmax", 0.5, scores, ops.Softmax, "hot"),
        Domain("softmax of a vocabulary", 0.5, vocabulary, _softmax, "hot"),
        Domain("rows", 1.5, table, ops.Gather, "hot"),
        Domain("rows in float32", 1, table, _gather_float32, "hot"),
        Domain("sum of few", 0.35, few, _sum("bfloat16"), "hot"),
        Domain("sum of few in float32", 0.35, few, _sum("float32"), "hot"),
        Domain("sum of a row", 0.35, row, _sum("bfloat16"), "hot"),
        Domain("sum of a row in float32", 0.35, row, _sum("float32"), "hot"),
    ]


def _layernorm(rows: int, cols: int) -> Operator:
    return ops.Norm(rows, cols, "layernorm")


def _batch_norm(positions: int, channels: int) -> Operator:
    return ops.ChannelNorm(positions * channels, channels)


def _norm_across(rows: int, cols: int) -> Operator:
    return ops.Norm(rows, cols, "layernorm", transposed=True)


def _softmax(rows: int, cols: int) -> Operator:
    return ops.Softmax(rows, cols, dtype="float32")


def _gather_float32(rows: int, cols: int) -> Operator:
    return ops.Gather(rows, cols, "float32")


def _sum(dtype: str) -> Callable[..., Operator]:
    return lambda rows, cols: ops.Reduction(rows, cols, dtype)
