"""``trace.json``: launches on the host's and the device's track, inside their modules.

Chrome's trace event format: complete events (``ph`` "X") with ``ts`` and ``dur`` in microseconds,
and metadata (``M``) that names the tracks. Perfetto and chrome://tracing open it. Modules enclose
what they launch: on the host in the same track, on the device in one beside the kernels.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

HOST, DEVICE = 1, 2
KERNELS, MODULES = 1, 2
Event = dict[str, Any]


def chrome_trace(launches: pd.DataFrame, device: str) -> dict[str, Any]:
    """The trace of a table of launches (``calib.estimates.timeline.launch_table``), in its
    order."""
    rows = launches.to_dict("records")
    paths = [str(row["path"]) for row in rows]

    def spans(begin: str, end: str) -> list[tuple[int, int]]:
        return [(_nanoseconds(row[begin]), _nanoseconds(row[end])) for row in rows]

    issued, ran = spans("issue_s", "wait_s"), spans("start_s", "end_s")
    events = [
        *_named(HOST, "host", {KERNELS: "launches and modules"}),
        *_named(DEVICE, device, {KERNELS: "kernels", MODULES: "modules"}),
        *_modules(paths, issued, HOST, KERNELS),
        *_modules(paths, ran, DEVICE, MODULES),
    ]
    for row, (begin, end), (start, stop) in zip(rows, issued, ran, strict=True):
        about = {"shape": str(row["shape"]), "module": str(row["path"])}
        enqueued = _nanoseconds(row["issued_s"])
        events.append(_event(row["kind"], "launch", HOST, KERNELS, begin, enqueued, about))
        if end > enqueued:
            events.append(_event("wait", "sync", HOST, KERNELS, enqueued, end, about))
        about = {**about, "bound": str(row["bound"])}
        events.append(_event(row["kind"], "kernel", DEVICE, KERNELS, start, stop, about))
    return {"displayTimeUnit": "ms", "traceEvents": events}


def _nanoseconds(seconds: Any) -> int:
    """Whole, so that what is nested stays so after rounding."""
    return round(float(seconds) * 1e9)


def _microseconds(nanoseconds: int) -> float:
    """The next number above, since Perfetto cuts off what is left of a nanosecond: 1.001
    microseconds, which binary numbers lie below, would become 1000."""
    return math.nextafter(nanoseconds / 1e3, math.inf) if nanoseconds else 0.0


def _event(
    name: Any, category: str, process: int, thread: int, begin: int, end: int, about: Event
) -> Event:
    return {
        "name": str(name),
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
    paths: Sequence[str], spans: Sequence[tuple[int, int]], process: int, thread: int
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
            begin, end = spans[first][0], spans[i - 1][1]
            yield _event(name, "module", process, thread, begin, end, {"module": path})
        opened = [*opened[:kept], *((name, i) for name in parts[kept:])]
