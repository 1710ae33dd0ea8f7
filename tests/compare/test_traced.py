"""Estimates beside a recorded trace: whole, in part, with frames, and of something else."""

from __future__ import annotations

import json
import re
from copy import deepcopy
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from benchmarks.hardening.made_trace import Event, make, subject
from calib.compare.clock.recorded import read_trace
from calib.compare.clock.traced import compare_recorded
from calib.errors import CalibError
from calib.hardware.datasheet import load_hardware
from calib.steps.notes import trace_notes

Tables = tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame, dict[str, Any]]
LLAMA, VIT = subject("llama"), subject("vit")


def compared(folder: Path, trace: Event, of: Any = LLAMA) -> tuple[Tables, list[str]]:
    """The tables, and all that is said."""
    path = folder / "trace.json"
    path.write_text(json.dumps(trace))
    recording = read_trace(path, of.modules, of.repeat, of.workload, of.hardware)
    tables = compare_recorded(of.operators, of.modules, of.components, recording)
    return tables, [*recording.notes, *trace_notes(tables[-1])]


def measured(components: pd.DataFrame) -> dict[str, float]:
    known = components[components["measured_s"].notna()]
    return dict(zip(known["component"], known["measured_s"], strict=True))


@pytest.mark.parametrize("modules", [True, False])
def test_every_figure_of_a_healthy_trace_is_found(modules: bool, tmp_path: Path) -> None:
    """With modules by their paths; without, all operators of a phase as one sequence."""
    made = make(LLAMA, modules, passes=2)
    (operators, table, components, about), said = compared(tmp_path, made.trace)
    assert not said and not about["refused"]
    assert measured(components) == pytest.approx({**made.walls, "total": sum(made.walls.values())})
    for phase, kinds in made.kernels.items():
        rows = operators[operators["phase"] == phase]
        assert rows.groupby("kind")["measured_s"].sum().to_dict() == pytest.approx(kinds)
        root = table[(table["phase"] == phase) & (table["path"] == "")].iloc[0]
        assert root["measured_s"] == pytest.approx(sum(kinds.values()))
        assert root["error"] == pytest.approx(root["estimate_s"] / root["measured_s"] - 1)
    clocks = {(c["phase"], c["what"]): c["measured_s"] for c in about["clocks"]}
    assert clocks["decode", "wall"] == pytest.approx(made.walls["decode"])


def test_a_trace_of_only_a_prefill_fills_its_columns(tmp_path: Path) -> None:
    trace = deepcopy(make(LLAMA).trace)
    decode = next(e for e in trace["traceEvents"] if e["name"] == "decode")
    kept = [e for e in trace["traceEvents"] if e["ts"] < decode["ts"]]
    (operators, _, components, _), _ = compared(tmp_path, {**trace, "traceEvents": kept})
    assert set(measured(components)) == {"prefill"}
    assert operators.groupby("phase")["measured_s"].count().to_dict() == {
        "decode": 0,
        "prefill": len(LLAMA.operators) // 2,
    }


def test_frames_leave_the_kernels_and_not_the_wall(tmp_path: Path) -> None:
    made = make(LLAMA)
    frame = {"cat": "python_function", "name": "x.py(1): f", "ts": 1e6, "dur": 1.0, "ph": "X"}
    trace = {**made.trace, "traceEvents": [*made.trace["traceEvents"], frame]}
    (operators, table, components, about), said = compared(tmp_path, trace)
    assert not measured(components) and operators["measured_s"].notna().all()
    assert table["measured_s"].notna().any()
    assert [c["measured_s"] for c in about["clocks"] if c["what"] == "wall"] == [None, None]
    assert "slows the host down" in said[0] and len(said) == 3


def refused(folder: Path, trace: Event, of: Any = LLAMA) -> str:
    (operators, table, components, about), said = compared(folder, trace, of)
    assert set(about["refused"]) == set(about["repeats"])
    assert not measured(components) and operators["measured_s"].isna().all()
    assert table["measured_s"].isna().all() and about["clocks"] == []
    return " ".join(said)


def test_another_model_is_refused(tmp_path: Path) -> None:
    trace = deepcopy(make(LLAMA).trace)
    names = {"prefill": "vision", "decode": "other"}
    for event in trace["traceEvents"]:
        event["name"] = names.get(event["name"], event["name"])
    assert "100% of the time of its products is of others" in refused(tmp_path, trace, VIT)


