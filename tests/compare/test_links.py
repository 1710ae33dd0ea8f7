"""Kernels find their operators, and times on a stream add up to what it was busy."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

from events_made import Event, event, pair, write
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from calib.compare.clock.events import NONE, read_events
from calib.compare.clock.links import Links, link

MANY = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def linked(folder: Path, events: list[Event]) -> Links:
    return link(read_events(write(folder, events)).events)


def names(links: Links) -> list[str | None]:
    """The operators of the device's events, in their order."""
    name = {e.number: e.label for e in links.host if e.category == "cpu_op"}
    return [name.get(e.number) for e in links.device]


def two() -> list[Event]:
    return [*pair(1, 0.0, 10.0, 9.0), *pair(2, 10.0, 20.0, 9.0, "aten::add")]


def test_both_ids_agree(tmp_path: Path) -> None:
    links = linked(tmp_path, two())
    assert names(links) == ["aten::mm", "aten::add"] and not links.notes
    assert [e.issued_ns for e in links.device] == [1000, 11000]


def test_correlation_goes_before_external_ids_of_another_numbering(tmp_path: Path) -> None:
    events = two()
    events[0]["args"]["External id"], events[3]["args"]["External id"] = 2, 1
    links = linked(tmp_path, events)
    assert names(links) == ["aten::mm", "aten::add"]
    assert links.notes[0].startswith("The External id of its kernels is of another numbering")


def test_external_ids_serve_where_there_are_no_calls(tmp_path: Path) -> None:
    links = linked(tmp_path, [e for e in two() if e["cat"] != "cuda_runtime"])
    assert names(links) == ["aten::mm", "aten::add"] and not links.notes


def test_the_innermost_operator_launches(tmp_path: Path) -> None:
    outer = event("cpu_op", "aten::linear", -1.0, 8.0, external=9)
    assert names(linked(tmp_path, [outer, *two()])) == ["aten::mm", "aten::add"]


def test_a_replayed_graph_names_no_operator(tmp_path: Path) -> None:
    call = event("cuda_runtime", "cudaGraphLaunch", 3.0, 1.0, correlation=5)
    nodes = [
        event("kernel", "n", 40.0 + 5 * i, 5.0, tid=7, stream=7, correlation=5) for i in range(3)
    ]
    links = linked(tmp_path, [*two(), call, *nodes])
    assert names(links) == ["aten::mm", "aten::add", None, None, None]
    assert {e.issued_ns for e in links.device[2:]} == {3000}
    assert links.notes[0].startswith("3 of 5 events of the device were replayed by a graph")


def test_a_kernel_before_its_call_is_not_believed(tmp_path: Path) -> None:
    events = [*pair(1, 1000.0, 10.0, 9.0), *pair(2, 1010.0, 1020.0, 9.0)]
    links = linked(tmp_path, events)
    assert [e.number == NONE for e in links.device] == [True, False]
    assert links.notes[0].startswith("1 event of the device began before the call")


def test_a_launch_without_a_kernel_is_counted(tmp_path: Path) -> None:
    links = linked(tmp_path, two()[:-1])
    assert links.notes == (
        "1 of 2 launches without a kernel in the trace: what these took is not known.",
    )


def test_one_id_that_differs_is_said(tmp_path: Path) -> None:
    events = [e for i in range(4) for e in pair(i + 1, 10.0 * i, 10.0 * i + 5, 4.0)]
    events[1]["ts"] = 900.0  # the first call
    events[2]["ts"] = 950.0
    links = linked(tmp_path, events)
    assert names(links) == ["aten::mm"] * 4
    assert links.notes[0].startswith("By correlation 1 event of the device lay under one operator")


@MANY
@given(
    spans=st.lists(
        st.tuples(st.integers(0, 500), st.integers(0, 300), st.integers(0, 1)), min_size=1
    )
)
def test_times_on_a_stream_add_up_to_what_it_was_busy(
    spans: list[tuple[int, int, int]], tmp_path: Path
) -> None:
    kernels = [
        event("kernel", "k", float(begin), float(length), tid=7, device=0, stream=stream)
        for begin, length, stream in spans
    ]
    found = linked(tmp_path, [event("cpu_op", "aten::mm", 0.0, 1.0), *kernels]).device
    for stream in (0, 1):
        here = [e for e in found if e.stream == (0, stream)]
        assert all(a.end_ns <= b.begin_ns for a, b in pairwise(here))
        instants = {t for b, n, s in spans if s == stream for t in range(b, b + n)}
        busy = sum(e.length_ns for e in here) / 1000
        # A short one within a long one ends the long one: never more than the stream was busy.
        assert busy <= len(instants)
