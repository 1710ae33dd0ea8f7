"""The passes of each phase in a trace, and what belongs to one.

A range named like a phase is one pass of it. Where no range is, steps of the profiler's schedule
are passes of the phase that the user names, or of the workload's only one; where no steps are
either, the whole trace is one pass of that.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any

from calib.compare.clock.events import OPERATOR, RANGE, Recorded, TraceFile, shown
from calib.compare.clock.links import Links
from calib.errors import CalibError

STEP = "ProfilerStep#"
BACKWARD = "autograd::engine::evaluate_function"


@dataclass(frozen=True)
class Pass:
    """``host``: events within the range on its thread. ``device``: all that was asked for in that
    time, by any thread. ``seconds``: from its begin, or the end of what the device was still busy
    with, to the end of both. ``backward``: nodes of a gradient that ran in it."""

    span: Recorded
    host: tuple[Recorded, ...]
    device: tuple[Recorded, ...]
    seconds: float
    backward: int


def phase_ranges(
    trace: TraceFile, host: Sequence[Recorded], phases: Sequence[str], step: str | None = None
) -> dict[str, list[Recorded]]:
    """The ranges of each phase, in order. ``step``: the phase that the profiler's steps are of.

    Raises ``CalibError`` where the trace has none, or ``step`` is no phase.
    """
    ranges = [e for e in host if e.category == RANGE]
    steps = _outermost([e for e in ranges if e.label.startswith(STEP)])
    if step is not None:
        if step not in phases:
            raise CalibError(f"measured_step = {step!r}: expected one of {', '.join(phases)}")
        if not steps:
            raise CalibError(
                f"{trace.named}: has no {STEP}n: expected them for measured_step = {step!r}"
            )
        return _timed(trace, {step: steps})
    found = {p: _outermost([e for e in ranges if e.label == p]) for p in phases}
    if any(found.values()):
        return _timed(trace, {phase: some for phase, some in found.items() if some})
    if len(phases) == 1:
        return _timed(trace, {phases[0]: steps or [_everything(host)]})
    or_steps = (
        f"; or measured_step=<phase>, the phase that its {len(steps)} {STEP}n are passes of"
        if steps
        else ""
    )
    raise CalibError(
        f"{trace.named}: names no phase: expected record_function ranges called "
        f"{', '.join(phases)} around the passes, one for each{or_steps}"
    )


def _outermost(ranges: Sequence[Recorded]) -> list[Recorded]:
    """Ranges in order of their begin, less those that begin within another."""
    kept: list[Recorded] = []
    for event in ranges:
        if not kept or event.begin_ns >= kept[-1].end_ns:
            kept.append(event)
    return kept


def _timed(trace: TraceFile, found: dict[str, list[Recorded]]) -> dict[str, list[Recorded]]:
    """The same. Raises ``CalibError`` for a range that took no time or runs into the next."""
    ranges = sorted((e for some in found.values() for e in some), key=lambda e: e.begin_ns)
    for event, following in zip(ranges, [*ranges[1:], None], strict=True):
        label = repr(shown(event.label) or "the trace")
        if not event.length_ns:
            raise CalibError(f"{trace.named}: {label} lasts 0 s: expected a pass that took time")
        if following and following.begin_ns < event.end_ns:
            raise CalibError(
                f"{trace.named}: {label} ends after {shown(following.label)!r} begins: expected "
                "passes one after another"
            )
    return found


def how_found(found: Mapping[str, Sequence[Recorded]]) -> list[str]:
    """What is said of passes that are not named by their phase."""
    labels = {phase: ranges[0].label for phase, ranges in found.items()}
    return [
        f"It names no pass of {phase}: "
        + (f"each {STEP}n is taken for one." if label else "the whole of it is taken for one.")
        for phase, label in labels.items()
        if label != phase
    ]


def _everything(host: Sequence[Recorded]) -> Recorded:
    """All that the busiest thread did, as a range."""
    operators = [e for e in host if e.category == OPERATOR]
    thread = Counter(e.thread for e in operators).most_common(1)[0][0]
    own = [e for e in operators if e.thread == thread]
    length = max(e.end_ns for e in own) - own[0].begin_ns
    return replace(own[0], label="", category=RANGE, length_ns=length)


class Passes:
    """Finds what belongs to a range, by bisection: n log n in all for ranges side by side."""

    def __init__(self, links: Links):
        self._threads: dict[Any, list[Recorded]] = {}
        for event in links.host:
            self._threads.setdefault(event.thread, []).append(event)
        self._begins = {t: [e.begin_ns for e in some] for t, some in self._threads.items()}
        self._device = sorted(links.device, key=_asked_ns)
        self._asked = [_asked_ns(e) for e in self._device]
        self._busy = list(accumulate((e.end_ns for e in self._device), max))
        self._backward = [e.begin_ns for e in links.host if e.label.startswith(BACKWARD)]

    def of(self, span: Recorded) -> Pass:
        begin, end = span.begin_ns, span.end_ns
        begins = self._begins[span.thread]
        first, last = bisect_left(begins, begin), bisect_right(begins, end)
        own = self._threads[span.thread][first:last]
        inside = [e for e in own if e.end_ns <= end and e is not span]
        first, last = bisect_left(self._asked, begin), bisect_right(self._asked, end)
        ran = self._device[first:last]
        seconds = (end - begin) / 1e9
        if ran:
            free = max(begin, self._busy[first - 1]) if first else begin
            whole = max(end, *(e.end_ns for e in ran))
            seconds = (whole - free) / 1e9 if whole > free else seconds
        backward = bisect_right(self._backward, end) - bisect_left(self._backward, begin)
        return Pass(span, tuple(inside), tuple(ran), seconds, backward)


def _asked_ns(event: Recorded) -> int:
    return event.begin_ns if event.issued_ns is None else event.issued_ns
