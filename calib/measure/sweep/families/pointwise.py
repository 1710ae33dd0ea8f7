"""Ranges of pointwise operators, copies, and operators without a formula."""

from __future__ import annotations

from collections.abc import Callable

from calib.measure.sweep.families.domain import Axis, Domain, OneOf
from calib.measure.sweep.families.rows import GRIDS
from model import ops
from model.ops import Operator

_CASTS = (
    ("bfloat16", "float32"),
    ("float32", "bfloat16"),
    ("int64", "float32"),
    ("float32", "int64"),
)

_ARITHMETIC = (
    (1, 1, "bfloat16", 1.5),
    (2, 1, "bfloat16", 2),
    (1, 4, "bfloat16", 1),
    (1, 5, "bfloat16", 1.5),
    (1, 1, "float32", 1),
    (2, 1, "float32", 0.7),
    (1, 1, "int64", 0.5),
)
"""(inputs, FLOPs an element, dtype, share)"""


def pointwise(reach: int) -> list[Domain]:
    """Arithmetic, copies and casts, by the number of elements."""
    many = {"elements": Axis(64, 2**23 * reach)}
    outer = {"rows": Axis(64, 16384), "cols": Axis(14, 64)}
    rows = {"rows": Axis(16, 2**16 * reach, 4), "cols": OneOf((64, 128))}
    hidden = {"rows": Axis(1, 4096 * reach), "cols": Axis(256, 4096 * min(reach, 2), 64)}
    found = [
        Domain("move", 1, many, ops.Copy, "hot"),
        Domain("move across", 0.5, GRIDS, _move_across, "hot"),
        Domain("outer sum of grids", 1, outer, _outer_sum_of_grids, "hot"),
        Domain("scaled by row", 1, hidden, _scaled("bfloat16", 2), "hot"),
        Domain("scaled by row in float32", 1, hidden, _scaled("float32", 2), "hot"),
        Domain("turned by position", 1, rows | _HEADS, _turned, "hot"),
        Domain("sum of what lies otherwise", 1, rows, _sum_of_ordered, "hot"),
        Domain("part of a row", 0.7, rows, _part, "hot"),
        Domain("move from memory", 0.5, {"elements": Axis(2**18, 2**24)}, ops.Copy, "cold"),
        Domain("outer sum", 1.5, outer, _outer_sum, "hot"),
        Domain("sum across", 1, GRIDS, _sum_across, "hot"),
    ]
    ordered = {"rows": Axis(16, 2**16 * reach, 16)}
    for count in (2, 3, 4, 5):
        found.append(Domain(f"move along {count} axes", 0.5, ordered, _ordered(count), "hot"))
    for source, target in _CASTS:
        name, axes = f"{source} to {target}", {"elements": Axis(16, 2**22 * reach)}
        found.append(Domain(name, 0.7, axes, _cast(source, target), "hot"))
    for inputs, flops, dtype, share in _ARITHMETIC:
        axes = many if dtype == "bfloat16" else {"elements": Axis(16, 2**20 * reach)}
        name = f"pointwise {inputs} {flops} {dtype}"
        found.append(Domain(name, share, axes, _arithmetic(inputs, flops, dtype), "hot"))
    return found


_HEADS = {"heads": OneOf((2, 4, 8, 16, 32))}


def _sum_across(rows: int, cols: int) -> Operator:
    return ops.Elementwise(rows * cols, inputs=2, transposed=True, axes=2)


def _move_across(rows: int, cols: int) -> Operator:
    return ops.Copy(rows * cols, transposed=True, axes=2)


def _outer_sum(rows: int, cols: int) -> Operator:
    return ops.Elementwise(rows * cols**2, 0, broadcast=2 * rows * cols, axes=3)


def _outer_sum_of_grids(rows: int, cols: int) -> Operator:
    """Of two bias terms whose rows lie in different orders, as of positions on a grid."""
    rows = max(4, rows // 64 * 64)
    return ops.Elementwise(rows * cols**2, 0, broadcast=2 * rows * cols, axes=5)


def _scaled(dtype: str, axes: int) -> Callable[..., Operator]:
    """Rows times one weight a column."""

    def scaled(rows: int, cols: int) -> Operator:
        repeated = axes if rows > 1 else 1
        return ops.Elementwise(rows * cols, 1, 1, 1, dtype, broadcast=cols, axes=repeated)

    return scaled


def _turned(rows: int, cols: int, heads: int) -> Operator:
    """Tokens' heads times one cosine a position and channel."""
    return ops.Elementwise(rows * heads * cols, broadcast=rows * cols, axes=3)


def _sum_of_ordered(rows: int, cols: int) -> Operator:
    return ops.Elementwise(rows * cols, inputs=2, axes=3)


def _part(rows: int, cols: int) -> Operator:
    """Half of each row, as rotary embeddings take it."""
    return ops.Elementwise(rows * cols, axes=2)


def _ordered(axes: int) -> Callable[..., Operator]:
    """Heads and positions put in another order: rows of 64 stay together."""
    return lambda rows: ops.Copy(64 * rows, axes=axes)


def _cast(source: str, target: str) -> Callable[..., Operator]:
    return lambda elements: ops.Copy(elements, source, target)


def _arithmetic(inputs: int, flops: int, dtype: str) -> Callable[..., Operator]:
    return lambda elements: ops.Elementwise(elements, inputs, 1, flops, dtype)


_OTHERS = (
    ("topk", 256, 72, "float32"),
    ("topk_sorted", 512, 96, "float32"),
    ("sort", 8, 16, "int64"),
    ("histc", 4, 4, "float32"),
    ("cumsum", 4, 4, "float32"),
    ("index_put", 16, 8, "int64"),
    ("arange", 0, 8, "int64"),
    ("new_ones", 0, 1, "bool"),
    ("new_zeros", 0, 1, "bool"),
    ("empty_like", 0, 8, "int64"),
    ("upsample_linear1d", 128, 96, "bfloat16"),
)
"""(name, bytes read and bytes written for each unit of size, dtype)"""


def others() -> list[Domain]:
    """Operators without a formula."""
    count = {"count": Axis(4, 1024)}
    resample = {"table": Axis(14, 64), "grid": Axis(7, 64)}
    small = [Domain(o[0], 0.35, count, _other(*o), "hot") for o in _OTHERS]
    pool = {"side": Axis(14, 256)}
    small.append(Domain("pooling", 0.35, pool, _pool, "hot"))
    return [*small, Domain("resample", 0.7, resample, _resample, "hot")]


def _other(name: str, read: int, written: int, dtype: str) -> Callable[..., Operator]:
    return lambda count: ops.Other(name, read * count, written * count, dtype=dtype)


def _pool(side: int) -> Operator:
    read, made = 64 * side**2, 64 * ((side - 1) // 2 + 1) ** 2
    return ops.Other("max_pool2d_with_indices", 2 * read, (2 + 8) * made, 9 * made)


def _resample(table: int, grid: int) -> Operator:
    learned, wanted = 768 * table**2, 768 * grid**2
    return ops.Other("upsample_bicubic2d", 4 * learned, 4 * wanted, 16 * wanted, dtype="float32")
