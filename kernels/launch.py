"""A launch as a value, and the card it is made for.

A launcher of this package is a pure function from tensors to a :class:`Launch`; running it is one
call, and so is compiling it for a card that is not there (see ``kernels.resources``).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import torch
import triton


@dataclass(frozen=True)
class Architecture:
    """What a tile must fit in, by compute capability (CUDA C++ Programming Guide, appendix)."""

    name: str
    capability: int
    family: str
    """Its matrix instruction: ``mma`` (of a warp), ``wgmma`` (of 4), ``tcgen05`` (of a block)."""
    sms: int
    """Streaming multiprocessors of the usual card; :func:`architecture_of` takes the device's."""
    shared_per_block: int
    """Bytes of shared memory that a block may opt in to."""
    shared_per_sm: int
    threads_per_sm: int
    blocks_per_sm: int
    fma_per_clock: int
    """16-bit multiply-adds of one SM in one clock, dense, summed in float32 (GeForce: half of the
    professional card of the same die)."""

    registers_per_sm: int = 65536
    l2_bytes_per_clock: int = 32
    """What the L2 gives one SM in a clock while all read: the port is 64 bytes wide, and 5120
    bytes for the 108 SMs of an A100 (its white paper) are 47 at best. On an H200 it gave 53 at the
    highest clock, 1.98 GHz, or more: [2048, 4096] x [14336, 4096] in tiles of 64 x 128 are 27.2
    tiles an SM of 64 steps of 24 KiB, which took 408 us (``configs/tiles/sm_90.json``)."""
    card: str = ""
    """The device's own name, for choices that were timed on it; empty where there is none."""

    @property
    def has_bulk_copy(self) -> bool:
        """Whether tiles are fetched by descriptor (TMA) instead of a pointer an element.

        sm_120 could, but its matrix instruction takes operands from registers, so it gains little,
        and triton 3.6 spills there.
        """
        return self.family != "mma"


ARCHITECTURES: dict[str, Architecture] = {
    a.name: a
    for a in (
        Architecture("sm_80", 80, "mma", 108, 166_912, 167_936, 2048, 32, 1024),
        Architecture("sm_86", 86, "mma", 82, 101_376, 102_400, 1536, 16, 256),
        Architecture("sm_89", 89, "mma", 128, 101_376, 102_400, 1536, 24, 256),
        Architecture("sm_90", 90, "wgmma", 132, 232_448, 233_472, 2048, 32, 2048, 65536, 53),
        Architecture("sm_100", 100, "tcgen05", 148, 232_448, 233_472, 2048, 32, 4096),
        Architecture("sm_120", 120, "mma", 170, 101_376, 102_400, 1536, 24, 256),
    )
}


_RECORD: ContextVar[tuple[Architecture, list[Launch]] | None] = ContextVar("record", default=None)


@contextmanager
def recorded(architecture: Architecture) -> Iterator[list[Launch]]:
    """The launches that calls on tensors of the ``meta`` device make meanwhile, as on a card of
    this architecture; none is enqueued."""
    launches: list[Launch] = []
    token = _RECORD.set((architecture, launches))
    try:
        yield launches
    finally:
        _RECORD.reset(token)


def architecture_of(device: torch.device) -> Architecture:
    """The architecture of ``device``, with its own SM count.

    A CPU stands for sm_90 under Triton's interpreter, where any tile runs. Raises ``ValueError``
    for a CPU without it, for a compute capability that has no row, and for a card that is not the
    current one: a launch goes to the current card, where these tensors are not.
    """
    record = _RECORD.get()
    if record is not None and device.type == "meta":
        return record[0]
    if device.type == "cuda" and device.index not in (None, torch.cuda.current_device()):
        raise ValueError(
            f"a tensor on {device}: the current device is {torch.cuda.current_device()}; expected "
            f"to be called under torch.cuda.device({device.index})"
        )
    return described(device)


@cache
def described(device: torch.device) -> Architecture:
    """What :func:`architecture_of` found, once a device."""
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        name = f"sm_{properties.major}{properties.minor}"
        if name not in ARCHITECTURES:
            raise ValueError(
                f"{properties.name}: compute capability {name} has no row in "
                f"kernels.launch.ARCHITECTURES ({', '.join(ARCHITECTURES)})"
            )
        return replace(
            ARCHITECTURES[name], sms=properties.multi_processor_count, card=properties.name
        )
    if not triton.knobs.runtime.interpret:
        raise ValueError(
            f"a tensor on {device}: Triton kernels run on a CUDA device, or anywhere under "
            "TRITON_INTERPRET=1 set before triton is imported"
        )
    return ARCHITECTURES["sm_90"]


def strided(**tensors: torch.Tensor | None) -> dict[str, Any]:
    """For x=tensor: the arguments p_x, its pointer, and s_x, its strides."""
    pointers = {f"p_{name}": x for name, x in tensors.items()}
    strides = {f"s_{name}": None if x is None else x.stride() for name, x in tensors.items()}
    return pointers | strides


def counters(device: torch.device, count: int, use: str) -> torch.Tensor:
    """``count`` int32 that are zero before a kernel and that it leaves so, for programs of one
    launch to count each other. Launches of one ``use`` on one stream follow each other and share
    them; another stream has its own. A CUDA graph gets its own too and sets them to zero each time,
    since what is set while it is captured is set by its replays only."""
    size = 1 << max(10, (count - 1).bit_length())
    if device.type == "cuda":
        if torch.cuda.is_current_stream_capturing():
            return torch.zeros(size, dtype=torch.int32, device=device)
        return _counters(device, torch.cuda.current_stream(device).cuda_stream, use, size)
    return _counters(device, 0, use, size)


@cache
def _counters(device: torch.device, stream: int, use: str, count: int) -> torch.Tensor:
    return torch.zeros(count, dtype=torch.int32, device=device)


_SIZES = frozenset(["M", "N", "K", "Q", "R", "E", "H", "W", "OH", "OW", "S", "P", "C", "SPLITS"])
"""Arguments in capitals that are sizes of operands, some of them compiled in."""


@dataclass(frozen=True)
class Launch:
    """One kernel, its grid and its arguments by name, with the warps and stages to compile for."""

    kernel: Any
    grid: tuple[int, ...]
    arguments: Mapping[str, Any]
    warps: int
    stages: int = 1

    @property
    def name(self) -> str:
        return str(self.kernel.__name__)

    @property
    def variant(self) -> tuple[Any, ...]:
        """What tells the compiled kernel from others of its source: the blocks and flags that are
        compiled in, the types of its operands, warps and stages; no size and no stride."""
        constants = {k: v for k, v in self.arguments.items() if k.isupper() and k not in _SIZES}
        types = {
            k: getattr(getattr(v, "base", v), "dtype", v is None)
            for k, v in self.arguments.items()
            if k.startswith("p_")
        }
        parts = (*constants.items(), *types.items())
        return (self.name, self.warps, self.stages, *((k, str(v)) for k, v in sorted(parts)))

    @property
    def options(self) -> dict[str, int]:
        return {"num_warps": self.warps, "num_stages": self.stages}

    def run(self) -> None:
        """Enqueue the kernel on the current stream. A grid of no program launches nothing."""
        record = _RECORD.get()
        if record is not None:
            record[1].append(self)
        elif all(self.grid):
            self.kernel[self.grid](**self.arguments, **self.options)
