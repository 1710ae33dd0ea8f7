"""Tiles of operands and of results: which program owns which, and how they come and go.

A tile of an operand comes by descriptor where the card has bulk copies and the strides allow them
(16-byte rows, last stride 1), else by masked pointers: any size, any stride. A descriptor fills
what lies outside its matrix with zeros, as the masks do. Addresses are in 64 bits: a tensor may
hold more than 2^31 elements, and a view of it may step over as many from column to column.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from triton.tools.tensor_descriptor import TensorDescriptor

from kernels.launch import Architecture


@triton.jit
def tile_of(i_program, tiles_m, tiles_n, GROUP: tl.constexpr):
    """Programs in bands of GROUP row tiles, so that those running together share tiles in L2."""
    i_band = i_program // (GROUP * tiles_n)
    band = tl.minimum(tiles_m - i_band * GROUP, GROUP)
    i_in = i_program % (GROUP * tiles_n)
    return i_band * GROUP + i_in % band, i_in // band


@triton.jit
def load_tile(p, o_r, o_k, R, K, s, BR: tl.constexpr, BK: tl.constexpr, BULK: tl.constexpr):
    """[BR, BK] of a matrix [R, K] from (o_r, o_k), zero outside: by descriptor or by pointers."""
    if BULK:
        b = p.load([o_r, o_k])
    else:
        o_r = o_r + tl.arange(0, BR)
        o_k = o_k + tl.arange(0, BK)
        p_b = p + o_r.to(tl.int64)[:, None] * s[0] + o_k.to(tl.int64)[None, :] * s[1]
        b = tl.load(p_b, mask=(o_r[:, None] < R) & (o_k[None, :] < K), other=0.0)
    return b


@triton.jit
def store_tile(p_o, b_o, o_m, o_n, M, N, s_o):
    """The rows below M and columns below N of [BM, BN]."""
    p_o += o_m.to(tl.int64)[:, None] * s_o[0] + o_n.to(tl.int64)[None, :] * s_o[1]
    m_o = (o_m[:, None] < M) & (o_n[None, :] < N)
    tl.store(p_o, b_o.to(p_o.dtype.element_ty), mask=m_o)


def in_vectors(x: torch.Tensor) -> bool:
    """Whether 16 bytes can be fetched at once: elements side by side, rows on 16 bytes."""
    steps = [s * x.element_size() for s in x.stride()[:-1]]
    return x.stride(-1) == 1 and x.data_ptr() % 16 == 0 and all(s % 16 == 0 for s in steps)


def can_bulk(architecture: Architecture, *matrices: torch.Tensor) -> bool:
    """Whether descriptors can fetch tiles of all these: their strides are positive and below 2^40
    bytes, which a row broadcast by ``expand`` is not (CUDA driver API, cuTensorMapEncodeTiled)."""
    return architecture.has_bulk_copy and all(
        x.numel() > 0
        and in_vectors(x)
        and all(0 < s * x.element_size() < 1 << 40 for s in x.stride())
        for x in matrices
    )


def source(x: torch.Tensor, rows: int, columns: int, bulk: bool) -> Any:
    """What a kernel loads tiles of [rows, columns] from: a descriptor, or the tensor itself."""
    return TensorDescriptor.from_tensor(x, [rows, columns]) if bulk else x


def check_weight(x: torch.Tensor, weight: torch.Tensor) -> None:
    """Raises ``ValueError`` unless x [..., K] can be multiplied by weight [N, K]."""
    if weight.ndim != 2 or x.shape[-1] != weight.shape[1] or x.dtype != weight.dtype:
        raise ValueError(
            f"weight: {tuple(weight.shape)} {weight.dtype}, expected (N, {x.shape[-1]}) {x.dtype}"
        )


@triton.jit
def multiply_add(b_x, b_w, b_y, BK: tl.constexpr):
    """b_y + b_x b_w^T: [BM, BK] x [BN, BK] on [BM, BN] float32.

    Hopper's matrix unit keeps some 14 bits of a running sum of float8 products, and triton leaves
    it there over all of K by default. Here a sum stays in it over one step of ``BK``, and the steps
    are added in float32. Other types are summed in float32 in any case.
    """
    if b_x.dtype == tl.float8e4nv:
        return tl.dot(b_x, b_w.T, b_y, max_num_imprecise_acc=BK)
    return tl.dot(b_x, b_w.T, b_y)


def result_dtype(x: torch.Tensor) -> torch.dtype:
    """What a product is written in: the dtype of its input, but for float8, which holds no sums:
    those of 8,192 products of standard normal numbers lie beyond its 448."""
    return torch.bfloat16 if x.dtype == torch.float8_e4m3fn else x.dtype
