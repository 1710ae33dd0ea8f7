"""Experts: rows sorted by expert, each expert a weight of its own, ragged counts (MoE).

    o[r, n] = sum_k x[r, k] w[e, n, k]        for the rows r in [ends[e - 1], ends[e]) of expert e

How many rows an expert has, only the device knows. The grid is made for the worst spread, and each
program finds its expert and its rows from ``ends``:

    rows      | expert 0    | 1 |  2            |       tiles of BM rows, none across an expert
    tiles     |  0  |  1  | | 2 |  3  |  4  | 5 |
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from kernels.configs.candidates import Tile
from kernels.configs.pick import Product, pick_linear
from kernels.launch import Architecture, Launch, architecture_of, strided
from kernels.mlp.operands import (
    can_bulk,
    check_weight,
    in_vectors,
    load_tile,
    multiply_add,
    result_dtype,
    source,
    store_tile,
)
from kernels.mlp.product import linear_reference


def grouped_reference(x: torch.Tensor, weight: torch.Tensor, ends: torch.Tensor) -> torch.Tensor:
    """[rows, K] x [experts, N, K] -> [rows, N]; expert e owns the rows [ends[e - 1], ends[e])."""
    parts = torch.tensor_split(x, ends[:-1].tolist())
    return torch.cat([linear_reference(p, w) for p, w in zip(parts, weight, strict=True)])


@triton.jit
def expert_of(p_ends, i_tile, E: tl.constexpr, BE: tl.constexpr, BM: tl.constexpr):
    """The expert of a row tile (E where there is none), its first row, and the expert's end."""
    o_e = tl.arange(0, BE)
    b_end = tl.load(p_ends + o_e, mask=o_e < E, other=0)  # [BE]
    b_start = tl.load(p_ends + o_e - 1, mask=(o_e > 0) & (o_e < E), other=0)
    b_tiles = tl.where(o_e < E, tl.cdiv(b_end - b_start, BM), 0)
    b_last = tl.cumsum(b_tiles, 0)  # row tiles up to and with this expert
    i_e = tl.sum(((b_last <= i_tile) & (o_e < E)).to(tl.int32), 0)
    is_mine = o_e == i_e
    i_m = i_tile - tl.sum(tl.where(is_mine, b_last - b_tiles, 0), 0)
    start = tl.sum(tl.where(is_mine, b_start, 0), 0) + i_m * BM
    return i_e, start, tl.sum(tl.where(is_mine, b_end, 0), 0)


@triton.jit
def grouped_kernel(
    p_x, p_w, p_ends, p_o, R, N, K, s_x, s_w, s_o,
    E: tl.constexpr, BE: tl.constexpr, BULK: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """The last row tile of an expert may read rows of the next one; it does not store them."""
    tiles_n = tl.cdiv(N, BN)
    i_n = tl.program_id(0) % tiles_n
    i_e, start, end = expert_of(p_ends, tl.program_id(0) // tiles_n, E, BE, BM)
    if i_e < E:
        if BULK:
            p_w_e, first = p_w, i_e * N  # the descriptor sees [E * N, K]
        else:
            p_w_e, first = p_w + i_e.to(tl.int64) * s_w[0], 0
        b_y = tl.zeros((BM, BN), tl.float32)
        for o_k in range(0, K, BK):
            b_x = load_tile(p_x, start, o_k, R, K, s_x, BM, BK, BULK)  # [BM, BK]
            b_w = load_tile(p_w_e, first + i_n * BN, o_k, N, K, s_w[1:], BN, BK, BULK)  # [BN, BK]
            b_y = multiply_add(b_x, b_w, b_y, BK)  # [BM, BN]
        o_m = start + tl.arange(0, BM)
        o_n = i_n * BN + tl.arange(0, BN)
        store_tile(p_o, b_y, o_m, o_n, end, N, s_o)


def grouped_launch(
    x: torch.Tensor,
    weight: torch.Tensor,
    ends: torch.Tensor,
    o: torch.Tensor,
    architecture: Architecture,
    tile: Tile | None = None,
) -> Launch:
    """Rows [R, K] sorted by expert x [E, N, K] -> ``o`` [R, N]; a grid for the worst spread."""
    (rows, k), (experts, n, _) = x.shape, weight.shape
    by_element = not (in_vectors(x) and in_vectors(weight))
    touched = max(1, min(experts, rows))
    rows_each = triton.cdiv(rows, touched)
    product = Product("grouped", rows_each, n, k, x.element_size(), touched, by_element)
    tile = tile or pick_linear(product, architecture)
    bulk = can_bulk(architecture, x, weight) and weight.is_contiguous()
    matrix = weight.view(experts * n, k) if bulk else weight
    arguments = strided(x=x, w=weight, o=o) | {
        "p_x": source(x, tile.m, tile.k, bulk),
        "p_w": source(matrix, tile.n, tile.k, bulk),
        "p_ends": ends,
        "R": rows,
        "N": n,
        "K": k,
        "E": experts,
        "BE": triton.next_power_of_2(experts),
        "BULK": bulk,
        **tile.blocks("mnk"),
    }
    row_tiles = rows // tile.m + min(experts, rows)
    grid = (triton.cdiv(n, tile.n) * row_tiles,)
    return Launch(grouped_kernel, grid, arguments, tile.warps, tile.stages)


def grouped_linear(
    x: torch.Tensor, weight: torch.Tensor, ends: torch.Tensor, tile: Tile | None = None
) -> torch.Tensor:
    """[rows, K] sorted by expert x [experts, N, K] -> [rows, N].

    ``ends`` [experts], int32, on the device: the row after the last of each expert (as
    ``torch.nn.functional.grouped_mm`` takes it); the last must be ``rows``, which is not checked,
    since reading it would wait for the device. Raises ``ValueError`` for shapes that do not match.
    """
    if x.ndim != 2 or weight.ndim != 3 or not weight.shape[0]:
        raise ValueError(
            f"x: {tuple(x.shape)}, weight: {tuple(weight.shape)}, expected [rows, K] and "
            "[experts, N, K] of one expert at least"
        )
    check_weight(x, weight[0])
    if ends.shape != (weight.shape[0],) or ends.dtype != torch.int32:
        raise ValueError(
            f"ends: {tuple(ends.shape)} {ends.dtype}, expected ({weight.shape[0]},) torch.int32"
        )
    o = x.new_empty(x.shape[0], weight.shape[1], dtype=result_dtype(x))
    grouped_launch(x, weight, ends.contiguous(), o, architecture_of(x.device), tile).run()
    return o
