"""Attention with keys, values and biases by descriptor.

The formulas are those of ``attention``, and so is the walk: masks only at the window's edge, at the
diagonal and at the end. A descriptor fetches a tile of keys or values without a register for its
addresses, and fills with zeros what lies outside; a bias whose rows lie on 16 bytes comes so too,
ahead of its scores.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from triton.tools.tensor_descriptor import TensorDescriptor

from kernels.attention_blocks import LOG2_E, fold, load_rows, place, seen
from kernels.configs.candidates import Tile
from kernels.configs.footprint import head_block
from kernels.launch import Architecture, Launch, strided
from kernels.mlp.operands import can_bulk


@triton.jit
def biased(
    b_s, p_bias, i_b, i_h, i_q, o_n, Q, N, s_bias, scale,
    BULK_BIAS: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    """Scores [BM, BN] scaled, with their bias, in base 2; without a bias as they are."""
    if p_bias is not None:
        if BULK_BIAS:
            b_bias = p_bias.load([i_b.to(tl.int32), i_h.to(tl.int32), i_q, o_n])
            b_bias = b_bias.reshape(BM, BN)
        else:
            o_q, o_k = i_q + tl.arange(0, BM), o_n + tl.arange(0, BN)
            p_b = p_bias + i_b * s_bias[0] + i_h * s_bias[1]
            p_b += o_q.to(tl.int64)[:, None] * s_bias[2] + o_k.to(tl.int64)[None, :] * s_bias[3]
            b_bias = tl.load(p_b, mask=(o_q[:, None] < Q) & (o_k[None, :] < N), other=0.0)
        b_s = b_s * scale + b_bias.to(tl.float32) * 1.4426950408889634
    return b_s


@triton.jit
def walk_described(
    b_acc, b_m, b_l, b_q, p_k, p_v, p_bias, i_b, i_h, i_kv, i_q, lo, hi, Q, N, s_bias, scale,
    CAUSAL: tl.constexpr, WINDOW: tl.constexpr, MASKED: tl.constexpr, BULK_BIAS: tl.constexpr,
    STAGES: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    """Keys [lo, hi) into the running accumulator, maximum and sum."""
    o_q = i_q + tl.arange(0, BM)
    for o_n in tl.range(lo, hi, BN, num_stages=STAGES):
        o_k = o_n + tl.arange(0, BN)
        b_k = p_k.load([i_b.to(tl.int32), i_kv, o_n, 0]).reshape(BN, BD)
        b_v = p_v.load([i_b.to(tl.int32), i_kv, o_n, 0]).reshape(BN, BD)
        b_s = tl.dot(b_q, b_k.T)  # [BM, BN]
        b_s = biased(b_s, p_bias, i_b, i_h, i_q, o_n, Q, N, s_bias, scale, BULK_BIAS, BM, BN)
        if MASKED:
            m_s = seen(o_q[:, None], o_k[None, :], Q, N, CAUSAL, WINDOW)
            b_s = tl.where(m_s, b_s, -float("inf"))
        b_p, b_fade, b_m, b_l = fold(b_s, b_m, b_l, scale, p_bias is not None)
        b_acc = tl.dot(b_p.to(b_v.dtype), b_v, b_acc * b_fade[:, None])  # [BM, BD]
    return b_acc, b_m, b_l


@triton.jit
def described_kernel(
    p_q, p_k, p_v, p_bias, p_o, p_lse, Q, N, s_q, s_k, s_v, s_bias, s_o, scale,
    H: tl.constexpr, GROUP: tl.constexpr, CAUSAL: tl.constexpr, WINDOW: tl.constexpr,
    BULK_BIAS: tl.constexpr, STAGES: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr, D: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    i_m, i_h, i_b = place(tl.cdiv(Q, BM), H)
    i_m = tl.cdiv(Q, BM) - 1 - i_m  # the longest causal rows first
    i_q, i_kv = i_m * BM, (i_h // GROUP).to(tl.int32)
    o_q, o_d = i_q + tl.arange(0, BM), tl.arange(0, BD)
    b_q = load_rows(p_q + i_b * s_q[0] + i_h * s_q[1], o_q, o_d, s_q, Q, D, BD, True)  # [BM, BD]

    first = i_q + N - Q  # the key beside the block's first query
    hi, full_hi = N, N // BN * BN
    if CAUSAL:
        hi = tl.minimum(N, tl.maximum(first + BM, 0))
        full_hi = tl.minimum(N, tl.maximum(first + 1, 0)) // BN * BN
    lo, full_lo = 0, 0
    if WINDOW is not None:
        lo = tl.maximum(first - WINDOW + 1, 0) // BN * BN
        full_lo = tl.cdiv(tl.maximum(first + BM - WINDOW, 0), BN) * BN

    b_m = tl.full((BM,), -float("inf"), tl.float32)
    b_l = tl.zeros((BM,), tl.float32)
    b_acc = tl.zeros((BM, BD), tl.float32)
    if WINDOW is not None:
        b_acc, b_m, b_l = walk_described(
            b_acc, b_m, b_l, b_q, p_k, p_v, p_bias, i_b, i_h, i_kv, i_q, lo,
            tl.minimum(full_lo, hi), Q, N, s_bias, scale,
            CAUSAL, WINDOW, True, BULK_BIAS, STAGES, BM, BN, BD,
        )  # fmt: skip
    b_acc, b_m, b_l = walk_described(
        b_acc, b_m, b_l, b_q, p_k, p_v, p_bias, i_b, i_h, i_kv, i_q, full_lo,
        full_hi, Q, N, s_bias, scale, CAUSAL, WINDOW, False, BULK_BIAS, STAGES, BM, BN, BD,
    )  # fmt: skip
    b_acc, b_m, b_l = walk_described(
        b_acc, b_m, b_l, b_q, p_k, p_v, p_bias, i_b, i_h, i_kv, i_q, tl.maximum(full_lo, full_hi),
        hi, Q, N, s_bias, scale, CAUSAL, WINDOW, True, BULK_BIAS, STAGES, BM, BN, BD,
    )  # fmt: skip

    b_o = b_acc / tl.where(b_l == 0.0, 1.0, b_l)[:, None]  # [BM, BD]
    p_o += i_b * s_o[0] + i_h * s_o[1]
    p_o += o_q.to(tl.int64)[:, None] * s_o[2] + o_d[None, :] * s_o[3]
    tl.store(p_o, b_o.to(p_o.dtype.element_ty), mask=(o_q[:, None] < Q) & (o_d[None, :] < D))
    p_lse += (i_b * H + i_h) * Q + o_q
    tl.store(p_lse, b_m + tl.log2(b_l), mask=o_q < Q)  # -inf for a row that saw no key


def can_describe(architecture: Architecture, *heads: torch.Tensor) -> bool:
    """Whether descriptors can fetch rows of all these [B, H, rows, D]."""
    return can_bulk(architecture, *heads)


def described_launch(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    bias: torch.Tensor | None,
    o: torch.Tensor,
    lse: torch.Tensor,
    causal: bool,
    window: int | None,
    scale: float,
    architecture: Architecture,
    tile: Tile,
) -> Launch:
    """As ``attention.attention_launch``, by a tile whose way is described."""
    (batch, heads, q_len, head_dim), kv_len = q.shape, k.shape[2]
    block = head_block(head_dim)
    bulk_bias = bias is not None and can_bulk(architecture, bias)
    arguments = strided(q=q, k=k, v=v, bias=bias, o=o) | {
        "p_k": TensorDescriptor.from_tensor(k, [1, 1, tile.n, block]),
        "p_v": TensorDescriptor.from_tensor(v, [1, 1, tile.n, block]),
        "p_lse": lse,
        "Q": q_len,
        "N": kv_len,
        "scale": scale * LOG2_E,
        "H": heads,
        "GROUP": heads // k.shape[1],
        "CAUSAL": causal,
        "WINDOW": window,
        "BULK_BIAS": bulk_bias,
        "STAGES": tile.stages,
        "BM": tile.m,
        "BN": tile.n,
        "D": head_dim,
        "BD": block,
    }
    if bulk_bias:
        arguments["p_bias"] = TensorDescriptor.from_tensor(bias, [1, 1, tile.m, tile.n])
    grid = (triton.cdiv(q_len, tile.m) * heads * batch,)
    return Launch(described_kernel, grid, arguments, tile.warps, tile.stages)
