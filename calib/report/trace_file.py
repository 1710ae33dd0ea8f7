"""``trace.json``: one pass of each phase, launches on the host's and the device's track.

Chrome's trace event format: complete events (``ph`` "X") with ``ts`` and ``dur`` in microseconds,
metadata (``M``) that names the tracks, and flows (``s`` to ``f``, as torch's profiler has them)
from a launch to the kernel that it starts. Perfetto and chrome://tracing open it. Phases follow one
another as in the run, each once; modules enclose what they launch: on the host in the same track,
on the device in one beside the kernels. What takes no time has no slice: of a CUDA graph the host
launches the whole, and the arrow leads to its first kernel.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

HOST, DEVICE = 1, 2
KERNELS, MODULES = 1, 2
FLOW = "launch to kernel"
Event = dict[str, Any]
Span = tuple[int, int]


@dataclass(frozen=True)
class Pass:
    """Launches of one pass of a phase, in order; spans are nanoseconds since the trace began.

    ``issued``: what the host is busy with; ``waited``: until it goes on; ``ran``: the device.
    """

    phase: str
    kinds: list[str]
    paths: list[str]
    shapes: list[str]
    bounds: list[str]
    issued: list[Span]
    waited: list[int]
    ran: list[Span]

    @property
    def span(self) -> Span:
        begin = min(self.issued[0][0], self.ran[0][0])
        return begin, max(self.waited[-1], self.ran[-1][1])


def chrome_trace(
    launches: pd.DataFrame, device: str, passes: Mapping[str, int] | None = None
) -> dict[str, Any]:
    """The trace of a table of launches (``calib.estimates.timeline.launch_table``), in its order.

    ``passes``: how often the run makes a pass of each phase.
    """
    events = [
        *_named(HOST, "host", {KERNELS: "launches and modules"}),
        *_named(DEVICE, device, {KERNELS: "kernels", MODULES: "modules"}),
    ]
    flows: list[Event] = []
    begin = before = 0
    for phase, rows in launches.groupby("phase", sort=False):
        one = _pass(str(phase), rows, begin)
        begin = one.span[1]
        repeat = (passes or {}).get(one.phase, 1)
        events += _phase(one, repeat)
        flows += _flows(one, before)
        before += len(one.kinds)
    return {"displayTimeUnit": "ms", "traceEvents": [*events, *flows]}


def _pass(phase: str, rows: pd.DataFrame, begin: int) -> Pass:
    """``begin``: nanoseconds of the trace before it."""

    def times(name: str) -> list[int]:
        return [begin + round(seconds * 1e9) for seconds in rows[name].tolist()]

    def words(name: str) -> list[str]:
        return [str(word) for word in rows[name]]

    return Pass(
        phase,
        kinds=words("kind"),
        paths=words("path"),
        shapes=words("shape"),
        bounds=words("bound"),
        issued=list(zip(times("issue_s"), times("issued_s"), strict=True)),
        waited=times("wait_s"),
        ran=list(zip(times("start_s"), times("end_s"), strict=True)),
    )


def _phase(one: Pass, repeat: int) -> Iterator[Event]:
    name = one.phase if repeat == 1 else f"{one.phase} (1 of {repeat:,})"
    for process, thread in ((HOST, KERNELS), (DEVICE, MODULES)):
        yield from _slice(name, "phase", process, thread, one.span, {"passes": repeat})
    on_host = [(begin, end) for (begin, _), end in zip(one.issued, one.waited, strict=True)]
    yield from _modules(one.paths, on_host, HOST, KERNELS)
    yield from _modules(one.paths, one.ran, DEVICE, MODULES)
    columns = (one.kinds, one.paths, one.shapes, one.bounds, one.issued, one.waited, one.ran)
    for kind, path, shape, bound, issued, waited, ran in zip(*columns, strict=True):
        name, about = f"{kind} {path}".strip(), {"shape": shape, "module": path}
        yield from _slice(name, "launch", HOST, KERNELS, issued, about)
        yield from _slice("wait", "sync", HOST, KERNELS, (issued[1], waited), about)
        yield from _slice(name, "kernel", DEVICE, KERNELS, ran, {**about, "bound": bound})


def _flows(one: Pass, first: int) -> Iterator[Event]:
    """From each launch that takes time to its kernel; none where the host computes itself.
    ``first``: launches of the trace before it."""
    for number, (issued, ran) in enumerate(zip(one.issued, one.ran, strict=True)):
        if issued[0] < issued[1] <= ran[0] < ran[1]:
            about = {"name": FLOW, "cat": "flow", "id": first + number}
            yield {**about, "ph": "s", "pid": HOST, "tid": KERNELS, "ts": _microseconds(issued[0])}
            end = {"pid": DEVICE, "tid": KERNELS, "ts": _microseconds(ran[0])}
            yield {**about, "ph": "f", "bp": "e", **end}


def _microseconds(nanoseconds: int) -> float:
    """The next number above, since Perfetto cuts off what is left of a nanosecond: 1.001
    microseconds, which binary numbers lie below, would become 1000."""
    return math.nextafter(nanoseconds / 1e3, math.inf) if nanoseconds else 0.0


def _slice(
    name: str, category: str, process: int, thread: int, span: Span, about: Event
) -> Iterator[Event]:
    """An event; none where it takes no time."""
    begin, end = span
    if end > begin:
        yield {
            "name": name,
            "cat": category,
            "ph": "X",
            "ts": _microseconds(begin),
            "dur": _microseconds(end - begin),
            "pid": process,
            "tid": thread,
            "args": about,
        }


def _named(process: int, name: str, threads: dict[int, str]) -> Iterator[Event]:
    yield {"name": "process_name", "ph": "M", "pid": process, "args": {"name": name}}
    for thread, label in threads.items():
        about = {"name": label}
        yield {"name": "thread_name", "ph": "M", "pid": process, "tid": thread, "args": about}


def _modules(
    paths: Sequence[str], spans: Sequence[Span], process: int, thread: int
) -> Iterator[Event]:
    """An event for each run of launches within one module, the outer modules first."""
    opened: list[tuple[str, int]] = []  # name and index of the first launch, outermost first
    for i in range(len(paths) + 1):
        parts = paths[i].split(".") if i < len(paths) and paths[i] else []
        kept = 0
        while kept < min(len(opened), len(parts)) and opened[kept][0] == parts[kept]:
            kept += 1
        closed = [(depth, *opened[depth]) for depth in range(kept, len(opened))]
        for depth, name, first in closed:
            path = ".".join([n for n, _ in opened[:depth]] + [name])
            span = (spans[first][0], spans[i - 1][1])
            yield from _slice(name, "module", process, thread, span, {"module": path})
        opened = [*opened[:kept], *((name, i) for name in parts[kept:])]
