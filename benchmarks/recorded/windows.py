"""Convolutions of a record: what their stride and padding are is told by who reads them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from calib.trace.rules.rows import Size

SMALL_WINDOW = 7
"""Windows that are odd and no larger overlap; patches do not."""


def convolved(x: Size, weight: Size, after: Sequence[Sequence[Size]]) -> Size:
    """A map of as many channels as ``weight`` has; its places are as many as a reader says, seen
    as a map, as rows of channels, or as those behind one more row."""
    batch, places, channels, window = x.shape[0], x.shape[2:], weight.shape[0], weight.shape[2:]
    apart = window[0] % 2 == 0 or window[0] > SMALL_WINDOW
    usual = window[0] if apart else 1
    tried = []
    for stride in dict.fromkeys((usual, 1, 2, window[0], max(window[0] // 2, 1), 4)):
        padding = (window[0] - 1) // 2 if stride < window[0] else 0
        for around in dict.fromkeys((padding, 0)):
            ends = zip(places, window, strict=True)
            tried.append(tuple((n + 2 * around - k) // stride + 1 for n, k in ends))
    known = [s.shape for some in after for s in some if channels in s.shape[1:]]
    maps = (s[2:] for s in known if len(s) == len(x.shape) and s[:2] == (batch, channels))
    whole = (places for places in maps if math.prod(places) > 1 or math.prod(tried[0]) == 1)
    rows = {math.prod(s) / (batch * channels) for s in known if s[0] % batch == 0}
    rows |= {n - 1 for n in rows}
    found = next(whole, None) or next((t for t in tried if math.prod(t) in rows), tried[0])
    return sized((batch, channels, *found), x.dtype)


def convolution(
    x: tuple[int, ...], weight: tuple[int, ...], out: tuple[int, ...]
) -> dict[str, Any]:
    """Stride and padding that lead from ``x`` to ``out``, both [batch, channels, ...]."""
    window, known = weight[2:], len(out) == len(x) and out[1] == weight[0]
    stride = [max(round(n / m), 1) for n, m in zip(x[2:], out[2:], strict=True)] if known else []
    stride = stride or list(window if window[0] > 7 else [1] * len(window))
    ends = zip(x[2:], window, stride, out[2:] if known else x[2:], strict=True)
    padding = [padded(*some) for some in ends]
    groups = max(x[1] // weight[1], 1)
    return {
        **{"stride": stride, "padding": padding, "dilation": [1] * len(window)},
        **{"groups": groups, "transposed": False},
    }


def padded(n: int, window: int, stride: int, made: int) -> int:
    """What is put around ``n`` places for ``made`` to come out; else half a window."""
    half = 0 if stride >= window else (window - 1) // 2
    tried = (p for p in (half, 0, window // 2) if (n + 2 * p - window) // stride + 1 == made)
    return next(tried, half)


def sized(shape: tuple[int, ...], dtype: str) -> Size:
    return Size(shape, dtype, expanded=(False,) * len(shape))
