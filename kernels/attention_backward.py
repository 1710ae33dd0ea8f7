"""The gradient of attention, scores computed again instead of kept (Dao, FlashAttention-2, 2023).

With p = exp(s - lse), s = scale q k^T + bias, and delta_i = sum_d o_id do_id:

    dv = p^T do     dp = do v^T     ds = p (dp - delta)     dq = scale ds k     dk = scale ds^T q

and ds itself is the gradient of the bias. One kernel owns a block of keys and walks along the
queries of all heads that share them (so grouped heads need no atomics), one owns a block of
queries and walks along the keys. Scores are transposed in the first: [keys, queries]. Other ways to
the same, by columns, stand in ``attention_columns``.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl

from kernels.attention import attention_forward
from kernels.attention_blocks import LOG2_E, load_rows, place, seen
from kernels.attention_columns import columns_launches
from kernels.configs.candidates import Tile
from kernels.configs.footprint import head_block
from kernels.configs.pick_heads import pick_backward
from kernels.configs.ways import ATOMIC, HEADS
from kernels.launch import Architecture, Launch, architecture_of, strided
from kernels.mlp.operands import can_bulk


@triton.jit
def delta_kernel(
    p_o, p_do, p_delta, Q, s_o, s_do, H: tl.constexpr,
    BM: tl.constexpr, D: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    """delta [B, H, q_len]: the inner product of each row's output and its gradient."""
    i_m, i_h, i_b = place(tl.cdiv(Q, BM), H)
    o_q = i_m * BM + tl.arange(0, BM)
    o_d = tl.arange(0, BD)
    b_o = load_rows(p_o + i_b * s_o[0] + i_h * s_o[1], o_q, o_d, s_o, Q, D, BD, True)  # [BM, BD]
    b_do = load_rows(p_do + i_b * s_do[0] + i_h * s_do[1], o_q, o_d, s_do, Q, D, BD, True)
    b_delta = tl.sum(b_o.to(tl.float32) * b_do.to(tl.float32), 1)  # [BM]
    tl.store(p_delta + (i_b * H + i_h) * Q + o_q, b_delta, mask=o_q < Q)


@triton.jit
def probabilities(b_s, b_lse, m_s):
    """exp(s - lse) in base 2; a row that saw no key has lse = -inf and gets zeros."""
    return tl.where(m_s & (b_lse > -float("inf")), tl.exp2(b_s - b_lse), 0.0)


@triton.jit
def load_bias(p_bias, o_q, o_k, s_bias, Q, N):
    """The bias of a block of scores in base 2, shaped as the offsets broadcast."""
    p_b = p_bias + o_q.to(tl.int64) * s_bias[2] + o_k.to(tl.int64) * s_bias[3]
    return tl.load(p_b, mask=(o_q < Q) & (o_k < N), other=0.0).to(tl.float32) * 1.4426950408889634


