"""A linear layer by programs that stay: as many as SMs, each with tile after tile.

    o[m, n] = act(sum_k x[m, k] w[n, k] + bias[n])                  the reference is ``product``'s

What a program gains: operands of its next tile are on their way while the results of the last one
leave, by descriptor and in two halves, so that staging them takes half of the shared memory. With
``SPECIALISED`` one group of warps only fetches, two multiply half a tile each (sm_90; triton cuts a
tile so only where descriptors are made in the kernel, hence ``MADE``), or triton cuts the loop into
as many roles as it finds (sm_100). Without bulk copies operands come by pointers.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from kernels.configs.candidates import Tile
from kernels.configs.ways import SPECIALISED as SPECIALISED_WAY
from kernels.configs.ways import halves
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
def persistent_kernel(
    p_x, p_w, p_bias, p_o, M, N, K, s_x, s_w, s_o,
    ACTIVATION: tl.constexpr, BULK: tl.constexpr, MADE: tl.constexpr,
    SPECIALISED: tl.constexpr, HALVES: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    if MADE:
        p_x = tl.make_tensor_descriptor(p_x, [M, K], [s_x[0], 1], [BM, BK])
        p_w = tl.make_tensor_descriptor(p_w, [N, K], [s_w[0], 1], [BN, BK])
        p_o = tl.make_tensor_descriptor(p_o, [M, N], [s_o[0], 1], [BM, BN // HALVES])
    tiles_m, tiles_n = tl.cdiv(M, BM), tl.cdiv(N, BN)
    for i_tile in tl.range(
        tl.program_id(0), tiles_m * tiles_n, tl.num_programs(0),
        flatten=not SPECIALISED, warp_specialize=SPECIALISED,
    ):  # fmt: skip
        i_m, i_n = tile_of(i_tile, tiles_m, tiles_n, 8)
        b_y = tl.zeros((BM, BN), tl.float32)
        for o_k in range(0, K, BK):
            b_x = load_tile(p_x, i_m * BM, o_k, M, K, s_x, BM, BK, BULK)  # [BM, BK]
            b_w = load_tile(p_w, i_n * BN, o_k, N, K, s_w, BN, BK, BULK)  # [BN, BK]
            b_y = multiply_add(b_x, b_w, b_y, BK)  # [BM, BN]
        if HALVES == 1:
            leave(p_o, b_y, p_bias, i_m * BM, i_n * BN, M, N, s_o, ACTIVATION, BULK, BM, BN)
        else:
            b_both = tl.permute(tl.reshape(b_y, (BM, 2, BN // 2)), (0, 2, 1))
            b_a, b_b = tl.split(b_both)  # [BM, BN / 2] each
            o_n = i_n * BN
            leave(p_o, b_a, p_bias, i_m * BM, o_n, M, N, s_o, ACTIVATION, BULK, BM, BN // 2)
            o_n += BN // 2
            leave(p_o, b_b, p_bias, i_m * BM, o_n, M, N, s_o, ACTIVATION, BULK, BM, BN // 2)


def specialises(architecture: Architecture, tile: Tile, activation: str | None) -> bool:
    """Whether this triton compiles the loop for warps of different roles: 3.6 fails on sm_100, and
    on sm_90 an activation of 128 sums a thread spills."""
    if activation is not None and tile.m * tile.n > 128 * 128:
        return False
    older = tuple(int(part) for part in triton.__version__.split(".")[:2]) < (3, 7)
    return architecture.family == "wgmma" or (architecture.family == "tcgen05" and not older)


def persistent_launch(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    o: torch.Tensor,
    activation: str | None,
    architecture: Architecture,
    tile: Tile,
) -> Launch:
    """[M, K] x [N, K] -> ``o`` [M, N] by a tile whose way is persistent or specialised.

    Where warps cannot be specialised, the same tile goes without, its group as large as both.
    """
    (m, k), n = x.shape, weight.shape[0]
    bulk = can_bulk(architecture, x, weight, o)
    specialised = tile.way == SPECIALISED_WAY and bulk
    specialised = specialised and specialises(architecture, tile, activation)
    made = specialised and architecture.family == "wgmma"
    described = bulk and not made
    parts, warps = halves(tile), tile.warps
    if tile.way == SPECIALISED_WAY and not specialised:
        warps = 8
    arguments = strided(x=x, w=weight, o=o) | {
        "p_x": source(x, tile.m, tile.k, described),
        "p_w": source(weight, tile.n, tile.k, described),
        "p_o": source(o, tile.m, tile.n // parts, described),
        "p_bias": bias,
        "M": m,
        "N": n,
        "K": k,
        "ACTIVATION": activation,
        "BULK": bulk,
        "MADE": made,
        "SPECIALISED": specialised,
        "HALVES": parts,
        **tile.blocks("mnk"),
    }
    grid = (min(architecture.sms, triton.cdiv(m, tile.m) * triton.cdiv(n, tile.n)),)
    return Launch(persistent_kernel, grid, arguments, warps, tile.stages, needs_scratch=made)
