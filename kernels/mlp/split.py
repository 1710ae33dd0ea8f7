"""A long reduction over few tiles: its sum is split over programs, and a second kernel adds up.

An output of few tiles leaves most SMs idle, however long its reduction is. So S programs share a
tile, each with a stretch of K, and leave float32 partial sums; the epilogue waits for the whole:

    part[s, m, n] = sum over K's stretch s of x[m, k] w[n, k]
    o[m, n] = act(sum_s part[s, m, n] + bias[n])

The order of the sum is fixed, so results repeat to the bit, which atomics would not give. A second
kernel costs its start, 1.5 to 2 us on an H200; ``joined`` spares it: the last program of a tile to
arrive adds up, having counted who was there before.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from kernels.configs.candidates import Tile
from kernels.configs.pick import pick_finish
from kernels.launch import Launch, counters, strided
from kernels.mlp.activation import activate
from kernels.mlp.operands import store_tile


@triton.jit
def finish_kernel(
    p_part, p_bias, p_o, M, N, SPLITS, s_part, s_o,
    ACTIVATION: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    tiles_n = tl.cdiv(N, BN)
    o_m = tl.program_id(0) // tiles_n * BM + tl.arange(0, BM)
    o_n = tl.program_id(0) % tiles_n * BN + tl.arange(0, BN)
    m_o = (o_m[:, None] < M) & (o_n[None, :] < N)
    p_part += o_m.to(tl.int64)[:, None] * s_part[1] + o_n[None, :]
    b_y = tl.zeros((BM, BN), tl.float32)
    for _ in range(SPLITS):
        b_y += tl.load(p_part, mask=m_o, other=0.0)  # [BM, BN]
        p_part += s_part[0]
    if p_bias is not None:
        b_y += tl.load(p_bias + o_n, mask=o_n < N, other=0.0).to(tl.float32)[None, :]
    store_tile(p_o, activate(b_y, ACTIVATION), o_m, o_n, M, N, s_o)


@triton.jit
def sum_of_parts(p_part, splits, BM: tl.constexpr, BN: tl.constexpr):
    """``splits`` parts [BM, BN] that lie one after the other, past the L1, which may be stale."""
    b_y = tl.zeros((BM, BN), tl.float32)
    for i in range(splits):
        b_y += tl.load(p_part + i * (BM * BN), cache_modifier=".cg")
    return b_y


def arrivals(o: torch.Tensor, tiles: int, tile: Tile) -> dict[str, torch.Tensor]:
    """Room for the parts of every tile, and a count for each."""
    parts = o.new_empty(tiles, tile.splits, tile.m * tile.n, dtype=torch.float32)
    return {"p_part": parts, "p_count": counters(o.device, tiles, "linear")}


def partial_sums(o: torch.Tensor, splits: int) -> torch.Tensor:
    """Room for the parts of ``o`` [M, N]: [splits, M, N] in float32, rows on 16 bytes."""
    (m, n), lines = o.shape, triton.cdiv(o.shape[1], 4) * 4
    return o.new_empty(splits, m, lines, dtype=torch.float32)[:, :, :n]


def finish_launch(
    parts: torch.Tensor, bias: torch.Tensor | None, o: torch.Tensor, activation: str | None
) -> Launch:
    """``parts`` [splits, M, N] -> ``o`` [M, N]."""
    (splits, m, n), tile = parts.shape, pick_finish(parts.shape[2])
    arguments = strided(part=parts, o=o) | {
        "p_bias": bias,
        "M": m,
        "N": n,
        "SPLITS": splits,
        "ACTIVATION": activation,
        **tile.blocks("mn"),
    }
    grid = (triton.cdiv(m, tile.m) * triton.cdiv(n, tile.n),)
    return Launch(finish_kernel, grid, arguments, tile.warps)
