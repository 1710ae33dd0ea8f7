"""Seconds of the device for one operator: by events in a stream that is held, or by CUDA graphs.

A repeat by events is

    [flush]  short spin  mark  spin  mark  operator  mark
             ^ the host enqueues all of this while the card spins

The spin holds the card until the last mark is enqueued, so the host's share stays outside of what
lies between the last two marks, as in NVIDIA's nvbench. Whether it was long enough is asked each
time: had the card reached the middle mark before the last was enqueued, the repeat does not count
and the next spin is twice as long. An operator that waits for the device itself can never be held;
it is timed as it is and called ``unheld``. The first two marks give the SM clock at no cost: the
spin's cycles over its seconds; the short spin sees to it that it begins on time.

What takes less than ``GRAPH_BELOW_S`` is captured into a CUDA graph, many times over, each time on
inputs of its own where they are to be cold, and one repeat is a replay over the number of copies.
So is a cold operator that mostly streams, however long: after a clean flush what it writes stays in
the L2 and costs nothing, 31 microseconds on an H200 for what takes 45 in a model; in a row each one
drives out what the last one left, as kernels of a model do.

A kernel's time is the time that it keeps the device busy. What lies around it by either method was
measured (:mod:`calib.measure.cuda.around`) and is taken off; of an operator of several kernels one
gap, since how many there are is told later, of a block of operators at once
(:mod:`calib.measure.cuda.kernels`).
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from calib.measure.clock import StopRule
from calib.measure.cuda.around import measure_around
from calib.measure.cuda.stream import Run, Stream, Uncapturable, flush, wait

GRAPH_BELOW_S = 20e-6
_GRAPH_S = 400e-6
"""A graph is at least about so long: its launch, some microseconds, then adds below a percent."""
_LEAST_COPIES, _MOST_COPIES = 20, 256
_FEWEST_COPIES, _FEW_S = 5, 2e-3
"""Of long operators that stream: fewer, once a graph of them takes so long."""
_STREAMED = 0.2
"""Of what an operator moves is written: it streams."""
_TIMES_L2 = 5
"""Rotating inputs are to be this many times the L2."""
_HOLD_S = 50e-6
"""Of a spin, beside twice the time that the host takes to enqueue the operator."""
_MOST_HOLD_S = 20e-3
_PROBE_CYCLES = (50_000, 500_000)
_LEAD_CYCLES = 40_000
"""About 20 microseconds: time to enqueue a mark and a spin."""


@dataclass(frozen=True)
class Spin:
    """A spin of c cycles takes ``overhead_s + c / clock_hz`` between two marks."""

    overhead_s: float
    clock_hz: float


def measure_spin(stream: Stream, repeats: int = 9) -> Spin:
    """From spins of two lengths: the clock by their difference, the overhead by what remains."""
    short, long = (
        statistics.median(_spin_seconds(stream, cycles) for _ in range(repeats))
        for cycles in _PROBE_CYCLES
    )
    few, many = _PROBE_CYCLES
    clock = (many - few) / (long - short)
    return Spin(max(short - few / clock, 0.0), clock)


def _spin_seconds(stream: Stream, cycles: int) -> float:
    stream.spin(_LEAD_CYCLES)
    start = stream.mark()
    stream.spin(cycles)
    stop = stream.mark()
    wait(stream, stop)
    return stream.between(start, stop)


@dataclass(frozen=True)
class Repeat:
    """One repeat: seconds of the operator, the SM clock before it, whether the spin held."""

    seconds: float
    clock_hz: float
    held: bool


@dataclass(frozen=True)
class Timed:
    """All repeats of one operator that count, each as if it were one kernel.

    ``clock_hz``: median, None where nothing held; ``gap_s``: what is to be taken off for every
    kernel beyond the first.
    """

    seconds: tuple[float, ...]
    clock_hz: float | None
    method: str
    gap_s: float = 0.0


class LaunchesNothing(Exception):
    """The operator gives the device nothing to do."""


class Timer:
    """Times work on one stream."""

    def __init__(self, stream: Stream) -> None:
        self.stream = stream
        self.spin = measure_spin(stream)
        self.around = measure_around(self)

    def repeat(self, run: Run, cold: bool, hold_s: float) -> Repeat:
        stream = self.stream
        cycles = max(int(hold_s * self.spin.clock_hz), 1)
        if cold:
            flush(stream)
        stream.spin(_LEAD_CYCLES)
        before = stream.mark()
        stream.spin(cycles)
        start = stream.mark()
        run()
        stop = stream.mark()
        held = not stream.reached(start)
        wait(stream, stop)
        spun = max(stream.between(before, start) - self.spin.overhead_s, 1e-9)
        return Repeat(stream.between(start, stop), cycles / spun, held)

    def held(
        self, run: Run, cold: bool, done: Callable[[list[float], float], bool]
    ) -> tuple[list[float], list[float]]:
        """Seconds and clocks of repeats until ``done(seconds, elapsed)``; both empty where no
        spin holds the card, since the operator itself waits for it."""
        begin, hold = self.stream.now(), self.hold_s(run)
        seconds: list[float] = []
        clocks: list[float] = []
        late = 0
        while not done(seconds, self.stream.now() - begin):
            repeat = self.repeat(run, cold, hold)
            if repeat.held:
                seconds.append(repeat.seconds)
                clocks.append(repeat.clock_hz)
                late = 0
                continue
            late += hold >= _MOST_HOLD_S
            if late == 3:
                return [], []
            hold = min(2 * hold, _MOST_HOLD_S)
        return seconds, clocks

    def hold_s(self, run: Run) -> float:
        """How long to spin: twice the host's time for a second call, and ``_HOLD_S``. Also the
        warm-up: what is compiled or allocated at a first call is, after this."""
        for _ in range(2):
            start = self.stream.now()
            run()
            enqueued = self.stream.now() - start
            wait(self.stream, self.stream.mark())
        return min(2 * enqueued + _HOLD_S, _MOST_HOLD_S)

    def clock(self, cold: bool = True) -> Callable[[Run], float]:
        """Seconds of the device for one call, held: for :func:`calib.measure.clock.in_turns`.

        The gaps between several kernels of one call are in it: contenders are compared as they
        run. A call that no spin can hold is timed with its waiting for the device in it.
        """
        holds: dict[Run, float] = {}

        def seconds(run: Run) -> float:
            if run not in holds:
                holds[run] = self.hold_s(run)
            while True:
                repeat = self.repeat(run, cold, holds[run])
                if repeat.held or holds[run] >= _MOST_HOLD_S:
                    return _less(repeat.seconds, self.around.events.fixed_s)
                holds[run] = min(2 * holds[run], _MOST_HOLD_S)

        return seconds

    def unheld(self, run: Run, cold: bool, rule: StopRule) -> Timed:
        """An operator that waits for the device: from mark to mark, its waiting included."""
        stream, begin = self.stream, self.stream.now()
        seconds: list[float] = []
        while not rule.done(seconds, stream.now() - begin):
            if cold:
                flush(stream)
            start = stream.mark()
            run()
            stop = stream.mark()
            wait(stream, stop)
            seconds.append(stream.between(start, stop))
        return Timed(tuple(seconds), None, "unheld")

    def timed(self, run: Run, cold: bool, rule: StopRule, copies: int = 0) -> Timed:
        """Until ``rule`` is content. ``copies``: operators in a graph that ``run`` replays."""
        method = "graph" if copies else "events"
        around = self.around.graph if copies else self.around.events
        around_s = around.fixed_s + copies * around.gap_s

        def own(seconds: Sequence[float]) -> list[float]:
            return [_less(s, around_s) / max(copies, 1) for s in seconds]

        seconds, clocks = self.held(run, cold, lambda some, elapsed: rule.done(own(some), elapsed))
        if not seconds:
            return self.unheld(run, cold, rule)
        return Timed(tuple(own(seconds)), statistics.median(clocks), method, around.gap_s)


def _less(seconds: float, around_s: float) -> float:
    """``seconds`` without what lies around; never below the resolution of a mark, half a
    microsecond, or what was timed where that is less."""
    return max(seconds - around_s, min(seconds, _RESOLUTION_S))


_RESOLUTION_S = 0.5e-6


def time_operator(
    timer: Timer,
    make: Callable[[int], Sequence[Run]],
    cold: bool,
    rule: StopRule,
    *,
    nbytes: float,
    written: float,
    l2_bytes: float,
) -> Timed:
    """The operator that ``make(copies)`` builds, by events or as a graph, whichever it needs.

    ``nbytes``: what one execution touches; ``written``: of these. Raises ``LaunchesNothing``,
    before a graph of it would be empty.
    """
    run = make(1)[0]
    rough, _ = timer.held(run, cold, lambda seconds, _: len(seconds) == 3)
    if not rough:
        return timer.timed(run, cold, rule)
    if (middle := statistics.median(rough)) < timer.around.least_s:
        raise LaunchesNothing
    seconds = _less(middle, timer.around.events.fixed_s)
    streams = cold and written >= _STREAMED * nbytes
    if seconds >= GRAPH_BELOW_S and not streams:
        return timer.timed(run, cold, rule)
    copies = graph_copies(seconds, nbytes if cold else l2_bytes, l2_bytes)
    try:
        return timed_as_graph(timer, make, run, copies, cold, rule)
    except Uncapturable:
        return timer.timed(run, cold, rule)


def timed_as_graph(
    timer: Timer,
    make: Callable[[int], Sequence[Run]],
    run: Run,
    copies: int,
    cold: bool,
    rule: StopRule,
) -> Timed:
    """``copies`` of the operator as one graph. Cold ones have inputs of their own, and a repeat
    begins with a flush too, since copies of a small operator may all fit in the L2.

    Raises ``Uncapturable``.
    """
    runs = make(copies) if cold else [run] * copies
    return timer.timed(timer.stream.capture(runs), cold, rule, copies)


def graph_copies(seconds: float, nbytes: float, l2_bytes: float) -> int:
    """Operators in one graph: enough that its launch does not show, and, where they are to be
    cold, that their inputs are five times the L2, within what can be built quickly."""
    wanted = max(_GRAPH_S / seconds, _TIMES_L2 * l2_bytes / max(nbytes, 1.0))
    least = min(max(_FEW_S / seconds, _FEWEST_COPIES), _LEAST_COPIES)
    return round(min(max(wanted, least), _MOST_COPIES))
