"""Many operators as one: fields that are arrays."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from model.ops.operator import Operator


def grid(operator: type[Operator], **shape: Any) -> Any:
    """One operator whose numeric fields are ``int64`` arrays, broadcast against each other.

    The result has the same properties as a single operator, each an array of the common shape,
    flattened. It is not to be compared or hashed.

    Raises ``ValueError`` where a value is not positive or shapes do not broadcast.
    """
    numeric = {n: v for n, v in shape.items() if v is not None and not isinstance(v, str | bool)}
    arrays = np.broadcast_arrays(*(np.asarray(v) for v in numeric.values()))
    as_int = (a.astype(np.int64) if a.dtype.kind in "iub" else a for a in arrays)
    return operator(**{**shape, **dict(zip(numeric, (a.ravel() for a in as_int), strict=True))})


def is_grid(op: Operator) -> bool:
    """Whether ``op`` was built by :func:`grid`."""
    return any(isinstance(v, np.ndarray) for v in vars(op).values())


def grid_points(op: Operator) -> Iterator[Operator]:
    """The single operators of a grid, one by one, in order."""
    arrays = {n: v for n, v in vars(op).items() if isinstance(v, np.ndarray)}
    for values in zip(*arrays.values(), strict=True):
        yield replace(op, **{n: v.item() for n, v in zip(arrays, values, strict=True)})


class Sizes(np.ndarray):
    """[n] whole numbers that stand for one where a layer is built of them: hashable, and equal to
    no other array, so that records which hold them can be compared and kept in a table. What is
    computed of them is again such. Operators of that layer are grids.
    """

    @classmethod
    def of(cls, values: Any) -> Sizes:
        return np.asarray(values, dtype=np.int64).view(cls)

    def __hash__(self) -> int:  # type: ignore[override]
        return id(self)

    def __eq__(self, other: Any) -> Any:
        return self is other if isinstance(other, Sizes) else super().__eq__(other)
