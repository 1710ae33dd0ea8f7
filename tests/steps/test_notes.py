"""What a run says of itself: only what applies to it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from calib.checkout import CONF, read_yaml
from calib.hardware.datasheet import load_hardware
from calib.report.terminal import remarks
from calib.samples.host_costs import host_costs
from calib.samples.sample import Sample
from calib.samples.store import SampleStore
from calib.steps.answer import answer
from calib.steps.fitting import fit_samples
from calib.steps.notes import (
    host_drift_notes,
    image_notes,
    length_notes,
    limit_notes,
    plan_notes,
    position_notes,
    refused_notes,
    source_notes,
)
from calib.steps.request import read_request
from calib.steps.subject import build_model, find_subject, shapes_of
from calib.steps.target import Target, find_target
from model.deepseek_ocr import DeepseekOCRModel
from model.ops import Matmul
from model.workload import Workload, beyond

UNKNOWN = "l4_of_mine"
"""A card of which nothing ships."""


def notes(name: str, implementation: str, *sampled: str, cuda: str | None = None) -> str:
    samples = [Sample(Matmul(8, 8, 8), [1e-5], name, of) for of in sampled]
    hardware = load_hardware(name) if name != UNKNOWN else replace(load_hardware("l4"), name=name)
    hardware = replace(hardware, cuda=cuda)
    target = Target(hardware, False, "", SampleStore(Path("/s"), name, ""), samples)
    known = ["interpolated" if sampled else "roofline"]
    operators = pd.DataFrame({"kind": ["matmul"], "estimate_s": [1.0], "provenance": known})
    return " ".join(source_notes(target, operators, implementation))


@pytest.mark.parametrize(
    ("asked", "says", "not_said"),
    [
        (("h200", "torch"), "The calibration that ships: h200", "has no samples"),
        (("h200", "torch", "torch"), "Your samples correct the calibration", "has no"),
        (("rtx5090", "torch"), "at 1.21 times the card's rated clock", "has no samples"),
        (("h200", "torch"), "", "rated clock"),
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


@pytest.mark.parametrize(
    ("name", "dtype", "is_said"),
    [
        *(("a100", d, True) for d in ("float8_e4m3fn", "float8_e5m2", "float4_e2m1fn")),
        *((name, "float8_e4m3fn", name == "rtx3090") for name in ("rtx3090", "l4", "h100")),
        *((name, "bfloat16", False) for name in ("a100", "t4")),
        *(("a100", "int8", False), ("h100", "float4_e2m1fn", True)),
    ],
)
def test_what_torch_refuses_is_said(name: str, dtype: str, is_said: bool) -> None:
    table = pd.DataFrame({"kind": ["matmul", "copy"], "dtype": [dtype, "float8_e4m3fn"]})
    found = refused_notes(load_hardware(name), table)
    assert bool(found) == is_said
    assert all(name in line and dtype in line and "_scaled_mm" in line for line in found)


@pytest.mark.parametrize(
    ("name", "cuda", "known"),
    [
        *((name, None, None) for name in ("h100", "l4", UNKNOWN)),
        *((name, "13.0", None) for name in ("h100", UNKNOWN)),
        *((name, "12.4", True) for name in ("h100", "h200")),
        *((name, "12.8", True) for name in ("h100", "l4", "b200")),
        *((name, "12.4", False) for name in ("l4", "rtx5090", UNKNOWN)),
        *(("h100", cuda, False) for cuda in ("12.6", "13.1", "14.0")),
        *((name, "12.9", False) for name in ("rtx5090", "a100", UNKNOWN)),
    ],
)
def test_of_a_cuda_it_is_said_what_is_known(name: str, cuda: str, known: bool | None) -> None:
    """And of which the errors are that stand beside what ships."""
    for sampled in ((), ("torch",)):
        said = notes(name, "torch", *sampled, cuda=cuda)
        meant, unknown = f"is taken to be built for CUDA {cuda}", f"nothing is known on {name}"
        assert (meant in said, unknown in said) == (known is not None, known is False)
        assert ("held-out shapes of what ships are of today's kernels" in said) == bool(known)
        assert "taken to be built" not in notes(name, "triton", *sampled, cuda=cuda)


@pytest.mark.parametrize("execution", ["eager", "graph", "compiled"])
@pytest.mark.parametrize("implementation", ["torch", "vllm", "sglang", "triton"])
def test_no_run_is_advised_what_it_does(implementation: str, execution: str) -> None:
    """Nor told of costs that its way to launch does not have."""
    llama = {"architecture": "llama", "name": "llama", "layers": 2}
    asked = {"name": "text", "prompt_tokens": 8, "decode_steps": 2}
    how = {"implementation": implementation, "execution": execution, "mode": "analytic"}
    sweep = read_yaml(CONF / "sweep" / "quick.yaml")
    given = {"hw": load_hardware("h200"), "model": llama, "workload": asked, "sweep": sweep}
    request = read_request({**given, **how})
    target = find_target(request.hw, Path("none"), request.mode, execution)
    model = build_model(request.model, request.hf)
    phases = model.phases(request.workload)
    fitted = fit_samples(target, shapes_of(phases))
    said = " ".join(remarks(answer(request, target, model, phases, fitted, None)))
    advised = {"eager": "", "graph": "CUDA graph would", "compiled": "execution=compiled"}
    assert f"execution={execution}" not in said
    assert not advised[execution] or advised[execution] not in said
    assert ("eager operator" in said) == (execution != "graph")
    assert "implementation=" + implementation not in said or implementation == "triton"
    assert ("Compiled, a pass of" in said) == (
        execution == "compiled" and implementation in ("torch", "triton")
    )  # an engine's kernels are fused as they are


def test_a_sweep_that_ended_before_any_operator_is_said() -> None:
    """Ceilings and host costs are no samples of operators."""
    samples = [
        Sample(Matmul(8, 8, 8), [1e-5], "cpu", "torch", origin=of) for of in ("ceiling", "host")
    ]
    hardware = replace(load_hardware("l4"), name="cpu")
    target = Target(hardware, True, "", SampleStore(Path("/s"), "cpu", ""), samples)
    operators = pd.DataFrame({"kind": ["matmul"], "estimate_s": [1.0], "provenance": ["roofline"]})
    (note,) = source_notes(target, operators, "torch")
    assert "cpu has no samples" in note and "sweep.budget_s" in note


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


@pytest.mark.parametrize(
    ("prompt", "words", "said"),
    [
        (131_070, {}, []),
        (131_071, {}, ["131,073 tokens, prompt and decoded, are beyond the model's 131,072"]),
        (131_072, {"pass": "train"}, []),
        (140_000, {"pass": "train"}, ["140,000 tokens"]),
        (140_000, {"parallel": {"tp": 2}}, ["140,002 tokens"]),
    ],
)
def test_a_text_beyond_the_positions_of_a_model_is_said(
    prompt: int, words: dict[str, Any], said: list[str]
) -> None:
    llama = {"architecture": "llama", "name": "llama", "layers": 2, "positions": 131072}
    asked = {"name": "text", "prompt_tokens": prompt, "decode_steps": 2}
    sweep = read_yaml(CONF / "sweep" / "quick.yaml")
    given = {"hw": load_hardware("h200"), "model": llama, "workload": asked, "sweep": sweep}
    request, model = find_subject(read_request({**given, **words}), load_hardware("h200"))
    found = position_notes(request, model)
    assert len(found) == len(said)
    assert all(part in note for part, note in zip(said, found, strict=True))


def test_a_model_of_any_length_has_no_such_note() -> None:
    assert beyond(10**9, None) == []


def test_a_workload_of_another_kind_is_said() -> None:
    text, image = Workload("text_512", prompt_tokens=512), Workload("page", side=224)
    (note,) = image_notes("vit", text, ["vision"])
    assert note.startswith("vit reads no text: of text_512 only the batch is asked")
    assert image_notes("llama", text, ["prefill", "decode"]) == []
    (note,) = image_notes("llama", image, ["prefill", "decode"])
    assert "looks at no image" in note


@pytest.mark.parametrize(("watts", "is_said"), [(400.0, True), (575.0, False), (600.0, False)])
def test_a_lower_power_limit_is_said_to_slow_no_product(watts: float, is_said: bool) -> None:
    card = load_hardware("rtx5090")
    said = " ".join(limit_notes(replace(card, power_w=watts)))
    assert ("400 W" in said and "575 W" in said) == is_said and bool(said) == is_said
    assert not limit_notes(replace(card, power_w=None))
