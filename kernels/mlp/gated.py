"""SwiGLU in one pass: gate and up are two products of the same rows, and their product is stored.

    o[m, n] = silu(sum_k x[m, k] gate[n, k]) (sum_k x[m, k] up[n, k])

A tile of x is read once for both, and neither product is ever written.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from kernels.configs.candidates import Tile
from kernels.configs.pick import Product, pick_linear
from kernels.launch import Architecture, Launch, architecture_of, strided
from kernels.mlp.activation import activate
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
from kernels.mlp.product import linear_reference


def swiglu_reference(x: torch.Tensor, gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    """silu(x gate^T) * (x up^T): [..., K] x 2 [N, K] -> [..., N] in float32."""
    return linear_reference(x, gate, activation="silu") * linear_reference(x, up)


@triton.jit
def swiglu_kernel(
    p_x, p_gate, p_up, p_o, M, N, K, s_x, s_gate, s_up, s_o,
    BULK: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    i_m, i_n = tile_of(tl.program_id(0), tl.cdiv(M, BM), tl.cdiv(N, BN), 8)
    b_g = tl.zeros((BM, BN), tl.float32)
    b_u = tl.zeros((BM, BN), tl.float32)
    for o_k in range(0, K, BK):
        b_x = load_tile(p_x, i_m * BM, o_k, M, K, s_x, BM, BK, BULK)  # [BM, BK], used twice
        b_w = load_tile(p_gate, i_n * BN, o_k, N, K, s_gate, BN, BK, BULK)  # [BN, BK]
        b_v = load_tile(p_up, i_n * BN, o_k, N, K, s_up, BN, BK, BULK)  # [BN, BK]
        b_g = multiply_add(b_x, b_w, b_g, BK)  # [BM, BN]
        b_u = multiply_add(b_x, b_v, b_u, BK)  # [BM, BN]
    o_m = i_m * BM + tl.arange(0, BM)
    o_n = i_n * BN + tl.arange(0, BN)
    store_tile(p_o, activate(b_g, "silu") * b_u, o_m, o_n, M, N, s_o)


def swiglu_launch(
    x: torch.Tensor,
    gate: torch.Tensor,
    up: torch.Tensor,
    o: torch.Tensor,
    architecture: Architecture,
    tile: Tile | None = None,
) -> Launch:
    """[M, K] x 2 [N, K] -> ``o`` [M, N] on tensor cores."""
    (m, k), n = x.shape, gate.shape[0]
    by_element = not (in_vectors(x) and in_vectors(gate) and in_vectors(up))
    product = Product("swiglu", m, n, k, x.element_size(), by_element=by_element)
    tile = tile or pick_linear(product, architecture)
    bulk = can_bulk(architecture, x, gate, up)
    arguments = strided(x=x, gate=gate, up=up, o=o) | {
        "p_x": source(x, tile.m, tile.k, bulk),
        "p_gate": source(gate, tile.n, tile.k, bulk),
        "p_up": source(up, tile.n, tile.k, bulk),
        "M": m,
        "N": n,
        "K": k,
        "BULK": bulk,
        **tile.blocks("mnk"),
    }
    grid = (triton.cdiv(m, tile.m) * triton.cdiv(n, tile.n),)
    return Launch(swiglu_kernel, grid, arguments, tile.warps, tile.stages)


def swiglu(
    x: torch.Tensor, gate: torch.Tensor, up: torch.Tensor, tile: Tile | None = None
) -> torch.Tensor:
    """silu(x gate^T) * (x up^T): [..., K] x 2 [N, K] -> [..., N]; halves of one tensor will do.

    Raises ``ValueError`` for shapes that do not match.
    """
    check_weight(x, gate)
    check_weight(x, up)
    if gate.shape != up.shape:
        raise ValueError(f"up: {tuple(up.shape)}, expected the shape of gate {tuple(gate.shape)}")
    rows = x.reshape(-1, x.shape[-1])
    o = x.new_empty(rows.shape[0], gate.shape[0], dtype=result_dtype(x))
    architecture = architecture_of(x.device)
    if rows.shape[0] <= VECTOR_ROWS and tile is None:
        vector_launch(rows, gate, up, None, o, "silu", architecture).run()
    else:
        swiglu_launch(rows, gate, up, o, architecture, tile).run()
    return o.view(*x.shape[:-1], gate.shape[0])
