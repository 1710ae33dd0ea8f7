"""Depthwise convolution: each channel by itself, so there is no product of matrices.

    o[b, n, y, x] = sum over (kh, kw) of  in[b, c, y S - P + kh, x S - P + kw] w[n, kh, kw]

with c = n // MULTIPLE, where each input channel makes ``MULTIPLE`` outputs.

A program owns a block of positions and channels, the longer side along memory, and reads its input
once for each tap, out of the caches after the first. Another way (``depthwise_rows_kernel``): a
block of several rows of outputs reads each row of inputs once for each column of the kernel, and
gives it to all of its rows, so that 4 rows of a 7 x 7 kernel read 70 tiles instead of 196. Both may
take weights channels fastest (``by_taps``): as torch keeps them, a tap's weights of neighbouring
channels lie a whole kernel apart, a line of the cache each. The reference is
``conv.conv2d_reference`` with as many groups as channels.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from kernels.configs.candidates import Tile
from kernels.configs.pick import pick_depthwise
from kernels.configs.ways import ROWS, TAPS
from kernels.launch import Architecture, Launch, strided


@triton.jit
def depthwise_kernel(
    p_x, p_w, p_bias, p_o, N, H, W, OH, OW, S, P, s_x, s_w, s_o,
    KH: tl.constexpr, KW: tl.constexpr, MULTIPLE: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    """``N`` output channels, ``MULTIPLE`` of them on each input channel."""
    tiles_m, tiles_n = tl.cdiv(OH * OW, BM), tl.cdiv(N, BN)
    i_rest = tl.program_id(0) // tiles_m
    i_b = (i_rest // tiles_n).to(tl.int64)
    o_m = tl.program_id(0) % tiles_m * BM + tl.arange(0, BM)
    o_n = i_rest % tiles_n * BN + tl.arange(0, BN)
    o_y = o_m // OW
    o_x = o_m % OW
    m_o = (o_m[:, None] < OH * OW) & (o_n[None, :] < N)
    p_x += i_b * s_x[0] + (o_n // MULTIPLE).to(tl.int64)[None, :] * s_x[1]

    b_y = tl.zeros((BM, BN), tl.float32)
    for i_kh in range(KH):
        for i_kw in range(KW):
            o_h = (o_y * S - P + i_kh)[:, None]
            o_w = (o_x * S - P + i_kw)[:, None]
            m_x = m_o & (o_h >= 0) & (o_h < H) & (o_w >= 0) & (o_w < W)
            b_x = tl.load(p_x + o_h * s_x[2] + o_w * s_x[3], mask=m_x, other=0.0)  # [BM, BN]
            p_w_n = p_w + o_n * s_w[0] + i_kh * s_w[2] + i_kw * s_w[3]
            b_w = tl.load(p_w_n, mask=o_n < N, other=0.0)  # [BN]
            b_y += b_x.to(tl.float32) * b_w.to(tl.float32)[None, :]

    if p_bias is not None:
        b_y += tl.load(p_bias + o_n, mask=o_n < N, other=0.0).to(tl.float32)[None, :]
    p_o += i_b * s_o[0] + o_n.to(tl.int64)[None, :] * s_o[1]
    p_o += o_y[:, None] * s_o[2] + o_x[:, None] * s_o[3]
    tl.store(p_o, b_y.to(p_o.dtype.element_ty), mask=m_o)


@triton.jit
def depthwise_rows_kernel(
    p_x, p_w, p_bias, p_o, N, H, W, OH, OW, S, P, s_x, s_w, s_o,
    KH: tl.constexpr, KW: tl.constexpr, MULTIPLE: tl.constexpr,
    BY: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    """[BY rows, BM columns, BN channels] of the output."""
    tiles_x, tiles_y, tiles_n = tl.cdiv(OW, BM), tl.cdiv(OH, BY), tl.cdiv(N, BN)
    i_x, i_rest = tl.program_id(0) % tiles_x, tl.program_id(0) // tiles_x
    i_y, i_rest = i_rest % tiles_y, i_rest // tiles_y
    i_b = (i_rest // tiles_n).to(tl.int64)
    o_n = i_rest % tiles_n * BN + tl.arange(0, BN)
    o_y, o_x = i_y * BY + tl.arange(0, BY), i_x * BM + tl.arange(0, BM)
    p_x += i_b * s_x[0] + (o_n // MULTIPLE).to(tl.int64)[None, :] * s_x[1]
    p_w_n = p_w + o_n[None, :] * s_w[0]

    b_y = tl.zeros((BY, BM, BN), tl.float32)
    for i_row in range((BY - 1) * S + KH):
        o_h = i_y * BY * S - P + i_row
        o_kh = i_row - tl.arange(0, BY)[:, None] * S  # the kernel's row for each row of the output
        m_w = (o_kh >= 0) & (o_kh < KH) & (o_n[None, :] < N)  # [BY, BN]
        for i_kw in range(KW):
            o_w = (o_x * S - P + i_kw)[:, None]
            m_x = (o_w >= 0) & (o_w < W) & (o_h >= 0) & (o_h < H) & (o_n[None, :] < N)
            b_x = tl.load(p_x + o_h * s_x[2] + o_w * s_x[3], mask=m_x, other=0.0)  # [BM, BN]
            b_w = tl.load(p_w_n + o_kh * s_w[2] + i_kw * s_w[3], mask=m_w, other=0.0)  # [BY, BN]
            b_y += b_x.to(tl.float32)[None, :, :] * b_w.to(tl.float32)[:, None, :]

    if p_bias is not None:
        b_y += tl.load(p_bias + o_n, mask=o_n < N, other=0.0).to(tl.float32)[None, None, :]
    p_o += i_b * s_o[0] + o_n.to(tl.int64)[None, None, :] * s_o[1]
    p_o += o_y[:, None, None] * s_o[2] + o_x[None, :, None] * s_o[3]
    m_o = (o_y[:, None, None] < OH) & (o_x[None, :, None] < OW) & (o_n[None, None, :] < N)
    tl.store(p_o, b_y.to(p_o.dtype.element_ty), mask=m_o)


def depthwise_launch(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    o: torch.Tensor,
    stride: int,
    padding: int,
    architecture: Architecture,
    tile: Tile | None = None,
) -> Launch:
    """``x`` [B, C, H, W], ``weight`` [OC, 1, KH, KW], OC a multiple of C."""
    (batch, depth, height, width), (channels, _, kernel_h, kernel_w) = (x.shape, weight.shape)
    tile = tile or pick_depthwise(
        channels, o.shape[2] * o.shape[3], batch, kernel_h, stride, x.element_size(),
        is_channels_last(x), architecture,
    )  # fmt: skip
    if tile.way in (ROWS, TAPS):
        weight = by_taps(weight)
    arguments = strided(x=x, w=weight, o=o) | {
        "p_bias": bias,
        "N": channels,
        "H": height,
        "W": width,
        "OH": o.shape[2],
        "OW": o.shape[3],
        "S": stride,
        "P": padding,
        "KH": kernel_h,
        "KW": kernel_w,
        "MULTIPLE": channels // depth,
        **tile.blocks("mn"),
    }
    if tile.way == ROWS:
        tiles = triton.cdiv(o.shape[3], tile.m) * triton.cdiv(o.shape[2], tile.k)
        programs = tiles * triton.cdiv(channels, tile.n) * batch
        return Launch(depthwise_rows_kernel, (programs,), arguments | {"BY": tile.k}, tile.warps)
    positions_per_image = o.shape[2] * o.shape[3]
    grid = (triton.cdiv(positions_per_image, tile.m) * triton.cdiv(channels, tile.n) * batch,)
    return Launch(depthwise_kernel, grid, arguments, tile.warps)


def by_taps(weight: torch.Tensor) -> torch.Tensor:
    """The same [OC, 1, KH, KW], copied so that channels lie side by side."""
    return weight.permute(1, 2, 3, 0).contiguous().permute(3, 0, 1, 2)


def is_channels_last(x: torch.Tensor) -> bool:
    """Whether a position's channels lie side by side."""
    return x.shape[1] > 1 and x.stride(1) == 1
