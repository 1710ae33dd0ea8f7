"""What lies around a kernel when it is timed, so that what remains is the time it keeps the device.

Of n kernels, each busy for b, two marks say

    seconds = fixed + n (b + gap) - gap         in a stream
    seconds = fixed + n (b + gap)               as a graph that is replayed

``fixed`` is the way from a mark into the work and out of it, ``gap`` the distance from the end of
one kernel to the start of the next that depends on it. Both are measured with a short kernel that
fills the device (``Stream.link``): n of them by both methods, b by the profiler. A kernel of one
thread would not do: the next one waits for the last of its blocks to be gone, and there are none.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING

from calib.measure.cuda.stream import Run

if TYPE_CHECKING:
    from calib.measure.cuda.timer import Timer

_FEW, _MANY = 20, 200
"""Links in a row: a queue holds them, and the first is not noticed."""
_REPEATS = 9


@dataclass(frozen=True)
class Around:
    """Seconds around the kernels of one method, as above."""

    fixed_s: float = 0.0
    gap_s: float = 0.0


@dataclass(frozen=True)
class Surroundings:
    """Of both methods. ``least_s``: what takes less between two marks launched nothing at all;
    ``profiled``: whether a profiler said how long a kernel is busy, else gaps are taken for none.
    """

    events: Around = Around()
    graph: Around = Around()
    least_s: float = 0.0
    profiled: bool = False


def measure_around(timer: Timer) -> Surroundings:
    """From links, one and many, in the stream of ``timer`` and as graphs; nothing is known to lie
    around where the host is too slow to enqueue many of them behind a spin."""
    try:
        return _measured(timer)
    except NotHeld:
        return Surroundings()


class NotHeld(Exception):
    """No spin held the card until all was enqueued."""


def _measured(timer: Timer) -> Surroundings:
    stream = timer.stream

    def seconds(run: Run) -> float:
        found, _ = timer.held(run, False, lambda some, _: len(some) == _REPEATS)
        if not found:
            raise NotHeld
        return statistics.median(found)

    least = (seconds(_nothing) + seconds(lambda: stream.spin(0))) / 2
    one, many = seconds(stream.link), seconds(in_a_row(stream.link, _MANY))
    few_nodes, nodes = (seconds(stream.capture([stream.link] * n)) for n in (_FEW, _MANY))
    launches = stream.profiled(in_a_row(stream.link, _FEW))
    if len(launches) != _FEW:
        return Surroundings(least_s=least)
    busy = statistics.median(launch.seconds for launch in launches)
    next_s = (many - one) / (_MANY - 1)
    node_s = (nodes - few_nodes) / (_MANY - _FEW)
    return Surroundings(
        Around(one - busy, next_s - busy),
        Around(few_nodes - _FEW * node_s, node_s - busy),
        least,
        True,
    )


def _nothing() -> None:
    """Enqueues nothing."""


def in_a_row(run: Run, count: int) -> Run:
    """``count`` calls of ``run`` as one."""

    def all_of_them() -> None:
        for _ in range(count):
            run()

    return all_of_them
