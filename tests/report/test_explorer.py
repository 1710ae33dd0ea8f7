"""The page of a grid: what it holds of every run, and that a run that does not fit has no time."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
from test_page import MOST_BYTES, Reader

from calib.report.page.explorer import explorer, swept, write_explorer


def table() -> pd.DataFrame:
    rows = [
        {"run": str(i), "hardware": hw, "batch": batch, "time_per_output_token": 0.01 * batch}
        for i, (hw, batch) in enumerate([("h200", 1), ("h200", 8), ("l4", 1), ("l4", 8)])
    ]
    same = {
        **{"model": "llama", "workload": "text_512", "execution": "eager", "logits": "all"},
        **{"implementation": "torch", "tokens": 512, "decode_steps": 128, "flops": 1e12},
        **{"wall_s": 1.5, "wall_low_s": 1.0, "wall_high_s": 2.5, "io_bytes": 1e10},
        **{"weight_bytes": 1e9, "provenance": "transferred", "time_to_first_token": 0.1},
    }
    return pd.DataFrame([row | same for row in rows])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The third run does not fit, and the fourth has lost its report."""
    for i, fits in enumerate((True, True, False)):
        figures = [{"name": "time per output token", "low": 0.008, "high": 0.02}]
        (tmp_path / str(i)).mkdir()
        report = {"memory": {"fits": fits}, "figures": figures}
        (tmp_path / str(i) / "report.json").write_text(json.dumps(report), "utf-8")
    return tmp_path


def test_every_run_is_there_with_its_ends(folder: Path) -> None:
    text = explorer(table(), folder)
    assert len(text.encode()) < MOST_BYTES
    found = json.loads(text.split('id="explored">')[1].split("</script>")[0])
    assert [run["run"] for run in found["runs"]] == ["0", "1", "2", "3"]
    assert [run["fits"] for run in found["runs"]] == [True, True, False, True]
    assert [key["name"] for key in found["keys"]] == ["hardware", "batch"]
    assert (found["x"], found["y"]) == ("tokens_per_second", "time_per_output_token")
    first, *_, last = found["runs"]
    assert (first["time_per_output_token low"], first["wall_s high"]) == (0.008, 2.5)
    assert last["time_per_output_token low"] is None
    assert first["tokens_per_second"] == pytest.approx(100)


def test_what_does_not_fit_has_no_time_in_the_table(folder: Path) -> None:
    texts = Reader(explorer(table(), folder)).texts
    assert "1 of them do not fit" in " ".join(texts)
    assert texts.count("1.50 s") == 3
    assert texts.count("no") == 1


def test_keys_that_were_noted_come_first() -> None:
    found = table().assign(**{"model.layers": [1, 2, 3, 4]})
    found.attrs["swept"] = ["model.layers", "batch"]
    assert swept(found) == ["model.layers", "batch", "hardware"]


def test_it_is_written_beside_the_table(folder: Path) -> None:
    assert write_explorer(table(), folder) == folder / "report.html"
    assert (folder / "report.html").read_text("utf-8").startswith("<!doctype html>")
