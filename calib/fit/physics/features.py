"""What a fit sees of an operator: its two floors, its shape, and how it falls onto the device.

Time is counted in cycles of the device's rated clock, in which cards differ least. Columns that
start with ``tile`` say how a GPU divides the work (:mod:`calib.fit.physics.tiles`); they come in
steps, so the trees read them and the smooth process does not.

Operators of one kind are stacked into grids (one array a field), so that the formulas of
``model.ops`` are evaluated once for all of them, be it ten or ten million.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import cache
from typing import Any

import numpy as np

from calib.fit.physics.blocks.attention.columns import attention_columns
from calib.fit.physics.blocks.collective_blocks import collective_columns
from calib.fit.physics.blocks.convolution_blocks import convolution_columns, places_of
from calib.fit.physics.blocks.expert_blocks import expert_columns
from calib.fit.physics.blocks.grouped_blocks import grouped_columns
from calib.fit.physics.blocks.product_blocks import CHOICE, product_columns
from calib.fit.physics.blocks.stream_blocks import stream_columns
from calib.fit.physics.tiles import tile_columns, work
from calib.hardware.convolutions import is_depthwise, window
from calib.hardware.datasheet import Hardware, floors
from model.ops import (
    Attention,
    Collective,
    Conv2d,
    Convolution,
    Elementwise,
    GroupedMatmul,
    Matmul,
    MoeMlp,
    Operator,
    Other,
    TensorCoreOperator,
    is_grid,
)

BOUND, ADDED, SERIAL = "bound ", "added ", "serial "
TOGETHER = frozenset({"copy", "elementwise", "gather", "norm", "reduction", "softmax"})
"""Kinds of which one fit holds all dtypes: they differ by their bytes, and a flag says which."""
CLASSES = ("few", "odd", "padded", "ragged", "wide")
"""Columns that say that an operator has a kernel of its own: 0 or 1, and no dimension."""
_STEPS = ("tile ", BOUND, ADDED, SERIAL, CHOICE)
"""Beginnings of the names of columns that come in steps."""


@dataclass(frozen=True)
class Features:
    """Of ``n`` operators of one kind and dtype.

    ``compute_s``, ``memory_s``: [n] the two floors in seconds; ``hot``: [n] bool; ``clock_hz``: [n]
    cycles a second; ``columns``: name -> [n], natural logarithms of the floors in cycles and of the
    shape's dimensions, flags as 0 or 1, and the tile columns.
    """

    compute_s: np.ndarray
    memory_s: np.ndarray
    hot: np.ndarray
    clock_hz: np.ndarray
    columns: dict[str, np.ndarray]

    @property
    def floor_s(self) -> np.ndarray:
        return np.maximum(self.compute_s, self.memory_s)

    @property
    def log_compute(self) -> np.ndarray:
        """[n] of the compute floor in cycles."""
        return self.columns["compute"]

    @property
    def log_memory(self) -> np.ndarray:
        """[n] of the memory floor in cycles."""
        return self.columns["memory"]

    @property
    def log_depth(self) -> np.ndarray:
        """[n] of the terms that one output sums; zero where it is no sum."""
        return self.columns["depth"]

    @property
    def smooth_names(self) -> list[str]:
        """Columns over which time changes smoothly: all but the tiles."""
        return list(_smooth(tuple(self.columns)))

    def __len__(self) -> int:
        return len(self.compute_s)

    def rows(self, keep: np.ndarray | slice) -> Features:
        """Those rows: a mask, positions or a slice."""
        columns = {name: values[keep] for name, values in self.columns.items()}
        return Features(
            self.compute_s[keep], self.memory_s[keep], self.hot[keep], self.clock_hz[keep], columns
        )

    def matrix(self, names: Sequence[str]) -> np.ndarray:
        """[n, len(names)], zero for a column that this kind of operator does not have."""
        zeros = np.zeros(len(self))
        return np.stack([self.columns.get(name, zeros) for name in names], axis=1)


@cache
def _smooth(names: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(name for name in sorted(names) if not name.startswith(_STEPS))


def features(op: Operator, hardware: Hardware, hot: np.ndarray | bool = False) -> Features:
    """Features of one operator or one grid of them."""
    compute, memory = (np.atleast_1d(np.asarray(s, dtype=float)) for s in floors(op, hardware))
    n = max(len(compute), len(memory))
    compute, memory = np.broadcast_to(compute, n), np.broadcast_to(memory, n)
    is_hot = np.broadcast_to(np.asarray(hot, dtype=bool), n)
    view = work(op)
    columns = {
        "compute": np.log(np.maximum(compute, _LEAST_S) * hardware.clock_hz),
        "memory": np.log(np.maximum(memory, _LEAST_S) * hardware.clock_hz),
        "depth": np.log(np.atleast_1d(np.asarray(view.depth if view else 1, dtype=float))),
        "hot": is_hot.astype(float),
        **_numbers(op),
    }
    if hardware.compute_capability is not None:
        columns["tile ridge"] = columns["compute"] - columns["memory"]
        columns |= tile_columns(op, hardware)
        if isinstance(op, Attention):
            columns |= attention_columns(op, hardware, is_hot)
        if isinstance(op, Matmul):
            columns |= product_columns(op, hardware, is_hot)
        if isinstance(op, Conv2d | Convolution):
            columns |= convolution_columns(op, hardware)
        if isinstance(op, GroupedMatmul):
            columns |= grouped_columns(op, hardware)
        if isinstance(op, MoeMlp):
            columns |= expert_columns(op, hardware)
        if isinstance(op, Collective):
            columns |= collective_columns(op)
        elif not isinstance(op, TensorCoreOperator):
            columns |= stream_columns(op, hardware, is_hot)
    for name, label in _labels(op).items():
        columns[f"{name}={label}"] = np.ones(1)
    columns = {name: v if v.shape == (n,) else np.broadcast_to(v, n) for name, v in columns.items()}
    return Features(compute, memory, is_hot, np.broadcast_to(hardware.clock_hz, n), columns)


_LEAST_S = 1e-12
"""Stands for a floor of zero where its logarithm is taken [s]."""


def _numbers(op: Operator) -> dict[str, np.ndarray]:
    """Dimensions as logarithms (a zero as a half), flags as 0 or 1."""
    numbers, flags = {}, _flags(type(op))  # type: ignore[arg-type]
    for name, value in _shape(op).items():
        if value is None or isinstance(value, str):
            continue
        array = np.atleast_1d(np.asarray(value, dtype=float))
        if name in flags:  # by the class, since stacked flags are numbers
            numbers[name] = array
        else:
            numbers[name] = np.log(np.maximum(array, 0.5))
    return numbers


@cache
def _flags(cls: type[Operator]) -> frozenset[str]:
    """The fields that are flags."""
    return frozenset(f.name for f in fields(cls) if isinstance(f.default, bool))


def _shape(op: Operator) -> dict[str, Any]:
    """Fields that tell operators apart. Experts that are expected count as those that were seen;
    rows that are walked twice by what a cache does with them
    (:mod:`calib.fit.physics.blocks.walks`)."""
    if isinstance(op, Conv2d | Convolution):
        return _of_convolution(op)
    if isinstance(op, GroupedMatmul):
        return {**vars(op), "active_experts": op.experts_read, "max_load": None}
    if isinstance(op, Elementwise | Other):
        return {**vars(op), "walked": None}
    return vars(op)


def _of_convolution(op: Conv2d | Convolution) -> dict[str, Any]:
    """The same fields, whatever the number of dimensions."""
    return {
        **{name: getattr(op, name) for name in ("batch", "in_channels", "out_channels", "groups")},
        **{"in_positions": op.in_positions, "places": places_of(op), "bias": op.bias},
        "window": window(op),
    }


def _labels(op: Operator) -> dict[str, str]:
    """Fields that name something; ``dtype`` itself is left out where each dtype has a fit, and so
    are the others of a product: widened weights have another, and a result counts by its bytes."""
    of_product = ("weight_dtype", "out_dtype") if isinstance(op, TensorCoreOperator) else ()
    left_out = of_product if op.operator in TOGETHER else ("dtype", *of_product)
    return {n: v for n, v in vars(op).items() if isinstance(v, str) and n not in left_out}


def whole(op: Operator) -> Operator:
    """``op`` with sizes rounded to whole numbers, as it can be run: a mean context may be 91.5."""
    sizes = {n: v for n, v in vars(op).items() if isinstance(v, float) and n not in _EXPECTED}
    return replace(op, **{n: max(round(v), 0) for n, v in sizes.items()}) if sizes else op


_EXPECTED = ("active_experts", "max_load")
"""Fields that are expectations, not sizes."""


def warn_of_unread(ops: Sequence[Operator] | Operator) -> None:
    """Say where something was stated of uneven loads that no estimate reads."""
    for op in [ops] if isinstance(ops, Operator) else ops:
        if isinstance(op, GroupedMatmul) and op.max_load is not None and op.active_experts is None:
            warnings.warn(
                "grouped_matmul: max_load is read by no estimate, which is as without it: expected "
                "active_experts, the experts touched, off which uneven loads are read",
                stacklevel=3,
            )
            return


def concatenate(parts: Sequence[Features]) -> Features:
    names = sorted({name for part in parts for name in part.columns})
    columns = np.concatenate([part.matrix(names) for part in parts])
    return Features(
        np.concatenate([p.compute_s for p in parts]),
        np.concatenate([p.memory_s for p in parts]),
        np.concatenate([p.hot for p in parts]),
        np.concatenate([p.clock_hz for p in parts]),
        {name: columns[:, i] for i, name in enumerate(names)},
    )


def features_of_list(
    ops: Sequence[Operator], hardware: Hardware, hot: Sequence[bool] | np.ndarray | bool = False
) -> Features:
    """Features of a list of operators of one kind, in its order."""
    is_hot = np.broadcast_to(np.asarray(hot, dtype=bool), len(ops))
    stacks = stack(ops)
    if len(stacks) == 1:  # all of them, in order
        return features(stacks[0][0], hardware, is_hot)
    parts = concatenate([features(grid, hardware, is_hot[rows]) for grid, rows in stacks])
    return parts.rows(np.argsort(np.concatenate([rows for _, rows in stacks])))


def stack(ops: Sequence[Operator]) -> list[tuple[Operator, np.ndarray]]:
    """Operators as grids, one for each class and set of labels, with the rows each came from.
    Convolutions channel by channel are a class of their own: something else stands in for them."""
    rows: dict[tuple[Any, ...], list[int]] = {}
    for i, op in enumerate(ops):
        labels = tuple(v if v is None or isinstance(v, str) else ... for v in vars(op).values())
        is_apart = isinstance(op, Conv2d | Convolution) and bool(is_depthwise(op))
        rows.setdefault((type(op), labels, is_apart), []).append(i)
    return [(_stack_alike([ops[i] for i in some]), np.array(some)) for some in rows.values()]


def _stack_alike(ops: Sequence[Operator]) -> Operator:
    first = ops[0]
    if is_grid(first):
        raise TypeError("a grid is estimated on its own, not in a list")
    values: dict[str, Any] = {}
    for name, known in vars(first).items():
        if known is None or isinstance(known, str):
            values[name] = known
        else:
            values[name] = np.array([vars(op)[name] for op in ops]) + 0
    return type(first)(**values)
