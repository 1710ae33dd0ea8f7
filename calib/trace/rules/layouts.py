"""How the tensors of one operator lie beside one another: the axes that a walk over them has.

As torch's TensorIterator sees it (aten/src/ATen/TensorIterator.cpp, ``reorder_dimensions`` and
``coalesce_dimensions``): dimensions are ordered as they lie in the result, and two neighbours are
one axis where the inner one ends, in every tensor, where the next of the outer one begins. One run
through all tensors is a vectorised kernel; of more axes each element's place is computed. So it is
where a tensor on the card holds one number for all: only what lies with the host is handed over.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from calib.trace.rules.rows import Size

HOST = "cpu"


def axes(out: Size, inputs: Sequence[Size]) -> int:
    """1: all are one run of memory. Else the axes left after merging, at least 2."""
    shape = out.shape
    tensors = [size for size in inputs if size.shape or size.device != HOST]
    read = [strides_in(size, shape) for size in tensors if fits(size, shape)]
    written = strides_in(out, shape)
    order = sorted((d for d, n in enumerate(shape) if n > 1), key=lambda d: -written[d])
    merged: list[int] = []
    for d in order:
        if not merged or not all(s[merged[-1]] == shape[d] * s[d] for s in (written, *read)):
            merged.append(d)
        else:
            merged[-1] = d
    is_run = len(merged) <= 1 and all(s[d] == 1 for s in (written, *read) for d in merged)
    return 1 if is_run else max(len(merged), 2)


def fits(size: Size, shape: tuple[int, ...]) -> bool:
    """Whether ``size`` can be repeated to ``shape``."""
    pairs = zip(reversed(size.shape), reversed(shape), strict=False)
    return len(size.shape) <= len(shape) and all(n in (1, whole) for n, whole in pairs)


def strides_in(size: Size, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Strides of ``size`` seen as ``shape``: 0 where it is repeated."""
    own = size.strides or dense(size.shape)
    lead = len(shape) - len(size.shape)
    pairs = zip(size.shape, own, shape[lead:], strict=True)
    return (0,) * lead + tuple(s if n == whole else 0 for n, s, whole in pairs)


def dense(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(math.prod(shape[d + 1 :]) for d in range(len(shape)))


def is_dense(size: Size) -> bool:
    """Whether it is one run of memory with the last dimension innermost."""
    pairs = zip(size.shape, size.strides or dense(size.shape), dense(size.shape), strict=True)
    return all(s == wanted for n, s, wanted in pairs if n > 1)


def turned(out: Size, read: Size) -> bool:
    """Whether the innermost dimension of one is not that of the other."""
    inner = [innermost(size.strides or dense(size.shape), size.shape) for size in (out, read)]
    return len(out.shape) == len(read.shape) and inner[0] != inner[1] and -1 not in inner


def innermost(strides: Sequence[int], shape: Sequence[int]) -> int:
    """The dimension whose neighbours lie closest, of those that are not repeated."""
    known = [d for d, n in enumerate(shape) if n > 1 and strides[d] > 0]
    return min(known, key=lambda d: strides[d], default=-1)
