"""Traces of torch.profiler as the measured column: real ones, made here, and broken ones."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from torch.profiler import ProfilerActivity, profile, record_function

from calib.compare.clock.events import read_events
from calib.compare.clock.measured import join_modules, join_operators
from calib.compare.clock.recorded import match_modules, read_trace
from calib.compare.clock.traced import compare_recorded
from calib.errors import CalibError
from calib.estimates.modules import module_table
from calib.estimates.sums import component_table
from calib.estimates.tables import operator_table
from calib.fit.calibration import uncalibrated
from calib.hardware.datasheet import load_hardware
from calib.measure.reference.miniature import MINIATURE
from calib.measure.reference.model import build_reference
from calib.measure.reference.operators import Ranges, quiet
from calib.measure.reference.passes import Passes, make_inputs, observed
from model.deepseek_ocr import DeepseekOCRModel
from model.workload import Workload

WORKLOAD = Workload("miniature", side=64, decode_steps=2, prompt_tokens=32)


@contextmanager
def recording(path: Path, **options: Any) -> Iterator[None]:
    quiet()
    with profile(activities=[ProfilerActivity.CPU], record_shapes=True, **options) as profiler:
        yield
    profiler.export_chrome_trace(str(path))


@pytest.fixture(scope="module")
def passes() -> Passes:
    reference = build_reference(MINIATURE, WORKLOAD)
    made = Passes(reference, WORKLOAD, make_inputs(reference, WORKLOAD))
    with torch.no_grad():
        made.vision()
        made.step(made.prefill())
    return made


@pytest.fixture(scope="module", params=["nn.Module events", "named ranges"])
def trace(request: pytest.FixtureRequest, passes: Passes, tmp_path_factory: Any) -> Path:
    """One pass of each phase and two decode steps, their modules recorded either way."""
    path = Path(tmp_path_factory.mktemp("trace")) / "trace.json"
    named = request.param == "named ranges"
    ranges = Ranges() if named else None
    options = {} if named else {"with_modules": True, "with_stack": True}
    with torch.no_grad(), ExitStack() as stack:
        stack.enter_context(observed(passes.reference.model, ranges) if ranges else nullcontext())
        stack.enter_context(recording(path, **options))
        with record_function("vision"):
            passes.vision(ranges)
        with record_function("prefill"):
            state = passes.prefill()
        for _ in range(2):
            with record_function("decode"):
                state = passes.step(state)
    return path


@pytest.fixture(scope="module")
def tables() -> tuple[pd.DataFrame, pd.DataFrame]:
    """Operators and modules of the miniature, on a card that nothing is known of."""
    phases = DeepseekOCRModel(**MINIATURE).phases(WORKLOAD)
    calibration = uncalibrated(load_hardware("rtx5090"))
    names = {"model": "deepseek_ocr", "workload": "miniature"}
    operators = operator_table(phases, calibration, None, "torch", names)
    return operators, module_table(phases, operators)


REPEAT = {"vision": 1, "prefill": 1, "decode": 2}
CPU, CARD = load_hardware("cpu"), load_hardware("h100")


def test_a_real_trace_fills_the_measured_columns(trace: Path, tables: Any) -> None:
    operators, modules = tables
    recording = read_trace(trace, modules, REPEAT, {}, CPU)
    measurement = recording.measurement
    assert {p: len(s) for p, s in measurement.phases.items()} == {**REPEAT, "decode": 2}
    joined, coverage = join_operators(operators, measurement)
    assert coverage["share"] > 0.9
    assert joined["measured_s"].notna().mean() > 0.9
    named = join_modules(modules, measurement)
    leaves = named[named["class_name"].isin(["Linear", "RMSNorm", "LayerNorm", "SwiGlu"])]
    assert leaves["measured_s"].notna().mean() > 0.9
    # A module takes no less than its parts, and a phase no less than its modules.
    for phase in REPEAT:
        own = named[named["phase"] == phase].set_index("path")["measured_s"]
        assert own[""] >= own.drop("").max()
    decoder = named[(named["phase"] == "decode") & named["path"].str.fullmatch(r".*layers\.\d")]
    whole = measurement.phase_seconds("decode")
    assert len(decoder) == MINIATURE["layers"]
    assert 0.3 * whole < decoder["measured_s"].sum() < whole


def test_a_real_trace_is_taken_for_its_model(trace: Path, tables: Any) -> None:
    """Of a CPU's; with frames (the profiler's own modules) the host's times are no measurement."""
    operators, modules = tables
    recording = read_trace(trace, modules, REPEAT, {}, CPU)
    components = component_table(operators)
    joined, named, table, about = compare_recorded(operators, modules, components, recording)
    assert not about["refused"] and not about["remarks"], about
    assert joined["measured_s"].notna().mean() > 0.9
    assert table["measured_s"].notna().all() == (not recording.stacked)
    assert named["measured_s"].notna().any() == (not recording.stacked)


