"""What the profiler recorded, as operators under the module that called them: hand-made events."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest

from calib.errors import CalibError
from calib.measure.reference import operators as recorded
from calib.measure.reference.operators import Node, event_seconds, kind_of, operators_of, tree


@pytest.mark.parametrize(
    ("aten", "kind"),
    [
        ("addmm", "matmul"),
        ("add.Tensor", "elementwise"),
        ("div_.Tensor", "elementwise"),
        ("copy_", "copy"),
        ("topk", "other"),
        ("transformers::grouped_mm_fallback", "grouped_matmul"),
    ],
)
def test_kinds(aten: str, kind: str) -> None:
    assert kind_of(aten) == kind


@dataclass
class Recorded:
    """An event as the profiler gives it."""

    what: str
    start: int
    end: int
    thread: int = 1
    correlation: int = 0
    linked: int = 0
    device: str = "CPU"

    def name(self) -> str:
        return self.what.partition("/")[0]

    def overload_name(self) -> str:
        return self.what.partition("/")[2]

    def start_ns(self) -> int:
        return self.start

    def duration_ns(self) -> int:
        return self.end - self.start

    def start_thread_id(self) -> int:
        return self.thread

    def correlation_id(self) -> int:
        return self.correlation

    def linked_correlation_id(self) -> int:
        return self.linked

    def device_type(self) -> Any:
        return SimpleNamespace(name=self.device)

    def shapes(self) -> list[list[int]]:
        return [[2, 3], []]

    def dtypes(self) -> list[str]:
        return ["c10::BFloat16", "Scalar"]


EVENTS = [
    Recorded("calib:a", 0, 100),
    Recorded("calib:a.b", 10, 60, correlation=1),
    Recorded("aten::linear", 12, 50),
    Recorded("aten::t", 13, 14),
    Recorded("aten::mm", 20, 48, correlation=2),
    Recorded("aten::empty/memory_format", 21, 22),
    Recorded("aten::add/Tensor", 70, 80, correlation=3),
    Recorded("aten::mm", 25, 30, thread=2),
    Recorded("kernel", 200, 1200, device="CUDA", linked=2),
    Recorded("kernel", 1200, 1300, device="CUDA", linked=2),
    Recorded("kernel", 1300, 1307, device="CUDA", linked=3),
]


def test_operators_go_to_the_innermost_range() -> None:
    found = list(operators_of(EVENTS, on_device=False))
    assert [(o.path, o.aten) for o in found] == [("a.b", "mm"), ("a", "add.Tensor")]
    assert [o.seconds for o in found] == pytest.approx([28e-9, 10e-9])
    assert [o.nested for o in found] == [1, 0]
    assert (found[0].shapes, found[0].dtypes) == ("[2,3]", "BFloat16")


def test_on_a_device_an_operator_takes_as_long_as_its_kernels() -> None:
    found = list(operators_of(EVENTS, on_device=True))
    assert [o.seconds for o in found] == pytest.approx([1100e-9, 7e-9])


def test_events_that_touch_are_not_nested() -> None:
    events = [Recorded("calib:a", 0, 10), Recorded("aten::mm", 10, 20), Recorded("x", 12, 20)]

    def names(nodes: list[Node]) -> list[Any]:
        return [(n.name, names(n.children)) for n in nodes]

    assert names(tree(events)) == [("calib:a", []), ("aten::mm", [("x", [])])]


def test_a_profile_without_modules_is_an_error() -> None:
    with pytest.raises(CalibError, match="recorded no module"):
        tree([Recorded("aten::mm", 0, 1)])


def test_recording_an_event_costs_less_than_a_hundred_microseconds() -> None:
    assert 0 <= event_seconds(5) < 1e-4


def test_profiling_warns_of_nothing() -> None:
    """In a process of its own: torch warns once a process."""
    code = (
        "import torch; from calib.measure.reference.operators import Ranges, profile_pass; "
        "from calib.measure.reference.passes import observed; "
        "m = torch.nn.Linear(4, 4)\n"
        "for _ in range(2):\n"
        "  with observed(m, Ranges()): found = profile_pass(lambda: m(torch.ones(2, 4)), 'cpu')\n"
        "print(len(found.operators), found.events)"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stderr == ""
    operators, events = map(int, done.stdout.split())
    assert 1 <= operators <= 3 and operators < events < 60


def test_a_cards_first_session_is_thrown_away(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of each card, once a process; a processor's is as good as any."""
    runs: list[str] = []

    def session(run: Any, device: str, on_device: bool) -> tuple[float, list[Any]]:
        run()
        return float(len(runs)), [Recorded(f"calib:layer{len(runs)}", 0, 9), MM]

    monkeypatch.setattr(recorded, "_session", session)
    monkeypatch.setattr(recorded, "_PROFILED", set())
    monkeypatch.setattr(recorded, "operators_of", lambda events, on_device: [events[0].name()])
    found = [
        recorded.profile_pass(lambda d=device: runs.append(d), device).seconds
        for device in ("cuda:0", "cuda:0", "cuda:1", "cpu")
    ]
    assert runs == ["cuda:0"] * 3 + ["cuda:1"] * 2 + ["cpu"]
    assert found == [2.0, 3.0, 5.0, 6.0]


MM = Recorded("aten::mm", 1, 2)
