"""The trace that Perfetto opens: keys, units, nesting, order, and the times of the replay."""

from __future__ import annotations

import itertools
import json

import pandas as pd
import pytest
from report_record import run

from calib.estimates.timeline import launch_table
from calib.report.trace_file import DEVICE, HOST, chrome_trace
from calib.samples.host_costs import GRAPH, host_costs


@pytest.fixture(scope="module", params=["predicted", "measured"])
def trace(request: pytest.FixtureRequest) -> tuple[pd.DataFrame, list[dict]]:
    launches = run(request.param).launches
    assert launches is not None
    text = json.dumps(chrome_trace(launches, "card", {"decode": 16}), allow_nan=False)
    assert len(text) < 4e6
    return launches, json.loads(text)["traceEvents"]


def complete(events: list[dict]) -> list[dict]:
    return [e for e in events if e["ph"] == "X"]


def test_events_have_what_the_format_requires(trace) -> None:
    _, events = trace
    assert {e["ph"] for e in events} <= {"X", "M", "s", "f"}
    for event in complete(events):
        assert event["name"]
        assert event["ts"] >= 0
        assert as_perfetto_reads(event["dur"]) > 0
        assert {"cat", "pid", "tid", "args"} <= set(event)
    tracks = {(e["pid"], e["tid"]) for e in complete(events)}
    named = {(e["pid"], e["tid"]) for e in events if e["name"] == "thread_name"}
    assert tracks == named
    processes = {e["pid"]: e["args"]["name"] for e in events if e["name"] == "process_name"}
    assert processes == {HOST: "host", DEVICE: "card"}


def as_perfetto_reads(microseconds: float) -> int:
    """``CoerceToTs`` of its trace processor: whole nanoseconds, the rest cut off."""
    return int(microseconds * 1000.0)


def overlaps(events: list[dict]) -> list[dict]:
    """Events that begin within another of their track and end after it."""
    begin_end = [
        (e["pid"], e["tid"], as_perfetto_reads(e["ts"]), as_perfetto_reads(e["dur"]), e)
        for e in complete(events)
    ]
    begin_end.sort(key=lambda one: (*one[:3], -one[3]))
    found = []
    for _, track in itertools.groupby(begin_end, key=lambda one: one[:2]):
        inside: list[int] = []
        for *_, start, lasts, event in track:
            while inside and inside[-1] <= start:
                inside.pop()
            if inside and start + lasts > inside[-1]:
                found.append(event)
            inside.append(start + lasts)
    return found


def test_events_of_a_track_are_nested_or_apart(trace) -> None:
    _, events = trace
    assert overlaps(events) == []
    inner = next(e for e in complete(events) if e["cat"] == "launch")
    longer = {**inner, "dur": 1e9}
    assert overlaps([*events, {**longer, "ts": inner["ts"] + inner["dur"] / 2}])


@pytest.mark.parametrize("stretch", [1.0, 1.37, 97.3])
def test_what_is_nested_stays_so_in_whole_nanoseconds(stretch: float) -> None:
    """At any scale of times: which fractions are cut off is chance."""
    launches = run("predicted").launches.copy()
    times = ["issue_s", "issued_s", "wait_s", "start_s", "end_s"]
    launches[times] *= stretch
    events = chrome_trace(launches, "card")["traceEvents"]
    assert overlaps(events) == []
    kernels = [e for e in complete(events) if e["cat"] == "kernel"]
    first = launches[launches["phase"] == "vision"]["start_s"]
    for event, start in zip(kernels, first, strict=False):
        assert as_perfetto_reads(event["ts"]) == round(start * 1e9)


def test_processes_and_tracks_are_named_before_their_events(trace) -> None:
    _, events = trace
    first = next(i for i, e in enumerate(events) if e["ph"] == "X")
    assert all(e["ph"] != "M" for e in events[first:])
    for event in events:
        assert all(type(event[name]) is int for name in ("pid", "tid") if name in event)
    assert all(isinstance(e["args"]["name"], str) for e in events[:first])


def phases(events: list[dict]) -> list[dict]:
    return [e for e in complete(events) if e["cat"] == "phase" and e["pid"] == HOST]


def test_phases_follow_one_another_each_once(trace) -> None:
    launches, events = trace
    assert [e["name"] for e in phases(events)] == ["vision", "prefill", "decode (1 of 16)"]
    for before, after in itertools.pairwise(phases(events)):
        assert before["ts"] + before["dur"] == pytest.approx(after["ts"], abs=2e-3)
    assert set(launches["phase"]) == {"vision", "prefill", "decode"}


