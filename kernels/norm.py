"""Reductions along rows: RMSNorm, LayerNorm, softmax, each reading its input once where it fits.

One program owns a block of rows [BM, BN]. Where a row fits one block (``WHOLE``) it stays in
registers between the statistics and the result; a longer row is read block by block, twice, or
(softmax, ``softmax_shared``) shared by programs. Statistics are in float32.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch.nn import functional

from kernels.configs.candidates import Tile
from kernels.configs.pick import pick_rows
from kernels.configs.ways import LAGGED
from kernels.launch import Architecture, Launch, architecture_of, strided
from kernels.softmax_shared import lagged_launches, reference_of, shared_launches


def rms_norm_reference(x: torch.Tensor, weight: torch.Tensor, eps: float = 1e-6) -> torch.Tensor:
    """x / sqrt(mean(x^2) + eps) * weight in float32."""
    return functional.rms_norm(x.float(), x.shape[-1:], weight.float(), eps)


def layer_norm_reference(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, eps: float = 1e-6
) -> torch.Tensor:
    """(x - mean) / sqrt(variance + eps) * weight + bias in float32."""
    return functional.layer_norm(x.float(), x.shape[-1:], weight.float(), bias.float(), eps)


def softmax_reference(x: torch.Tensor) -> torch.Tensor:
    """exp(x - max) / sum in float32."""
    return x.float().softmax(-1)


@triton.jit
def load_block(p_x, o_m, o_n, M, N, s_x, other):
    """[BM, BN] in float32, ``other`` outside."""
    p_x += o_m.to(tl.int64)[:, None] * s_x[0] + o_n.to(tl.int64)[None, :] * s_x[1]
    return tl.load(p_x, mask=(o_m[:, None] < M) & (o_n[None, :] < N), other=other).to(tl.float32)


@triton.jit
def store_block(p_o, b_o, o_m, o_n, M, N, s_o):
    p_o += o_m.to(tl.int64)[:, None] * s_o[0] + o_n[None, :] * s_o[1]
    tl.store(p_o, b_o.to(p_o.dtype.element_ty), mask=(o_m[:, None] < M) & (o_n[None, :] < N))


@triton.jit
def load_row(p, o_n, N):
    """[1, BN] of a parameter."""
    return tl.load(p + o_n, mask=o_n < N, other=0.0).to(tl.float32)[None, :]


@triton.jit
def rms_norm_kernel(
    p_x, p_w, p_o, M, N, eps, s_x, s_o, WHOLE: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr
):
    o_m = tl.program_id(0) * BM + tl.arange(0, BM)
    o_n = tl.arange(0, BN)
    b_x = load_block(p_x, o_m, o_n, M, N, s_x, 0.0)  # [BM, BN]
    b_square = tl.sum(b_x * b_x, 1)  # [BM]
    if not WHOLE:
        for o in range(BN, N, BN):
            b_more = load_block(p_x, o_m, o + o_n, M, N, s_x, 0.0)
            b_square += tl.sum(b_more * b_more, 1)
    b_r = tl.rsqrt(b_square / N + eps)[:, None]  # [BM, 1]
    store_block(p_o, b_x * b_r * load_row(p_w, o_n, N), o_m, o_n, M, N, s_o)
    if not WHOLE:
        for o in range(BN, N, BN):
            b_more = load_block(p_x, o_m, o + o_n, M, N, s_x, 0.0)
            b_o = b_more * b_r * load_row(p_w, o + o_n, N)
            store_block(p_o, b_o, o_m, o + o_n, M, N, s_o)


@triton.jit
def spread(b_x, o, o_n, N, BN: tl.constexpr):
    """Of the columns from ``o`` that lie below N: count, mean [BM], squares about it [BM]."""
    count = tl.minimum(N - o, BN).to(tl.float32)
    b_mean = tl.sum(b_x, 1) / count
    b_off = tl.where(o + o_n[None, :] < N, b_x - b_mean[:, None], 0.0)
    return count, b_mean, tl.sum(b_off * b_off, 1)


@triton.jit
def layer_norm_kernel(
    p_x,
    p_w,
    p_bias,
    p_o,
    M,
    N,
    eps,
    s_x,
    s_o,
    WHOLE: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
):
    """Blocks of a long row are merged by their counts, means and spreads (Chan et al., 1983)."""
    o_m = tl.program_id(0) * BM + tl.arange(0, BM)
    o_n = tl.arange(0, BN)
    b_x = load_block(p_x, o_m, o_n, M, N, s_x, 0.0)  # [BM, BN]
    count, b_mean, b_square = spread(b_x, 0, o_n, N, BN)
    if not WHOLE:
        for o in range(BN, N, BN):
            b_more = load_block(p_x, o_m, o + o_n, M, N, s_x, 0.0)
            more, b_mean_2, b_square_2 = spread(b_more, o, o_n, N, BN)
            b_step = b_mean_2 - b_mean
            b_square += b_square_2 + b_step * b_step * (count * more / (count + more))
            count += more
            b_mean += b_step * (more / count)
    b_r = tl.rsqrt(b_square / N + eps)[:, None]  # [BM, 1]
    b_o = (b_x - b_mean[:, None]) * b_r * load_row(p_w, o_n, N) + load_row(p_bias, o_n, N)
    store_block(p_o, b_o, o_m, o_n, M, N, s_o)
    if not WHOLE:
        for o in range(BN, N, BN):
            b_o = (load_block(p_x, o_m, o + o_n, M, N, s_x, 0.0) - b_mean[:, None]) * b_r
            b_o = b_o * load_row(p_w, o + o_n, N) + load_row(p_bias, o + o_n, N)
            store_block(p_o, b_o, o_m, o + o_n, M, N, s_o)


@triton.jit
def softmax_kernel(
    p_x, p_o, M, N, s_x, s_o, WHOLE: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr
):
    """The sum of a long row is carried along with its running maximum, as in attention."""
    o_m = tl.program_id(0) * BM + tl.arange(0, BM)
    o_n = tl.arange(0, BN)
    b_x = load_block(p_x, o_m, o_n, M, N, s_x, -float("inf"))  # [BM, BN]
    b_first = tl.max(b_x, 1)  # [BM]
    b_max = b_first
    b_ref = reference_of(b_max)
    b_e = tl.exp(b_x - b_ref[:, None])
    b_sum = tl.sum(b_e, 1)
    if not WHOLE:
        for o in range(BN, N, BN):
            b_more = load_block(p_x, o_m, o + o_n, M, N, s_x, -float("inf"))
            b_new = tl.maximum(b_max, tl.max(b_more, 1))
            b_ref = reference_of(b_new)
            b_sum = b_sum * tl.exp(b_max - b_ref) + tl.sum(tl.exp(b_more - b_ref[:, None]), 1)
            b_max = b_new
    b_scale = tl.exp(b_first - b_ref) / b_sum
    store_block(p_o, b_e * b_scale[:, None], o_m, o_n, M, N, s_o)
    if not WHOLE:
        for o in range(BN, N, BN):
            b_more = load_block(p_x, o_m, o + o_n, M, N, s_x, -float("inf"))
            b_o = tl.exp(b_more - b_ref[:, None]) / b_sum[:, None]
            store_block(p_o, b_o, o_m, o + o_n, M, N, s_o)


def rows_launches(
    kernel: Any,
    x: torch.Tensor,
    o: torch.Tensor,
    architecture: Architecture,
    tile: Tile | None = None,
    **parameters: Any,
) -> tuple[Launch, ...]:
    """One of the kernels above on ``x``, ``o`` [M, N], with its own ``parameters``; two launches
    where rows are shared by programs."""
    m, n = x.shape
    name = kernel.__name__.removesuffix("_kernel")
    tile = tile or pick_rows(name, m, n, x.element_size(), architecture)
    if tile.way:
        launches_of = lagged_launches if tile.way == LAGGED else shared_launches
        return launches_of(x, o, architecture, tile)
    arguments = strided(x=x, o=o) | {"M": m, "N": n, **tile.blocks("mn"), **parameters}
    arguments["WHOLE"] = tile.n >= n
    return (Launch(kernel, (triton.cdiv(m, tile.m),), arguments, tile.warps),)


def rms_norm(
    x: torch.Tensor, weight: torch.Tensor, eps: float = 1e-6, tile: Tile | None = None
) -> torch.Tensor:
    """RMSNorm of the last dimension of [..., N] by ``weight`` [N]; see the reference."""
    return _by_rows(rms_norm_kernel, x, tile, p_w=_of_columns(weight, x), eps=eps)


def layer_norm(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor,
    eps: float = 1e-6,
    tile: Tile | None = None,
) -> torch.Tensor:
    """LayerNorm of the last dimension of [..., N] by ``weight``, ``bias`` [N]."""
    weight, bias = _of_columns(weight, x), _of_columns(bias, x)
    return _by_rows(layer_norm_kernel, x, tile, p_w=weight, p_bias=bias, eps=eps)


def softmax(x: torch.Tensor, tile: Tile | None = None) -> torch.Tensor:
    """Softmax of the last dimension of [..., N]."""
    return _by_rows(softmax_kernel, x, tile)


def _by_rows(kernel: Any, x: torch.Tensor, tile: Tile | None, **parameters: Any) -> torch.Tensor:
    rows = x.reshape(-1, x.shape[-1])
    o = torch.empty_like(rows, memory_format=torch.contiguous_format)
    for launch in rows_launches(kernel, rows, o, architecture_of(x.device), tile, **parameters):
        launch.run()
    return o.view(x.shape)


def _of_columns(parameter: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    if parameter.shape != x.shape[-1:]:
        raise ValueError(
            f"parameter: {tuple(parameter.shape)}, expected the last dimension of x: "
            f"{tuple(x.shape[-1:])}"
        )
    return parameter.contiguous()
