"""Probes: a fixed product, a fixed copy and a tiny call, run again and again.

Once, at length, they give a CPU its peaks. Around every block of samples, briefly, they say how
fast the machine is just now, so that times of different minutes can be compared.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any

import torch

_PROBE_SIDE = 1024
_PROBE_ROWS = 2**15
_COPY_BYTES = 64 * 2**20
DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32}


@dataclass(frozen=True)
class Speed:
    """What the machine does just now: FLOP/s of a bfloat16 product, bytes/s of a long read, and
    beside a card how many tiny eager operators its host issues in a second."""

    flops: float
    bandwidth: float
    host: float | None = None

    def as_dict(self) -> dict[str, float]:
        """What is known of it."""
        return {name: value for name, value in asdict(self).items() if value is not None}


@dataclass(frozen=True)
class Peaks:
    """Peaks: product FLOP/s by dtype, pointwise FLOP/s, copy bytes/s, dispatch seconds."""

    peak_flops: dict[str, float]
    cuda_core_flops: float
    bandwidth: float
    dispatch_s: float


@cache
def _tensors() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(_PROBE_SIDE, _PROBE_SIDE, generator=generator).to(torch.bfloat16)
    weights = torch.randn(_PROBE_ROWS, 2048, generator=generator).to(torch.bfloat16)
    return a, a.clone(), weights, weights[:1].clone()


def speed(repeats: int = 3) -> Speed:
    """The machine's speed now, the median of ``repeats``; about 0.05 s.

    The bandwidth probe is a matrix-vector product with weights four times a large cache: reading
    is what a decode step does, and neighbours slow it differently from a copy.
    """
    a, b, weights, x = _tensors()
    product = _median_seconds(lambda: torch.mm(a, b), repeats)
    read = _median_seconds(lambda: torch.nn.functional.linear(x, weights), repeats)
    return Speed(2 * _PROBE_SIDE**3 / product, weights.nbytes / read)


def peaks() -> Peaks:
    """Peaks as the fastest of several runs of products of a few sizes, and of the copy."""
    product = {name: max(_product(side, d) for side in (1024, 2048)) for name, d in DTYPES.items()}
    source = torch.zeros(_COPY_BYTES, dtype=torch.uint8).random_()
    target = torch.empty_like(source)
    copy = min(_seconds(lambda: target.copy_(source)) for _ in range(15))
    x = torch.randn(2**16)
    pointwise = min(_seconds(lambda: torch.add(x, x, out=x)) for _ in range(200))
    tiny = torch.ones(1)
    dispatch = _median_seconds(lambda: [torch.neg(tiny) for _ in range(1000)], 5) / 1000
    return Peaks(product, 2**16 / pointwise, 2 * _COPY_BYTES / copy, dispatch)


def _product(side: int, dtype: torch.dtype) -> float:
    a = torch.randn(side, side).to(dtype)
    b = torch.randn(side, side).to(dtype)
    torch.mm(a, b)
    return 2 * side**3 / min(_seconds(lambda: torch.mm(a, b)) for _ in range(6))


def _seconds(run: Callable[[], Any]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def _median_seconds(run: Callable[[], Any], repeats: int) -> float:
    return statistics.median(_seconds(run) for _ in range(repeats))