def test_times_are_those_of_the_replay_in_microseconds(trace) -> None:
    launches, events = trace
    kernels = [e for e in complete(events) if e["cat"] == "kernel"]
    issued = [e for e in complete(events) if e["cat"] == "launch"]
    assert len(kernels) == len(issued) == len(launches)
    begins = dict(zip(launches["phase"].unique(), (e["ts"] for e in phases(events)), strict=True))
    began = launches["phase"].map(begins)
    for event, begin, start, end in zip(
        kernels, began, launches["start_s"], launches["end_s"], strict=True
    ):
        assert event["ts"] == pytest.approx(begin + start * 1e6, abs=2e-3)
        assert event["ts"] + event["dur"] == pytest.approx(begin + end * 1e6, abs=4e-3)
    for before, after in itertools.pairwise(kernels):
        assert before["ts"] + before["dur"] <= after["ts"] + 1e-6
    for host, device in zip(issued, kernels, strict=True):
        assert device["args"]["module"] == host["args"]["module"]
        assert device["name"] == host["name"]


def test_kernels_are_named_by_operator_and_path(trace) -> None:
    launches, events = trace
    names = {e["name"] for e in complete(events) if e["cat"] == "kernel"}
    rows = launches[launches["path"] != ""]
    assert set(rows["kind"] + " " + rows["path"]) <= names


def flow_ends(events: list[dict]) -> tuple[dict[int, dict], dict[int, dict]]:
    """The events that begin a flow, and those that end one, by its id."""
    begun = [e for e in events if e["ph"] == "s"]
    ended = [e for e in events if e["ph"] == "f"]
    assert len({e["id"] for e in begun}) == len(begun)
    return {e["id"]: e for e in begun}, {e["id"]: e for e in ended}


def slice_at(events: list[dict], flow: dict, category: str) -> dict:
    """The slice of a track that begins where the flow does, which is what it is bound to."""
    (found,) = [
        e
        for e in complete(events)
        if (e["cat"], e["pid"], e["tid"], e["ts"])
        == (category, flow["pid"], flow["tid"], flow["ts"])
    ]
    return found


def test_arrows_lead_from_a_launch_to_its_kernel() -> None:
    launches = run("predicted").launches
    assert launches is not None
    events = chrome_trace(launches, "card")["traceEvents"]
    begun, ended = flow_ends(events)
    assert begun.keys() == ended.keys() and len(begun) == len(launches)
    for number in list(begun)[::97]:
        launch = slice_at(events, begun[number], "launch")
        kernel = slice_at(events, ended[number], "kernel")
        assert launch["name"] == kernel["name"] and ended[number]["bp"] == "e"
        assert launch["ts"] + launch["dur"] <= kernel["ts"] + 1e-6


def test_a_cpu_that_computes_itself_has_no_arrows() -> None:
    launches = run("measured").launches
    assert launches is not None
    assert flow_ends(chrome_trace(launches, "cpu")["traceEvents"]) == ({}, {})


def test_a_graph_is_one_launch_and_no_slice_is_empty() -> None:
    record = run("predicted")
    repeats = {"vision": 1, "prefill": 1, "decode": 16}
    costs = host_costs([], record.hardware["name"])
    launches = launch_table(record.operators, repeats, costs, GRAPH)
    events = chrome_trace(launches, "card")["traceEvents"]
    assert all(as_perfetto_reads(e["dur"]) > 0 for e in complete(events))
    issued = [e for e in complete(events) if e["cat"] == "launch"]
    stops = int((launches["wait_s"] > launches["issued_s"]).sum())
    assert 3 <= len(issued) <= 3 + stops
    kernels = [e for e in complete(events) if e["cat"] == "kernel"]
    assert len(kernels) == len(launches)
    begun, ended = flow_ends(events)
    assert len(begun) == len(ended) == len(issued)
    assert slice_at(events, ended[0], "kernel") == kernels[0]
    assert overlaps(events) == []


def test_modules_enclose_their_launches(trace) -> None:
    launches, events = trace
    modules = [e for e in complete(events) if e["cat"] == "module" and e["pid"] == HOST]
    paths = {e["args"]["module"] for e in modules}
    expected = {path for path in launches["path"] if path}
    assert expected <= paths
    assert "model.language_model.layers.3" in paths
    for event in [e for e in complete(events) if e["cat"] == "launch"][::50]:
        around = {
            m["args"]["module"]
            for m in modules
            if m["ts"] <= event["ts"] and event["ts"] + event["dur"] <= m["ts"] + m["dur"] + 1e-6
        }
        assert event["args"]["module"] in around | {""}


def test_a_wait_is_seen_on_the_host() -> None:
    launches = run("predicted").launches.head(2).copy()
    launches.loc[0, "wait_s"] = launches.loc[0, "issued_s"] + 5e-6
    events = complete(chrome_trace(launches, "card")["traceEvents"])
    (wait,) = [e for e in events if e["cat"] == "sync"]
    assert wait["dur"] == pytest.approx(5.0)
