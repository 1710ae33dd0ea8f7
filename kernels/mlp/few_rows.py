"""A few rows, as in decoding: a product is a reading of the weights, no tensor core, one pass.

    o[m, n] = act(sum_k x[m, k] w[n, k] + bias[n])                       or, with a second weight,
    o[m, n] = act(sum_k x[m, k] w[n, k]) (sum_k x[m, k] up[n, k])        SwiGLU of one token

A program owns BN columns for all rows. Products stay in the lane that read the weight, [BM, BN, BK]
of them, and are summed once at the end, so that nothing stands between one load and the next.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from kernels.configs.candidates import Tile
from kernels.configs.pick import pick_vector
from kernels.launch import Architecture, Launch, strided
from kernels.mlp.activation import activate
from kernels.mlp.operands import load_tile, store_tile

VECTOR_ROWS = 4
"""Up to so many rows a product is a reading of the weights; the reference is that of ``product``
or ``gated``."""


@triton.jit
def vector_kernel(
    p_x, p_w, p_up, p_bias, p_o, M, N, K, s_x, s_w, s_up, s_o,
    ACTIVATION: tl.constexpr, STAGES: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """A few rows against [N, K], and against ``p_up`` where there is one."""
    o_m = tl.arange(0, BM)
    o_n = tl.program_id(0) * BN + tl.arange(0, BN)
    b_y = tl.zeros((BM, BN, BK), tl.float32)
    b_u = tl.zeros((BM, BN, BK), tl.float32)
    for o_k in tl.range(0, K, BK, num_stages=STAGES):
        b_x = load_tile(p_x, 0, o_k, M, K, s_x, BM, BK, False).to(tl.float32)  # [BM, BK]
        b_w = load_tile(p_w, tl.program_id(0) * BN, o_k, N, K, s_w, BN, BK, False)  # [BN, BK]
        b_y += b_x[:, None, :] * b_w.to(tl.float32)[None, :, :]  # [BM, BN, BK]
        if p_up is not None:
            b_v = load_tile(p_up, tl.program_id(0) * BN, o_k, N, K, s_up, BN, BK, False)
            b_u += b_x[:, None, :] * b_v.to(tl.float32)[None, :, :]
    b_o = tl.sum(b_y, 2)  # [BM, BN]
    if p_bias is not None:
        b_o += tl.load(p_bias + o_n, mask=o_n < N, other=0.0).to(tl.float32)[None, :]
    b_o = activate(b_o, ACTIVATION)
    if p_up is not None:
        b_o *= tl.sum(b_u, 2)
    store_tile(p_o, b_o, o_m, o_n, M, N, s_o)


def vector_launch(
    x: torch.Tensor,
    weight: torch.Tensor,
    up: torch.Tensor | None,
    bias: torch.Tensor | None,
    o: torch.Tensor,
    activation: str | None,
    architecture: Architecture,
    tile: Tile | None = None,
) -> Launch:
    """At most ``VECTOR_ROWS`` rows [M, K] x [N, K] -> ``o`` [M, N]: a reading of the weights."""
    (m, k), n = x.shape, weight.shape[0]
    tile = tile or pick_vector(m, n, x.element_size(), up is not None, architecture)
    arguments = strided(x=x, w=weight, up=up, o=o) | {
        "p_bias": bias,
        "M": m,
        "N": n,
        "K": k,
        "ACTIVATION": activation,
        "STAGES": tile.stages,
        **tile.blocks("mnk"),
    }
    return Launch(vector_kernel, (triton.cdiv(n, tile.n),), arguments, tile.warps)
