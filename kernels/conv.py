"""Convolution as a matrix product whose left factor is never built (implicit GEMM).

A row is an output position, a column an output channel, the reduction runs over the taps of a
group's input channels:

    o[(b, y, x), oc] = sum over r = (c, kh, kw) of  in[b, c, y S - P + kh, x S - P + kw] w[oc, r]

The order of r is free, so it follows memory: channels fastest for channels-last tensors, the
kernel's columns fastest for torch's default. A patch embedding is the case S = kernel, P = 0. A
depthwise convolution has no sum over channels, hence no product of matrices, and a page of its own
(``depthwise``). Another way for channels-last images stands in ``conv_windows``.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch.nn import functional

from kernels.configs.candidates import Tile
from kernels.configs.pick import Product, pick_linear
from kernels.configs.ways import DEPTH, WINDOWS
from kernels.conv_windows import window_of, windows_launch
from kernels.depthwise import depthwise_launch, is_channels_last
from kernels.launch import Architecture, Launch, architecture_of, strided
from kernels.mlp.operands import tile_of
from kernels.mlp.product import linear_launches, of_columns
from kernels.mlp.split import finish_launch, partial_sums


def conv2d_reference(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    stride: int = 1,
    padding: int = 0,
    groups: int = 1,
) -> torch.Tensor:
    """[B, C, H, W] x [OC, C / groups, KH, KW] -> [B, OC, OH, OW] in float32."""
    b = None if bias is None else bias.float()
    return functional.conv2d(x.float(), weight.float(), b, stride, padding, groups=groups)


@triton.jit
def taps(o_r, C, KH: tl.constexpr, KW: tl.constexpr, CHANNELS_LAST: tl.constexpr):
    """The channel, kernel row and kernel column of each place of the reduction."""
    if CHANNELS_LAST:
        o_c, o_tap = o_r % C, o_r // C
    else:
        o_c, o_tap = o_r // (KH * KW), o_r % (KH * KW)
    return o_c, o_tap // KW, o_tap % KW


@triton.jit
def positions(o_m, OH, OW):
    """The image, row and column of each output position."""
    return o_m // (OH * OW), o_m // OW % OH, o_m % OW


@triton.jit
def conv2d_kernel(
    p_x, p_w, p_bias, p_o, M, N, C, H, W, OH, OW, S, P, stretch, splits, s_x, s_w, s_o,
    KH: tl.constexpr, KW: tl.constexpr, PADDED: tl.constexpr, CHANNELS_LAST: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """``N`` output and ``C`` input channels of one group; M = B OH OW. ``o`` [splits, B, OC, OH,
    OW]: each of the parts sums ``stretch`` places of the reduction."""
    tiles_m, tiles_n = tl.cdiv(M, BM), tl.cdiv(N, BN)
    i_rest = tl.program_id(0) // (tiles_m * tiles_n)
    i_g, i_split = (i_rest // splits).to(tl.int64), (i_rest % splits).to(tl.int64)
    i_m, i_n = tile_of(tl.program_id(0) % (tiles_m * tiles_n), tiles_m, tiles_n, 8)
    o_m = i_m * BM + tl.arange(0, BM)
    o_n = i_n * BN + tl.arange(0, BN)
    o_b, o_y, o_x = positions(o_m, OH, OW)
    o_h = o_y * S - P
    o_w = o_x * S - P
    p_x += i_g * C * s_x[1]
    p_x_m = p_x + o_b.to(tl.int64) * s_x[0] + o_h.to(tl.int64) * s_x[2] + o_w * s_x[3]  # [BM]
    p_w_n = p_w + (i_g * N + o_n) * s_w[0]  # [BN]
    K = C * KH * KW

    b_y = tl.zeros((BM, BN), tl.float32)
    lo = i_split.to(tl.int32) * stretch
    steps = tl.cdiv(tl.minimum(K, lo + stretch) - lo, BK)
    for i in range(tl.maximum(steps, 1)):  # one at least, see ``mlp.product``
        o_k = lo + i * BK
        o_r = o_k + tl.arange(0, BK)
        o_c, o_kh, o_kw = taps(o_r, C, KH, KW, CHANNELS_LAST)
        m_x = (o_m[:, None] < M) & (o_r[None, :] < K)
        if PADDED:
            o_ih = o_h[:, None] + o_kh[None, :]
            o_iw = o_w[:, None] + o_kw[None, :]
            m_x = m_x & (o_ih >= 0) & (o_ih < H) & (o_iw >= 0) & (o_iw < W)
        o_in = o_c.to(tl.int64) * s_x[1] + o_kh * s_x[2] + o_kw * s_x[3]  # [BK]
        o_wt = o_c * s_w[1] + o_kh * s_w[2] + o_kw * s_w[3]  # [BK]
        b_x = tl.load(p_x_m[:, None] + o_in[None, :], mask=m_x, other=0.0)  # [BM, BK]
        m_w = (o_n[:, None] < N) & (o_r[None, :] < K)
        b_w = tl.load(p_w_n[:, None] + o_wt[None, :], mask=m_w, other=0.0)  # [BN, BK]
        b_y = tl.dot(b_x, b_w.T, b_y)  # [BM, BN]

    if p_bias is not None:
        b_y += tl.load(p_bias + i_g * N + o_n, mask=o_n < N, other=0.0).to(tl.float32)[None, :]
    p_o += i_split * s_o[0]
    p_o_m = p_o + o_b.to(tl.int64) * s_o[1] + o_y.to(tl.int64) * s_o[3] + o_x * s_o[4]  # [BM]
    p_o_mn = p_o_m[:, None] + (i_g * N + o_n)[None, :] * s_o[2]  # [BM, BN]
    m_o = (o_m[:, None] < M) & (o_n[None, :] < N)
    tl.store(p_o_mn, b_y.to(p_o.dtype.element_ty), mask=m_o)


def conv2d_launches(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    o: torch.Tensor,
    stride: int,
    padding: int,
    groups: int,
    architecture: Architecture,
    tile: Tile | None = None,
) -> tuple[Launch, ...]:
    """``x`` [B, C, H, W] and ``o`` [B, OC, OH, OW] of any strides: one kernel, or the parts of the
    reduction and their sum (``kernels.mlp.split``)."""
    (batch, _, height, width), (channels, depth, kernel_h, kernel_w) = (x.shape, weight.shape)
    (out_h, out_w), n, matrix = o.shape[2:], channels // groups, as_matrix(o)
    m, k = batch * out_h * out_w, depth * kernel_h * kernel_w
    seen = window_of(x, weight, stride, architecture, DEPTH)
    product = Product(
        "conv2d", m, n, k, x.element_size(), groups, can_split=matrix is not None,
        windows_stride=stride if seen is not None else 0,
    )  # fmt: skip
    tile, sums, parts = tile or pick_linear(product, architecture), None, o[None]
    if tile.way == WINDOWS:
        seen = window_of(x, weight, stride, architecture, tile.k)
        if seen is not None:
            return (windows_launch(x, seen, weight, bias, o, stride, padding, tile),)
    if tile.splits > 1:
        if matrix is None:
            raise ValueError(f"o: strides {o.stride()}: expected positions side by side to split")
        sums = partial_sums(matrix, tile.splits)  # [splits, M, OC]
        parts = sums.unflatten(1, (batch, out_h, out_w)).permute(0, 1, 4, 2, 3)
    arguments = strided(x=x, w=weight, o=parts) | {
        "p_bias": bias if sums is None else None,
        "M": m,
        "N": n,
        "C": depth,
        "H": height,
        "W": width,
        "OH": out_h,
        "OW": out_w,
        "S": stride,
        "P": padding,
        "stretch": triton.cdiv(triton.cdiv(k, tile.k), len(parts)) * tile.k,
        "splits": len(parts),
        "KH": kernel_h,
        "KW": kernel_w,
        "PADDED": padding > 0,
        "CHANNELS_LAST": is_channels_last(x),
        **tile.blocks("mnk"),
    }
    grid = (triton.cdiv(m, tile.m) * triton.cdiv(n, tile.n) * groups * len(parts),)
    launch = Launch(conv2d_kernel, grid, arguments, tile.warps, tile.stages)
    if sums is None or matrix is None:
        return (launch,)
    return launch, finish_launch(sums, bias, matrix, None)


def as_matrix(o: torch.Tensor) -> torch.Tensor | None:
    """[B, OC, OH, OW] as [B OH OW, OC] without a copy; None where its strides do not allow it."""
    batch, channels, height, width = o.shape
    along = o.stride(3)
    rows_follow = height == 1 or o.stride(2) == width * along
    images_follow = batch == 1 or o.stride(0) == height * width * along
    if not (rows_follow and images_follow):
        return None
    return o.as_strided((batch * height * width, channels), (along, o.stride(1)))


def conv2d(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    stride: int = 1,
    padding: int = 0,
    groups: int = 1,
    tile: Tile | None = None,
) -> torch.Tensor:
    """[B, C, H, W] x [OC, C / groups, KH, KW] -> [B, OC, OH, OW], laid out as ``x`` is.

    Channels-last is the fast layout: 16 bytes a load. Weights are brought into the layout of
    ``x``, as torch does it; those already there are not copied. One tap at every position of a
    channels-last image is a product of two matrices, and goes that way. Raises ``ValueError`` for
    shapes that do not match.
    """
    _check(x, weight, stride, padding, groups)
    bias = of_columns(bias, weight)
    layout = torch.channels_last if is_channels_last(x) else torch.contiguous_format
    weight = weight.contiguous(memory_format=layout)
    size = [
        (n + 2 * padding - k) // stride + 1
        for n, k in zip(x.shape[2:], weight.shape[2:], strict=True)
    ]
    o = torch.empty(
        (x.shape[0], weight.shape[0], *size), dtype=x.dtype, device=x.device, memory_format=layout
    )
    architecture = architecture_of(x.device)
    positions, result = as_matrix(x), as_matrix(o)
    one_tap = weight.shape[2:] == (1, 1) and stride == 1 and padding == 0 and groups == 1
    launches: tuple[Launch, ...]
    if one_tap and is_channels_last(x) and positions is not None and result is not None:
        kernel = weight.flatten(1)
        launches = linear_launches(positions, kernel, bias, result, None, architecture, tile)
    elif weight.shape[1] == 1 and groups > 1:
        launches = (depthwise_launch(x, weight, bias, o, stride, padding, architecture, tile),)
    else:
        launches = conv2d_launches(x, weight, bias, o, stride, padding, groups, architecture, tile)
    for launch in launches:
        launch.run()
    return o


def patch_embed(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    tile: Tile | None = None,
) -> torch.Tensor:
    """[B, C, H, W] cut into patches of the kernel's size -> tokens [B, OH OW, OC].

    The tokens are written in place by the strides of the output; no transpose follows. Raises
    ``ValueError`` for shapes that do not match.
    """
    patch = weight.shape[2]
    _check(x, weight, patch, 0, 1)
    bias = of_columns(bias, weight)
    rows, columns = x.shape[2] // patch, x.shape[3] // patch
    tokens = x.new_empty(x.shape[0], rows, columns, weight.shape[0])
    o = tokens.permute(0, 3, 1, 2)
    for launch in conv2d_launches(x, weight, bias, o, patch, 0, 1, architecture_of(x.device), tile):
        launch.run()
    return tokens.view(x.shape[0], rows * columns, weight.shape[0])


def _check(x: torch.Tensor, weight: torch.Tensor, stride: int, padding: int, groups: int) -> None:
    if stride < 1 or padding < 0 or groups < 1:
        raise ValueError(
            f"stride = {stride}, padding = {padding}, groups = {groups}: expected at least 1, 0, 1"
        )
    if x.ndim != 4 or weight.ndim != 4 or x.shape[1] != weight.shape[1] * groups:
        raise ValueError(
            f"x: {tuple(x.shape)}, weight: {tuple(weight.shape)}, groups = {groups}: expected "
            "[B, C, H, W] and [OC, C / groups, KH, KW]"
        )
    if weight.shape[0] % groups or x.dtype != weight.dtype:
        raise ValueError(
            f"weight: {tuple(weight.shape)} {weight.dtype}: expected output channels in multiples "
            f"of groups = {groups}, and {x.dtype}"
        )
    if any(n + 2 * padding < k for n, k in zip(x.shape[2:], weight.shape[2:], strict=True)):
        raise ValueError(
            f"x: {tuple(x.shape)} padded by {padding}: expected no smaller than the kernel "
            f"{tuple(weight.shape[2:])}"
        )
