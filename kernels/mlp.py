"""Matrix products of an MLP: a linear layer with its epilogue, SwiGLU in one pass, and experts.

One program owns one tile [BM, BN] of the output and walks along K:

    o[m, n] = act(sum_k x[m, k] w[n, k] + bias[n])        weights are [N, K], as torch stores them

A tile of an operand comes by descriptor where the card has bulk copies and the strides allow
them (16-byte rows, last stride 1), else by masked pointers: any size, any stride. Sums are in
float32; float32 operands are multiplied as tf32, which is what ``tl.dot`` does by default.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch.nn import functional
from triton.tools.tensor_descriptor import TensorDescriptor

from kernels.configs import Tile, pick_linear, pick_vector
from kernels.launch import Architecture, Launch, architecture_of, strided

ACTIVATIONS = (None, "gelu", "quick_gelu", "silu")
VECTOR_ROWS = 4
"""Up to so many rows a product is a reading of the weights: no tensor core, one pass."""


def activation_reference(x: torch.Tensor, activation: str | None) -> torch.Tensor:
    """``gelu`` is the exact one (erf), ``quick_gelu`` is x sigmoid(1.702 x)."""
    if activation == "quick_gelu":
        return x * torch.sigmoid(1.702 * x)
    return getattr(functional, activation)(x) if activation else x


def linear_reference(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    activation: str | None = None,
) -> torch.Tensor:
    """[..., K] x [N, K] -> [..., N] in float32."""
    y = functional.linear(x.float(), weight.float(), None if bias is None else bias.float())
    return activation_reference(y, activation)


def swiglu_reference(x: torch.Tensor, gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    """silu(x gate^T) * (x up^T): [..., K] x 2 [N, K] -> [..., N] in float32."""
    return linear_reference(x, gate, activation="silu") * linear_reference(x, up)


def grouped_reference(x: torch.Tensor, weight: torch.Tensor, ends: torch.Tensor) -> torch.Tensor:
    """[rows, K] x [experts, N, K] -> [rows, N]; expert e owns the rows [ends[e - 1], ends[e])."""
    parts = torch.tensor_split(x, ends[:-1].tolist())
    return torch.cat([linear_reference(p, w) for p, w in zip(parts, weight, strict=True)])


@triton.jit
def erf(b_x):
    """To 1.5e-7 (Abramowitz and Stegun, 7.1.26); the library's takes so many registers that the
    largest tiles would spill."""
    b_t = 1.0 / (1.0 + 0.3275911 * tl.abs(b_x))
    b_p = b_t * (1.421413741 + b_t * (-1.453152027 + b_t * 1.061405429))
    b_p = b_t * (0.254829592 + b_t * (-0.284496736 + b_p))
    b_e = 1.0 - b_p * tl.exp(-b_x * b_x)
    return tl.where(b_x < 0.0, -b_e, b_e)


@triton.jit
def activate(b_y, ACTIVATION: tl.constexpr):
    if ACTIVATION == "gelu":
        b_y = 0.5 * b_y * (1.0 + erf(b_y * 0.7071067811865476))
    elif ACTIVATION == "quick_gelu":
        b_y = b_y * tl.sigmoid(1.702 * b_y)
    elif ACTIVATION == "silu":
        b_y = b_y * tl.sigmoid(b_y)
    return b_y


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
        p_b = p + o_r.to(tl.int64)[:, None] * s[0] + o_k[None, :] * s[1]
        b = tl.load(p_b, mask=(o_r[:, None] < R) & (o_k[None, :] < K), other=0.0)
    return b


@triton.jit
def store_tile(p_o, b_o, o_m, o_n, M, N, s_o):
    """The rows below M and columns below N of [BM, BN]."""
    p_o += o_m.to(tl.int64)[:, None] * s_o[0] + o_n[None, :] * s_o[1]
    m_o = (o_m[:, None] < M) & (o_n[None, :] < N)
    tl.store(p_o, b_o.to(p_o.dtype.element_ty), mask=m_o)


@triton.jit
def linear_kernel(
    p_x, p_w, p_bias, p_o, M, N, K, s_x, s_w, s_o,
    ACTIVATION: tl.constexpr, BULK: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    i_m, i_n = tile_of(tl.program_id(0), tl.cdiv(M, BM), tl.cdiv(N, BN), 8)
    b_y = tl.zeros((BM, BN), tl.float32)
    for o_k in range(0, K, BK):
        b_x = load_tile(p_x, i_m * BM, o_k, M, K, s_x, BM, BK, BULK)  # [BM, BK]
        b_w = load_tile(p_w, i_n * BN, o_k, N, K, s_w, BN, BK, BULK)  # [BN, BK]
        b_y = tl.dot(b_x, b_w.T, b_y)  # [BM, BN]
    o_m = i_m * BM + tl.arange(0, BM)
    o_n = i_n * BN + tl.arange(0, BN)
    if p_bias is not None:
        b_y += tl.load(p_bias + o_n, mask=o_n < N, other=0.0).to(tl.float32)[None, :]
    store_tile(p_o, activate(b_y, ACTIVATION), o_m, o_n, M, N, s_o)


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
        b_g = tl.dot(b_x, b_w.T, b_g)  # [BM, BN]
        b_u = tl.dot(b_x, b_v.T, b_u)  # [BM, BN]
    o_m = i_m * BM + tl.arange(0, BM)
    o_n = i_n * BN + tl.arange(0, BN)
    store_tile(p_o, activate(b_g, "silu") * b_u, o_m, o_n, M, N, s_o)


@triton.jit
def vector_kernel(
    p_x, p_w, p_up, p_bias, p_o, M, N, K, s_x, s_w, s_up, s_o,
    ACTIVATION: tl.constexpr, STAGES: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """A few rows against [N, K]: products stay in the lane that read the weight, summed once.

    With ``p_up`` the result is act(x w^T) * (x up^T): SwiGLU of one token.
    """
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


@triton.jit
def grouped_kernel(
    p_x, p_w, p_ends, p_o, R, N, K, s_x, s_w, s_o,
    E: tl.constexpr, BE: tl.constexpr, BULK: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """Rows sorted by expert. Each program finds its expert from the counts: no host, no schedule.

    The last row tile of an expert may read rows of the next one; it does not store them. A grid
    made for the worst case leaves the programs beyond the last tile with nothing to do.
    """
    i_n = tl.program_id(0)
    i_tile = tl.program_id(1)
    o_e = tl.arange(0, BE)
    b_end = tl.load(p_ends + o_e, mask=o_e < E, other=0)  # [BE]
    b_start = tl.load(p_ends + o_e - 1, mask=(o_e > 0) & (o_e < E), other=0)
    b_tiles = tl.where(o_e < E, tl.cdiv(b_end - b_start, BM), 0)
    b_last = tl.cumsum(b_tiles, 0)  # row tiles up to and with this expert
    i_e = tl.sum(((b_last <= i_tile) & (o_e < E)).to(tl.int32), 0)
    if i_e < E:
        is_mine = o_e == i_e
        i_m = i_tile - tl.sum(tl.where(is_mine, b_last - b_tiles, 0), 0)
        start = tl.sum(tl.where(is_mine, b_start, 0), 0) + i_m * BM
        end = tl.sum(tl.where(is_mine, b_end, 0), 0)
        if BULK:
            p_w_e, first = p_w, i_e * N  # the descriptor sees [E * N, K]
        else:
            p_w_e, first = p_w + i_e.to(tl.int64) * s_w[0], 0
        b_y = tl.zeros((BM, BN), tl.float32)
        for o_k in range(0, K, BK):
            b_x = load_tile(p_x, start, o_k, R, K, s_x, BM, BK, BULK)  # [BM, BK]
            b_w = load_tile(p_w_e, first + i_n * BN, o_k, N, K, s_w[1:], BN, BK, BULK)  # [BN, BK]
            b_y = tl.dot(b_x, b_w.T, b_y)  # [BM, BN]
        o_m = start + tl.arange(0, BM)
        o_n = i_n * BN + tl.arange(0, BN)
        store_tile(p_o, b_y, o_m, o_n, end, N, s_o)


def in_vectors(x: torch.Tensor) -> bool:
    """Whether 16 bytes can be fetched at once: elements side by side, rows on 16 bytes."""
    steps = [s * x.element_size() for s in x.stride()[:-1]]
    return x.stride(-1) == 1 and x.data_ptr() % 16 == 0 and all(s % 16 == 0 for s in steps)


def can_bulk(architecture: Architecture, *matrices: torch.Tensor) -> bool:
    """Whether descriptors can fetch tiles of all these."""
    return architecture.has_bulk_copy and all(x.numel() > 0 and in_vectors(x) for x in matrices)


def source(x: torch.Tensor, rows: int, columns: int, bulk: bool) -> Any:
    """What a kernel loads tiles of [rows, columns] from: a descriptor, or the tensor itself."""
    return TensorDescriptor.from_tensor(x, [rows, columns]) if bulk else x


def linear_launch(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    o: torch.Tensor,
    activation: str | None,
    architecture: Architecture,
    tile: Tile | None = None,
) -> Launch:
    """[M, K] x [N, K] -> ``o`` [M, N] on tensor cores."""
    (m, k), n = x.shape, weight.shape[0]
    by_element = not (in_vectors(x) and in_vectors(weight))
    tile = tile or pick_linear(
        "linear", m, n, k, x.element_size(), architecture, by_element=by_element
    )
    bulk = can_bulk(architecture, x, weight)
    arguments = strided(x=x, w=weight, o=o) | {
        "p_x": source(x, tile.m, tile.k, bulk),
        "p_w": source(weight, tile.n, tile.k, bulk),
        "p_bias": bias,
        "M": m,
        "N": n,
        "K": k,
        "ACTIVATION": activation,
        "BULK": bulk,
        **tile.blocks("mnk"),
    }
    grid = (triton.cdiv(m, tile.m) * triton.cdiv(n, tile.n),)
    return Launch(linear_kernel, grid, arguments, tile.warps, tile.stages)


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
    tile = tile or pick_linear(
        "swiglu", m, n, k, x.element_size(), architecture, by_element=by_element
    )
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


def grouped_launch(
    x: torch.Tensor,
    weight: torch.Tensor,
    ends: torch.Tensor,
    o: torch.Tensor,
    architecture: Architecture,
    tile: Tile | None = None,
) -> Launch:
    """Rows [R, K] sorted by expert x [E, N, K] -> ``o`` [R, N]; a grid for the worst spread."""
    (rows, k), (experts, n, _) = x.shape, weight.shape
    by_element = not (in_vectors(x) and in_vectors(weight))
    touched = max(1, min(experts, rows))
    tile = tile or pick_linear(
        "grouped",
        triton.cdiv(rows, touched),
        n,
        k,
        x.element_size(),
        architecture,
        touched,
        by_element,
    )
    bulk = can_bulk(architecture, x, weight) and weight.is_contiguous()
    matrix = weight.view(experts * n, k) if bulk else weight
    arguments = strided(x=x, w=weight, o=o) | {
        "p_x": source(x, tile.m, tile.k, bulk),
        "p_w": source(matrix, tile.n, tile.k, bulk),
        "p_ends": ends,
        "R": rows,
        "N": n,
        "K": k,
        "E": experts,
        "BE": triton.next_power_of_2(experts),
        "BULK": bulk,
        **tile.blocks("mnk"),
    }
    row_tiles = rows // tile.m + min(experts, rows)
    grid = (triton.cdiv(n, tile.n), row_tiles)
    return Launch(grouped_kernel, grid, arguments, tile.warps, tile.stages)


def linear(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    activation: str | None = None,
    tile: Tile | None = None,
) -> torch.Tensor:
    """act(x weight^T + bias): [..., K] x [N, K] -> [..., N]; see :func:`linear_reference`.

    Raises ``ValueError`` for an unknown activation and for shapes that do not match.
    """
    if activation not in ACTIVATIONS:
        raise ValueError(f"activation = {activation!r}: expected one of {ACTIVATIONS}")
    _check_weight(x, weight)
    rows = x.reshape(-1, x.shape[-1])
    o = x.new_empty(rows.shape[0], weight.shape[0])
    architecture = architecture_of(x.device)
    if rows.shape[0] <= VECTOR_ROWS and tile is None:
        vector_launch(rows, weight, None, bias, o, activation, architecture).run()
    else:
        linear_launch(rows, weight, bias, o, activation, architecture, tile).run()
    return o.view(*x.shape[:-1], weight.shape[0])


def swiglu(
    x: torch.Tensor, gate: torch.Tensor, up: torch.Tensor, tile: Tile | None = None
) -> torch.Tensor:
    """silu(x gate^T) * (x up^T): [..., K] x 2 [N, K] -> [..., N]; halves of one tensor will do.

    Raises ``ValueError`` for shapes that do not match.
    """
    _check_weight(x, gate)
    _check_weight(x, up)
    rows = x.reshape(-1, x.shape[-1])
    o = x.new_empty(rows.shape[0], gate.shape[0])
    architecture = architecture_of(x.device)
    if rows.shape[0] <= VECTOR_ROWS and tile is None:
        vector_launch(rows, gate, up, None, o, "silu", architecture).run()
    else:
        swiglu_launch(rows, gate, up, o, architecture, tile).run()
    return o.view(*x.shape[:-1], gate.shape[0])


def grouped_linear(
    x: torch.Tensor, weight: torch.Tensor, ends: torch.Tensor, tile: Tile | None = None
) -> torch.Tensor:
    """[rows, K] sorted by expert x [experts, N, K] -> [rows, N].

    ``ends`` [experts], int32, on the device: the row after the last of each expert (as
    ``torch.nn.functional.grouped_mm`` takes it); the last must be ``rows``, which is not checked,
    since reading it would wait for the device. Raises ``ValueError`` for shapes that do not match.
    """
    _check_weight(x, weight[0])
    if ends.shape != (weight.shape[0],) or ends.dtype != torch.int32:
        raise ValueError(
            f"ends: {tuple(ends.shape)} {ends.dtype}, expected ({weight.shape[0]},) torch.int32"
        )
    o = x.new_empty(x.shape[0], weight.shape[1])
    grouped_launch(x, weight, ends, o, architecture_of(x.device), tile).run()
    return o


def _check_weight(x: torch.Tensor, weight: torch.Tensor) -> None:
    if weight.ndim != 2 or x.shape[-1] != weight.shape[1] or x.dtype != weight.dtype:
        raise ValueError(
            f"weight: {tuple(weight.shape)} {weight.dtype}, expected (N, {x.shape[-1]}) {x.dtype}"
        )
