"""The gate: what is no trace is refused in one sentence, and what is one is read as it is."""

from __future__ import annotations

import gzip
import json
import math
from pathlib import Path
from typing import Any

import pytest
from events_made import event, pair, write
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from calib.compare.clock.events import TraceFile, overload, read_events, shown
from calib.errors import CalibError

SPAN = event("user_annotation", "vision", 0.0, 100.0)
HEALTHY = [SPAN, *pair(1, 1.0, 10.0, 9.0), *pair(2, 11.0, 20.0, 9.0)]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=6,
)
MANY = settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def read(path: Path) -> TraceFile | None:
    """The trace, or None where it is refused in one line that names the file."""
    try:
        return read_events(path)
    except CalibError as error:
        assert str(error).startswith(f"measured = {str(path)!r}: ") and "expected" in str(error)
        assert "\n" not in str(error)
        return None


def test_list_form_and_object_form_are_the_same(tmp_path: Path) -> None:
    whole = read_events(write(tmp_path, HEALTHY)).events
    (tmp_path / "list.json").write_text(json.dumps(HEALTHY))
    assert read_events(tmp_path / "list.json").events == whole
    assert len(whole) == len(HEALTHY)


@pytest.mark.parametrize("value", [None, 0, -1, [], {}, "x", True, 1.5])
def test_an_id_that_is_none_is_missing(value: Any, tmp_path: Path) -> None:
    kernel = event("kernel", "gemm", 20.0, 5.0, external=value, correlation=value)
    found = read_events(write(tmp_path, [*HEALTHY, kernel])).events
    assert [e.external for e in found if e.label == "gemm"] == [1, 2, None]


@pytest.mark.parametrize(
    ("key", "value", "accepted"),
    [
        ("ts", math.inf, "a finite number"),
        ("ts", math.nan, "a finite number"),
        ("ts", None, "a finite number"),
        pytest.param("ts", 10**400, "a finite number", id="huge"),
        ("ts", 1e18, "a day after the first"),
        ("dur", -5, "from 0 to 3.6e"),
        ("dur", 1e12, "from 0 to 3.6e"),
        ("dur", True, "from 0 to 3.6e"),
        ("name", 3, "a text"),
        ("cat", None, "a text"),
    ],
)
def test_a_value_that_cannot_be_is_named(
    key: str, value: Any, accepted: str, tmp_path: Path
) -> None:
    events = [*HEALTHY, {**HEALTHY[3], key: value}]
    with pytest.raises(CalibError, match=rf"traceEvents\[7\]: {key} = .*: expected .*{accepted}"):
        read_events(write(tmp_path, events))


def test_a_cut_gzip_is_refused_wherever_it_is_cut(tmp_path: Path) -> None:
    packed = gzip.compress(json.dumps({"traceEvents": HEALTHY}).encode())
    for length in range(0, len(packed), 7):
        path = tmp_path / "cut.json.gz"
        path.write_bytes(packed[:length])
        assert read(path) is None


def test_json_that_is_nested_too_deep_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "deep.json"
    path.write_text('{"traceEvents": ' + "[" * 200_000)
    with pytest.raises(CalibError, match="is none"):
        read_events(path)


@MANY
@given(place=st.integers(0, len(HEALTHY) - 1), key=st.sampled_from(sorted(SPAN)), value=JSON)
def test_any_value_in_any_place_is_read_or_refused(
    place: int, key: str, value: Any, tmp_path: Path
) -> None:
    events = [dict(e) for e in HEALTHY]
    events[place][key] = value
    read(write(tmp_path, events))


@MANY
@given(args=st.dictionaries(st.sampled_from(["External id", "Input Dims", "Input type"]), JSON))
def test_any_arguments_are_read(args: dict[str, Any], tmp_path: Path) -> None:
    found = read_events(write(tmp_path, [{**HEALTHY[1], "args": args}])).events
    assert all(isinstance(t, str) for t in found[0].types)


@MANY
@given(value=JSON)
def test_any_json_is_read_or_refused(value: Any, tmp_path: Path) -> None:
    path = tmp_path / "any.json"
    path.write_text(json.dumps(value))
    read(path)
    read(write(tmp_path, HEALTHY, deviceProperties=value))


@pytest.mark.parametrize(
    "name", ["load_library::__self__", "__class__::mro", "aten::mm.out", "a::b::c", "::", "aten::"]
)
def test_a_name_is_looked_up_and_never_run(name: str) -> None:
    assert overload(name) == ""


def test_what_is_shown_is_one_line() -> None:
    assert shown("a\nb\x1b[31m\u2028c") == "a b [31m c"
    assert shown("x" * 99) == "x" * 57 + "..."
