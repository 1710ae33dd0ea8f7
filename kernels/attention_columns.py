"""The gradient of attention by columns: other ways than ``attention_backward``'s, to be timed.

The formulas are that page's. A program owns a block of keys of *one query head* and walks along the
queries that see it, so grouped heads and a causal mask leave no program with all of the work; what
heads of a group have for their keys is summed afterwards. Everything comes by descriptor, which
fills with zeros what lies outside, and masks stand at edges only:

    queries    ... lo | diagonal: masked | all see all keys of the block | ... Q

For dq there are two ways: ``heads`` walks once more along the keys, seven products in all; with
``atomic`` each program adds its part of dq in memory, in float32, five products, in an order that
no run repeats. There is no way here for a bias: its gradient is the other page's.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from triton.tools.tensor_descriptor import TensorDescriptor

from kernels.attention_blocks import LOG2_E, place, seen
from kernels.configs.candidates import Tile
from kernels.configs.footprint import head_block
from kernels.configs.ways import ATOMIC as ATOMIC_WAY
from kernels.launch import Architecture, Launch, strided


@triton.jit
def rows_of(p, i_b, i_h, o, BR: tl.constexpr, BD: tl.constexpr):
    """[BR, BD] of one head, from row ``o``."""
    return p.load([i_b.to(tl.int32), i_h.to(tl.int32), o, 0]).reshape(BR, BD)


@triton.jit
def walk_queries(
    b_dk, b_dv, b_k, b_v, p_q, p_do, p_lse, p_delta, p_dq, i_b, i_h, o_n, lo, hi, Q, N, s_dq,
    scale, scale_2, CAUSAL: tl.constexpr, WINDOW: tl.constexpr, MASKED: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr, D: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    """Queries [lo, hi) into the gradients of keys and values, and theirs into memory."""
    o_k = o_n + tl.arange(0, BN)
    o_d = tl.arange(0, BD)
    for o_m in range(lo, hi, BM):
        o_q = o_m + tl.arange(0, BM)
        b_lse = tl.load(p_lse + o_q, mask=o_q < Q, other=0.0)  # [BM]
        b_delta = tl.load(p_delta + o_q, mask=o_q < Q, other=0.0)
        b_q = rows_of(p_q, i_b, i_h, o_m, BM, BD)  # [BM, BD]
        b_do = rows_of(p_do, i_b, i_h, o_m, BM, BD)
        b_p = tl.exp2(tl.dot(b_k, b_q.T) * scale_2 - b_lse[None, :])  # [BN, BM]
        if MASKED:
            m_s = seen(o_q[None, :], o_k[:, None], Q, N, CAUSAL, WINDOW)
            b_p = tl.where(m_s & (b_lse[None, :] > -float("inf")), b_p, 0.0)
        b_dv = tl.dot(b_p.to(b_do.dtype), b_do, b_dv)  # [BN, BD]
        b_ds = (b_p * (tl.dot(b_v, b_do.T) - b_delta[None, :])).to(b_q.dtype)  # [BN, BM]
        b_dk = tl.dot(b_ds, b_q, b_dk)  # [BN, BD]
        if p_dq is not None:
            b_dq = tl.dot(b_ds.T, b_k) * scale  # [BM, BD]
            p_rows = p_dq + o_q.to(tl.int64)[:, None] * s_dq[2] + o_d[None, :]
            m_q = (o_q[:, None] < Q) & (o_d[None, :] < D)
            tl.atomic_add(p_rows, b_dq, mask=m_q, sem="relaxed")
    return b_dk, b_dv


@triton.jit
def columns_kernel(
    p_q, p_k, p_v, p_do, p_lse, p_delta, p_dk, p_dv, p_dq, Q, N, s_dk, s_dv, s_dq,
    scale, scale_2, H: tl.constexpr, GROUP: tl.constexpr, CAUSAL: tl.constexpr,
    WINDOW: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr, D: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    """``dk``, ``dv`` [B, H, kv_len, D] of each query head; ``dq`` float32, zero before, or None.
    Blocks of the first keys, which most queries see, go first."""
    i_n, i_h, i_b = place(tl.cdiv(N, BN), H)
    o_n = i_n * BN
    b_k = rows_of(p_k, i_b, i_h // GROUP, o_n, BN, BD)  # [BN, BD]
    b_v = rows_of(p_v, i_b, i_h // GROUP, o_n, BN, BD)
    p_lse += (i_b * H + i_h) * Q
    p_delta += (i_b * H + i_h) * Q
    if p_dq is not None:
        p_dq += i_b * s_dq[0] + i_h * s_dq[1]

    lo, hi, full = 0, Q, 0
    if CAUSAL:
        lo = tl.maximum(o_n - (N - Q), 0) // BM * BM
        full = tl.cdiv(tl.maximum(o_n + BN - 1 - (N - Q), 0), BM) * BM
    if WINDOW is not None:
        hi = tl.minimum(Q, tl.maximum(o_n + BN - 1 + WINDOW - (N - Q), 0))
        full = hi
    full = tl.where(o_n + BN > N, hi, tl.minimum(full, hi))

    b_dk, b_dv = tl.zeros((BN, BD), tl.float32), tl.zeros((BN, BD), tl.float32)
    b_dk, b_dv = walk_queries(
        b_dk, b_dv, b_k, b_v, p_q, p_do, p_lse, p_delta, p_dq, i_b, i_h, o_n, lo, full, Q, N,
        s_dq, scale, scale_2, CAUSAL, WINDOW, True, BM, BN, D, BD,
    )  # fmt: skip
    if WINDOW is None:
        b_dk, b_dv = walk_queries(
            b_dk, b_dv, b_k, b_v, p_q, p_do, p_lse, p_delta, p_dq, i_b, i_h, o_n, full, hi, Q, N,
            s_dq, scale, scale_2, CAUSAL, WINDOW, False, BM, BN, D, BD,
        )  # fmt: skip

    o_k, o_d = (o_n + tl.arange(0, BN)).to(tl.int64)[:, None], tl.arange(0, BD)[None, :]
    m_k = (o_k < N) & (o_d < D)
    p_dk += i_b * s_dk[0] + i_h * s_dk[1] + o_k * s_dk[2] + o_d * s_dk[3]
    p_dv += i_b * s_dv[0] + i_h * s_dv[1] + o_k * s_dv[2] + o_d * s_dv[3]
    tl.store(p_dk, (b_dk * scale).to(p_dk.dtype.element_ty), mask=m_k)
    tl.store(p_dv, b_dv.to(p_dv.dtype.element_ty), mask=m_k)


@triton.jit
def walk_keys(
    b_dq, b_q, b_do, b_lse, b_delta, p_k, p_v, i_b, i_kv, o_q, lo, hi, Q, N, scale_2,
    CAUSAL: tl.constexpr, WINDOW: tl.constexpr, MASKED: tl.constexpr,
    BN: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    """Keys [lo, hi) into the gradient of a block of queries."""
    for o_n in range(lo, hi, BN):
        b_k = rows_of(p_k, i_b, i_kv, o_n, BN, BD)  # [BN, BD]
        b_v = rows_of(p_v, i_b, i_kv, o_n, BN, BD)
        b_p = tl.exp2(tl.dot(b_q, b_k.T) * scale_2 - b_lse[:, None])  # [BM, BN]
        if MASKED:
            o_k = o_n + tl.arange(0, BN)
            m_s = seen(o_q[:, None], o_k[None, :], Q, N, CAUSAL, WINDOW)
            b_p = tl.where(m_s & (b_lse[:, None] > -float("inf")), b_p, 0.0)
        b_ds = b_p * (tl.dot(b_do, b_v.T) - b_delta[:, None])  # [BM, BN]
        b_dq = tl.dot(b_ds.to(b_k.dtype), b_k, b_dq)  # [BM, BD]
    return b_dq


@triton.jit
def rows_kernel(
    p_q, p_k, p_v, p_do, p_lse, p_delta, p_dq, Q, N, s_dq, scale, scale_2,
    H: tl.constexpr, GROUP: tl.constexpr, CAUSAL: tl.constexpr, WINDOW: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr, D: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    """dq of a block of queries, the longest causal rows first."""
    i_m, i_h, i_b = place(tl.cdiv(Q, BM), H)
    o_m = (tl.cdiv(Q, BM) - 1 - i_m) * BM
    o_q, o_d = o_m + tl.arange(0, BM), tl.arange(0, BD)
    b_q, b_do = rows_of(p_q, i_b, i_h, o_m, BM, BD), rows_of(p_do, i_b, i_h, o_m, BM, BD)
    b_lse = tl.load(p_lse + (i_b * H + i_h) * Q + o_q, mask=o_q < Q, other=0.0)  # [BM]
    b_delta = tl.load(p_delta + (i_b * H + i_h) * Q + o_q, mask=o_q < Q, other=0.0)

    first = o_m + N - Q  # the key beside the block's first query
    lo, hi, full = 0, N, N // BN * BN
    if CAUSAL:
        hi = tl.minimum(N, tl.maximum(first + BM, 0))
        full = tl.minimum(N, tl.maximum(first + 1, 0)) // BN * BN
    if WINDOW is not None:
        lo = tl.maximum(first - WINDOW + 1, 0) // BN * BN
        full = lo
    b_dq = tl.zeros((BM, BD), tl.float32)
    if WINDOW is None:
        b_dq = walk_keys(
            b_dq, b_q, b_do, b_lse, b_delta, p_k, p_v, i_b, i_h // GROUP, o_q, lo, full, Q, N,
            scale_2, CAUSAL, WINDOW, False, BN, BD,
        )  # fmt: skip
    b_dq = walk_keys(
        b_dq, b_q, b_do, b_lse, b_delta, p_k, p_v, i_b, i_h // GROUP, o_q, full, hi, Q, N,
        scale_2, CAUSAL, WINDOW, True, BN, BD,
    )  # fmt: skip
    p_dq += i_b * s_dq[0] + i_h * s_dq[1]
    p_dq += o_q.to(tl.int64)[:, None] * s_dq[2] + o_d[None, :] * s_dq[3]
    m_q = (o_q[:, None] < Q) & (o_d[None, :] < D)
    tl.store(p_dq, (b_dq * scale).to(p_dq.dtype.element_ty), mask=m_q)


@triton.jit
def group_sum_kernel(
    p_part, p_o, R, s_part, s_o, KV: tl.constexpr, GROUP: tl.constexpr,
    BM: tl.constexpr, D: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    """``o`` [B, KV, R, D]: the sum of each group's heads of ``part`` [B, KV GROUP, R, D]."""
    i_m, i_kv, i_b = place(tl.cdiv(R, BM), KV)
    o_r = (i_m * BM + tl.arange(0, BM)).to(tl.int64)[:, None]
    o_d = tl.arange(0, BD)[None, :]
    m_o = (o_r < R) & (o_d < D)
    b_sum = tl.zeros((BM, BD), tl.float32)
    for i_g in range(GROUP):
        p_head = p_part + i_b * s_part[0] + (i_kv * GROUP + i_g) * s_part[1]
        b_sum += tl.load(p_head + o_r * s_part[2] + o_d * s_part[3], mask=m_o, other=0.0)
    p_o += i_b * s_o[0] + i_kv * s_o[1] + o_r * s_o[2] + o_d * s_o[3]
    tl.store(p_o, b_sum.to(p_o.dtype.element_ty), mask=m_o)


