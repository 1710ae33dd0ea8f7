"""Operators of torch that have no formula of their own, by name."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F

from calib.measure.cases.arena import Arena, Case, Unsupported
from model import ops


def _items(nbytes: Any, dtype: torch.dtype) -> int:
    return max(1, int(nbytes) // dtype.itemsize)


def _topk(op: ops.Other, arena: Arena) -> Case:
    x = arena.take(max(1, _items(op.read, torch.float32) // 64), 64, dtype="float32")
    return partial(torch.topk, x, 6, dim=-1, sorted=False)


def _topk_sorted(op: ops.Other, arena: Arena) -> Case:
    x = arena.take(max(1, _items(op.read, torch.float32) // 128), 128, dtype="float32")
    return partial(torch.topk, x, 8, dim=-1)


def _sort(op: ops.Other, arena: Arena) -> Case:
    x = arena.take(_items(op.read, torch.int64), dtype="int64")
    return partial(torch.sort, x)


def _histc(op: ops.Other, arena: Arena) -> Case:
    x = arena.take(_items(op.read, torch.float32), dtype="float32")
    bins = _items(op.written, torch.float32)
    return partial(torch.histc, x, bins, 0, bins - 1)


def _cumsum(op: ops.Other, arena: Arena) -> Case:
    x = arena.take(_items(op.read, torch.float32), dtype="float32")
    return partial(torch.cumsum, x, 0, dtype=torch.int32)


def _index_put(op: ops.Other, arena: Arena) -> Case:
    count = _items(op.written, torch.int64)
    where = torch.randperm(count, generator=arena.generator).to(arena.device)
    values = torch.arange(count, device=arena.device)
    return partial(operator.setitem, torch.empty_like(values), where, values)


def _created(make: Case, itemsize: int) -> Callable[..., Case]:
    def created(op: ops.Other, arena: Arena) -> Case:
        where = {} if arena.device == "cpu" else {"device": arena.device}
        return partial(make, max(1, int(op.written) // itemsize), **where)

    return created


def _allocated(op: ops.Other, arena: Arena) -> Case:
    """A card's allocator works on the host alone: there is no kernel to time."""
    if arena.device != "cpu":
        raise Unsupported("an allocation launches no kernel")
    return partial(torch.empty, max(1, int(op.written) // 8), dtype=torch.int64)


def _linear1d(op: ops.Other, arena: Arena) -> Case:
    learned, wanted = (_items(b, torch.bfloat16) for b in (op.read, op.written))
    x = arena.take(1, 64, max(1, learned // 64), dtype=op.dtype)
    return partial(F.interpolate, x, size=max(1, wanted // 64), mode="linear")


def _bicubic(op: ops.Other, arena: Arena) -> Case:
    learned, wanted = (_items(b, torch.float32) for b in (op.read, op.written))
    channels = next((c for c in (768, 1024, 64) if _square(learned, c) and _square(wanted, c)), 0)
    if not channels:
        raise Unsupported("resampling is measured on square maps of 64, 768 or 1024 channels")
    side, out = math.isqrt(learned // channels), math.isqrt(wanted // channels)
    x = arena.take(1, side, side, channels, dtype="float32").permute(0, 3, 1, 2)
    size = (out, out)
    return partial(F.interpolate, x, size=size, mode="bicubic", align_corners=False, antialias=True)


def _square(count: int, channels: int) -> bool:
    return count % channels == 0 and math.isqrt(count // channels) ** 2 == count // channels


def _max_pool2d(op: ops.Other, arena: Arena) -> Case:
    """Windows of 3 x 3, two apart, of 64 channels: values and their places are written."""
    side = max(2, math.isqrt(_items(op.read, getattr(torch, op.dtype)) // 64))
    x = arena.take(1, 64, side, side, dtype=op.dtype)
    return partial(F.max_pool2d, x, 3, 2, 1, return_indices=True)


OTHERS: dict[str, Callable[..., Case]] = {
    "topk": _topk,
    "topk_sorted": _topk_sorted,
    "sort": _sort,
    "histc": _histc,
    "cumsum": _cumsum,
    "index_put": _index_put,
    "arange": _created(partial(torch.arange), 8),
    "new_zeros": _created(partial(torch.zeros, dtype=torch.bool), 1),
    "new_ones": _created(partial(torch.ones, dtype=torch.bool), 1),
    "empty_like": _allocated,
    "upsample_linear1d": _linear1d,
    "upsample_bicubic2d": _bicubic,
    "max_pool2d_with_indices": _max_pool2d,
}
