"""A linear layer with its epilogue: one matrix product, bias and activation before its one store.

    o[m, n] = act(sum_k x[m, k] w[n, k] + bias[n])        weights are [N, K], as torch stores them

One program owns one tile [BM, BN] of the output and walks along K. Sums are in float32; float32
operands are multiplied as tf32, which is what ``tl.dot`` does by default; a product of float8 is
written in bfloat16. Few rows take the path of ``few_rows``, few tiles with a long K that of
``split``, where the parts are added by a second kernel, or (``joined``) by whoever comes last;
``persistent`` holds other ways. All are taken where a tile says so.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch.nn import functional

from kernels.configs.candidates import Tile
from kernels.configs.pick import Product, cdiv, pick_linear
from kernels.configs.ways import JOINED
from kernels.launch import Architecture, Launch, architecture_of, strided
from kernels.mlp.activation import ACTIVATIONS, activation_reference
from kernels.mlp.few_rows import VECTOR_ROWS, vector_launch
from kernels.mlp.operands import (
    can_bulk,
    check_weight,
    in_vectors,
    load_tile,
    multiply_add,
    result_dtype,
    source,
    tile_of,
)
from kernels.mlp.persistent import leave, persistent_launch
from kernels.mlp.split import arrivals, finish_launch, partial_sums, sum_of_parts


def linear_reference(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    activation: str | None = None,
) -> torch.Tensor:
    """[..., K] x [N, K] -> [..., N] in float32."""
    y = functional.linear(x.float(), weight.float(), None if bias is None else bias.float())
    return activation_reference(y, activation)


@triton.jit
def linear_kernel(
    p_x, p_w, p_bias, p_o, M, N, K, stretch, s_x, s_w, s_o, s_split,
    ACTIVATION: tl.constexpr, BULK: tl.constexpr, SPLIT: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """With ``SPLIT`` a program sums ``stretch`` of K, and ``o`` are the partial sums.

    The loop has a step at least, past the end of K one of zeros: where it might have none, ptxas
    makes every ``wgmma`` of a tile of 128 x 256 wait for the one before, which cost a fifth.
    """
    tiles_m, tiles_n = tl.cdiv(M, BM), tl.cdiv(N, BN)
    i_program, lo, hi = tl.program_id(0), 0, K
    if SPLIT:
        i_split = i_program // (tiles_m * tiles_n)
        i_program %= tiles_m * tiles_n
        lo = i_split * stretch
        hi = tl.minimum(K, lo + stretch)
        p_o += i_split.to(tl.int64) * s_split
    i_m, i_n = tile_of(i_program, tiles_m, tiles_n, 8)
    b_y = tl.zeros((BM, BN), tl.float32)
    for i in range(tl.maximum(tl.cdiv(hi - lo, BK), 1)):
        o_k = lo + i * BK
        b_x = load_tile(p_x, i_m * BM, o_k, M, K, s_x, BM, BK, BULK)  # [BM, BK]
        b_w = load_tile(p_w, i_n * BN, o_k, N, K, s_w, BN, BK, BULK)  # [BN, BK]
        b_y = multiply_add(b_x, b_w, b_y, BK)  # [BM, BN]
    leave(p_o, b_y, p_bias, i_m * BM, i_n * BN, M, N, s_o, ACTIVATION, False, BM, BN)


@triton.jit
def joined_kernel(
    p_x, p_w, p_bias, p_o, p_part, p_count, M, N, K, stretch, splits, s_x, s_w, s_o,
    ACTIVATION: tl.constexpr, BULK: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """A stretch of K for each of ``splits`` programs of a tile; who comes last adds up ``part``
    [tiles, splits, BM BN], always in the order of K. ``count``: who has come to each tile."""
    tiles_m, tiles_n = tl.cdiv(M, BM), tl.cdiv(N, BN)
    i_tile, i_split = tl.program_id(0) // splits, tl.program_id(0) % splits
    i_m, i_n = tile_of(i_tile, tiles_m, tiles_n, 8)
    lo = i_split * stretch
    hi = tl.minimum(K, lo + stretch)
    b_y = tl.zeros((BM, BN), tl.float32)
    for i in range(tl.maximum(tl.cdiv(hi - lo, BK), 1)):
        o_k = lo + i * BK
        b_x = load_tile(p_x, i_m * BM, o_k, M, K, s_x, BM, BK, BULK)  # [BM, BK]
        b_w = load_tile(p_w, i_n * BN, o_k, N, K, s_w, BN, BK, BULK)  # [BN, BK]
        b_y = multiply_add(b_x, b_w, b_y, BK)  # [BM, BN]
    p_part += i_tile.to(tl.int64) * splits * (BM * BN)
    o_part = tl.arange(0, BM)[:, None] * BN + tl.arange(0, BN)[None, :]
    tl.store(p_part + i_split * (BM * BN) + o_part, b_y)
    tl.debug_barrier()  # the whole block has stored before one thread says so
    if tl.atomic_add(p_count + i_tile, 1) == splits - 1:
        b_o = sum_of_parts(p_part + o_part, splits, BM, BN)
        tl.store(p_count + i_tile, 0)
        leave(p_o, b_o, p_bias, i_m * BM, i_n * BN, M, N, s_o, ACTIVATION, False, BM, BN)


def linear_launches(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    o: torch.Tensor,
    activation: str | None,
    architecture: Architecture,
    tile: Tile | None = None,
) -> tuple[Launch, ...]:
    """[M, K] x [N, K] -> ``o`` [M, N] on tensor cores: one kernel, or the parts and their sum."""
    (m, k), n = x.shape, weight.shape[0]
    by_element = not (in_vectors(x) and in_vectors(weight))
    product = Product("linear", m, n, k, x.element_size(), by_element=by_element, can_split=True)
    tile = tile or pick_linear(product, architecture)
    if tile.way and tile.way != JOINED:
        return (persistent_launch(x, weight, bias, o, activation, architecture, tile),)
    bulk, tiles = can_bulk(architecture, x, weight), cdiv(m, tile.m) * cdiv(n, tile.n)
    common = strided(x=x, w=weight, o=o) | {
        "p_x": source(x, tile.m, tile.k, bulk),
        "p_w": source(weight, tile.n, tile.k, bulk),
        "p_bias": bias,
        "M": m,
        "N": n,
        "K": k,
        "stretch": cdiv(cdiv(k, tile.k), tile.splits) * tile.k,
        "ACTIVATION": activation,
        "BULK": bulk,
        **tile.blocks("mnk"),
    }
    grid = (tiles * tile.splits,)
    if tile.way == JOINED:
        joined = common | arrivals(o, tiles, tile) | {"splits": tile.splits}
        return (Launch(joined_kernel, grid, joined, tile.warps, tile.stages),)
    if tile.splits == 1:
        whole = common | {"s_split": 0, "SPLIT": False}
        return (Launch(linear_kernel, grid, whole, tile.warps, tile.stages),)
    parts = partial_sums(o, tile.splits)
    common |= strided(o=parts[0]) | {"p_bias": None, "ACTIVATION": None}
    common |= {"s_split": parts.stride(0), "SPLIT": True}
    launch = Launch(linear_kernel, grid, common, tile.warps, tile.stages)
    return (launch, finish_launch(parts, bias, o, activation))


def linear(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    activation: str | None = None,
    tile: Tile | None = None,
) -> torch.Tensor:
    """act(x weight^T + bias): [..., K] x [N, K] -> [..., N]; see :func:`linear_reference`.

    Raises ``ValueError`` for an unknown activation and for shapes that do not match.
    """
    if activation not in ACTIVATIONS:
        raise ValueError(f"activation = {activation!r}: expected one of {ACTIVATIONS}")
    check_weight(x, weight)
    bias = of_columns(bias, weight)
    rows = x.reshape(-1, x.shape[-1])
    o = x.new_empty(rows.shape[0], weight.shape[0], dtype=result_dtype(x))
    architecture = architecture_of(x.device)
    if rows.shape[0] <= VECTOR_ROWS and tile is None:
        vector_launch(rows, weight, None, bias, o, activation, architecture).run()
    else:
        for launch in linear_launches(rows, weight, bias, o, activation, architecture, tile):
            launch.run()
    return o.view(*x.shape[:-1], weight.shape[0])


def of_columns(bias: torch.Tensor | None, weight: torch.Tensor) -> torch.Tensor | None:
    """The bias of ``weight`` [N, ...], its elements side by side. Raises ``ValueError`` for a bias
    of another size."""
    if bias is None:
        return None
    if bias.shape != weight.shape[:1]:
        raise ValueError(f"bias: {tuple(bias.shape)}, expected ({weight.shape[0]},)")
    return bias.contiguous()