def test_gzip_and_plain_are_the_same(trace: Path, tmp_path: Path) -> None:
    packed = tmp_path / "trace.json.gz"
    packed.write_bytes(gzip.compress(trace.read_bytes()))
    assert read_events(packed).events == read_events(trace).events


def kernel_trace() -> list[dict[str, Any]]:
    """Two operators of one module, each with a kernel that runs after the host is done, in us."""

    def event(name: str, cat: str, ts: float, dur: float, external: int, tid: int = 1) -> dict:
        args = {"External id": external}
        return {"ph": "X", "name": name, "cat": cat, "ts": ts, "dur": dur, "tid": tid, "args": args}

    return [
        event("decode", "user_annotation", 1000.0, 20.0, 1),
        event("m", "user_annotation", 1001.0, 18.0, 2),
        event("aten::mm", "cpu_op", 1002.0, 3.0, 3),
        event("cudaLaunchKernel", "cuda_runtime", 1003.0, 1.0, 3),
        event("aten::add", "cpu_op", 1008.0, 3.0, 4),
        event("gemm", "kernel", 1010.0, 40.0, 3, 7),
        event("add", "kernel", 1050.0, 5.0, 4, 7),
    ]


def test_kernels_are_the_time_of_a_card(tmp_path: Path) -> None:
    path = tmp_path / "trace.json"
    path.write_text(json.dumps({"traceEvents": kernel_trace()}))
    modules = pd.DataFrame({"phase": ["decode"] * 2, "path": ["", "m"], "mirrors": ["", ""]})
    recording = read_trace(path, modules, {"decode": 3}, {}, CARD)
    measurement = recording.measurement
    assert recording.device_s == {"decode": pytest.approx(3 * 45e-6)}
    (note,) = recording.notes
    assert note.startswith("trace.json: It does not say which card it was recorded on")
    assert measurement.phases["decode"] == pytest.approx([3 * 55e-6])
    assert measurement.modules["path"].tolist() == ["m"]
    assert measurement.modules["seconds"].iloc[0] == pytest.approx([45e-6])
    found = measurement.operators
    assert found["kind"].tolist() == ["matmul", "elementwise"]
    assert found["path"].tolist() == ["m", "m"]
    assert found["seconds"].tolist() == pytest.approx([40e-6, 5e-6])


def test_modules_are_matched_by_order_and_class() -> None:
    """A wrapper of theirs and a list of ours have no counterpart; the rest keep their order."""
    modules = pd.DataFrame(
        {
            "path": ["", "a", "a.list", "a.list.0", "a.list.1"],
            "mirrors": ["Root", "Block, Other", "", "torch.nn.Linear", "torch.nn.Linear"],
        }
    )
    found = match_modules(["Wrapper", "Other", "Linear", "Linear"], modules)
    assert found == {1: "a", 2: "a.list.0", 3: "a.list.1"}


def test_a_trace_of_a_cpu_is_none_of_a_card(trace: Path, tables: Any) -> None:
    with pytest.raises(CalibError, match="holds no kernels of a card"):
        read_trace(trace, tables[1], REPEAT, {}, CARD)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("{", "is none"),
        ('{"events": []}', "is none"),
        ('{"traceEvents": []}', "holds no operators"),
        (json.dumps({"traceEvents": [kernel_trace()[0]]}), "holds no operators"),
        (json.dumps({"traceEvents": kernel_trace()[:-2]}), "holds no kernels of a card"),
        (json.dumps({"traceEvents": kernel_trace()[1:]}), "names no phase: expected record_func"),
    ],
)
def test_a_bad_file_is_one_clear_error(content: str, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "trace.json"
    path.write_text(content)
    modules = pd.DataFrame({"phase": [], "path": [], "mirrors": []})
    with pytest.raises(CalibError, match=f"measured = .*trace.json.*{reason}"):
        read_trace(path, modules, {"prefill": 1, "decode": 2}, {}, CARD)
    with pytest.raises(CalibError, match="cannot be read"):
        read_trace(tmp_path / "none.json", modules, {"decode": 2}, {}, CARD)
