"""Softmax of rows too long for one program, shared by several: each has a stretch of BN columns.

    max, sum of a stretch                     then, by what all stretches of the row have left
    m_p = max_p x   l_p = sum_p exp(x - m_p)  o = exp(x - m) / sum_p l_p exp(m_p - m), m = max m_p

So every element is read twice, and what the second reading finds in the L2 is not read from memory.
``shared``: two kernels, the second walking back from where the first ended. ``lagged``: one; a
program takes the sum of its own stretch, then writes one that lies ``lag`` stretches back, about as
many as the card holds programs, so that what is between is all that the L2 must hold. It waits for
programs before it alone, which started before it; so it may run after them one by one, too.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from kernels.configs.candidates import Tile
from kernels.launch import Architecture, Launch, counters, strided

MOST_POLLS = tl.constexpr(1 << 16)
"""A count that never comes ends in a wrong row, which a check finds, rather than never."""


@triton.jit
def reference_of(b_max):
    """The maximum to subtract: zero for a row of which all is -inf so far."""
    return tl.where(b_max == -float("inf"), 0.0, b_max)


@triton.jit
def leave_sums(b_x, p_max, p_sum, i):
    """The maximum and the sum of stretch ``i``, of elements [BN] that are -inf outside."""
    largest = tl.max(b_x, 0)
    tl.store(p_max + i, largest)
    tl.store(p_sum + i, tl.sum(tl.exp(b_x - reference_of(largest)), 0))


@triton.jit
def joined(p_max, p_sum, first, parts, BP: tl.constexpr):
    """Of a row whose stretches begin at ``first``: its maximum and its sum, past the L1."""
    o_p = tl.arange(0, BP)
    m_p = o_p < parts
    inf = float("inf")
    b_max = tl.load(p_max + first + o_p, mask=m_p, other=-inf, cache_modifier=".cg")  # [BP]
    b_sum = tl.load(p_sum + first + o_p, mask=m_p, other=0.0, cache_modifier=".cg")
    reference = reference_of(tl.max(b_max, 0))
    return reference, tl.sum(b_sum * tl.exp(b_max - reference), 0)


@triton.jit
def softmax_parts_kernel(p_x, p_max, p_sum, N, s_x, BN: tl.constexpr):
    """``max``, ``sum`` [M, parts] float32."""
    parts = tl.cdiv(N, BN)
    i_m, o_n = tl.program_id(0) // parts, tl.program_id(0) % parts * BN + tl.arange(0, BN)
    p_row = p_x + i_m.to(tl.int64) * s_x[0] + o_n.to(tl.int64) * s_x[1]
    b_x = tl.load(p_row, mask=o_n < N, other=-float("inf"), eviction_policy="evict_last")
    leave_sums(b_x.to(tl.float32), p_max, p_sum, tl.program_id(0))


@triton.jit
def softmax_join_kernel(p_x, p_max, p_sum, p_o, N, s_x, s_o, BP: tl.constexpr, BN: tl.constexpr):
    """The same stretches again, the last first: what was read last is still in the L2."""
    parts = tl.cdiv(N, BN)
    i = tl.num_programs(0) - 1 - tl.program_id(0)
    i_m, o_n = (i // parts).to(tl.int64), i % parts * BN + tl.arange(0, BN)
    p_row = p_x + i_m * s_x[0] + o_n.to(tl.int64) * s_x[1]
    b_x = tl.load(p_row, mask=o_n < N, other=-float("inf"), eviction_policy="evict_first")
    reference, total = joined(p_max, p_sum, i // parts * parts, parts, BP)
    b_o = tl.exp(b_x.to(tl.float32) - reference) / total
    p_o += i_m * s_o[0] + o_n
    tl.store(p_o, b_o.to(p_o.dtype.element_ty), mask=o_n < N, eviction_policy="evict_first")


@triton.jit
def softmax_lagged_kernel(
    p_x, p_max, p_sum, p_count, p_o, M, N, lag, s_x, s_o, BP: tl.constexpr, BN: tl.constexpr
):
    """``count`` of a row: stretches that are summed, then those that are written as well."""
    parts = tl.cdiv(N, BN)
    i = tl.program_id(0)
    i_m, o_n = (i // parts).to(tl.int64), i % parts * BN + tl.arange(0, BN)
    p_row = p_x + i_m * s_x[0] + o_n.to(tl.int64) * s_x[1]
    m_n = (i_m < M) & (o_n < N)
    b_x = tl.load(p_row, mask=m_n, other=-float("inf"), eviction_policy="evict_last")

    i_late = tl.maximum(i - lag, 0)
    i_row, o_late = i_late // parts, i_late % parts * BN + tl.arange(0, BN)
    p_row = p_x + i_row.to(tl.int64) * s_x[0] + o_late.to(tl.int64) * s_x[1]
    m_late = (i >= lag) & (o_late < N)
    b_late = tl.load(p_row, mask=m_late, other=-float("inf"), eviction_policy="evict_first")

    if i_m < M:
        leave_sums(b_x.to(tl.float32), p_max, p_sum, i)
        tl.debug_barrier()  # the whole block has stored before one thread says so
        tl.atomic_add(p_count + i_m, 1)
    if i >= lag:
        summed, polls = tl.atomic_add(p_count + i_row, 0), 0
        while (summed < parts) & (polls < MOST_POLLS):
            summed = tl.atomic_add(p_count + i_row, 0)
            polls += 1
        reference, total = joined(p_max, p_sum, i_row * parts, parts, BP)
        b_o = tl.exp(b_late.to(tl.float32) - reference) / total
        p_late = p_o + i_row.to(tl.int64) * s_o[0] + o_late
        tl.store(p_late, b_o.to(p_o.dtype.element_ty), mask=m_late, eviction_policy="evict_first")
        if tl.atomic_add(p_count + i_row, 1) == 2 * parts - 1:
            tl.store(p_count + i_row, 0)


def shared_launches(
    x: torch.Tensor, o: torch.Tensor, architecture: Architecture, tile: Tile
) -> tuple[Launch, Launch]:
    """Softmax of [M, N] by programs of ``tile.n`` columns: what they sum, then the result."""
    (m, n), parts = x.shape, triton.cdiv(x.shape[1], tile.n)
    arguments = strided(x=x) | _sums(x, parts) | {"N": n, "BN": tile.n}
    joins = arguments | strided(o=o) | {"BP": triton.next_power_of_2(parts)}
    return (
        Launch(softmax_parts_kernel, (m * parts,), arguments, tile.warps),
        Launch(softmax_join_kernel, (m * parts,), joins, tile.warps),
    )


def lagged_launches(
    x: torch.Tensor, o: torch.Tensor, architecture: Architecture, tile: Tile
) -> tuple[Launch]:
    """The same in one kernel."""
    (m, n), parts = x.shape, triton.cdiv(x.shape[1], tile.n)
    held = architecture.sms * (architecture.threads_per_sm // (32 * tile.warps))
    lag = min(m * parts, held + parts)
    arguments = (
        strided(x=x, o=o)
        | _sums(x, parts)
        | {
            "p_count": counters(x.device, m, "softmax"),
            "M": m,
            "N": n,
            "lag": lag,
            "BP": triton.next_power_of_2(parts),
            "BN": tile.n,
        }
    )
    return (Launch(softmax_lagged_kernel, (m * parts + lag,), arguments, tile.warps),)


def _sums(x: torch.Tensor, parts: int) -> dict[str, torch.Tensor]:
    """Room for what is left of every stretch."""
    return {p: x.new_empty(len(x), parts, dtype=torch.float32) for p in ("p_max", "p_sum")}
