"""The configuration: every choice composes, and what it yields can be run."""

from __future__ import annotations

import itertools
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from calib.checkout import CONF, ROOT
from calib.errors import CalibError
from calib.hardware.datasheet import hardware_from_config, load_hardware
from calib.steps.request import Request, read_request
from calib.steps.subject import build_model
from model.workload import Workload


def options(group: str) -> list[str]:
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


@pytest.fixture(scope="module", autouse=True)
def hydra() -> Iterator[None]:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        yield


def composed(*overrides: str) -> dict[str, Any]:
    config = OmegaConf.to_container(compose("config", list(overrides)), resolve=True)
    assert isinstance(config, dict)
    return config


def built_of(request: Request) -> Any:
    return build_model(request.model, request.hf)


def test_groups_are_what_the_contract_names() -> None:
    nvidia = ["rtx5090", "rtx_pro_6000", "rtx4090", "h200", "h100", "h100_pcie", "a100", "l40s"]
    assert set(options("hw")) >= {"cpu", *nvidia, "l4", "b200", "b300", "gb200", "gb300"}
    older = {"t4", "v100_16gb", "v100_32gb", "p100", "rtx3090", "a10", "a10g", "a30", "a40"}
    assert set(options("hw")) >= older | {"h20", "h800", "l40", "rtx4080", "rtx_6000_ada"}
    ocr = ["ocr_base", "ocr_gundam", "ocr_large", "ocr_small", "ocr_tiny"]
    assert set(options("workload")) >= set(ocr)
    assert set(options("sweep")) == {"quick", "standard", "full"}
    assert "deepseek_ocr" in options("model")


GROUPS = ("hw", "model", "workload", "sweep")
TRACED = ("hf", "module")


@cache
def chosen(group: str, option: str) -> dict[str, Any]:
    """The whole configuration with one option chosen; not to be changed."""
    return composed(f"{'+' if group == 'hw' else ''}{group}={option}")


@pytest.mark.parametrize("group", GROUPS)
def test_a_choice_changes_its_own_key_alone(group: str) -> None:
    """So a combination is its options side by side, and need not be composed to be known: but for
    what is asked of a model where nobody says it."""
    own = {group, "workload"} if group == "model" else {group}
    rest = {key: value for key, value in composed().items() if key not in own}
    for option in options(group):
        config = chosen(group, option)
        assert config[group]
        others = {key: value for key, value in config.items() if key not in own}
        assert others == rest, f"{group}={option}"


@pytest.mark.parametrize("model", options("model"))
def test_a_model_is_asked_what_it_is_for_unless_something_is_said(model: str) -> None:
    brought = {"vit": "image_224", "llama": "text_512", "qwen3_moe": "text_512"}
    config = composed(f"model={model}")
    expected = brought.get(config["model"]["architecture"], "ocr_tiny")
    assert config["workload"]["name"] == expected
    said = composed("workload=ocr_base", f"model={model}")
    assert said["workload"] == chosen("workload", "ocr_base")["workload"]


def test_every_combination_can_be_run() -> None:
    """One option a group, all combinations, each to a model, a workload and a device.

    ``model=hf`` is tried in ``test_hf``, ``model=module`` in ``test_module``: they want a file.
    """
    parts = {g: {o: chosen(g, o)[g] for o in options(g) if o not in TRACED} for g in GROUPS}
    parts["hw"]["found"] = "???"
    base = composed()
    for names in itertools.product(*parts.values()):
        picked = dict(zip(GROUPS, names, strict=True))
        config = base | {group: parts[group][name] for group, name in picked.items()}
        request = read_request(config)
        built = built_of(request)
        assert request.workload.name == picked["workload"]
        assert built.dtype == config["model"]["dtype"]
        assert request.sweep.name == picked["sweep"]
        assert (request.hw.name if request.hw else "found") == picked["hw"]


@pytest.mark.parametrize("hw", options("hw"))
def test_combinations_compose_to_their_options(hw: str) -> None:
    """With Hydra itself: every card with two of the models, all of which have their turn, as
    workloads and sweeps have. That options are independent is tested above."""
    turn = 2 * options("hw").index(hw)
    for i in (turn, turn + 1):
        picked = {"hw": hw}
        for group in ("model", "workload", "sweep"):
            picked[group] = options(group)[i % len(options(group))]
        config = composed(*(f"{'+' if g == 'hw' else ''}{g}={o}" for g, o in picked.items()))
        for group, option in picked.items():
            assert config[group] == chosen(group, option)[group]


def test_every_model_has_its_turn_above() -> None:
    assert 2 * len(options("hw")) >= max(len(options(g)) for g in ("model", "workload", "sweep"))