@triton.jit
def dkdv_kernel(
    p_q, p_k, p_v, p_bias, p_do, p_lse, p_delta, p_dk, p_dv, Q, N,
    s_q, s_k, s_v, s_bias, s_do, s_dk, s_dv, scale, scale_2,
    H: tl.constexpr, GROUP: tl.constexpr, CAUSAL: tl.constexpr, WINDOW: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr, D: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    i_n, i_kv, i_b = place(tl.cdiv(N, BN), H // GROUP)
    o_k = i_n * BN + tl.arange(0, BN)
    o_d = tl.arange(0, BD)
    b_k = load_rows(p_k + i_b * s_k[0] + i_kv * s_k[1], o_k, o_d, s_k, N, D, BD, True)  # [BN, BD]
    b_v = load_rows(p_v + i_b * s_v[0] + i_kv * s_v[1], o_k, o_d, s_v, N, D, BD, True)  # [BN, BD]

    lo, hi = 0, Q  # the queries that see any of these keys
    if CAUSAL:
        lo = tl.maximum(i_n * BN - (N - Q), 0) // BM * BM
    if WINDOW is not None:
        hi = tl.minimum(Q, tl.maximum(i_n * BN + BN - 1 + WINDOW - (N - Q), 0))

    b_dk = tl.zeros((BN, BD), tl.float32)
    b_dv = tl.zeros((BN, BD), tl.float32)
    for i_g in range(GROUP):
        i_h = i_kv * GROUP + i_g
        for o_m in range(lo, hi, BM):
            o_q = o_m + tl.arange(0, BM)
            b_q = load_rows(p_q + i_b * s_q[0] + i_h * s_q[1], o_q, o_d, s_q, Q, D, BD, True)
            b_lse = tl.load(p_lse + (i_b * H + i_h) * Q + o_q, mask=o_q < Q, other=0.0)  # [BM]
            b_s = tl.dot(b_k, b_q.T) * scale_2  # [BN, BM]
            if p_bias is not None:
                p_b = p_bias + i_b * s_bias[0] + i_h * s_bias[1]
                b_s += load_bias(p_b, o_q[None, :], o_k[:, None], s_bias, Q, N)
            m_s = seen(o_q[None, :], o_k[:, None], Q, N, CAUSAL, WINDOW) & (o_q[None, :] < Q)
            b_p = probabilities(b_s, b_lse[None, :], m_s)  # [BN, BM]
            b_do = load_rows(p_do + i_b * s_do[0] + i_h * s_do[1], o_q, o_d, s_do, Q, D, BD, True)
            b_dv = tl.dot(b_p.to(b_do.dtype), b_do, b_dv)  # [BN, BD]
            b_delta = tl.load(p_delta + (i_b * H + i_h) * Q + o_q, mask=o_q < Q, other=0.0)
            b_ds = b_p * (tl.dot(b_v, b_do.T) - b_delta[None, :])  # [BN, BM]
            b_dk = tl.dot(b_ds.to(b_q.dtype), b_q, b_dk)  # [BN, BD]

    m_k = (o_k[:, None] < N) & (o_d[None, :] < D)
    p_dk += i_b * s_dk[0] + i_kv * s_dk[1] + o_k.to(tl.int64)[:, None] * s_dk[2] + o_d * s_dk[3]
    p_dv += i_b * s_dv[0] + i_kv * s_dv[1] + o_k.to(tl.int64)[:, None] * s_dv[2] + o_d * s_dv[3]
    tl.store(p_dk, (b_dk * scale).to(p_dk.dtype.element_ty), mask=m_k)
    tl.store(p_dv, b_dv.to(p_dv.dtype.element_ty), mask=m_k)


@triton.jit
def dq_kernel(
    p_q, p_k, p_v, p_bias, p_do, p_lse, p_delta, p_dq, p_dbias, Q, N,
    s_q, s_k, s_v, s_bias, s_do, s_dq, s_dbias, scale, scale_2,
    H: tl.constexpr, GROUP: tl.constexpr, CAUSAL: tl.constexpr, WINDOW: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr, D: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    i_m, i_h, i_b = place(tl.cdiv(Q, BM), H)
    o_q = i_m * BM + tl.arange(0, BM)
    o_d = tl.arange(0, BD)
    b_q = load_rows(p_q + i_b * s_q[0] + i_h * s_q[1], o_q, o_d, s_q, Q, D, BD, True)  # [BM, BD]
    b_do = load_rows(p_do + i_b * s_do[0] + i_h * s_do[1], o_q, o_d, s_do, Q, D, BD, True)
    b_lse = tl.load(p_lse + (i_b * H + i_h) * Q + o_q, mask=o_q < Q, other=0.0)  # [BM]
    b_delta = tl.load(p_delta + (i_b * H + i_h) * Q + o_q, mask=o_q < Q, other=0.0)  # [BM]
    p_k += i_b * s_k[0] + (i_h // GROUP) * s_k[1]
    p_v += i_b * s_v[0] + (i_h // GROUP) * s_v[1]

    lo, hi = 0, N
    if CAUSAL:
        hi = tl.minimum(N, tl.maximum(i_m * BM + BM + N - Q, 0))
    if WINDOW is not None:
        lo = tl.maximum(i_m * BM + N - Q - WINDOW + 1, 0) // BN * BN

    b_dq = tl.zeros((BM, BD), tl.float32)
    for o_n in range(lo, hi, BN):
        o_k = o_n + tl.arange(0, BN)
        b_k = load_rows(p_k, o_k, o_d, s_k, N, D, BD, True)  # [BN, BD]
        b_s = tl.dot(b_q, b_k.T) * scale_2  # [BM, BN]
        if p_bias is not None:
            p_b = p_bias + i_b * s_bias[0] + i_h * s_bias[1]
            b_s += load_bias(p_b, o_q[:, None], o_k[None, :], s_bias, Q, N)
        m_s = seen(o_q[:, None], o_k[None, :], Q, N, CAUSAL, WINDOW) & (o_q[:, None] < Q)
        b_p = probabilities(b_s, b_lse[:, None], m_s)  # [BM, BN]
        b_v = load_rows(p_v, o_k, o_d, s_v, N, D, BD, True)  # [BN, BD]
        b_ds = b_p * (tl.dot(b_do, b_v.T) - b_delta[:, None])  # [BM, BN]
        if p_dbias is not None:
            p_db = p_dbias + i_b * s_dbias[0] + i_h * s_dbias[1]
            p_db += o_q.to(tl.int64)[:, None] * s_dbias[2] + o_k[None, :] * s_dbias[3]
            m_db = (o_q[:, None] < Q) & (o_k[None, :] < N)
            tl.store(p_db, b_ds.to(p_dbias.dtype.element_ty), mask=m_db)
        b_dq = tl.dot(b_ds.to(b_k.dtype), b_k, b_dq)  # [BM, BD]

    p_dq += i_b * s_dq[0] + i_h * s_dq[1]
    p_dq += o_q.to(tl.int64)[:, None] * s_dq[2] + o_d[None, :] * s_dq[3]
    m_q = (o_q[:, None] < Q) & (o_d[None, :] < D)
    tl.store(p_dq, (b_dq * scale).to(p_dq.dtype.element_ty), mask=m_q)


def backward_launches(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    bias: torch.Tensor | None,
    o: torch.Tensor,
    do: torch.Tensor,
    lse: torch.Tensor,
    gradients: tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor | None],
    causal: bool,
    window: int | None,
    scale: float,
    architecture: Architecture,
    tile: Tile | None = None,
) -> tuple[Launch, ...]:
    """delta, then dk and dv, then dq and the gradient of the bias; ``gradients``: dq, dk, dv,
    dbias, each shaped as what it is the gradient of, the last [B, H, q_len, kv_len] or None."""
    (batch, heads, q_len, head_dim), (_, kv_heads, kv_len, _) = q.shape, k.shape
    tile = tile or pick_backward(
        q_len, kv_len, head_dim, batch * heads, heads // kv_heads, q.element_size(),
        architecture, bias is None,
    )  # fmt: skip
    dq, dk, dv, dbias = gradients
    delta = torch.empty_like(lse)
    block = {"D": head_dim, "BD": head_block(head_dim), "BM": tile.m, "H": heads, "Q": q_len}
    shared = strided(q=q, k=k, v=v, bias=bias, do=do) | {
        "p_lse": lse,
        "p_delta": delta,
        "N": kv_len,
        "scale": scale,
        "scale_2": scale * LOG2_E,
        "GROUP": heads // kv_heads,
        "CAUSAL": causal,
        "WINDOW": window,
        "BN": tile.n,
    }
    rows = strided(o=o, do=do) | {"p_delta": delta}
    keys = shared | strided(dk=dk, dv=dv)
    queries = shared | strided(dq=dq, dbias=dbias)
    deltas = Launch(delta_kernel, (triton.cdiv(q_len, tile.m) * heads * batch,), rows | block, 4)
    if tile.way in (HEADS, ATOMIC) and bias is None and can_bulk(architecture, q, k, v, do):
        return deltas, *columns_launches(
            q, k, v, do, lse, delta, (dq, dk, dv), causal, window, scale, architecture, tile
        )
    over_queries = (triton.cdiv(q_len, tile.m) * heads * batch,)
    over_keys = (triton.cdiv(kv_len, tile.n) * kv_heads * batch,)
    return (
        deltas,
        Launch(dkdv_kernel, over_keys, keys | block, tile.warps, tile.stages),
        Launch(dq_kernel, over_queries, queries | block, tile.warps, tile.stages),
    )


def attention_backward(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    o: torch.Tensor,
    do: torch.Tensor,
    lse: torch.Tensor,
    causal: bool = False,
    window: int | None = None,
    bias: torch.Tensor | None = None,
    scale: float | None = None,
    tile: Tile | None = None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """dq, dk, dv and, where there is a bias, its gradient, summed over what it broadcasts along."""
    scores = (*q.shape[:3], k.shape[2])
    dq, dk, dv = torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)
    dbias = None
    if bias is not None:
        # What is summed afterwards is kept in float32: terms of opposite signs, rounded before
        # their sum, leave errors of the terms' size. Blocks out of sight are not visited.
        summed = bias.shape != scores
        dbias = q.new_zeros(scores, dtype=torch.float32 if summed else q.dtype)
    launches = backward_launches(
        q, k, v, None if bias is None else bias.expand(scores), o, do, lse, (dq, dk, dv, dbias),
        causal, window, q.shape[-1] ** -0.5 if scale is None else scale,
        architecture_of(q.device), tile,
    )  # fmt: skip
    for launch in launches:
        launch.run()
    if dbias is None or bias is None:
        return dq, dk, dv, None
    return dq, dk, dv, dbias.sum_to_size(bias.shape).to(bias.dtype)


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        bias: torch.Tensor | None,
        causal: bool,
        window: int | None,
        scale: float | None,
        tile: Tile | None,
    ) -> torch.Tensor:
        o, lse = attention_forward(q, k, v, causal, window, bias, scale, tile)
        ctx.save_for_backward(q, k, v, bias, o, lse)
        ctx.options = (causal, window, scale, tile)
        return o

    @staticmethod
    def backward(ctx: Any, do: torch.Tensor) -> tuple[Any, ...]:
        q, k, v, bias, o, lse = ctx.saved_tensors
        causal, window, scale, tile = ctx.options
        gradients = attention_backward(q, k, v, o, do, lse, causal, window, bias, scale, tile)
        return (*gradients, None, None, None, None)


def differentiable_attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    causal: bool = False,
    window: int | None = None,
    bias: torch.Tensor | None = None,
    scale: float | None = None,
    tile: Tile | None = None,
) -> torch.Tensor:
    """:func:`kernels.attention.attention` with a gradient for q, k, v and bias."""
    return _Attention.apply(q, k, v, bias, causal, window, scale, tile)
