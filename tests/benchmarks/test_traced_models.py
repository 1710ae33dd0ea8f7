"""The benchmark of traced estimates against the clock: its parts, on a model that takes no time."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks import trace_coverage, traced_models
from calib.fit.calibration import uncalibrated
from calib.hardware.datasheet import load_hardware
from calib.samples.sample import Sample
from calib.samples.store import SampleStore
from calib.steps.target import Target
from model.ops import Matmul

TINY = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 32,
    "vocab_size": 97,
}


@pytest.fixture
def known(tmp_path: Path) -> Any:
    """A target of datasheet peaks and no fit: every estimate is the roofline."""
    hardware = replace(load_hardware("h100"), name="cpu")
    probes = {"probe_flops": 1e12, "probe_bandwidth": 1e10}
    sample = Sample(op=Matmul(2, 3, 4), seconds=[1e-6], hardware="cpu", implementation="torch")
    target = Target(
        hardware, False, "none", SampleStore(tmp_path, "cpu", "none"), [replace(sample, **probes)]
    )
    return target, (uncalibrated(hardware), uncalibrated(hardware)), 2e-6


def test_a_model_is_built_run_and_compared(known: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    shape = {"name": "text", "prompt_tokens": 7, "decode_steps": 5}
    monkeypatch.setitem(traced_models.MODELS, "llama_3_1_8b", (shape, TINY))
    found = traced_models.compared("llama_3_1_8b", "unused", 2, known, compiled=False)
    rows = {row["phase"]: row for row in found["phases"]}
    assert list(rows) == ["prefill", "decode"]
    for row in rows.values():
        assert 0 < row["roofline_s"] < row["estimate_s"]
        assert row["measured_s"] > 0 and row["steady_s"] > 0
        assert "model.layers.0.self_attn" in row["modules"]
    launches = (row["estimate_s"] - row["roofline_s"]) / 2e-6
    assert launches == pytest.approx(round(launches))  # the host's cost of each launch, no more
    text = traced_models.table([found])
    assert "| **llama_3_1_8b** | **all** |" in text
    assert "Of 1 models" in text


def row(estimate_s: float, steady_s: float, repeat: int) -> dict[str, Any]:
    fixed = {"phase": "p", "roofline_s": 1e-3, "measured_s": steady_s, "modules": {"a": 0.5}}
    return {**fixed, "estimate_s": estimate_s, "steady_s": steady_s, "repeat": repeat}


def test_a_total_is_the_whole_workload_and_errors_are_averaged_without_sign() -> None:
    one = {"model": "one", "phases": [row(2e-3, 1e-3, 1), row(1e-3, 1e-3, 9)]}
    two = {"model": "two", "phases": [row(8e-3, 1e-2, 1)]}
    text = traced_models.table([one, two])
    assert "| **one** | **all** | 11.0 | | 10.0 | **+10.0%** | | |" in text
    assert "| 2.00 | 1.00 | 1.00 | +100.0% | +0.0% | 50%, 50% of 1 |" in text
    assert "Of 2 models: mean absolute error 15.0%, largest 20.0%." in text


@pytest.mark.parametrize("which", ["eager", "compiled"])
def test_a_table_goes_between_its_marks(tmp_path: Path, which: str) -> None:
    page = tmp_path / "trace.md"
    page.write_text(trace_coverage.PAGE.read_text("utf-8"), "utf-8")
    traced_models.write("NEW\n", which, page)
    trace_coverage.write("SHARES\n", page)
    text = page.read_text("utf-8")
    assert f"<!-- clock {which} -->\nNEW\n<!-- end of clock {which} -->" in text
    assert "<!-- coverage -->\nSHARES\n<!-- end of coverage -->" in text
    assert text.startswith("# Tracing any model") and text.count("<!--") == 6
