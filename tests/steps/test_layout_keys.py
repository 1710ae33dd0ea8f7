"""Keys of several cards through a whole run: what is refused, and what a report says."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from calib.checkout import CONF
from calib.errors import CalibError
from calib.hardware import load_hardware
from calib.report.runs.grid import run_cells, with_keys
from calib.report.runs.table import runs_table
from calib.run import run
from calib.steps.request import Request, read_request
from calib.steps.subject import find_subject, phases_of

SMALL = ("+hw=h200", "mode=analytic", "model=llama_3_1_8b", "workload=text_512", "model.layers=2")
LIGHT = ("model.dense_layers=2", "report.layers=false", "report.pictures=false", "execution=graph")


def request(*words: str) -> Request:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config: Any = OmegaConf.to_container(compose("config", [*SMALL, *LIGHT, *words]))
    return read_request(config)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["parallel.tp=0"], "parallel.tp = 0: expected a whole number from 1 to 4,096"),
        (["parallel.tp=two"], "parallel.tp = 'two': expected a whole number from 1 to 4,096"),
        (["parallel.ep=2"], "parallel.ep = 2: expected a divisor of tp * dp = 1"),
        (["parallel.tp=2", "pass=train"], "parallel.tp = 2: expected 1 with pass=train"),
        (
            ["parallel.microbatches=2"],
            "parallel.microbatches = 2: expected null with parallel.pp=1",
        ),
        (
            ["parallel.overlap=0.5"],
            "parallel.overlap = 0.5: expected 0, or several cards (parallel.tp=2)",
        ),
        (["hf.dtype=float16"], "hf.dtype = 'float16': expected model=hf beside it"),
        (
            ["module.path=a.py:b"],
            "module.path = 'a.py:b': expected model=module beside it",
        ),
    ],
)
def test_keys_that_cannot_be_are_refused_before_anything_runs(words: list[str], said: str) -> None:
    with pytest.raises(CalibError) as raised:
        request(*words)
    assert str(raised.value) == said


@pytest.mark.parametrize(
    ("words", "card", "said"),
    [
        (["parallel.tp=3"], "h200", "parallel.tp = 3: expected a divisor of heads = 32"),
        (["parallel.pp=3"], "h200", "parallel.pp = 3: expected at most layers = 2"),
        (["parallel.tp=2"], "cpu", "parallel.tp = 2: expected 1 on cpu, whose links to others"),
        (["parallel.tp=16"], "rtx4090", "parallel.tp = 16: expected no more than 8 cards in all"),
    ],
)
def test_layouts_that_a_model_or_a_card_does_not_take(
    words: list[str], card: str, said: str
) -> None:
    asked = request(*words)
    with pytest.raises(CalibError) as raised:
        asked, model = find_subject(asked, load_hardware(card))
        phases_of(model, asked.workload)
    assert str(raised.value).startswith(said)


def written(folder: Path, *words: str) -> dict[str, Any]:
    run(request(*words), folder, member="")
    report: dict[str, Any] = json.loads((folder / "report.json").read_text("utf-8"))
    return report


def test_a_report_says_the_layout_and_what_a_card_does(tmp_path: Path) -> None:
    alone = written(tmp_path / "1", "workload.batch=8", "parallel.tp=1")
    four = written(tmp_path / "4", "workload.batch=8", "parallel.tp=4")
    weights = [r["memory"]["weight_bytes"] for r in (alone, four)]
    assert weights[0] / weights[1] == pytest.approx(4, rel=1e-3)
    flops = [r["module_metrics"][0]["flops"] for r in (alone, four)]
    assert flops[0] / flops[1] == pytest.approx(4, rel=1e-3)
    figures = {f["name"]: f["estimate"] for f in four["figures"]}
    each = 8 / figures["time per output token"] / 4
    assert figures["tokens per second per card"] == pytest.approx(each)
    assert "tokens per second per card" not in {f["name"] for f in alone["figures"]}
    modules = pd.read_parquet(tmp_path / "4" / "modules.parquet").set_index("path")
    own = json.loads(modules["params_json"]["model.layers.0.self_attn"].iloc[0])
    assert (own["heads"], own["kv_heads"], own["hidden"]) == (8, 2, 4096)
    text = (tmp_path / "4" / "report.md").read_text("utf-8")
    assert text.startswith("# llama_3_1_8b on 4 x h200 (tp=4)")
    assert "Nothing is overlapped" in text
    assert "4 x h200 (tp=4)" in (tmp_path / "4" / "report.html").read_text("utf-8")
    table = with_keys(
        runs_table([tmp_path / "1", tmp_path / "4"]), [{"parallel.tp": "1"}, {"parallel.tp": "4"}]
    )
    cells = run_cells(table, 200)
    assert {"tp", "cards", "a card"} <= set(cells.headers)
    assert [row[cells.headers.index("cards")] for row in cells.rows] == ["1", "4"]


def test_a_pipeline_of_groups(tmp_path: Path) -> None:
    report = written(
        tmp_path, "workload.batch=8", "parallel.tp=2", "parallel.pp=2", "parallel.dp=2"
    )
    text = (tmp_path / "report.md").read_text("utf-8")
    assert "8 x h200 (tp=2 pp=2 dp=2)" in text and "pace" in text
    assert report["memory"]["fits"]


def test_what_is_told_may_run_beside_other_work(tmp_path: Path) -> None:
    """All of it: what is left is the time of the card's own kernels."""
    waits = written(tmp_path / "0", "parallel.tp=4")
    hidden = written(tmp_path / "1", "parallel.tp=4", "parallel.overlap=1.0")
    table = pd.read_parquet(tmp_path / "0" / "estimates.parquet")
    told = table["kind"].isin(["all_reduce", "all_gather"])
    kernels = table["estimate_s"][~told].sum()
    assert table["estimate_s"][told].sum() > 0
    assert hidden["module_metrics"][0]["predicted_s"] == pytest.approx(kernels)
    assert hidden["predicted_total_s"] < waits["predicted_total_s"]
    assert "100% of what cards tell" in (tmp_path / "1" / "report.md").read_text("utf-8")


def test_collectives_of_torch_are_the_librarys_where_it_ships(tmp_path: Path) -> None:
    """On one node; over several the links are all that is known."""
    for folder, cards, how in (("8", "8", "interpolated"), ("16", "16", "roofline")):
        written(tmp_path / folder, f"parallel.tp={cards}")
        table = pd.read_parquet(tmp_path / folder / "estimates.parquet")
        assert set(table["provenance"][table["kind"] == "all_reduce"]) == {how}
