"""What timing asks of CUDA, as few calls as possible, and those calls in torch.

Everything else in this package is written over :class:`Stream`, so that it runs in tests on a
simulated card. A stream executes in order. A ``spin`` occupies it for a number of clock cycles of
an SM: what is enqueued behind it does not start before the host has finished enqueueing. It always
ends by itself, so no mistake of ours can make a card wait for ever.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch

from calib.errors import DeviceLost
from calib.measure.cuda.launches import Launch, profiled

Run = Callable[[], Any]
FLUSH_TIMES = 4
"""The L2 that a flush reads. Twice would do were the oldest lines the first to go; an L2 keeps part
of what is read again and again, and of what is left the operator must find nothing."""
_LINK_ELEMENTS = 2**20


class Uncapturable(Exception):
    """The work cannot become a CUDA graph: it waits for the device, or allocates as it must not."""


class DeviceHung(DeviceLost):
    """The card did not finish in the time that any sample may take."""


class Stream(Protocol):
    """A queue of work on a card, and the host's clock."""

    l2_bytes: int

    def now(self) -> float:
        """Seconds of the host's clock."""

    def rest(self, seconds: float) -> None:
        """Do nothing, so that the card cools."""

    def spin(self, cycles: int) -> None:
        """Enqueue one kernel that takes so many cycles of its SM's clock."""

    def read(self, nbytes: int) -> None:
        """Enqueue a read of so many bytes that nothing else touches."""

    def link(self) -> None:
        """Enqueue a short kernel over all multiprocessors, on what the last link wrote."""

    def mark(self) -> Any:
        """Enqueue a mark whose time is taken when the device reaches it."""

    def reached(self, mark: Any) -> bool:
        """Whether the device has reached ``mark``; returns at once."""

    def between(self, start: Any, stop: Any) -> float:
        """Seconds of the device between two marks that were reached."""

    def capture(self, runs: Sequence[Run]) -> Run:
        """``runs`` one after another as a CUDA graph; calling it enqueues a replay.

        Raises ``Uncapturable``.
        """

    def profiled(self, run: Run) -> list[Launch]:
        """``run`` under the profiler: what the device executed, in order; nothing where it cannot
        be had. A session costs some 10 to 50 ms beside the run."""

    def recover(self) -> None:
        """After an error of one operator: free what it held. Raises ``DeviceLost`` where its
        context is broken: an error that CUDA gives to every later call of the process."""


def flush(stream: Stream) -> None:
    """Leave nothing in the L2 but clean lines that nobody wants: the one flush of this project.

    It only reads. A flush by writing leaves lines that are to be written back, and the next
    operator waits for that: 8 microseconds on an H200, whatever it does.
    """
    stream.read(FLUSH_TIMES * stream.l2_bytes)


def wait(stream: Stream, mark: Any, limit_s: float = 20.0) -> None:
    """Return when ``mark`` is reached. Raises ``DeviceHung`` after ``limit_s``."""
    start = stream.now()
    while not stream.reached(mark):
        if stream.now() - start > limit_s:
            raise DeviceHung(
                f"the card did not finish within {limit_s:g} s: expected less than a second"
            )


class TorchStream:
    """The current CUDA stream of torch. ``l2_bytes``: of the card."""

    def __init__(self, device: str, l2_bytes: int) -> None:
        self.device, self.l2_bytes = torch.device(device), l2_bytes
        self._lid = torch.zeros(0, device=self.device)
        self._linked = torch.zeros(_LINK_ELEMENTS, device=self.device)

    def now(self) -> float:
        return time.perf_counter()

    def rest(self, seconds: float) -> None:
        time.sleep(seconds)

    def spin(self, cycles: int) -> None:
        torch.cuda._sleep(cycles)  # one thread that reads clock64() until so many have passed

    def read(self, nbytes: int) -> None:
        count = -(-nbytes // self._lid.element_size())
        if count > len(self._lid):
            self._lid = torch.zeros(count, device=self.device)
        self._lid[:count].sum()

    def link(self) -> None:
        self._linked.neg_()

    def mark(self) -> torch.cuda.Event:
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def reached(self, mark: torch.cuda.Event) -> bool:
        return mark.query()

    def between(self, start: torch.cuda.Event, stop: torch.cuda.Event) -> float:
        return start.elapsed_time(stop) / 1e3

    def capture(self, runs: Sequence[Run]) -> Run:
        graph, here = torch.cuda.CUDAGraph(), torch.cuda.current_stream(self.device)
        try:
            with torch.cuda.graph(graph):
                for run in runs:
                    run()
        except RuntimeError as error:
            # A capture that failed leaves its own stream as the current one.
            torch.cuda.set_stream(here)
            raise Uncapturable(str(error).partition("\n")[0]) from None
        return graph.replay

    def profiled(self, run: Run) -> list[Launch]:
        return profiled(run, self.device)

    def recover(self) -> None:
        try:
            torch.cuda.synchronize(self.device)
            torch.cuda.empty_cache()
        except RuntimeError as error:
            first = str(error).partition("\n")[0]
            raise DeviceLost(f"the card is lost to this process ({first})") from None
