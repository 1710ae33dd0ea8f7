"""Our kernels compiled in processes of their own while the card measures something else.

A process makes the call on tensors without memory (torch's ``meta`` device), lists the launches,
and compiles each for the architecture that it is told, as ``kernels.resources`` does: no card is
touched, and triton's cache on disk, which all processes of a user share, holds the kernel when the
first call on the card asks for it.
"""

from __future__ import annotations

import os
from collections.abc import Hashable
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from typing import Any

from calib.measure.cases.arena import Arena, Unsupported
from calib.measure.cases.triton_cases import triton_cases
from kernels.launch import Architecture, Launch, recorded
from model.ops import Operator

TRITON = "triton"
_ARENA_BYTES = 2**40
"""Of memory that is never taken: any operator fits."""
_LEFT_CORES, _MOST_WORKERS = 2, 12
"""Cores that are left to the process that measures; more workers wait for one another's disk."""


def launches_of(op: Operator, architecture: Architecture) -> list[Launch]:
    """What our kernels launch for ``op`` on a card of ``architecture``, on tensors without memory.

    Raises ``Unsupported`` where there is no kernel of ours for it.
    """
    (case,) = triton_cases(op, Arena(_ARENA_BYTES, device="meta"))
    with recorded(architecture) as launches:
        case()
    return launches


def variant(op: Operator, architecture: Architecture) -> Hashable:
    """The kernels that ``op`` takes, whatever its sizes: what is right once is right again."""
    return tuple(launch.variant for launch in launches_of(op, architecture))


def compile_op(op: Operator, architecture: Architecture) -> int:
    """In a worker: compile every launch of ``op`` into the cache on disk; how many there were.

    What the compiler refuses is refused again, and told, where it is measured.
    """
    from kernels.resources import compile_for

    launches = [x for x in launches_of(op, architecture) if all(x.grid)]
    for launch in launches:
        compile_for(launch, architecture)
    return len(launches)


def workers() -> int:
    return max(1, min((os.cpu_count() or 1) - _LEFT_CORES, _MOST_WORKERS))


def processes() -> Executor:
    """Processes that give way to whatever else runs. They are spawned: a fork would inherit the
    card's context."""
    spawn = get_context("spawn")
    return ProcessPoolExecutor(workers(), spawn, initializer=partial(os.nice, 10))


class Ahead:
    """Compilations in the order in which they were asked for."""

    def __init__(self, architecture: Architecture, executor: Executor) -> None:
        self.architecture, self.executor = architecture, executor
        self._begun: dict[Operator, Future[Any] | None] = {}

    def begin(self, op: Operator, implementation: str) -> None:
        """Compile what ``op`` needs, once; return at once. Torch has nothing to compile."""
        if implementation != TRITON or op in self._begun:
            return
        try:
            launches_of(op, self.architecture)
        except (Unsupported, ValueError, RuntimeError):
            self._begun[op] = None  # refused, or not known without memory: nothing to wait for
            return
        self._begun[op] = self.executor.submit(compile_op, op, self.architecture)

    def ready(self, op: Operator, implementation: str) -> bool:
        """Whether a call would not wait for the compiler; one that was never begun would."""
        if implementation != TRITON:
            return True
        future = self._begun.get(op)
        return op in self._begun and (future is None or future.done())

    def close(self) -> None:
        """Drop what was not begun, wait for what was: the host is then free."""
        self.executor.shutdown(wait=True, cancel_futures=True)
