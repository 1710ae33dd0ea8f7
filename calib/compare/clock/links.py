"""Which operator launched what ran on a device, and how long it ran.

An operator asks the driver for a kernel; call and kernel bear one ``correlation``, and the call
lies within its operator on the host's thread. That holds in every trace. ``External id``, which
operators and kernels may share, is in some traces of another numbering than the operators', so it
serves only where a trace has no calls, or where both agree. Kernels of a replayed graph belong to
the call that launched the graph, and to no operator.

A stream does one thing at a time. Where two events overlap on one, by programmatic launches or by a
wrong duration, the earlier is cut at the begin of the later, so that their sum is the time that the
stream was busy. Likewise an operator ends no later than the one that called it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from calib.compare.clock.events import CALLS, NONE, OPERATOR, Recorded
from calib.report.units import counted, seconds

GRAPH, LAUNCH = "GraphLaunch", "LaunchKernel"
"""In the names of the driver's calls."""
SKEW_NS = 100_000
"""A kernel that begins so long before it was asked for was not asked for by that call; clocks of
host and device may differ by less."""
ROUNDING_NS = 2_000
"""What whole microseconds, as older traces have them, may seem to overlap."""


@dataclass(frozen=True)
class Links:
    """``host``: all but the driver's calls, by begin, operators numbered. ``device``: by begin,
    each with its operator's number. ``notes``: what was mended, and what is missing."""

    host: tuple[Recorded, ...]
    device: tuple[Recorded, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class _Call:
    begin_ns: int
    number: int
    of_graph: bool


def link(events: Sequence[Recorded]) -> Links:
    """``events``: in order of their begin."""
    host, beyond = _nested([e for e in events if not e.on_device and e.category not in CALLS])
    operators = [e for e in host if e.category == OPERATOR]
    asked = [e for e in events if e.category in CALLS and e.correlation is not None]
    calls = _calls(operators, asked)
    ran, overlaps = _one_at_a_time([e for e in events if e.on_device])
    named: dict[Any, Recorded | None] = {}
    for e in operators:
        if e.external is not None:
            named[e.external] = None if e.external in named else e  # of two, neither
    other_numbering = _differs(ran, calls, {e.number: e.external for e in operators})
    device = [_launched(e, calls, {} if other_numbering else named) for e in ran]
    device.sort(key=lambda e: e.begin_ns)
    notes = [beyond, overlaps, *_notes(device, calls, asked, other_numbering)]
    if not other_numbering:
        notes.append(_torn(device, calls, named))
    return Links(tuple(host), tuple(device), tuple(note for note in notes if note))


def _nested(events: Sequence[Recorded]) -> tuple[list[Recorded], str]:
    """Operators numbered and cut at the end of the one around them; a note where that is much."""
    found, cut = [], 0
    around: dict[Any, list[Recorded]] = {}
    for number, event in enumerate(events):
        if event.category != OPERATOR:
            found.append(event)
            continue
        outer = around.setdefault(event.thread, [])
        while outer and outer[-1].end_ns <= event.begin_ns:
            outer.pop()
        length = event.length_ns
        if outer and event.end_ns > outer[-1].end_ns:
            length = outer[-1].end_ns - event.begin_ns
            cut += event.length_ns - length > ROUNDING_NS
        kept = replace(event, number=number, length_ns=length)
        outer.append(kept)
        found.append(kept)
    return found, (
        f"{counted(cut, 'operator')} ended after the one around: cut where that one ends."
        if cut
        else ""
    )


def _one_at_a_time(events: Sequence[Recorded]) -> tuple[list[Recorded], str]:
    """Events of a device, by stream, each cut at the begin of the next; a note of what was cut."""
    streams: dict[Any, list[Recorded]] = {}
    for event in events:
        streams.setdefault(event.stream, []).append(event)
    found, count, cut = [], 0, 0
    for listed in streams.values():
        for event, following in zip(listed, [*listed[1:], None], strict=True):
            over = max(0, event.end_ns - following.begin_ns) if following else 0
            count += over > ROUNDING_NS
            cut += over
            kept = replace(event, length_ns=event.length_ns - over, cut=over > ROUNDING_NS)
            found.append(kept if over else event)
    whole = sum(e.length_ns for e in events)
    return found, (
        f"{count} of {counted(len(events), 'event')} of the device cut where the next on its "
        f"stream begins, by {seconds(cut / 1e9)} of {seconds(whole / 1e9)} in all."
        if count
        else ""
    )


def _calls(operators: Sequence[Recorded], asked: Sequence[Recorded]) -> dict[int, _Call]:
    """Correlation -> the driver's call with the innermost operator around it; of a correlation that
    calls of several operators bear, none."""
    found: dict[int, _Call] = {}
    doubtful = set()
    around: dict[Any, list[Recorded]] = {}
    for event in sorted([*operators, *asked], key=_outer_first):
        outer = around.setdefault(event.thread, [])
        while outer and outer[-1].end_ns <= event.begin_ns:
            outer.pop()
        if event.category == OPERATOR:
            outer.append(event)
            continue
        number = outer[-1].number if outer else NONE
        made = _Call(event.begin_ns, number, GRAPH in event.label)
        first = found.setdefault(event.correlation or 0, made)
        if (first.number, first.of_graph) != (made.number, made.of_graph):
            doubtful.add(event.correlation)
    return {c: call for c, call in found.items() if c not in doubtful}


def _outer_first(event: Recorded) -> tuple[int, bool, int]:
    return (event.begin_ns, event.category != OPERATOR, -event.length_ns)


def _differs(
    ran: Iterable[Recorded], calls: dict[int, _Call], external_of: dict[int, int | None]
) -> bool:
    """Whether ``External id`` names another operator than ``correlation`` for most of both."""
    agree = []
    for event in ran:
        call = calls.get(event.correlation or 0)
        if call and call.number != NONE and event.external is not None:
            agree.append(external_of[call.number] == event.external)
    return bool(agree) and sum(agree) < len(agree) / 2


def _launched(
    event: Recorded, calls: dict[int, _Call], named: dict[Any, Recorded | None]
) -> Recorded:
    """The event with its operator, and when it was asked for."""
    call = calls.get(event.correlation or 0)
    operator = named.get(event.external)
    if call and call.of_graph:
        issued, number = call.begin_ns, NONE
    elif call and (call.number != NONE or not operator):
        issued, number = call.begin_ns, call.number
    elif operator:
        issued, number = operator.begin_ns, operator.number
        issued = max(issued, call.begin_ns) if call else issued
    else:
        return event
    if event.begin_ns + SKEW_NS < issued:
        return event
    return replace(event, number=number, issued_ns=issued)


def _torn(
    device: Sequence[Recorded], calls: dict[int, _Call], named: dict[Any, Recorded | None]
) -> str:
    """A note of events whose two ids name different operators, though most of theirs agree."""
    torn = 0
    for event in device:
        call, operator = calls.get(event.correlation or 0), named.get(event.external)
        if call and operator and not call.of_graph:
            torn += call.number != operator.number
    return (
        f"By correlation {counted(torn, 'event')} of the device lay under one operator, by "
        "External id under another: taken is that around the call, where there is one."
        if torn
        else ""
    )


def _notes(
    device: Sequence[Recorded],
    calls: dict[int, _Call],
    asked: Sequence[Recorded],
    other_numbering: bool,
) -> list[str]:
    found = []
    if other_numbering:
        found.append(
            "The External id of its kernels is of another numbering than the operators': kernels "
            "are joined by correlation."
        )
    replayed = [e for e in device if e.correlation in calls and calls[e.correlation].of_graph]
    if replayed:
        found.append(
            f"{len(replayed)} of {len(device)} events of the device were replayed by a graph, "
            "which names no operator."
        )
    early = [e for e in device if e.issued_ns is None and e.correlation in calls]
    if early:
        found.append(
            f"{counted(len(early), 'event')} of the device began before the call that is said to "
            "have been the launch: no operator is taken for the cause."
        )
    seen = {e.correlation for e in device}
    launched = {e.correlation for e in asked if LAUNCH in e.label}
    if seen & set(calls) and launched - seen:
        found.append(
            f"{len(launched - seen)} of {counted(len(launched), 'launch')} without a kernel in the "
            "trace: what these took is not known."
        )
    return found
