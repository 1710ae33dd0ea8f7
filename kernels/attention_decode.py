"""Attention of one new token: the keys are split over programs, partial results are combined.

One query a head is too little work to fill a card, so each program takes a chunk of the keys for
all query heads that share them, and leaves a normalised partial output o_c and the logarithm of
its sum, lse_c. The whole is o = sum_c w_c o_c with w_c = exp(lse_c) / sum_c exp(lse_c).
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from kernels.attention import attention_reference, check_attention
from kernels.attention_blocks import LOG2_E, load_rows, place
from kernels.configs.candidates import Tile
from kernels.configs.footprint import head_block
from kernels.configs.pick_heads import pick_decode
from kernels.configs.ways import JOINED
from kernels.launch import Architecture, Launch, architecture_of, counters, strided


def decode_reference(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    window: int | None = None,
    scale: float | None = None,
) -> torch.Tensor:
    """[B, H, 1, D] against all keys, or the last ``window`` of them, in float32."""
    return attention_reference(q, k, v, causal=True, window=window, scale=scale)


@triton.jit
def join_heads(
    p_parts, p_lse, p_o, i_b, i_h, splits, s_parts, s_o, H: tl.constexpr, GROUP: tl.constexpr,
    BG: tl.constexpr, BS: tl.constexpr, D: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    """The parts of ``GROUP`` heads from ``i_h``, past the L1, which may be stale."""
    o_g, o_s, o_d = tl.arange(0, BG), tl.arange(0, BS), tl.arange(0, BD)
    p_l = p_lse + (i_b * H + i_h + o_g)[:, None] * splits + o_s[None, :]
    m_l = (o_g[:, None] < GROUP) & (o_s[None, :] < splits)
    b_lse = tl.load(p_l, mask=m_l, other=-float("inf"), cache_modifier=".cg")  # [BG, BS]
    b_top = tl.max(b_lse, 1)
    b_w = tl.exp2(b_lse - tl.where(b_top == -float("inf"), 0.0, b_top)[:, None])
    b_sum = tl.sum(b_w, 1)
    b_w /= tl.where(b_sum == 0.0, 1.0, b_sum)[:, None]
    p_p = p_parts + i_b * s_parts[0] + (i_h + o_g)[:, None, None] * s_parts[1]
    p_p += o_s[None, :, None] * s_parts[2] + o_d[None, None, :] * s_parts[3]
    m_p = m_l[:, :, None] & (o_d[None, None, :] < D)
    b_parts = tl.load(p_p, mask=m_p, other=0.0, cache_modifier=".cg")  # [BG, BS, BD]
    b_o = tl.sum(b_w[:, :, None] * b_parts, 1)  # [BG, BD]
    p_o += i_b * s_o[0] + (i_h + o_g)[:, None] * s_o[1] + o_d[None, :] * s_o[3]
    m_o = (o_g[:, None] < GROUP) & (o_d[None, :] < D)
    tl.store(p_o, b_o.to(p_o.dtype.element_ty), mask=m_o)


@triton.jit
def split_kernel(
    p_q, p_k, p_v, p_o, p_lse, p_whole, p_count, N, start, chunk, splits,
    s_q, s_k, s_v, s_o, s_whole, scale,
    H: tl.constexpr, GROUP: tl.constexpr, BG: tl.constexpr, BS: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr, D: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    """Keys [start + i chunk, start + (i + 1) chunk) of [start, N); ``o`` [B, H, splits, D]. With
    ``whole`` [B, H, 1, D] the last of a key head's programs to arrive writes it."""
    i_c, i_kv, i_b = place(splits, H // GROUP)
    o_g = tl.arange(0, BM)  # query heads of the group; tl.dot wants 16 rows at least
    o_h = i_kv * GROUP + o_g
    o_d = tl.arange(0, BD)
    m_q = (o_g[:, None] < GROUP) & (o_d[None, :] < D)
    p_q += i_b * s_q[0] + o_h[:, None] * s_q[1] + o_d[None, :] * s_q[3]
    b_q = tl.load(p_q, mask=m_q, other=0.0)  # [BM, BD]
    p_k += i_b * s_k[0] + i_kv * s_k[1]
    p_v += i_b * s_v[0] + i_kv * s_v[1]

    lo = start + i_c * chunk
    hi = tl.minimum(lo + chunk, N)
    b_m = tl.full((BM,), -float("inf"), tl.float32)
    b_l = tl.zeros((BM,), tl.float32)
    b_acc = tl.zeros((BM, BD), tl.float32)
    for o_n in range(lo, hi, BN):
        o_k = o_n + tl.arange(0, BN)
        b_k = load_rows(p_k, o_k, o_d, s_k, hi, D, BD, True)  # [BN, BD]
        b_s = tl.where(o_k[None, :] < hi, tl.dot(b_q, b_k.T) * scale, -float("inf"))  # [BM, BN]
        b_max = tl.maximum(b_m, tl.max(b_s, 1))
        b_p = tl.exp2(b_s - b_max[:, None])  # [BM, BN]
        b_fade = tl.exp2(b_m - b_max)
        b_l = b_l * b_fade + tl.sum(b_p, 1)
        b_v = load_rows(p_v, o_k, o_d, s_v, hi, D, BD, True)  # [BN, BD]
        b_acc = tl.dot(b_p.to(b_v.dtype), b_v, b_acc * b_fade[:, None])  # [BM, BD]
        b_m = b_max

    b_o = b_acc / tl.where(b_l == 0.0, 1.0, b_l)[:, None]
    p_o_c = p_o + i_b * s_o[0] + o_h[:, None] * s_o[1] + i_c * s_o[2] + o_d[None, :] * s_o[3]
    tl.store(p_o_c, b_o.to(p_o.dtype.element_ty), mask=m_q)
    p_lse_c = p_lse + (i_b * H + o_h) * splits + i_c
    tl.store(p_lse_c, b_m + tl.log2(b_l), mask=o_g < GROUP)  # -inf for a chunk without keys
    if p_whole is not None:
        p_count += i_b * (H // GROUP) + i_kv
        tl.debug_barrier()  # the whole block has stored before one thread says so
        if tl.atomic_add(p_count, 1) == splits - 1:
            join_heads(
                p_o, p_lse, p_whole, i_b, i_kv * GROUP, splits, s_o, s_whole,
                H, GROUP, BG, BS, D, BD,
            )  # fmt: skip
            tl.store(p_count, 0)


@triton.jit
def combine_kernel(
    p_parts, p_lse, p_o, s_parts, s_o, H: tl.constexpr, SPLITS,
    BS: tl.constexpr, D: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    """The partial outputs of one head, weighted by their share of the sum."""
    _, i_h, i_b = place(1, H)
    o_s = tl.arange(0, BS)
    o_d = tl.arange(0, BD)
    p_lse += (i_b * H + i_h) * SPLITS + o_s
    b_lse = tl.load(p_lse, mask=o_s < SPLITS, other=-float("inf"))  # [BS]
    b_w = tl.exp2(b_lse - tl.max(b_lse, 0))
    b_w /= tl.sum(b_w, 0)
    p_parts += i_b * s_parts[0] + i_h * s_parts[1]
    p_parts += o_s[:, None] * s_parts[2] + o_d[None, :] * s_parts[3]
    m_part = (o_s[:, None] < SPLITS) & (o_d[None, :] < D)
    b_o = tl.sum(b_w[:, None] * tl.load(p_parts, mask=m_part, other=0.0), 0)  # [BD]
    p_o += i_b * s_o[0] + i_h * s_o[1] + o_d * s_o[3]
    tl.store(p_o, b_o.to(p_o.dtype.element_ty), mask=o_d < D)


def decode_launches(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    o: torch.Tensor,
    window: int | None,
    scale: float,
    architecture: Architecture,
    tile: Tile | None = None,
    splits: int | None = None,
) -> tuple[Launch, ...]:
    """``q``, ``o`` [B, H, 1, D], ``k``, ``v`` [B, KV, kv_len, D]: split and combine, or one kernel
    where the heads alone fill the card or the parts are joined."""
    (batch, heads, _, head_dim), (_, kv_heads, kv_len, _) = q.shape, k.shape
    start = 0 if window is None else max(0, kv_len - window)
    group = heads // kv_heads
    if tile is None:
        tile = pick_decode(
            kv_len - start, group, head_dim, batch * kv_heads, q.element_size(), architecture
        )
    splits = splits or tile.splits
    is_joined = splits > 1 and tile.way == JOINED
    chunk = triton.cdiv(triton.cdiv(kv_len - start, tile.n), splits) * tile.n
    parts = o if splits == 1 else q.new_empty(batch, heads, splits, head_dim, dtype=torch.float32)
    lse = q.new_empty(batch, heads, splits, dtype=torch.float32)
    block = {"D": head_dim, "BD": head_block(head_dim)}
    arguments = strided(q=q, k=k, v=v, o=parts) | {
        "p_lse": lse,
        "N": kv_len,
        "start": start,
        "chunk": chunk,
        "splits": splits,
        "scale": scale * LOG2_E,
        "p_whole": o if is_joined else None,
        "s_whole": o.stride() if is_joined else None,
        "p_count": counters(q.device, batch * kv_heads, "decode") if is_joined else None,
        "H": heads,
        "GROUP": group,
        "BG": triton.next_power_of_2(group) if is_joined else 1,
        "BS": triton.next_power_of_2(splits) if is_joined else 1,
        "BM": tile.m,
        "BN": tile.n,
        **block,
    }
    split = Launch(split_kernel, (splits * kv_heads * batch,), arguments, tile.warps, tile.stages)
    if splits == 1 or is_joined:
        return (split,)
    arguments = strided(parts=parts, o=o) | {
        "p_lse": lse,
        "H": heads,
        "SPLITS": splits,
        "BS": triton.next_power_of_2(splits),
        **block,
    }
    return split, Launch(combine_kernel, (heads * batch,), arguments, 4)


def decode_attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    window: int | None = None,
    scale: float | None = None,
    tile: Tile | None = None,
    splits: int | None = None,
) -> torch.Tensor:
    """One query a head [B, H, 1, D] against [B, KV, kv_len, D]; see :func:`decode_reference`.

    Raises ``ValueError`` for more than one query and for shapes that do not match.
    """
    check_attention(q, k, v, True, window)
    if q.shape[2] != 1:
        raise ValueError(f"q: {tuple(q.shape)}, expected one query; kernels.attention takes more")
    o = torch.empty_like(q)
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    for launch in decode_launches(
        q, k, v, o, window, scale, architecture_of(q.device), tile, splits
    ):
        launch.run()
    return o
