"""Workloads, phases, and models built from configurations."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import pytest
import yaml

from model.architectures import ARCHITECTURES, build
from model.workload import Workload

MODELS = Path(__file__).parents[2] / "conf" / "model"
CONFIGURATIONS = sorted(p for p in MODELS.glob("*.yaml") if p.stem not in ("hf", "module"))
"""Of our own architectures; what is traced holds no dimensions but takes them from a file."""
OTHERS = {"llama_3_1_70b": 70_553_706_496}
"""Of an architecture whose own dimensions are those of another size: parameters, as published."""


@pytest.mark.parametrize("path", CONFIGURATIONS, ids=lambda path: path.stem)
def test_a_configuration_says_every_dimension_of_the_published_model(path: Path) -> None:
    configuration = yaml.safe_load(path.read_text())
    bases = [base for base in configuration.pop("defaults", []) if isinstance(base, str)]
    for base in bases:
        configuration = {**yaml.safe_load((MODELS / f"{base}.yaml").read_text()), **configuration}
    architecture = configuration.pop("architecture")
    assert configuration.pop("name") == path.stem
    published = build(architecture)
    if path.stem in OTHERS:
        assert configuration.keys() == asdict(published).keys()
        assert build(architecture, **configuration).parameters() == OTHERS[path.stem]
        return
    assert build(architecture, **configuration) == published
    as_lists = {
        key: list(value) if isinstance(value, tuple) else value
        for key, value in asdict(published).items()
    }
    assert configuration == as_lists


def test_every_architecture_has_a_configuration() -> None:
    named = {yaml.safe_load(path.read_text())["architecture"] for path in CONFIGURATIONS}
    assert named == set(ARCHITECTURES)


def test_what_does_not_exist_is_refused_with_what_does() -> None:
    with pytest.raises(ValueError, match="architecture = 'gpt': expected one of deepseek_ocr"):
        build("gpt")
    with pytest.raises(ValueError, match="llama has no dimension 'width': expected hidden"):
        build("llama", width=3)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"batch": 0}, "batch = 0: expected an integer >= 1"),
        ({"side": -64}, "side = -64: expected an integer >= 1"),
        ({"decode_steps": 1.5}, "decode_steps = 1.5: expected an integer >= 1"),
        ({"prompt_tokens": -1}, "prompt_tokens = -1: expected an integer >= 0"),
        ({"tiles": (0, 2)}, "tiles = 0: expected an integer >= 1"),
        ({"tiles": "2x3"}, "tiles = '2x3': expected None or"),
        ({"logits": "some"}, "logits = 'some': expected one of all, last"),
    ],
)
def test_a_workload_that_makes_no_sense_is_refused(values: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Workload("w", **{"side": 512, **values})


@pytest.mark.parametrize(
    ("architecture", "workload", "phases"),
    [
        ("deepseek_ocr", Workload("page", side=512), ["vision", "prefill", "decode"]),
        ("deepseek_ocr_2", Workload("page", side=1024), ["vision", "prefill", "decode"]),
        ("llama", Workload("text", prompt_tokens=100), ["prefill", "decode"]),
        ("qwen3_moe", Workload("text", prompt_tokens=100), ["prefill", "decode"]),
        ("vit", Workload("image", side=224, batch=8), ["vision"]),
    ],
)
def test_a_model_has_the_phases_of_its_kind(
    architecture: str, workload: Workload, phases: list[str]
) -> None:
    found = build(architecture).phases(workload)
    assert list(found) == phases
    assert all(phase.layer.calls() for phase in found.values())


def test_a_page_needs_a_side_and_a_text_a_prompt() -> None:
    with pytest.raises(ValueError, match="side = None in workload text"):
        build("deepseek_ocr").phases(Workload("text", prompt_tokens=100))
    with pytest.raises(ValueError, match="prompt_tokens = 0: expected at least 1"):
        build("llama").phases(Workload("nothing", prompt_tokens=0))


@pytest.mark.parametrize("steps", [1, 2, 16, 17])
def test_the_decode_phase_is_all_its_steps(steps: int) -> None:
    model = build("llama")
    phase = model.phases(Workload("text", prompt_tokens=100, decode_steps=steps))["decode"]
    one_by_one = [model.decode_layer(context) for context in range(101, 101 + steps)]
    assert phase.repeat * phase.layer.forward_tensor_core_flops() == sum(
        step.forward_tensor_core_flops() for step in one_by_one
    )
