"""Depthwise convolution: each channel by itself, so there is no product of matrices.

    o[b, n, y, x] = sum over (kh, kw) of  in[b, c, y S - P + kh, x S - P + kw] w[n, kh, kw]

with c = n // MULTIPLE, where each input channel makes ``MULTIPLE`` outputs.

A program owns a block of positions and channels, the longer side along memory, and reads its input
once for each tap, out of the caches after the first. Other ways take weights channels fastest
(``by_taps``): as torch keeps them, a tap's weights of neighbouring channels lie a whole kernel
apart, a line of the cache each. In ``strips`` the positions lie in one row, so that rows of the
kernel outside the image are left out rather than masked, and a tap costs a position one comparison.
The reference is ``conv.conv2d_reference`` with as many groups as channels.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from kernels.configs.candidates import Tile
from kernels.configs.pick import pick_depthwise
from kernels.configs.ways import STRIPS, TAPS
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
def depthwise_strips_kernel(
    p_x, p_w, p_bias, p_o, N, H, W, OH, OW, S, P, s_x, s_w, s_o,
    KH: tl.constexpr, KW: tl.constexpr, MULTIPLE: tl.constexpr,
    STEP: tl.constexpr, FULL: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    """[BM columns of a row, BN channels] of the output. Compiled in: ``STEP``, the elements from a
    position of the image to the next, so that a tap costs no address; ``FULL``, no channel is
    masked."""
    tiles_x, tiles_n = tl.cdiv(OW, BM), tl.cdiv(N, BN)
    i_x, i_rest = tl.program_id(0) % tiles_x, tl.program_id(0) // tiles_x
    y, i_rest = i_rest % OH, i_rest // OH
    i_b = (i_rest // tiles_n).to(tl.int64)
    o_x = i_x * BM + tl.arange(0, BM)
    o_n = i_rest % tiles_n * BN + tl.arange(0, BN)
    m_n = (o_n < N) | FULL
    first = y * S - P  # the image's row beside the kernel's first
    lo, hi = tl.maximum(-first, 0), tl.minimum(KH, H - first)
    p_x += i_b * s_x[0] + (first + lo).to(tl.int64) * s_x[2]
    p_b = p_x + (o_x * S - P)[:, None] * STEP + (o_n // MULTIPLE)[None, :] * s_x[1]  # [BM, BN]
    p_w_n = p_w + lo * s_w[2] + o_n * s_w[0]

    b_y = tl.zeros((BM, BN), tl.float32)
    for _ in range(lo, hi):
        for i_kw in tl.static_range(KW):
            o_w = o_x * S - P + i_kw
            m_x = (o_w.to(tl.uint32, bitcast=True) < W)[:, None]  # what is below zero is above W
            if not FULL:
                m_x = m_x & m_n[None, :]
            b_x = tl.load(p_b + i_kw * STEP, mask=m_x, other=0.0)  # [BM, BN]
            b_w = tl.load(p_w_n + i_kw * s_w[3], mask=m_n, other=0.0)  # [BN]
            b_y += b_x.to(tl.float32) * b_w.to(tl.float32)[None, :]
        p_b += s_x[2]
        p_w_n += s_w[2]

    if p_bias is not None:
        b_y += tl.load(p_bias + o_n, mask=m_n, other=0.0).to(tl.float32)[None, :]
    p_o += i_b * s_o[0] + y.to(tl.int64) * s_o[2]
    p_o_mn = p_o + o_x[:, None] * s_o[3] + o_n[None, :] * s_o[1]
    tl.store(p_o_mn, b_y.to(p_o.dtype.element_ty), mask=(o_x < OW)[:, None] & m_n[None, :])


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
    if tile.way in (STRIPS, TAPS):
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
    is_by_rows = tile.way == STRIPS
    kernel = depthwise_strips_kernel if is_by_rows else depthwise_kernel
    if is_by_rows:
        arguments |= {"STEP": x.stride(3), "FULL": channels % tile.n == 0}
    rows, columns = o.shape[2:] if is_by_rows else (1, o.shape[2] * o.shape[3])
    tiles = rows * triton.cdiv(columns, tile.m) * triton.cdiv(channels, tile.n)
    return Launch(kernel, (tiles * batch,), arguments, tile.warps)


def by_taps(weight: torch.Tensor) -> torch.Tensor:
    """The same [OC, 1, KH, KW], copied so that channels lie side by side."""
    return weight.permute(1, 2, 3, 0).contiguous().permute(3, 0, 1, 2)


def is_channels_last(x: torch.Tensor) -> bool:
    """Whether a position's channels lie side by side."""
    return x.shape[1] > 1 and x.stride(1) == 1