def group_sum_launch(part: torch.Tensor, o: torch.Tensor) -> Launch:
    (batch, kv_heads, rows, head_dim), rows_each = o.shape, 32
    arguments = strided(part=part, o=o) | {
        "R": rows,
        "KV": kv_heads,
        "GROUP": part.shape[1] // kv_heads,
        "BM": rows_each,
        "D": head_dim,
        "BD": head_block(head_dim),
    }
    return Launch(
        group_sum_kernel, (triton.cdiv(rows, rows_each) * kv_heads * batch,), arguments, 4
    )


def columns_launches(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    do: torch.Tensor,
    lse: torch.Tensor,
    delta: torch.Tensor,
    gradients: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
    causal: bool,
    window: int | None,
    scale: float,
    architecture: Architecture,
    tile: Tile,
) -> tuple[Launch, ...]:
    """dk and dv, what sums them over groups, and dq; ``gradients``: dq, dk, dv. To be run once: dq
    of the atomic way starts from the zeros that are made here."""
    (batch, heads, q_len, head_dim), (_, kv_heads, kv_len, _) = q.shape, k.shape
    dq, dk, dv = gradients
    block, is_atomic, is_grouped = head_block(head_dim), tile.way == ATOMIC_WAY, heads > kv_heads
    each, whole = (batch, heads, kv_len, head_dim), (batch, heads, q_len, head_dim)
    dk_each, dv_each = (
        (q.new_empty(each, dtype=torch.float32) for _ in range(2)) if is_grouped else (dk, dv)
    )
    dq_sum = q.new_zeros(whole, dtype=torch.float32) if is_atomic else None

    def described(x: torch.Tensor, rows: int) -> TensorDescriptor:
        return TensorDescriptor.from_tensor(x, [1, 1, rows, block])

    shared = {
        "p_lse": lse,
        "p_delta": delta,
        "Q": q_len,
        "N": kv_len,
        "scale": scale,
        "scale_2": scale * LOG2_E,
        "H": heads,
        "GROUP": heads // kv_heads,
        "CAUSAL": causal,
        "WINDOW": window,
        "BM": tile.m,
        "BN": tile.n,
        "D": head_dim,
        "BD": block,
        "p_q": described(q, tile.m),
        "p_do": described(do, tile.m),
        "p_k": described(k, tile.n),
        "p_v": described(v, tile.n),
    }
    columns = shared | strided(dk=dk_each, dv=dv_each, dq=dq_sum)
    grid = (triton.cdiv(kv_len, tile.n) * heads * batch,)
    launches = [Launch(columns_kernel, grid, columns, tile.warps, tile.stages)]
    if is_grouped:
        launches += [group_sum_launch(dk_each, dk), group_sum_launch(dv_each, dv)]
    if dq_sum is not None:
        return (*launches, group_sum_launch(dq_sum, dq))
    grid = (triton.cdiv(q_len, tile.m) * heads * batch,)
    rows = shared | strided(dq=dq)
    return (*launches, Launch(rows_kernel, grid, rows, tile.warps, tile.stages))
