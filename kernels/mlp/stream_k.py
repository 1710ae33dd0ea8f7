"""Stream-K: programs share a product's steps evenly, however its tiles fall (Osama et al., 2023).

Tiles that do not fill the card's last wave leave SMs idle. Here a program first does whole tiles,
as many as all can; what is left over, one to two tiles a program, is one row of steps, tile after
tile, cut into equal stretches:

    tiles      |   0   |   1   |   2   |   3   |   4   |       5 tiles of 8 steps
    programs   |    0    |    1    |    2    |    3    |       4 programs of 10 steps

Who does part of a tile leaves a float32 partial sum; who comes last to it adds them up in the order
of K, so results repeat to the bit. Nobody waits. An output of few tiles is the same case: no whole
tiles, a stretch each.

Of a tile with few rows (``SWAPPED``) the product is taken as w x^T: the weights fill the 64 rows of
the matrix instruction, and the rows of x its columns, which may be 16.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from kernels.configs.candidates import Tile
from kernels.configs.ways import is_swapped, way_footprint
from kernels.launch import Architecture, Launch, strided
from kernels.mlp.operands import can_bulk, load_tile, multiply_add, source, tile_of
from kernels.mlp.persistent import leave


@triton.jit
def first_step(i_program, share, extra):
    """Where the stretch of a program begins; the ``extra`` first ones have a step more."""
    return i_program * share + tl.minimum(i_program, extra)


@triton.jit
def program_of(step, share, extra):
    """Whose stretch a step lies in."""
    longer = extra * (share + 1)
    return tl.where(
        step < longer, step // (share + 1), extra + (step - longer) // tl.maximum(share, 1)
    )


@triton.jit
def stream_k_kernel(
    p_x, p_w, p_bias, p_o, p_part, p_count, M, N, K, s_x, s_w, s_o,
    ACTIVATION: tl.constexpr, BULK: tl.constexpr, SWAPPED: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """``part`` [2 programs, BM BN]: a program cuts two tiles at most, its first and its last;
    ``count``: who has come to each shared tile, zero before and after."""
    i_program, programs = tl.program_id(0), tl.num_programs(0)
    tiles_m, tiles_n, steps = tl.cdiv(M, BM), tl.cdiv(N, BN), tl.cdiv(K, BK)
    tiles = tiles_m * tiles_n
    rounds = tl.maximum(tiles // programs - 1, 0)
    rounds = tl.where(tiles % programs == 0, tiles // programs, rounds)
    shared = rounds * programs  # the first tile that is shared
    rest = (tiles - shared) * steps
    share, extra = rest // programs, rest % programs
    at, end = first_step(i_program, share, extra), first_step(i_program + 1, share, extra)
    touched = tl.where(at < end, (end - 1) // steps - at // steps + 1, 0)

    HEIGHT: tl.constexpr = BN if SWAPPED else BM
    WIDTH: tl.constexpr = BM if SWAPPED else BN
    o_part = tl.arange(0, HEIGHT)[:, None] * WIDTH + tl.arange(0, WIDTH)[None, :]
    begin = at
    for i in range(rounds + touched):
        is_whole = i < rounds
        i_shared = at // steps
        i_tile = tl.where(is_whole, i_program + i * programs, shared + i_shared)
        lo = tl.where(is_whole, 0, at % steps)
        hi = tl.where(is_whole, steps, tl.minimum(steps, lo + end - at))
        at += tl.where(is_whole, 0, hi - lo)
        i_m, i_n = tile_of(i_tile, tiles_m, tiles_n, 8)
        b_y = tl.zeros((HEIGHT, WIDTH), tl.float32)
        for i_k in range(lo, hi):
            b_x = load_tile(p_x, i_m * BM, i_k * BK, M, K, s_x, BM, BK, BULK)  # [BM, BK]
            b_w = load_tile(p_w, i_n * BN, i_k * BK, N, K, s_w, BN, BK, BULK)  # [BN, BK]
            if SWAPPED:
                b_x, b_w = b_w, b_x
            b_y = multiply_add(b_x, b_w, b_y, BK)  # [HEIGHT, WIDTH]

        is_last = hi - lo == steps
        if hi - lo < steps:
            i_part = 2 * i_program + (i_shared > begin // steps).to(tl.int32)
            tl.store(p_part + i_part.to(tl.int64) * (BM * BN) + o_part, b_y)
            first = program_of(i_shared * steps, share, extra)
            last = program_of(i_shared * steps + steps - 1, share, extra)
            tl.debug_barrier()  # the whole block has stored before one thread says so
            is_last = tl.atomic_add(p_count + i_shared, 1) == last - first
            if is_last:
                b_y = tl.zeros((HEIGHT, WIDTH), tl.float32)
                for i_other in range(first, last + 1):
                    i_part = 2 * i_other
                    cut = first_step(i_other, share, extra) // steps
                    i_part += (i_shared > cut).to(tl.int32)
                    p_b = p_part + i_part.to(tl.int64) * (BM * BN) + o_part
                    b_y += tl.load(p_b, cache_modifier=".cg")  # past the L1, which may be stale
                tl.store(p_count + i_shared, 0)
        if is_last:
            b_o = b_y.T if SWAPPED else b_y  # [BM, BN]
            leave(p_o, b_o, p_bias, i_m * BM, i_n * BN, M, N, s_o, ACTIVATION, False, BM, BN)


def programs_of(tile: Tile, item: int, architecture: Architecture) -> int:
    """Two an SM where shared memory holds two."""
    taken = way_footprint(tile, item, architecture).shared + 1024
    return architecture.sms * min(2, architecture.shared_per_sm // taken)


def stream_launch(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    o: torch.Tensor,
    activation: str | None,
    architecture: Architecture,
    tile: Tile,
) -> Launch:
    """[M, K] x [N, K] -> ``o`` [M, N]."""
    (m, k), n = x.shape, weight.shape[0]
    bulk = can_bulk(architecture, x, weight)
    steps = triton.cdiv(m, tile.m) * triton.cdiv(n, tile.n) * triton.cdiv(k, tile.k)
    programs = min(programs_of(tile, x.element_size(), architecture), steps)
    arguments = strided(x=x, w=weight, o=o) | {
        "p_x": source(x, tile.m, tile.k, bulk),
        "p_w": source(weight, tile.n, tile.k, bulk),
        "p_bias": bias,
        "p_part": o.new_empty(2 * programs, tile.m * tile.n, dtype=torch.float32),
        "p_count": o.new_zeros(2 * programs, dtype=torch.int32),
        "M": m,
        "N": n,
        "K": k,
        "ACTIVATION": activation,
        "BULK": bulk,
        "SWAPPED": is_swapped(tile, architecture),
        **tile.blocks("mnk"),
    }
    return Launch(stream_k_kernel, (programs,), arguments, tile.warps, tile.stages)
