"""Whether other processes kept this one from its cores: what Linux counts, and a retry.

A kernel whose threads wait for a core because another process has it is slow in all repeats of a
short sample alike, by ten times and more, and no spread tells. The scheduler counts that wait.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

TOLERATED = 0.15
"""Of a sample's time: what threads may have waited for a core. The median hides less than that."""
T = TypeVar("T")


def waited_s(threads: Path = Path("/proc/self/task")) -> float:
    """Seconds that the threads of this process were ready to run and had no core, ever since.

    The second number of ``/proc/<pid>/task/<tid>/schedstat`` [ns]; 0 where the system does not say.
    """
    total = 0
    for file in threads.glob("*/schedstat"):
        try:
            total += int(file.read_text("ascii").split()[1])
        except (OSError, IndexError, ValueError):  # a thread that just ended
            continue
    return total / 1e9


def undisturbed(
    run: Callable[[], T],
    attempts: int = 3,
    waited: Callable[[], float] = waited_s,
    clock: Callable[[], float] = time.perf_counter,
) -> list[T]:
    """Results of ``run``, the one that waited least first; the others are to be thrown away.

    ``run`` is called until an attempt waited for no more than ``TOLERATED`` of its time, at most
    ``attempts`` times.
    """
    found: list[tuple[float, T]] = []
    while not found or (found[-1][0] > TOLERATED and len(found) < attempts):
        start, before = clock(), waited()
        result = run()
        found.append(((waited() - before) / max(clock() - start, 1e-9), result))
    return [result for _, result in sorted(found, key=lambda one: one[0])]
