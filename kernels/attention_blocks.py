"""What the kernels of attention share: where a program stands, rows, masks, and the softmax of a
block of scores. The formulas stand in ``attention``."""

from __future__ import annotations

from math import e as EULER
from math import log2

import triton
import triton.language as tl

LOG2_E = log2(EULER)


@triton.jit
def place(tiles, H: tl.constexpr):
    """The tile, the head and the image of a program. They share the first axis of the grid, since
    the others end at 65535; head and image are in 64 bits, as strides times them must be."""
    i_h = tl.program_id(0) // tiles
    return tl.program_id(0) % tiles, (i_h % H).to(tl.int64), (i_h // H).to(tl.int64)


@triton.jit
def load_rows(p, o_r, o_d, s, R, D: tl.constexpr, BD: tl.constexpr, MASKED: tl.constexpr):
    """[BR, BD] of a matrix [R, D], zero outside. No mask where none can be needed."""
    p += o_r.to(tl.int64)[:, None] * s[2] + o_d.to(tl.int64)[None, :] * s[3]
    if MASKED and D == BD:
        b = tl.load(p, mask=o_r[:, None] < R, other=0.0)
    elif MASKED:
        b = tl.load(p, mask=(o_r[:, None] < R) & (o_d[None, :] < D), other=0.0)
    elif D == BD:
        b = tl.load(p)
    else:
        b = tl.load(p, mask=o_d[None, :] < D, other=0.0)
    return b


@triton.jit
def seen(o_q, o_k, Q, N, CAUSAL: tl.constexpr, WINDOW: tl.constexpr):
    """[BM, BN] (or its transpose, as the offsets are shaped): the mask of a block of scores."""
    m_s = o_k < N
    if CAUSAL:
        m_s = m_s & (o_k <= o_q + N - Q)
    if WINDOW is not None:
        m_s = m_s & (o_k > o_q + N - Q - WINDOW)
    return m_s


@triton.jit
def fold(b_s, b_m, b_l, scale, SCALED: tl.constexpr):
    """Scores [BM, BN] into exponentials about the new maximum: these, what fades all sums so far,
    the maximum and the sum [BM].

    Scores that are not ``SCALED`` get their factor in the exponent, where it is free: it is one
    multiply-add with the subtraction of the maximum (which wants it positive).
    """
    b_top = tl.max(b_s, 1)
    if not SCALED:
        b_top *= scale
    b_max = tl.maximum(b_m, b_top)
    b_ref = tl.where(b_max == -float("inf"), 0.0, b_max)  # a row that has seen no key yet
    if not SCALED:
        b_s *= scale
    b_p = tl.exp2(b_s - b_ref[:, None])  # [BM, BN]
    b_fade = tl.exp2(b_m - b_ref)
    return b_p, b_fade, b_max, b_l * b_fade + tl.sum(b_p, 1)
