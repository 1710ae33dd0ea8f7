"""Which kernels an operator launches, and for how long each keeps the device busy.

Many operators are asked in one session of the profiler, since a session costs tens of milliseconds
whatever it sees. Between their calls lies a spin, by which the list of what ran is cut: it holds in
the order of the device, without a look at any clock.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from calib.measure.cuda.launches import Launch
from calib.measure.cuda.stream import Run, Stream, flush
from calib.measure.instrument import Reading, Taken
from calib.samples.faults import KERNELS_UNKNOWN
from calib.samples.sample import Kernel
from model.ops import Attention

CALLS = 9
"""Of each operator in a session: their median is its busy time."""
_MOST_GAPS = 0.05
"""Of what was timed: so much is taken off at the distance at which links follow one another."""
GRAPH, UNHELD, PROFILER = "graph", "unheld", "profiler"
_CLEARING = "Memset"
_CUT = "spin"
"""In the name of the spin, ours and CUDA's (``spin_kernel``), and in that of no operator."""

ATTENTION = {
    "cudnn": ("cudnn", "sdpa"),
    "flash": ("flash",),
    "efficient": ("fmha_cutlass",),
}
"""Torch's attention -> what the name of one of its kernels has in it, in the order to be asked."""
PLAIN = "math"
"""Where it is none of them: products and a softmax of their own."""


@dataclass(frozen=True)
class Job:
    """One operator to be asked, and whether it is to find its inputs in main memory."""

    run: Run
    cold: bool


Calls = tuple[tuple[Launch, ...], ...]
"""What each call of one operator launched, in order."""


def witness(stream: Stream, jobs: Sequence[Job], calls: int = CALLS) -> list[Calls]:
    """The launches of ``calls`` calls of each job, in one session.

    Empty where the profiler saw nothing, or not all of it.
    """

    def all_of_them() -> None:
        for job in jobs:
            for _ in range(calls):
                if job.cold:
                    flush(stream)
                stream.spin(1)
                job.run()
                stream.spin(1)

    parts = list(_cut(stream.profiled(all_of_them)))
    if len(parts) != calls * len(jobs):
        return []
    return [tuple(parts[i : i + calls]) for i in range(0, len(parts), calls)]


def _cut(launches: Sequence[Launch]) -> Iterator[tuple[Launch, ...]]:
    """What lies between each odd spin and the next."""
    part: list[Launch] | None = None
    for launch in launches:
        if _CUT not in launch.name:
            if part is not None:
                part.append(launch)
            continue
        if part is not None:
            yield tuple(part)
        part = [] if part is None else None


def busy(taken: Taken, calls: Calls) -> Reading:
    """The reading of ``taken`` with the kernels of its ``calls``, and the time they are busy.

    The gaps around its kernels are taken off, unless they are over a twentieth of what remains:
    then, where memory is cleared first (around that the gap is another), and where the operator
    itself waits for the device, the profiler's sums are the sample. A
    gap is that of kernels which fill the device, and short ones follow one another closer: nodes of
    one microsecond in a graph, less that gap, were a third shorter than the profiler had them.
    """
    if not calls:
        return replace(taken.reading, gap_s=0.0, fault=KERNELS_UNKNOWN)
    kernels, reading = kernels_of(calls), replace(taken.reading, gap_s=0.0)
    of_torch = taken.implementation == "torch" and isinstance(taken.op, Attention)
    backend = attention_backend(kernels) if of_torch else ""
    told = replace(reading, kernels=kernels, backend=backend)
    gaps = (len(kernels) - 1) * taken.reading.gap_s
    if not kernels:
        return told
    taken_off = gaps + (reading.method == GRAPH) * taken.reading.gap_s
    short = taken_off > _MOST_GAPS * statistics.median(reading.seconds)
    unknown = short or reading.method == UNHELD or kernels[0].name.startswith(_CLEARING)
    if unknown and all(seconds := busy_seconds(calls)):
        return replace(told, seconds=seconds, method=PROFILER)
    return replace(told, seconds=tuple(s - gaps for s in reading.seconds))


def busy_seconds(calls: Calls) -> tuple[float, ...]:
    """[call] seconds that the device was busy."""
    return tuple(sum(launch.seconds for launch in call) for call in calls)


def kernels_of(calls: Calls) -> tuple[Kernel, ...]:
    """The kernels of the last call with their shares of its time."""
    whole = sum(launch.seconds for launch in calls[-1])
    return tuple(
        Kernel(k.name, k.grid, k.block, k.seconds / whole if whole else 0.0) for k in calls[-1]
    )


def attention_backend(kernels: Sequence[Kernel]) -> str:
    """Which of torch's attentions launched ``kernels``; empty where there are none."""
    names = [kernel.name.lower() for kernel in kernels]
    for backend, parts in ATTENTION.items():
        if any(all(part in name for part in parts) for name in names):
            return backend
    return PLAIN if names else ""
