"""A made-up card: a host's clock, a queue in order, an L2, and a clock frequency over time.

What lies between kernels is as an H200 was seen to have it (docs/measuring.md): kernels that do
nothing follow one another every 1.51 us in a stream and every 0.74 us in a graph, 0.64 of them
their own. What was written into the L2 and not yet written back holds up the next kernel that
touches memory.

It implements what ``calib.measure.cuda`` asks of a stream, so the code that times a real card runs
on it unchanged, and what should come out is known because it was put in.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from calib.measure.cases.arena import Unsupported
from calib.measure.cuda.launches import Launch
from calib.measure.cuda.stream import Uncapturable
from calib.measure.instrument import Telemetry

RATED_HZ = 2e9
MARK_HOST_S, MARK_DEVICE_S = 1e-6, 0.5e-6
EMPTY_S = 0.64e-6
"""Of a kernel that does nothing."""
STREAM_GAP_S, NODE_GAP_S = 1.51e-6 - EMPTY_S, 0.74e-6 - EMPTY_S
AFTER_MARK_S, GRAPH_S = 0.9e-6, 1.2e-6
"""From a mark to the first kernel behind it, and to the first node of a graph."""
WRITE_BACK_S = 8.5e-6
"""Of an L2 full of dirty lines."""
READ_S, LINK_S = 30e-6, 3e-6
PROFILER_S = 30e-3
"""Of the host for a session."""


@dataclass(frozen=True)
class Kernel:
    """One operator: device seconds at the rated clock of its ``kernels`` kernels together, the
    host's to enqueue it."""

    name: str
    cold_s: float
    hot_s: float
    host_s: float = 5e-6
    waits: bool = False
    """Whether the host waits for the device in the middle of the call."""
    kernels: int = 1
    touches: bool = True
    """Whether it touches memory, and so waits for what is to be written back."""
    ours: bool = False
    """Of the timer, and not of the operator."""


