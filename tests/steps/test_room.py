"""A run that does not fit its card has costs and no times, in every file that it writes."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from calib.compare.runs import compare_runs, read_run
from calib.errors import CalibError
from calib.hardware.datasheet import load_hardware
from calib.report.record import ROOMLESS
from calib.run import run
from calib.steps.module.call import estimate
from calib.steps.request import read_request

SWEEP = {"budget_s": 1.0, "card_budget_s": 1.0, "spread": 0.1, "cap_s": 1.0, "card_cap_s": 1.0}
LLAMA = {"architecture": "llama", "name": "llama", "layers": 2}
TIMES = ("_s", "_ms", "efficiency", "limited_by", "share", "error")


@pytest.fixture(scope="module", params=["h200", "rtx5090"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The H200 would have joules, of another card there are none anyway."""
    where = tmp_path_factory.mktemp("run")
    asked = {"name": "text", "prompt_tokens": 8, "decode_steps": 2, "batch": 2**20}
    given = {"hw": load_hardware(request.param), "model": LLAMA, "workload": asked}
    sweep = {**SWEEP, "least": 1, "most": 2}
    run(read_request({**given, "sweep": sweep, "mode": "analytic"}), where, member="")
    return where


def numbers(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Every key of a document that holds a number, with it."""
    if isinstance(value, dict):
        for name, part in value.items():
            yield from numbers(part, name)
    elif isinstance(value, list):
        for part in value:
            yield from numbers(part, key)
    elif isinstance(value, float):
        yield key, value


def of_time(name: str) -> bool:
    timely = name.endswith(TIMES) or name.startswith("joules")
    return timely and name not in ("named_share", "share_of_module_flops")


def test_its_report_has_costs_and_no_times(folder: Path) -> None:
    report = json.loads((folder / "report.json").read_text("utf-8"))
    assert not report["memory"]["fits"]
    assert ROOMLESS in report["notes"]
    assert not [note for note in report["notes"] if "longer" in note or "Host costs" in note]
    parts = ("components", "timeline", "module_metrics", "figures", "energy")
    whole = {k: v for k, v in report.items() if not isinstance(v, dict | list)}
    found = dict(numbers([whole, *(report[part] for part in parts)]))
    assert found["flops"] > 0
    assert [name for name in found if of_time(name)] == []
    assert all(f[n] is None for f in report["figures"] for n in ("estimate", "low", "roofline"))
    assert ROOMLESS in report["notes"]


def test_its_tables_and_texts_have_none(folder: Path) -> None:
    for name in ("estimates", "modules"):
        table = pd.read_parquet(folder / f"{name}.parquet")
        assert (table["flops"] > 0).any()
        lost = [c for c in table if of_time(c)]
        assert len(lost) > 10
        assert table[lost].isna().all(axis=None)
        assert set(table["provenance"]) == {"unknown"}
    assert not (folder / "trace.json").exists()
    assert not list(folder.glob("*.png"))
    assert ROOMLESS in (folder / "report.md").read_text("utf-8")


def test_it_is_no_run_to_compare(folder: Path) -> None:
    with pytest.raises(CalibError, match="it does not fit its card"):
        compare_runs(read_run(folder), read_run(folder))


def test_a_module_that_does_not_fit_takes_no_time() -> None:
    import torch

    with torch.device("meta"):
        module, inputs = torch.nn.Linear(200_000, 200_000, bias=False), torch.zeros(8, 200_000)
    found = estimate(module, inputs, hw="h200")
    assert not found.fits
    assert math.isnan(found.wall_s) and found.joules is None
    assert found.bound_by == found.provenance == "unknown"
    assert repr(found) == "<Linear on h200: does not fit, needs 160 GB of 151 GB>"
    assert "does not fit" in str(found)
