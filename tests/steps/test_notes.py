"""What a run says of itself: only what applies to it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from calib.hardware.datasheet import load_hardware
from calib.samples.host_costs import host_costs
from calib.samples.sample import Sample
from calib.samples.store import SampleStore
from calib.steps.notes import host_drift_notes, length_notes, plan_notes, source_notes
from calib.steps.target import Target
from model.deepseek_ocr import DeepseekOCRModel
from model.ops import Matmul
from model.workload import Workload

UNKNOWN = "l4_of_mine"
"""A card of which nothing ships."""


def notes(name: str, implementation: str, *sampled: str) -> str:
    samples = [Sample(Matmul(8, 8, 8), [1e-5], name, of) for of in sampled]
    hardware = load_hardware(name) if name != UNKNOWN else replace(load_hardware("l4"), name=name)
    target = Target(hardware, False, "", SampleStore(Path("/s"), name, ""), samples)
    known = ["interpolated" if sampled else "roofline"]
    operators = pd.DataFrame({"kind": ["matmul"], "estimate_s": [1.0], "provenance": known})
    return " ".join(source_notes(target, operators, implementation))


@pytest.mark.parametrize(
    ("asked", "says", "not_said"),
    [
        (("h200", "torch"), "The calibration that ships: h200", "has no samples"),
        (("h200", "torch", "torch"), "Your samples correct the calibration", "has no"),
        (("h200", "triton"), "triton every kernel takes the roofline", "calibration that ships:"),
        (("h200", "triton", "torch"), "every kernel takes the roofline", "your samples lack"),
        (("h200", "triton", "triton"), "that your samples lack take the roofline", "that ships:"),
        ((UNKNOWN, "torch"), "l4_of_mine has no samples and no calibration", "What ships"),
        ((UNKNOWN, "torch", "torch"), "", "has no samples"),
        ((UNKNOWN, "triton", "torch"), "l4_of_mine has no samples of triton and no", "What ships"),
    ],
)
def test_where_times_come_from(asked: tuple[str, ...], says: str, not_said: str) -> None:
    said = notes(*asked)
    assert says in said and not_said not in said


def test_an_eager_decode_says_what_a_growing_text_costs_beside_its_steady_time() -> None:
    """A plan a token, 48.4 ms by the middle of the published range; seen, 16.5 ms."""
    phases = DeepseekOCRModel().phases(Workload("ocr_base", side=1024, decode_steps=16))
    components = pd.DataFrame({"component": ["prefill", "decode"], "estimate_s": [0.02, 0.264]})
    grows, once = plan_notes(host_costs([], "h200"), "9.0", phases, components)
    assert "seen before, takes 16.5 ms a token" in grows
    assert "a plan a token on the host: 48.4 ms more (38-62 ms, published)" in grows
    assert "sdpa_kernel" in grows and "static cache" in grows and "CUDA graph" in grows
    assert "4 more plans" in once  # two of SAM, one of CLIP, the prompt
    assert plan_notes(host_costs([], "rtx5090"), "12.0", phases, components) == []
    assert plan_notes(None, None, phases, components) == []


def test_the_clock_says_both_too() -> None:
    (said,) = length_notes({"new": [0.08, 0.07, 0.075], "seen": [0.0165] * 3})
    assert "new takes 75.0 ms" in said and "again 16.5 ms" in said and "58.5 ms for" in said
    assert length_notes({}) == []


def test_the_hosts_drift_is_said() -> None:
    (said,) = host_drift_notes({"slowest": 0.72, "fastest": 1.04})
    assert "at 72% to 104% of the speed" in said
    assert host_drift_notes(None) == []


def test_a_long_time_is_in_seconds() -> None:
    """Not 8.21e+04 ms."""
    (said,) = length_notes({"new": [82.1 + 1e-3], "seen": [1e-3]})
    assert "new takes 82.1 s" in said and "again 1.00 ms" in said and "e+" not in said
