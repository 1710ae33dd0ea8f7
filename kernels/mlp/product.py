"""A linear layer with its epilogue: one matrix product, bias and activation before its one store.

    o[m, n] = act(sum_k x[m, k] w[n, k] + bias[n])        weights are [N, K], as torch stores them

One program owns one tile [BM, BN] of the output and walks along K. Sums are in float32; float32
operands are multiplied as tf32, which is what ``tl.dot`` does by default; a product of float8 is
written in bfloat16. Few rows take the path of ``few_rows``, few tiles with a long K that of
``split``; ``persistent`` and ``stream_k`` are other ways, taken where a tile says so.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch.nn import functional

from kernels.configs.candidates import Tile
from kernels.configs.pick import Product, pick_linear
from kernels.configs.ways import STREAM
from kernels.launch import Architecture, Launch, architecture_of, strided
from kernels.mlp.activation import ACTIVATIONS, activate, activation_reference
from kernels.mlp.few_rows import VECTOR_ROWS, vector_launch
from kernels.mlp.operands import (
    can_bulk,
    check_weight,
    in_vectors,
    load_tile,
    multiply_add,
    result_dtype,
    source,
    store_tile,
    tile_of,
)
from kernels.mlp.persistent import persistent_launch
from kernels.mlp.split import finish_launch, partial_sums
from kernels.mlp.stream_k import stream_launch


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
    """With ``SPLIT`` a program sums ``stretch`` of K, and ``o`` are the partial sums."""
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
    for o_k in range(lo, hi, BK):
        b_x = load_tile(p_x, i_m * BM, o_k, M, K, s_x, BM, BK, BULK)  # [BM, BK]
        b_w = load_tile(p_w, i_n * BN, o_k, N, K, s_w, BN, BK, BULK)  # [BN, BK]
        b_y = multiply_add(b_x, b_w, b_y, BK)  # [BM, BN]
    o_m = i_m * BM + tl.arange(0, BM)
    o_n = i_n * BN + tl.arange(0, BN)
    if p_bias is not None:
        b_y += tl.load(p_bias + o_n, mask=o_n < N, other=0.0).to(tl.float32)[None, :]
    store_tile(p_o, activate(b_y, ACTIVATION), o_m, o_n, M, N, s_o)


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
    if tile.way:
        launch_of = stream_launch if tile.way == STREAM else persistent_launch
        return (launch_of(x, weight, bias, o, activation, architecture, tile),)
    bulk, split = can_bulk(architecture, x, weight), tile.splits > 1
    parts = partial_sums(o, tile.splits) if split else o[None]
    arguments = strided(x=x, w=weight, o=parts[0]) | {
        "p_x": source(x, tile.m, tile.k, bulk),
        "p_w": source(weight, tile.n, tile.k, bulk),
        "p_bias": None if split else bias,
        "M": m,
        "N": n,
        "K": k,
        "stretch": triton.cdiv(triton.cdiv(k, tile.k), tile.splits) * tile.k,
        "s_split": parts.stride(0),
        "ACTIVATION": None if split else activation,
        "BULK": bulk,
        "SPLIT": split,
        **tile.blocks("mnk"),
    }
    grid = (triton.cdiv(m, tile.m) * triton.cdiv(n, tile.n) * tile.splits,)
    launch = Launch(linear_kernel, grid, arguments, tile.warps, tile.stages)
    return (launch, finish_launch(parts, bias, o, activation)) if split else (launch,)


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