@dataclass
class SimulatedCard:
    """``clock``: Hz over the host's seconds; ``noise``: the factor of the next duration."""

    clock: Callable[[float], float] = lambda t: RATED_HZ
    noise: Callable[[], float] = lambda: 1.0
    host: float = 0.0
    free: float = 0.0
    warm: set[str] = field(default_factory=set)
    executed: list[str] = field(default_factory=list)
    captured: list[Kernel] | None = None
    l2_bytes: int = 50 * 2**20
    profiler: bool = True
    sessions: int = 0
    seen: list[Launch] | None = None
    before: float = AFTER_MARK_S
    """Between the end of what was enqueued last and a kernel that follows at once."""
    dirty: float = 0.0
    """Seconds that writing back what is dirty takes."""
    rests: list[float] = field(default_factory=list)
    recovered: int = 0
    asked: float = -1.0
    hiccup_at: set[int] = field(default_factory=set)
    """Calls, by number, in which the host is held up for 3 ms."""
    planned: set[Any] = field(default_factory=set)
    """Shapes for which the host has made a plan."""

    def _enqueue(self, host_s: float, device_s: float) -> None:
        self.host += host_s
        self.free = max(self.host, self.free) + device_s

    def _execute(self, kernel: Kernel, host_s: float) -> None:
        """A kernel or several behind what is enqueued."""
        gaps = self.before + (kernel.kernels - 1) * STREAM_GAP_S
        self._enqueue(host_s, gaps + self._seconds(kernel))
        self.before = STREAM_GAP_S

    def now(self) -> float:
        return self.host

    def rest(self, seconds: float) -> None:
        self.rests.append(seconds)
        self.host += seconds

    def spin(self, cycles: int) -> None:
        # Whatever the clock, a spin takes as many of its cycles; _seconds would scale it.
        seconds = EMPTY_S * self.clock(self.host) / RATED_HZ + cycles / RATED_HZ
        self._plain(Kernel("spin", seconds, seconds, touches=False, ours=True), 2e-6)

    def link(self) -> None:
        self._plain(Kernel("link", LINK_S, LINK_S, ours=True), 4e-6)

    def _plain(self, kernel: Kernel, host_s: float) -> None:
        if self.captured is not None:
            self.captured.append(kernel)
        else:
            self._execute(kernel, host_s)

    def read(self, nbytes: int) -> None:
        self._execute(Kernel("read", READ_S, READ_S, ours=True), 4e-6)
        if nbytes > 2 * self.l2_bytes:
            self.warm.clear()

    def write(self, nbytes: int) -> None:
        """Of more bytes than the L2 holds."""
        self._execute(Kernel("write", READ_S, READ_S, ours=True), 4e-6)
        self.warm.clear()
        self.dirty = WRITE_BACK_S

    def flush(self) -> None:
        """As code before version 3 of the samples' table had it."""
        self.write(2 * self.l2_bytes)

    def mark(self) -> float:
        self._enqueue(MARK_HOST_S, MARK_DEVICE_S)
        self.before = AFTER_MARK_S
        return self.free

    def reached(self, mark: float) -> bool:
        """Half a microsecond; who asks for the same mark again has waited for it meanwhile."""
        self.host += 0.5e-6
        if mark == self.asked:
            self.host = max(self.host, min(mark, self.host + 0.1))
        self.asked = mark
        return self.host >= mark

    def between(self, start: float, stop: float) -> float:
        return stop - start - MARK_DEVICE_S

    def call(self, kernel: Kernel) -> Callable[[], None]:
        def run() -> None:
            if self.captured is not None:
                if kernel.waits:
                    raise Uncapturable("operation not permitted when stream is capturing")
                self.captured.append(kernel)
                return
            hiccup = 3e-3 if len(self.executed) in self.hiccup_at else 0.0
            self._execute(kernel, kernel.host_s + hiccup)
            if kernel.waits:
                self.host = max(self.host, self.free)
                self._execute(kernel, kernel.host_s)

        return run

    def call_planned(self, kernel: Kernel, shape: Any, plan_s: float) -> Callable[[], None]:
        """A call that costs the host ``plan_s`` more the first time that it meets ``shape``; None:
        it plans nothing."""
        run = self.call(kernel)

        def planned() -> None:
            if shape is not None and shape not in self.planned:
                self.planned.add(shape)
                self.host += plan_s
            run()

        return planned

    def _seconds(self, kernel: Kernel) -> float:
        seconds = kernel.hot_s if kernel.name in self.warm else kernel.cold_s
        self.warm.add(kernel.name)
        self.executed += [] if kernel.ours else [kernel.name]
        scale = RATED_HZ / self.clock(self.host) * (self.noise() if kernel.touches else 1.0)
        if self.seen is not None:
            each = seconds * scale / max(kernel.kernels, 1)
            names = [f"{kernel.name} {i}" if i else kernel.name for i in range(kernel.kernels)]
            self.seen += [Launch(name, (132, 1, 1), (128, 1, 1), each) for name in names]
        held_up = self.dirty if kernel.touches else 0.0
        self.dirty -= held_up
        return seconds * scale + held_up

    def capture(self, runs: Sequence[Callable[[], Any]]) -> Callable[[], None]:
        self.captured = []
        try:
            for run in runs:
                run()
            nodes = self.captured
        finally:
            self.captured = None

        def replay() -> None:
            total = sum(self._seconds(node) + node.kernels * NODE_GAP_S for node in nodes)
            self._enqueue(10e-6, GRAPH_S + total)
            self.before = STREAM_GAP_S

        return replay

    def profiled(self, run: Callable[[], Any]) -> list[Launch]:
        self.sessions, self.seen = self.sessions + 1, []
        self.host += PROFILER_S
        run()
        seen, self.seen = self.seen, None
        self.host = max(self.host, self.free)
        return seen if self.profiler else []

    def recover(self) -> None:
        self.recovered += 1


@dataclass
class Trace:
    """A sensor that reports by time: ``throttle(t)`` names the reasons."""

    card: SimulatedCard
    throttle: Callable[[float], str] = lambda t: ""

    def read(self) -> Telemetry:
        t = self.card.host
        return Telemetry(self.card.clock(t), 1e9, 300.0, 55.0, self.throttle(t))


@dataclass
class KernelBench:
    """Operators as kernels of ``cold_s`` and ``hot_s``; ``refusal``: raised instead."""

    card: SimulatedCard
    cold_s: float = 50e-6
    hot_s: float = 30e-6
    host_s: float = 5e-6
    waits: bool = False
    refusal: Exception | None = None
    wrong: str = ""
    compared: int = 0
    kernels: int = 1

    def cases(self, op: Any, implementation: str, copies: int) -> list[Callable[[], None]]:
        if self.refusal is not None:
            raise self.refusal
        names = [f"{op} {i}" for i in range(copies)]
        how = (self.cold_s, self.hot_s, self.host_s, self.waits, self.kernels)
        kernels = [Kernel(name, *how) for name in names]
        return [self.card.call(kernel) for kernel in kernels]

    def variant(self, op: Any, implementation: str) -> Any:
        return type(op), vars(op)["dtype"]

    def error(self, op: Any, implementation: str) -> str:
        if self.refusal is not None:
            raise self.refusal
        self.compared += 1
        return self.wrong


def out_of_memory() -> Exception:
    return torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate more")


def unsupported() -> Exception:
    return Unsupported("no such kernel")


def lognormal(spread: float, seed: int = 0) -> Callable[[], float]:
    generator = np.random.default_rng(seed)
    return lambda: float(generator.lognormal(0, spread))