def test_a_card_read_with_hydra_is_the_card_read_without() -> None:
    for hw in options("hw"):
        config = chosen("hw", hw)["hw"]
        assert repr(hardware_from_config(config)) == repr(load_hardware(hw))


def test_defaults() -> None:
    config = composed()
    assert config["model"]["architecture"] == "deepseek_ocr"
    assert (config["workload"]["name"], config["sweep"]["name"]) == ("ocr_tiny", "quick")
    assert (config["mode"], config["implementation"], config["execution"]) == (
        "run",
        "torch",
        "eager",
    )
    assert config["samples"]["dir"] is None
    assert config["report"]["pictures"] is True
    assert config["measured"] is None


def test_model_has_the_published_dimensions() -> None:
    """The file states what the class has by default, so that neither can be changed alone."""
    built = built_of(read_request(composed()))
    assert built == type(built)()


@pytest.mark.parametrize(
    ("name", "image_tokens"),
    [("tiny", 73), ("small", 111), ("base", 273), ("large", 421), ("gundam", 893)],
)
def test_workloads_ask_for_the_published_tokens(name: str, image_tokens: int) -> None:
    """n (n + 1) + 1 tokens for n = side / 64; 100 wh + 10 h more for w x h tiles of 640."""
    workload = read_request(composed(f"workload=ocr_{name}")).workload
    n = workload.side // 64
    rows, columns = workload.tiles or (0, 0)
    assert n * (n + 1) + 1 + 100 * rows * columns + 10 * rows == image_tokens
    assert str(image_tokens) in (CONF / "workload" / f"ocr_{name}.yaml").read_text("utf-8")
    assert workload == Workload(f"ocr_{name}", workload.side, workload.tiles, 640, 10, 1, 16, "all")


def test_sweeps_differ_in_time_and_not_in_kind() -> None:
    quick, standard, full = (composed(f"sweep={s}")["sweep"] for s in ("quick", "standard", "full"))
    assert set(quick) == set(standard) == set(full)
    assert 0 < quick["budget_s"] < standard["budget_s"] < full["budget_s"]


def test_files_state_their_own_name() -> None:
    for group in ("hw", "workload", "sweep"):
        for option in options(group):
            assert yaml.safe_load((CONF / group / f"{option}.yaml").read_text("utf-8"))["name"] == (
                option
            )


def test_every_key_has_a_comment() -> None:
    for line in (CONF / "config.yaml").read_text("utf-8").split("hydra:")[0].splitlines():
        if re.match(r"\s*(- )?\w+: \S", line):
            assert "#" in line, line


@pytest.mark.parametrize("text", ["_target_", "!!python"])
def test_nothing_in_the_configuration_is_code(text: str) -> None:
    for path in CONF.rglob("*.yaml"):
        assert text not in path.read_text("utf-8"), path


# Bad input


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("workload.batch=0", r"workload\.batch = 0: expected a whole number from 1"),
        ("workload.side=-512", r"workload\.side = -512: expected a whole number from 1"),
        ("workload.tiles=[2]", r"workload\.tiles = \[2\]: expected \[rows, columns\]"),
        ("workload.logits=none", r"workload\.logits = 'none': expected one of all, last"),
        ("+workload.pages=2", r"workload\.pages = 2: expected one of name, "),
        ("model.hidden=0", r"model\.hidden = 0: expected"),
        ("model.experts=-64", r"model\.experts = -64: expected"),
        ("model.dtype=bf16", r"model\.dtype = 'bf16': expected one of .*bfloat16"),
        ("+model.depth=2", r"model\.depth = 2: expected one of hidden, "),
        ("model.architecture=gpt", r"model\.architecture = 'gpt': expected .*deepseek_ocr"),
    ],
)
def test_a_wrong_value_is_named(override: str, message: str) -> None:
    with pytest.raises(CalibError, match=f"^{message}"):
        built_of(read_request(composed(override)))


@pytest.mark.parametrize(
    ("key", "value"), [("bandwidth", "-1.5"), ("sm_count", "0"), ("l2_bytes", "big")]
)
def test_a_wrong_figure_of_a_card_is_named(key: str, value: str) -> None:
    config = composed("+hw=rtx5090", f"hw.{key}={value}")["hw"]
    with pytest.raises(CalibError, match=rf"^hw\.{key} = '?{value}'?: expected a positive"):
        hardware_from_config(config)


@pytest.mark.parametrize("group", ["+hw", "model", "workload", "sweep"])
def test_an_unknown_option_lists_what_exists(group: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "calib.run", f"{group}=nonesuch", f"hydra.run.dir={tmp_path}/run"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    name = group.removeprefix("+")
    listed = ", ".join(options(name))
    assert done.returncode != 0
    assert done.stderr == f"error: {name} = 'nonesuch': expected one of {listed}\n"
    assert not (tmp_path / "run").exists()
