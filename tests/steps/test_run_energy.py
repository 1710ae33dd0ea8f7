"""Whose joules a run goes by, and what its report says of them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from calib.checkout import ROOT
from calib.errors import CalibError
from calib.hardware.datasheet import load_hardware
from calib.report.energy import energy_lines
from calib.steps.card.energy import energy_of, holding
from calib.steps.module.call import Estimate, estimate
from calib.steps.request import read_request
from calib.steps.target import find_target

COUNTED = ROOT / "benchmarks" / "data" / "h200" / "energy" / "operators.parquet"
SWEEP = {"budget_s": 1.0, "card_budget_s": 1.0, "spread": 0.1, "cap_s": 1.0, "card_cap_s": 1.0}
LLAMA = {"architecture": "llama", "name": "llama", "layers": 2}
TEXT = {"name": "text", "prompt_tokens": 8, "decode_steps": 2}


def asked(hw="h200", **given):
    return read_request(
        {"hw": load_hardware(hw), "model": LLAMA, "workload": TEXT, "mode": "analytic"}
        | {"sweep": {**SWEEP, "least": 1, "most": 2}, **given}
    )


def found(request, tmp_path: Path):
    target = find_target(request.hw, tmp_path, "analytic", request.execution)
    return energy_of(request, holding(request, target))


def test_a_card_goes_by_its_own_count(tmp_path: Path) -> None:
    for execution in ("eager", "graph"):
        assert found(asked(execution=execution), tmp_path).hardware == "h200"


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"implementation": "vllm"}, "implementation=vllm"),
        ({"implementation": "triton"}, "implementation=triton"),
        ({"execution": "compiled"}, "execution=compiled"),
        ({"pass": "train"}, "pass=train"),
        ({"parallel": {"tp": 2}}, "2 cards"),
    ],
)
def test_nothing_was_counted_of_other_kernels(tmp_path: Path, given, why) -> None:
    assert found(asked(**given), tmp_path) is None
    with pytest.raises(CalibError, match=f"energy = .*: expected null with {why}"):
        asked(energy=str(COUNTED), **given)


def test_a_card_that_was_not_counted_has_none(tmp_path: Path) -> None:
    assert found(asked("h100"), tmp_path) is None
    assert found(asked("cpu"), tmp_path) is None


def test_a_file_of_ones_own_is_fitted_in_place_of_what_ships(tmp_path: Path) -> None:
    table = pd.read_parquet(COUNTED)
    table["joules"] *= 1.1
    table["idle_w"] *= 1.1
    table.assign(hardware="h100").to_parquet(tmp_path / "energy.parquet")
    own = found(asked("h100", energy=str(tmp_path / "energy.parquet")), tmp_path)
    assert own.hardware == "h100"
    assert own.idle_w == pytest.approx(1.1 * 125.376, rel=1e-4)
    with pytest.raises(CalibError, match="hardware = 'h100': expected h200, the card"):
        asked(energy=str(tmp_path / "energy.parquet"))


def test_a_file_that_is_wrong_is_said_before_anything_is_measured(tmp_path: Path) -> None:
    with pytest.raises(CalibError, match=r"energy = '.*none\.parquet': expected the path of"):
        asked(energy=str(tmp_path / "none.parquet"))
    (tmp_path / "energy.parquet").write_text("{}", "utf-8")
    with pytest.raises(CalibError, match="cannot be read"):
        asked(energy=str(tmp_path / "energy.parquet"))


@pytest.fixture(scope="module")
def linear() -> dict[str, Estimate]:
    import torch

    module, inputs = torch.nn.Linear(256, 256), torch.zeros(8, 256)
    return {hw: estimate(module, inputs, hw=hw) for hw in ("h200", "h100")}


def test_a_report_says_it_in_one_line(linear) -> None:
    (line,) = energy_lines(linear["h200"].record)
    assert line.startswith("Energy: ")
    assert " J a request (" in line
    assert "W on average" in line
    assert "40 operators whose joules were counted on this card" in line
    assert str(linear["h200"]).count("Energy:") == 1


def test_of_another_card_it_says_nothing(linear) -> None:
    assert energy_lines(linear["h100"].record) == []
    assert "Energy" not in str(linear["h100"])
    assert linear["h100"].operators["joules"].isna().all()
    assert linear["h100"].joules is None
    assert linear["h200"].joules == pytest.approx(linear["h200"].operators["joules"].sum())


def test_files_of_a_run_hold_the_same_joules(linear, tmp_path: Path) -> None:
    for name, has in (("h200", True), ("h100", False)):
        folder = tmp_path / name
        linear[name].report(folder, pictures=False)
        report = json.loads((folder / "report.json").read_text("utf-8"))
        rows = pd.read_parquet(folder / "estimates.parquet")
        page, text = ((folder / f"report.{e}").read_text("utf-8") for e in ("html", "md"))
        assert ("What does it draw?" in page) == ("What does it draw?" in text) == has
        if not has:
            assert report["energy"] is None
            assert report["components"][-1]["joules"] is None
            continue
        whole = rows["joules"].sum()
        assert report["energy"]["joules"] == pytest.approx(whole)
        assert report["components"][-1]["joules"] == pytest.approx(whole)
        assert report["module_metrics"][0]["joules"] == pytest.approx(whole)
        assert report["timeline"][0]["joules"] == pytest.approx(whole)
        modules = pd.read_parquet(folder / "modules.parquet")
        assert modules.loc[modules["path"] == "", "joules"].sum() == pytest.approx(whole)


def test_a_report_names_the_file_that_its_joules_rest_on(linear) -> None:
    record = linear["h200"].record
    assert "on this card; operators" in energy_lines(record)[0]
    given = {**record.environment, "config": {"energy": "mine/energy.parquet"}}
    (line,) = energy_lines(replace(record, environment=given))
    assert "counted on this card (mine/energy.parquet); operators" in line
