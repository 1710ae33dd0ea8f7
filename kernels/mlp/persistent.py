"""A linear layer whose results leave by descriptor, by programs that stay or by one a tile.

    o[m, n] = act(sum_k x[m, k] w[n, k] + bias[n])                  the reference is ``product``'s

``persistent``: as many programs as the SMs hold, each with tile after tile; operands of the next
tile are on their way while the results of the last one leave, a wide tile's in two halves, so that
staging them takes half of the shared memory. ``described``: a program a tile; its results are
staged where its operands were, so a tile may be so small that two or three programs fit an SM, and
the results of one leave beside the products of another.

A tile of 192 columns, which no block of triton's has, is two, of 128 and 64: 768 columns are 4 of
them, and 32 rows of tiles fill 132 SMs almost (128 programs) where tiles of 256 leave 36 idle.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from kernels.configs.candidates import Tile
from kernels.configs.ways import PERSISTENT, halves, resident, widths
from kernels.launch import Architecture, Launch, strided
from kernels.mlp.activation import activate
from kernels.mlp.operands import can_bulk, load_tile, multiply_add, source, store_tile, tile_of


@triton.jit
def leave(
    p_o, b_y, p_bias, o_m, o_n, M, N, s_o,
    ACTIVATION: tl.constexpr, BULK: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    """The results [BM, BN] at (o_m, o_n): bias, activation, one store."""
    o_c = o_n + tl.arange(0, BN)
    if p_bias is not None:
        b_y += tl.load(p_bias + o_c, mask=o_c < N, other=0.0).to(tl.float32)[None, :]
    b_y = activate(b_y, ACTIVATION)
    if BULK:
        p_o.store([o_m, o_n], b_y.to(p_o.dtype))
    else:
        store_tile(p_o, b_y, o_m + tl.arange(0, BM), o_c, M, N, s_o)


@triton.jit
def whole_tile(
    i_m, i_n, p_x, p_w, p_w_rest, p_bias, p_o, p_o_rest, M, N, K, s_x, s_w, s_o,
    ACTIVATION: tl.constexpr, BULK: tl.constexpr, HALVES: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr, REST: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """[BM, BN + REST] of the output; ``rest`` sees the last REST columns of a tile."""
    o_m, o_n = i_m * BM, i_n * (BN + REST)
    b_y = tl.zeros((BM, BN), tl.float32)
    if REST:
        b_z = tl.zeros((BM, REST), tl.float32)
    for o_k in range(0, tl.maximum(K, 1), BK):  # one step at least, see ``product``
        b_x = load_tile(p_x, o_m, o_k, M, K, s_x, BM, BK, BULK)  # [BM, BK]
        b_w = load_tile(p_w, o_n, o_k, N, K, s_w, BN, BK, BULK)  # [BN, BK]
        b_y = multiply_add(b_x, b_w, b_y, BK)  # [BM, BN]
        if REST:
            b_v = load_tile(p_w_rest, o_n + BN, o_k, N, K, s_w, REST, BK, BULK)  # [REST, BK]
            b_z = multiply_add(b_x, b_v, b_z, BK)  # [BM, REST]
    if HALVES == 2:
        b_both = tl.permute(tl.reshape(b_y, (BM, 2, BN // 2)), (0, 2, 1))
        b_a, b_b = tl.split(b_both)  # [BM, BN / 2] each
        leave(p_o, b_a, p_bias, o_m, o_n, M, N, s_o, ACTIVATION, BULK, BM, BN // 2)
        o_n += BN // 2
        leave(p_o, b_b, p_bias, o_m, o_n, M, N, s_o, ACTIVATION, BULK, BM, BN // 2)
    else:
        leave(p_o, b_y, p_bias, o_m, o_n, M, N, s_o, ACTIVATION, BULK, BM, BN)
    if REST:
        o_n += BN
        leave(p_o_rest, b_z, p_bias, o_m, o_n, M, N, s_o, ACTIVATION, BULK, BM, REST)


@triton.jit
def persistent_kernel(
    p_x, p_w, p_w_rest, p_bias, p_o, p_o_rest, M, N, K, s_x, s_w, s_o,
    ACTIVATION: tl.constexpr, BULK: tl.constexpr, HALVES: tl.constexpr, STAYS: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr, REST: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    tiles_m, tiles_n = tl.cdiv(M, BM), tl.cdiv(N, BN + REST)
    if STAYS:
        first, step = tl.program_id(0), tl.num_programs(0)
        for i_tile in tl.range(first, tiles_m * tiles_n, step, flatten=True):
            i_m, i_n = tile_of(i_tile, tiles_m, tiles_n, 8)
            whole_tile(
                i_m, i_n, p_x, p_w, p_w_rest, p_bias, p_o, p_o_rest, M, N, K, s_x, s_w, s_o,
                ACTIVATION, BULK, HALVES, BM, BN, REST, BK,
            )  # fmt: skip
    else:
        i_m, i_n = tile_of(tl.program_id(0), tiles_m, tiles_n, 8)
        whole_tile(
            i_m, i_n, p_x, p_w, p_w_rest, p_bias, p_o, p_o_rest, M, N, K, s_x, s_w, s_o,
            ACTIVATION, BULK, HALVES, BM, BN, REST, BK,
        )  # fmt: skip


def persistent_launch(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    o: torch.Tensor,
    activation: str | None,
    architecture: Architecture,
    tile: Tile,
) -> Launch:
    """[M, K] x [N, K] -> ``o`` [M, N] by a tile whose way is persistent or described."""
    (m, k), n = x.shape, weight.shape[0]
    bulk = can_bulk(architecture, x, weight, o)
    (wide, rest), parts, stays = widths(tile), halves(tile), tile.way == PERSISTENT
    arguments = strided(x=x, w=weight, o=o) | {
        "p_x": source(x, tile.m, tile.k, bulk),
        "p_w": source(weight, wide, tile.k, bulk),
        "p_w_rest": source(weight, rest, tile.k, bulk) if rest else None,
        "p_o": source(o, tile.m, wide // parts, bulk),
        "p_o_rest": source(o, tile.m, rest, bulk) if rest else None,
        "p_bias": bias,
        "M": m,
        "N": n,
        "K": k,
        "ACTIVATION": activation,
        "BULK": bulk,
        "HALVES": parts,
        "STAYS": stays,
        "BM": tile.m,
        "BN": wide,
        "REST": rest,
        "BK": tile.k,
    }
    tiles = triton.cdiv(m, tile.m) * triton.cdiv(n, tile.n)
    most = architecture.sms * resident(tile, x.element_size(), architecture)
    grid = (min(tiles, most) if stays else tiles,)
    return Launch(persistent_kernel, grid, arguments, tile.warps, tile.stages)
