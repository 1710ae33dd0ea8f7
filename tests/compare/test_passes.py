"""Which ranges are passes, what belongs to one, and how long it took."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from events_made import Event, event, pair, write
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from calib.compare.clock.events import Recorded, TraceFile, read_events
from calib.compare.clock.links import Links, link
from calib.compare.clock.passes import Passes, how_found, phase_ranges
from calib.errors import CalibError

PHASES = ["prefill", "decode"]


def span(name: str, ts: float, dur: float) -> Event:
    return event("user_annotation", name, ts, dur)


def opened(folder: Path, events: list[Event]) -> tuple[TraceFile, Links]:
    trace = read_events(write(folder, events))
    return trace, link(trace.events)


def ranges(
    folder: Path, events: list[Event], phases: list[str], step: str | None = None
) -> dict[str, list[Recorded]]:
    trace, links = opened(folder, [*events, *pair(1, 1.0, 10.0, 5.0)])
    return phase_ranges(trace, links.host, phases, step)


STEPS = [span(f"ProfilerStep#{n}", 20.0 * n, 15.0) for n in range(3)]


def test_steps_are_passes_of_the_phase_that_is_named(tmp_path: Path) -> None:
    found = ranges(tmp_path, STEPS, PHASES, "decode")
    assert {phase: len(some) for phase, some in found.items()} == {"decode": 3}
    assert how_found(found) == ["It names no pass of decode: each ProfilerStep#n is taken for one."]


def test_steps_are_passes_of_the_only_phase(tmp_path: Path) -> None:
    assert len(ranges(tmp_path, STEPS, ["vision"])["vision"]) == 3


def test_a_range_named_like_its_phase_goes_before_steps(tmp_path: Path) -> None:
    found = ranges(tmp_path, [*STEPS, span("vision", 0.0, 8.0)], ["vision"])
    assert [e.label for e in found["vision"]] == ["vision"] and how_found(found) == []


def test_a_trace_without_ranges_is_one_pass_and_that_is_said(tmp_path: Path) -> None:
    found = ranges(tmp_path, [], ["vision"])
    assert how_found(found) == ["It names no pass of vision: the whole of it is taken for one."]


def test_a_range_within_one_of_its_name_is_part_of_it(tmp_path: Path) -> None:
    found = ranges(tmp_path, [span("decode", 0.0, 50.0), span("decode", 5.0, 9.0)], PHASES)
    assert [e.length_ns for e in found["decode"]] == [50_000]


@pytest.mark.parametrize(
    ("events", "phases", "step", "reason"),
    [
        ([], PHASES, None, "names no phase: expected record_function ranges called prefill, dec"),
        (STEPS, PHASES, None, "or measured_step=<phase>, the phase that its 3 ProfilerStep#n are"),
        (STEPS, PHASES, "vision", "measured_step = 'vision': expected one of prefill, decode"),
        ([], PHASES, "decode", "has no ProfilerStep#n"),
        ([span("decode", 0.0, 0.0)], PHASES, None, "'decode' lasts 0 s"),
        (
            [span("prefill", 0.0, 9.0), span("decode", 5.0, 9.0)],
            PHASES,
            None,
            "'prefill' ends after 'decode' begins",
        ),
    ],
)
def test_what_names_no_pass_is_refused(
    events: list[Event], phases: list[str], step: str | None, reason: str, tmp_path: Path
) -> None:
    with pytest.raises(CalibError, match=reason):
        ranges(tmp_path, events, phases, step)


def test_a_pass_that_waits_for_another_does_not_count_the_wait(tmp_path: Path) -> None:
    """Two passes issued at once: the device runs one after the other."""
    events = [span("decode", 0.0, 9.0), *pair(1, 1.0, 10.0, 40.0)]
    events += [span("decode", 10.0, 9.0), *pair(2, 11.0, 50.0, 40.0)]
    trace, links = opened(tmp_path, events)
    passes = Passes(links)
    found = [passes.of(e) for e in phase_ranges(trace, links.host, PHASES)["decode"]]
    assert [p.seconds for p in found] == pytest.approx([50e-6, 40e-6])
    assert [len(p.device) for p in found] == [1, 1]


def test_a_gradient_is_counted_whatever_thread_it_runs_in(tmp_path: Path) -> None:
    node = event("cpu_op", "autograd::engine::evaluate_function: MmBackward0", 3.0, 1.0, tid=2)
    events = [span("decode", 0.0, 9.0), *pair(1, 1.0, 10.0, 5.0), node]
    trace, links = opened(tmp_path, events)
    [only] = phase_ranges(trace, links.host, PHASES)["decode"]
    assert Passes(links).of(only).backward == 1


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    begins=st.lists(st.integers(0, 200), min_size=1, max_size=20),
    window=st.tuples(st.integers(0, 200), st.integers(1, 80)),
)
def test_what_belongs_to_a_pass_is_what_lies_in_it(
    begins: list[int], window: tuple[int, int], tmp_path: Path
) -> None:
    begin, length = window
    events = [event("cpu_op", "aten::mm", float(b), 5.0) for b in begins]
    trace, links = opened(tmp_path, [*events, span("decode", float(begin), float(length))])
    [only] = phase_ranges(trace, links.host, PHASES)["decode"]
    expected = sum(begin <= b and b + 5 <= begin + length for b in begins)
    inside = Passes(links).of(only).host
    # Operators that begin within another are cut at its end, and so may come to lie in the range.
    assert len(inside) >= expected
    assert all(only.begin_ns <= e.begin_ns and e.end_ns <= only.end_ns for e in inside)


def test_eighty_thousand_events_in_two_hundred_passes(tmp_path: Path) -> None:
    """Seconds where it was 13: what belongs to a pass is found by bisection."""
    events = []
    for number in range(200):
        begin = 1000.0 * number
        events.append(span("decode", begin, 999.0))
        for i in range(100):
            at = begin + 9.0 * i
            events += pair(1000 * number + i + 1, at + 1, at + 5, 8.0)
            events.append(event("cpu_op", "aten::view", at + 7.0, 0.5))
    trace, links = opened(tmp_path, events)
    assert len(trace.events) == 80_200
    begin = time.process_time()
    passes = Passes(link(trace.events))
    found = [passes.of(e) for e in phase_ranges(trace, links.host, PHASES)["decode"]]
    assert {len(p.host) for p in found} == {200} and {len(p.device) for p in found} == {100}
    assert time.process_time() - begin < 6.0
