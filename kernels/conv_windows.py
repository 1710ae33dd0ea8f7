"""Convolution of channels-last images by descriptor: another way of ``conv``, to be timed.

A program owns a window of BH x BW output positions and BN channels. For each tap of the kernel and
each BK channels a descriptor fetches the window moved by the tap: positions outside the image come
as zeros, which is the padding, and no thread computes an address or a mask.

A stride S is a matter of how the image is seen. With y = S q + r, the row q S + r is (q, r):

    x [B, H, W, C]  as  [B, H / S, S, W / S, S C]        output (y, x), tap (kh, kw):
    row kh - P = S q_h + r_h, column likewise    ->      [y + q_h, r_h, x + q_w, r_w C + c]

so the window of a strided convolution is dense too. It needs C in steps of BK, and sides that S
divides; anything else goes the plain way.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from triton.tools.tensor_descriptor import TensorDescriptor

from kernels.configs.candidates import Tile
from kernels.launch import Architecture, Launch, strided
from kernels.mlp.operands import can_bulk, source, tile_of

WIDTH = 16
"""Columns of a window; as many rows as make ``tile.m`` positions."""


@triton.jit
def windows_kernel(
    p_x, p_w, p_bias, p_o, N, C, OH, OW, s_o,
    KW: tl.constexpr, TAPS: tl.constexpr, STRIDE: tl.constexpr, PADDING: tl.constexpr,
    BH: tl.constexpr, BW: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    tiles_y, tiles_x, tiles_n = tl.cdiv(OH, BH), tl.cdiv(OW, BW), tl.cdiv(N, BN)
    windows = tiles_y * tiles_x
    i_b = tl.program_id(0) // (windows * tiles_n)
    i_w, i_n = tile_of(tl.program_id(0) % (windows * tiles_n), windows, tiles_n, 8)
    y, x = i_w // tiles_x * BH, i_w % tiles_x * BW
    steps = C // BK

    b_y = tl.zeros((BH * BW, BN), tl.float32)
    for i in range(tl.maximum(TAPS * steps, 1)):  # one step at least, see ``mlp.product``
        tap, o_c = i // steps, i % steps * BK
        row, column = tap // KW - PADDING, tap % KW - PADDING
        q_h = (row + STRIDE * PADDING) // STRIDE - PADDING  # rounded down, below zero too
        q_w = (column + STRIDE * PADDING) // STRIDE - PADDING
        r_h, r_w = row - q_h * STRIDE, column - q_w * STRIDE
        b_x = p_x.load([i_b, y + q_h, r_h, x + q_w, r_w * C + o_c])
        b_w = p_w.load([i_n * BN, tap * C + o_c])  # [BN, BK]
        b_y = tl.dot(b_x.reshape(BH * BW, BK), b_w.T, b_y)  # [BH BW, BN]

    o_m, o_n = tl.arange(0, BH * BW), i_n * BN + tl.arange(0, BN)
    if p_bias is not None:
        b_y += tl.load(p_bias + o_n, mask=o_n < N, other=0.0).to(tl.float32)[None, :]
    o_y, o_x = y + o_m // BW, x + o_m % BW
    p_o += i_b.to(tl.int64) * s_o[0]
    p_o_m = p_o + o_y.to(tl.int64) * s_o[2] + o_x * s_o[3]  # [BH BW]
    m_o = (o_y < OH)[:, None] & (o_x < OW)[:, None] & (o_n < N)[None, :]
    p_o_mn = p_o_m[:, None] + o_n[None, :] * s_o[1]
    tl.store(p_o_mn, b_y.to(p_o.dtype.element_ty), mask=m_o)


def seen_in_steps(x: torch.Tensor, stride: int) -> torch.Tensor | None:
    """``x`` [B, C, H, W] as [B, H / S, S, W / S, S C] without a copy; None where it does not lie
    so."""
    batch, channels, height, width = x.shape
    if not x.is_contiguous(memory_format=torch.channels_last) or height % stride or width % stride:
        return None
    rows, columns = height // stride, width // stride
    return x.permute(0, 2, 3, 1).view(batch, rows, stride, columns, stride * channels)


def window_of(
    x: torch.Tensor, weight: torch.Tensor, stride: int, architecture: Architecture, depth: int
) -> torch.Tensor | None:
    """The image as a window's descriptor sees it, ``depth`` channels at a time; None where this
    way does not go: not channels-last, groups, sides or channels that do not divide."""
    seen = seen_in_steps(x, stride)
    if seen is None or weight.shape[1] != x.shape[1] or x.shape[1] % depth:
        return None
    if not weight.is_contiguous(memory_format=torch.channels_last):
        return None
    return seen if can_bulk(architecture, seen, taps_of(weight)) else None


def taps_of(weight: torch.Tensor) -> torch.Tensor:
    """[OC, C, KH, KW] channels-last as a matrix [OC, KH KW C]."""
    return weight.permute(0, 2, 3, 1).flatten(1)


def windows_launch(
    x: torch.Tensor,
    seen: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    o: torch.Tensor,
    stride: int,
    padding: int,
    tile: Tile,
) -> Launch:
    """``seen``: what :func:`window_of` makes of ``x``; ``o`` [B, OC, OH, OW] of any strides."""
    (channels, depth, kernel_h, kernel_w), (out_h, out_w) = weight.shape, o.shape[2:]
    width = min(WIDTH, tile.m)
    height = tile.m // width
    arguments = strided(o=o) | {
        "p_x": TensorDescriptor.from_tensor(seen, [1, height, 1, width, tile.k]),
        "p_w": source(taps_of(weight), tile.n, tile.k, True),
        "p_bias": bias,
        "N": channels,
        "C": depth,
        "OH": out_h,
        "OW": out_w,
        "KW": kernel_w,
        "TAPS": kernel_h * kernel_w,
        "STRIDE": stride,
        "PADDING": padding,
        "BH": height,
        "BW": width,
        "BN": tile.n,
        "BK": tile.k,
    }
    windows = triton.cdiv(out_h, height) * triton.cdiv(out_w, width)
    grid = (windows * triton.cdiv(channels, tile.n) * x.shape[0],)
    return Launch(windows_kernel, grid, arguments, tile.warps, tile.stages)
