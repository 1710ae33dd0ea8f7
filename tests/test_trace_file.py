"""The trace that Perfetto opens: keys, units, nesting, order, and the times of the replay."""

from __future__ import annotations

import itertools
import json

import pandas as pd
import pytest
from report_record import run

from calib.report.trace_file import DEVICE, HOST, chrome_trace


@pytest.fixture(scope="module", params=["predicted", "measured"])
def trace(request: pytest.FixtureRequest) -> tuple[pd.DataFrame, list[dict]]:
    launches = run(request.param).launches
    assert launches is not None
    text = json.dumps(chrome_trace(launches, "card"), allow_nan=False)
    assert len(text) < 3e6
    return launches, json.loads(text)["traceEvents"]


def complete(events: list[dict]) -> list[dict]:
    return [e for e in events if e["ph"] == "X"]


def test_events_have_what_the_format_requires(trace) -> None:
    _, events = trace
    assert {e["ph"] for e in events} == {"X", "M"}
    for event in complete(events):
        assert event["name"]
        assert event["ts"] >= 0
        assert event["dur"] >= 0
        assert {"cat", "pid", "tid", "args"} <= set(event)
    tracks = {(e["pid"], e["tid"]) for e in complete(events)}
    named = {(e["pid"], e["tid"]) for e in events if e["name"] == "thread_name"}
    assert tracks == named
    processes = {e["pid"]: e["args"]["name"] for e in events if e["name"] == "process_name"}
    assert processes == {HOST: "host", DEVICE: "card"}


def test_events_of_a_track_are_nested_or_apart(trace) -> None:
    _, events = trace
    by_track = sorted(complete(events), key=lambda e: (e["pid"], e["tid"], e["ts"], -e["dur"]))
    for _, track in itertools.groupby(by_track, key=lambda e: (e["pid"], e["tid"])):
        inside: list[float] = []
        for event in track:
            end = event["ts"] + event["dur"]
            while inside and inside[-1] <= event["ts"] + 1e-6:
                inside.pop()
            assert not inside or end <= inside[-1] + 1e-6, event
            inside.append(end)


def test_times_are_those_of_the_replay_in_microseconds(trace) -> None:
    launches, events = trace
    kernels = [e for e in complete(events) if e["cat"] == "kernel"]
    issued = [e for e in complete(events) if e["cat"] == "launch"]
    assert len(kernels) == len(issued) == len(launches)
    for event, start, end in zip(kernels, launches["start_s"], launches["end_s"], strict=True):
        assert event["ts"] == pytest.approx(start * 1e6, abs=1e-3)
        assert event["ts"] + event["dur"] == pytest.approx(end * 1e6, abs=2e-3)
    for before, after in itertools.pairwise(kernels):
        assert before["ts"] + before["dur"] <= after["ts"] + 1e-6
    for host, device in zip(issued, kernels, strict=True):
        assert device["args"]["module"] == host["args"]["module"]


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
