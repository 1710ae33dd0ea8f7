"""Attention without its score matrix: a block of queries walks along the keys.

For a block of queries, with s = scale q k^T + bias and running maximum m and sum l of each row:

    m' = max(m, max_j s_j)      p = exp(s - m')
    l' = l exp(m - m') + sum_j p_j      acc' = acc exp(m - m') + p v      o = acc / l at the end

Exponentials are powers of two (scores are multiplied by log2 e once), which is what the hardware
computes. ``causal`` aligns the last query with the last key; ``window`` counts the keys that a
query sees, itself included. Rows of keys fall into three parts: those at the window's edge and
those at the diagonal or the end are masked, the ones between need no mask.

    keys     0 ... | window's edge | all seen | diagonal, end | ... kv_len
                   lo           full_lo    full_hi            hi
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from kernels.attention_blocks import LOG2_E, fold, load_rows, place, seen
from kernels.attention_described import can_describe, described_launch
from kernels.configs.candidates import Tile
from kernels.configs.footprint import head_block
from kernels.configs.pick_heads import pick_attention
from kernels.configs.ways import DESCRIBED
from kernels.launch import Architecture, Launch, architecture_of, strided

MAX_HEAD_DIM = 256


def visible(
    q_len: int, kv_len: int, causal: bool, window: int | None, device: torch.device
) -> torch.Tensor:
    """[q_len, kv_len]: which keys a query sees."""
    i = torch.arange(q_len, device=device)[:, None] + kv_len - q_len
    j = torch.arange(kv_len, device=device)[None, :]
    seen = (j <= i) | (not causal)
    return seen if window is None else seen & (j > i - window)


def attention_reference(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    causal: bool = False,
    window: int | None = None,
    bias: torch.Tensor | None = None,
    scale: float | None = None,
) -> torch.Tensor:
    """softmax(scale q k^T + bias) v in float32; a query that sees no key gets zeros."""
    q, k, v = q.float(), k.float(), v.float()
    group = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)
    s = q @ k.mT * (q.shape[-1] ** -0.5 if scale is None else scale)  # [B, H, q_len, kv_len]
    s = s if bias is None else s + bias.float()
    seen = visible(q.shape[2], k.shape[2], causal, window, q.device)
    s = s.masked_fill(~seen, float("-inf"))
    empty = (s == float("-inf")).all(-1, keepdim=True)
    return s.masked_fill(empty, 0.0).softmax(-1).masked_fill(empty, 0.0) @ v


@triton.jit
def walk(
    b_acc, b_m, b_l, b_q, p_k, p_v, p_bias, o_q, lo, hi, Q, N, s_k, s_v, s_bias, scale,
    CAUSAL: tl.constexpr, WINDOW: tl.constexpr, MASKED: tl.constexpr,
    BN: tl.constexpr, D: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    """Keys [lo, hi) into the running accumulator, maximum and sum."""
    o_d = tl.arange(0, BD)
    for o_n in range(lo, hi, BN):
        o_k = o_n + tl.arange(0, BN)
        b_k = load_rows(p_k, o_k, o_d, s_k, N, D, BD, MASKED)  # [BN, BD]
        b_s = tl.dot(b_q, b_k.T)  # [BM, BN]
        if p_bias is not None:
            p_b = p_bias + o_q.to(tl.int64)[:, None] * s_bias[2]
            p_b += o_k.to(tl.int64)[None, :] * s_bias[3]
            m_b = (o_q[:, None] < Q) & (o_k[None, :] < N)
            b_bias = tl.load(p_b, mask=m_b, other=0.0).to(tl.float32)
            b_s = b_s * scale + b_bias * 1.4426950408889634
        if MASKED:
            b_s = tl.where(
                seen(o_q[:, None], o_k[None, :], Q, N, CAUSAL, WINDOW), b_s, -float("inf")
            )
        b_p, b_fade, b_m, b_l = fold(b_s, b_m, b_l, scale, p_bias is not None)
        b_v = load_rows(p_v, o_k, o_d, s_v, N, D, BD, MASKED)  # [BN, BD]
        b_acc = tl.dot(b_p.to(b_v.dtype), b_v, b_acc * b_fade[:, None])  # [BM, BD]
    return b_acc, b_m, b_l


@triton.jit
def attention_kernel(
    p_q, p_k, p_v, p_bias, p_o, p_lse, Q, N, s_q, s_k, s_v, s_bias, s_o, scale,
    H: tl.constexpr, GROUP: tl.constexpr, CAUSAL: tl.constexpr, WINDOW: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr, D: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    i_m, i_h, i_b = place(tl.cdiv(Q, BM), H)
    i_m = tl.cdiv(Q, BM) - 1 - i_m  # the longest causal rows first
    o_q = i_m * BM + tl.arange(0, BM)
    o_d = tl.arange(0, BD)
    p_k += i_b * s_k[0] + (i_h // GROUP) * s_k[1]
    p_v += i_b * s_v[0] + (i_h // GROUP) * s_v[1]
    if p_bias is not None:
        p_bias += i_b * s_bias[0] + i_h * s_bias[1]
    b_q = load_rows(p_q + i_b * s_q[0] + i_h * s_q[1], o_q, o_d, s_q, Q, D, BD, True)  # [BM, BD]

    first = i_m * BM + N - Q  # the key beside the block's first query
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
        b_acc, b_m, b_l = walk(
            b_acc, b_m, b_l, b_q, p_k, p_v, p_bias, o_q, lo, tl.minimum(full_lo, hi), Q, N,
            s_k, s_v, s_bias, scale, CAUSAL, WINDOW, True, BN, D, BD,
        )  # fmt: skip
    b_acc, b_m, b_l = walk(
        b_acc, b_m, b_l, b_q, p_k, p_v, p_bias, o_q, full_lo, full_hi, Q, N,
        s_k, s_v, s_bias, scale, CAUSAL, WINDOW, False, BN, D, BD,
    )  # fmt: skip
    b_acc, b_m, b_l = walk(
        b_acc, b_m, b_l, b_q, p_k, p_v, p_bias, o_q, tl.maximum(full_lo, full_hi), hi, Q, N,
        s_k, s_v, s_bias, scale, CAUSAL, WINDOW, True, BN, D, BD,
    )  # fmt: skip

    b_o = b_acc / tl.where(b_l == 0.0, 1.0, b_l)[:, None]  # [BM, BD]
    p_o += i_b * s_o[0] + i_h * s_o[1]
    p_o += o_q.to(tl.int64)[:, None] * s_o[2] + o_d[None, :] * s_o[3]
    tl.store(p_o, b_o.to(p_o.dtype.element_ty), mask=(o_q[:, None] < Q) & (o_d[None, :] < D))
    p_lse += (i_b * H + i_h) * Q + o_q
    tl.store(p_lse, b_m + tl.log2(b_l), mask=o_q < Q)  # -inf for a row that saw no key


def attention_launch(
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
    tile: Tile | None = None,
) -> Launch:
    """``q``, ``o`` [B, H, q_len, D], ``k``, ``v`` [B, KV, kv_len, D], ``lse`` [B, H, q_len].

    ``bias`` is expanded to [B, H, q_len, kv_len] (stride 0 where it broadcasts); ``lse`` is float32
    and in base 2.
    """
    (batch, heads, q_len, head_dim), kv_len = q.shape, k.shape[2]
    masked = window is not None or bias is not None
    tile = tile or pick_attention(
        q_len, kv_len, head_dim, batch * heads, q.element_size(), architecture, masked
    )
    if tile.way == DESCRIBED and can_describe(architecture, q, k, v):
        return described_launch(q, k, v, bias, o, lse, causal, window, scale, architecture, tile)
    arguments = strided(q=q, k=k, v=v, bias=bias, o=o) | {
        "p_lse": lse,
        "Q": q_len,
        "N": kv_len,
        "scale": scale * LOG2_E,
        "H": heads,
        "GROUP": heads // k.shape[1],
        "CAUSAL": causal,
        "WINDOW": window,
        "BM": tile.m,
        "BN": tile.n,
        "D": head_dim,
        "BD": head_block(head_dim),
    }
    grid = (triton.cdiv(q_len, tile.m) * heads * batch,)
    return Launch(attention_kernel, grid, arguments, tile.warps, tile.stages)


def attention_forward(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    causal: bool = False,
    window: int | None = None,
    bias: torch.Tensor | None = None,
    scale: float | None = None,
    tile: Tile | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The output [B, H, q_len, D] and the logarithm, base 2, of each row's sum [B, H, q_len].

    Raises ``ValueError`` for shapes that do not match, a window without ``causal``, and a scale
    that is not positive.
    """
    check_attention(q, k, v, causal, window)
    if scale is not None and scale <= 0:
        raise ValueError(f"scale = {scale}: expected more than 0")
    o = torch.empty_like(q)
    lse = q.new_empty(q.shape[:3], dtype=torch.float32)
    if bias is not None:
        bias = over_scores(bias, q, k)
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    architecture = architecture_of(q.device)
    attention_launch(q, k, v, bias, o, lse, causal, window, scale, architecture, tile).run()
    return o, lse


def attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    causal: bool = False,
    window: int | None = None,
    bias: torch.Tensor | None = None,
    scale: float | None = None,
) -> torch.Tensor:
    """softmax(scale q k^T + bias) v; see :func:`attention_reference`. No gradient: for that there
    is ``kernels.attention_backward.differentiable_attention``."""
    return attention_forward(q, k, v, causal, window, bias, scale)[0]


def over_scores(bias: torch.Tensor, q: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
    """``bias`` expanded to [B, H, q_len, kv_len]. Raises ``ValueError`` where it does not fit."""
    scores = (*q.shape[:3], k.shape[2])
    try:
        return bias.expand(scores)
    except RuntimeError:
        raise ValueError(
            f"bias: {tuple(bias.shape)}, expected what broadcasts to {tuple(scores)}"
        ) from None


def check_attention(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, causal: bool, window: int | None
) -> None:
    """Raises ``ValueError`` naming what does not match."""
    if k.shape != v.shape:
        raise ValueError(f"v: {tuple(v.shape)}, expected the shape of k, {tuple(k.shape)}")
    if q.shape[0] != k.shape[0] or q.shape[-1] != k.shape[-1] or q.shape[1] % k.shape[1]:
        raise ValueError(
            f"q: {tuple(q.shape)}, k: {tuple(k.shape)}: expected the same batch and head_dim, and "
            "a number of query heads that is a multiple of the key heads"
        )
    if not q.dtype == k.dtype == v.dtype:
        raise ValueError(f"k: {k.dtype}, v: {v.dtype}, expected the dtype of q, {q.dtype}")
    if q.shape[-1] > MAX_HEAD_DIM:
        raise ValueError(f"head_dim = {q.shape[-1]}: expected at most {MAX_HEAD_DIM}")
    if window is not None and (window < 1 or not causal):
        raise ValueError(f"window = {window}: expected 1 or more, and causal=True beside it")
