"""Convolutions, and the norms over channels that stand between them."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F

from calib.measure.cases.arena import Arena, Case, Unsupported
from model import ops


def _conv2d(op: ops.Conv2d, arena: Arena) -> Case:
    x = arena.take(op.batch, op.in_channels, op.height, op.width, dtype=op.dtype)
    if op.in_channels > ops.Conv2d.few_channels and not op.planar:
        x = x.to(memory_format=torch.channels_last)
    shape = (op.out_channels, op.in_channels // op.groups, op.kernel, op.kernel)
    w = arena.take(*shape, dtype=op.dtype)
    b = arena.take(op.out_channels, dtype=op.dtype) if op.bias else None
    return partial(F.conv2d, x, w, b, op.stride, op.padding, groups=op.groups)


def _convolution(op: ops.Convolution, arena: Arena) -> Case:
    """Of one dimension: counts say no more than that, and sound is what has one."""
    taps, wanted = op.taps, op.out_positions
    stride = max(1, round(op.in_positions / wanted))
    padding = max(0, (wanted - 1) * stride + taps - op.in_positions + 1) // 2
    if op.transposed or (op.in_positions + 2 * padding - taps) // stride + 1 != wanted:
        raise Unsupported("convolutions of any form are measured in one dimension, not transposed")
    x = arena.take(op.batch, op.in_channels, op.in_positions, dtype=op.dtype)
    w = arena.take(op.out_channels, op.in_channels // op.groups, taps, dtype=op.dtype)
    b = arena.take(op.out_channels, dtype=op.dtype) if op.bias else None
    return partial(F.conv1d, x, w, b, stride, padding, groups=op.groups)


def _channel_norm(op: ops.ChannelNorm, arena: Arena) -> Case:
    """Feature maps of [batch, channels, positions]."""
    planes = op.planes or op.channels
    positions = max(1, op.elements // planes)
    x = arena.take(max(1, planes // op.channels), op.channels, positions, dtype=op.dtype)
    scale, shift = (arena.take(op.channels, dtype=op.dtype) for _ in range(2))
    if op.kind == "groupnorm":
        return partial(F.group_norm, x, math.gcd(op.channels, 32), scale, shift)
    mean, variance = arena.take(op.channels, dtype=op.dtype), torch.ones_like(scale)
    return partial(F.batch_norm, x, mean, variance, scale, shift)


CONVOLUTIONS: dict[str, Callable[..., Case]] = {
    "conv2d": _conv2d,
    "convolution": _convolution,
    "channel_norm": _channel_norm,
}
