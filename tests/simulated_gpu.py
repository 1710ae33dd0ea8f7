"""A made-up card: a host's clock, a queue in order, an L2, and a clock frequency over time.

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
from calib.measure.cuda.stream import Uncapturable
from calib.measure.instrument import Telemetry

RATED_HZ = 2e9
MARK_HOST_S, MARK_DEVICE_S = 1e-6, 0.5e-6
SPIN_OVERHEAD_S = 2e-6
NODE_GAP_S = 0.6e-6


@dataclass(frozen=True)
class Kernel:
    """One operator: device seconds at the rated clock, the host's to enqueue it."""

    name: str
    cold_s: float
    hot_s: float
    host_s: float = 5e-6
    waits: bool = False
    """Whether the host waits for the device in the middle of the call."""


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

    def now(self) -> float:
        return self.host

    def rest(self, seconds: float) -> None:
        self.rests.append(seconds)
        self.host += seconds

    def spin(self, cycles: int) -> None:
        seconds = SPIN_OVERHEAD_S - MARK_DEVICE_S + cycles / self.clock(self.host)
        if self.captured is not None:
            self.captured.append(Kernel("spin", seconds, seconds))
        else:
            self._enqueue(2e-6, seconds)

    def flush(self) -> None:
        self._enqueue(4e-6, 30e-6)
        self.warm.clear()

    def mark(self) -> float:
        self._enqueue(MARK_HOST_S, MARK_DEVICE_S)
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
            self._enqueue(kernel.host_s + hiccup, self._seconds(kernel))
            if kernel.waits:
                self.host = max(self.host, self.free)
                self._enqueue(kernel.host_s, self._seconds(kernel))

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
        self.executed.append(kernel.name)
        return seconds * RATED_HZ / self.clock(self.host) * self.noise()

    def capture(self, runs: Sequence[Callable[[], Any]]) -> Callable[[], None]:
        self.captured = []
        try:
            for run in runs:
                run()
            nodes = self.captured
        finally:
            self.captured = None

        def replay() -> None:
            total = sum(self._seconds(node) + NODE_GAP_S for node in nodes)
            self._enqueue(10e-6, total)

        return replay

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

    def cases(self, op: Any, implementation: str, copies: int) -> list[Callable[[], None]]:
        if self.refusal is not None:
            raise self.refusal
        names = [f"{op} {i}" for i in range(copies)]
        kernels = [Kernel(n, self.cold_s, self.hot_s, self.host_s, self.waits) for n in names]
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