@pytest.mark.parametrize("other", [{"batch": 3}, {"hidden": 128}])
def test_other_sizes_are_refused(other: dict[str, int], tmp_path: Path) -> None:
    said = refused(tmp_path, make(subject("llama", **other)).trace)
    assert re.search(r"of its products is of others than the model's: \S+ of \[.*, expected", said)


def test_another_type_is_refused(tmp_path: Path) -> None:
    text = json.dumps(make(LLAMA).trace).replace("c10::BFloat16", "float")
    assert "bfloat16" in refused(tmp_path, json.loads(text))


def test_without_shapes_it_is_said_that_they_are_not_known(tmp_path: Path) -> None:
    trace = deepcopy(make(subject("llama", batch=3)).trace)
    for event in trace["traceEvents"]:
        event["args"].pop("Input Dims", None)
    _, said = compared(tmp_path, trace)
    assert said[0].startswith("Of prefill the trace records no shapes") and len(said) == 2


def test_several_passes_in_a_range_are_refused(tmp_path: Path) -> None:
    trace = deepcopy(make(VIT, passes=2).trace)
    first, second = (e for e in trace["traceEvents"] if e["name"] == "vision")
    first["dur"] = second["ts"] + second["dur"] - first["ts"]
    trace["traceEvents"].remove(second)
    said = refused(tmp_path, trace, VIT)
    assert "holds 2.0 times as many operators as a pass of the model" in said


def test_a_gradient_is_refused(tmp_path: Path) -> None:
    trace = deepcopy(make(VIT).trace)
    span = next(e for e in trace["traceEvents"] if e["name"] == "vision")
    name = "autograd::engine::evaluate_function: MmBackward0"
    trace["traceEvents"].append({**span, "name": name, "cat": "cpu_op", "dur": 1.0, "tid": 2})
    assert "1 backward nodes ran in it" in refused(tmp_path, trace, VIT)


A100 = {"computeMajor": 8, "numSms": 108, "totalGlobalMem": 84974239744}


@pytest.mark.parametrize(
    ("card", "reason"),
    [
        ({"name": "NVIDIA H200"}, "expected NVIDIA H100 80GB HBM3, .*; or give \\+hw=h200"),
        (
            {"name": "NVIDIA A100-PG509-200", **A100, "totalGlobalMem": 42297524224},
            "A100-PG509-200: expected NVIDIA H100 80GB HBM3, .*; or give \\+hw=a100_pcie_40gb$",
        ),
        ({"name": "NVIDIA A100-X", **A100}, "; or give \\+hw=a100 or \\+hw=a100_pcie_80gb$"),
        (
            {"name": "NVIDIA Unknown", "totalGlobalMem": None},
            "; or, where it is such a card, give \"hw.device_names=\\['NVIDIA Unknown'\\]\"$",
        ),
        ({"name": "AMD Unknown", "computeMinor": 4}, "on AMD Unknown: .* which hw=h100 is$"),
        ({"name": " "}, "was recorded on"),
    ],
)
def test_another_card_is_refused(card: dict[str, Any], reason: str, tmp_path: Path) -> None:
    trace = deepcopy(make(VIT).trace)
    trace["deviceProperties"][0] |= card
    with pytest.raises(CalibError, match=reason):
        compared(tmp_path, trace, VIT)


def test_a_card_of_another_name_and_the_same_figures_is_taken(tmp_path: Path) -> None:
    trace = deepcopy(make(VIT).trace)
    trace["deviceProperties"][0]["name"] = "NVIDIA H100 of a cloud"
    tables, said = compared(tmp_path, trace, VIT)
    assert "taken for h100" in said[0] and measured(tables[2])


def test_a_trace_of_a_card_is_none_of_a_cpu(tmp_path: Path) -> None:
    path = tmp_path / "trace.json"
    path.write_text(json.dumps(make(VIT).trace))
    with pytest.raises(CalibError, match="was recorded on NVIDIA H100 80GB HBM3: expected a trace"):
        read_trace(path, VIT.modules, VIT.repeat, {}, load_hardware("cpu"))
