"""The probes: how many bytes a second memory gives (McCalpin's STREAM), and what a launch costs.

A program moves one block of a flat array; a thread loads and stores 16 bytes at a time. ``a``,
``b``, ``c`` are contiguous arrays of the same size and dtype, and c is the result:

    copy  c = a      scale  c = s a      add  c = a + b      triad  c = a + s b
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl

from kernels.configs.candidates import Tile
from kernels.configs.pick import pick_stream
from kernels.launch import Architecture, Launch, architecture_of


def copy_reference(a: torch.Tensor) -> torch.Tensor:
    return a.float()


def scale_reference(a: torch.Tensor, s: float) -> torch.Tensor:
    return s * a.float()


def add_reference(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return a.float() + b.float()


def triad_reference(a: torch.Tensor, b: torch.Tensor, s: float) -> torch.Tensor:
    return a.float() + s * b.float()


@triton.jit
def offsets(BN: tl.constexpr):
    return tl.program_id(0).to(tl.int64) * BN + tl.arange(0, BN)


@triton.jit
def copy_kernel(p_a, p_c, N, BN: tl.constexpr):
    o_n = offsets(BN)
    tl.store(p_c + o_n, tl.load(p_a + o_n, mask=o_n < N), mask=o_n < N)


@triton.jit
def scale_kernel(p_a, p_c, N, s, BN: tl.constexpr):
    o_n = offsets(BN)
    b_a = tl.load(p_a + o_n, mask=o_n < N).to(tl.float32)  # [BN]
    tl.store(p_c + o_n, (s * b_a).to(p_c.dtype.element_ty), mask=o_n < N)


@triton.jit
def add_kernel(p_a, p_b, p_c, N, BN: tl.constexpr):
    o_n = offsets(BN)
    b_a = tl.load(p_a + o_n, mask=o_n < N).to(tl.float32)  # [BN]
    b_b = tl.load(p_b + o_n, mask=o_n < N).to(tl.float32)  # [BN]
    tl.store(p_c + o_n, (b_a + b_b).to(p_c.dtype.element_ty), mask=o_n < N)


@triton.jit
def triad_kernel(p_a, p_b, p_c, N, s, BN: tl.constexpr):
    o_n = offsets(BN)
    b_a = tl.load(p_a + o_n, mask=o_n < N).to(tl.float32)  # [BN]
    b_b = tl.load(p_b + o_n, mask=o_n < N).to(tl.float32)  # [BN]
    tl.store(p_c + o_n, (b_a + s * b_b).to(p_c.dtype.element_ty), mask=o_n < N)


@triton.jit
def empty_kernel():
    """Nothing: what remains is the launch."""


def stream_launch(
    kernel: Any,
    c: torch.Tensor,
    architecture: Architecture,
    tile: Tile | None = None,
    **inputs: Any,
) -> Launch:
    """One of the kernels above into ``c``, with its ``inputs`` by name (p_a, p_b, s)."""
    for name, x in {**inputs, "p_c": c}.items():
        if isinstance(x, torch.Tensor) and (not x.is_contiguous() or x.shape != c.shape):
            raise ValueError(
                f"{name}: {tuple(x.shape)}, strides {x.stride()}: expected a contiguous tensor of "
                f"the result's shape {tuple(c.shape)}"
            )
    tile = tile or pick_stream(c.element_size(), architecture)
    arguments = {**inputs, "p_c": c, "N": c.numel(), "BN": tile.n}
    return Launch(kernel, (triton.cdiv(c.numel(), tile.n),), arguments, tile.warps)


def copy(a: torch.Tensor, tile: Tile | None = None) -> torch.Tensor:
    """c = a."""
    return _stream(copy_kernel, a, tile, p_a=a)


def scale(a: torch.Tensor, s: float, tile: Tile | None = None) -> torch.Tensor:
    """c = s a."""
    return _stream(scale_kernel, a, tile, p_a=a, s=s)


def add(a: torch.Tensor, b: torch.Tensor, tile: Tile | None = None) -> torch.Tensor:
    """c = a + b."""
    return _stream(add_kernel, a, tile, p_a=a, p_b=b)


def triad(a: torch.Tensor, b: torch.Tensor, s: float, tile: Tile | None = None) -> torch.Tensor:
    """c = a + s b."""
    return _stream(triad_kernel, a, tile, p_a=a, p_b=b, s=s)


def empty_launch() -> Launch:
    """One program of one warp that does nothing."""
    return Launch(empty_kernel, (1,), {}, 1)


def _stream(kernel: Any, a: torch.Tensor, tile: Tile | None, **inputs: Any) -> torch.Tensor:
    c = torch.empty_like(a)
    stream_launch(kernel, c, architecture_of(a.device), tile, **inputs).run()
    return c
