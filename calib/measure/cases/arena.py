"""Random data that cases are made of, handed out as views of one buffer a dtype."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F

Run = Callable[[], Any]

Case = partial[Any]


class Unsupported(Exception):
    """This implementation cannot execute the operator; the message says why."""


class Arena:
    """Random numbers, one buffer a dtype, handed out as views one after another, in a ring.

    ``nbytes``: of the buffer of bfloat16; that of another dtype has half of them.
    """

    def __init__(self, nbytes: int = 3 * 2**28, seed: int = 0, device: str = "cpu"):
        self.nbytes = nbytes
        self.device = device
        self.generator = torch.Generator().manual_seed(seed)
        self.buffers: dict[torch.dtype, torch.Tensor] = {}
        self.offset = 0

    def take(self, *shape: int, dtype: str) -> torch.Tensor:
        """A view of ``shape``, aligned to 64 bytes, following the last one."""
        wanted = getattr(torch, dtype, None)
        if not isinstance(wanted, torch.dtype):
            raise Unsupported(f"torch has no tensors of {dtype}")
        buffer = self._buffer(wanted)
        count, step = math.prod(shape), 64 // wanted.itemsize or 1
        if count > len(buffer):
            raise Unsupported(f"{count * wanted.itemsize} bytes exceed the arena")
        start = -(-self.offset // wanted.itemsize // step) * step
        start = start if start + count <= len(buffer) else 0
        self.offset = (start + count) * wanted.itemsize
        return buffer[start : start + count].view(*shape)

    def _buffer(self, dtype: torch.dtype) -> torch.Tensor:
        if dtype not in self.buffers:
            try:
                self.buffers[dtype] = self._fill(dtype)
            except NotImplementedError:
                raise Unsupported(f"torch cannot fill tensors of {dtype}") from None
        return self.buffers[dtype]

    def _fill(self, dtype: torch.dtype) -> torch.Tensor:
        full = self.nbytes if dtype == torch.bfloat16 else self.nbytes // 2
        buffer = torch.empty(full // dtype.itemsize, dtype=dtype, device=self.device)
        if self.device == "meta":
            return buffer
        if dtype.is_floating_point:
            block = torch.randn(2**22, generator=self.generator).to(dtype)
        else:
            high = 2 if dtype == torch.bool else 64
            block = torch.randint(high, (2**22,), generator=self.generator).to(dtype)
        for start in range(0, len(buffer), len(block)):
            part = buffer[start : start + len(block)]
            part.copy_(block[: len(part)])
        return buffer


def weight_stream(arena: Arena) -> Run:
    """What runs before each repeat: a matrix-vector product with the arena's next 16 MiB.

    In a model, any two calls of one operator have weights streamed past between them, which takes
    the operator's code and part of its inputs out of the nearest caches.
    """
    x = torch.ones(1, 2048, dtype=torch.bfloat16, device=arena.device)

    def stream() -> torch.Tensor:
        return F.linear(x, arena.take(4096, 2048, dtype="bfloat16"))

    return stream
