"""The last table of a grid: swept keys, whether it fits, what a user asks, in 100 columns."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from calib.report.runs.grid import clipped, print_runs, run_cells, swept_keys, with_keys, words_of
from calib.report.runs.merge import outcome, stamps

ASKED = [
    {"hw": "h200", "workload.batch": "1", "execution": "eager", "model.layers": "4"},
    {"hw": "rtx5090", "workload.batch": "64", "execution": "eager", "model.layers": "8"},
]


def runs(**more: object) -> pd.DataFrame:
    """Two runs as ``runs_table`` gives them, the second too large for its card."""
    alike = {"model": "llama_3_1_8b", "workload": "text_512", "execution": "eager"}
    alike |= {"implementation": "torch", "logits": "all", "tokens": 512, "decode_steps": 128}
    rows = [
        {"run": "0", "hardware": "h200", "batch": 1, "fits": True, "wall_s": 1.5, **alike},
        {"run": "1", "hardware": "rtx5090", "batch": 64, "fits": False, "wall_s": 0.5, **alike},
    ]
    figures = {"time_to_first_token": 0.0169, "time_per_output_token": 9.7e-3}
    figures |= {"tokens_per_second": 103.1, "requests_per_second": 0.8}
    ends = {"wall_low_s": 1.25, "wall_high_s": 1.75, "provenance": "interpolated"}
    return pd.DataFrame([{**row, **figures, **ends, **more} for row in rows])


def test_every_swept_key_has_a_column_here_and_in_the_file() -> None:
    assert swept_keys(ASKED) == ["hw", "workload.batch", "model.layers"]
    table = with_keys(runs(), ASKED)
    assert table["workload.batch"].tolist() == [1, 64]
    assert table["model.layers"].tolist() == [4, 8] and table["hw"].tolist() == ["h200", "rtx5090"]
    cells = run_cells(table)
    assert cells.headers[:5] == ("run", "hardware", "batch", "layers", "fits")
    assert cells.left == 2


def test_what_stands_in_quotes_is_no_number() -> None:
    table = with_keys(runs(), [{"cuda": "'12.1'"}, {"cuda": "'12.10'"}])
    assert table["cuda"].tolist() == ["12.1", "12.10"]
    assert [row[1] for row in run_cells(table).rows] == ["12.1", "12.10"]


def test_a_run_that_does_not_fit_has_no_times() -> None:
    cells = run_cells(with_keys(runs(), ASKED))
    named = [dict(zip(cells.headers, row, strict=True)) for row in cells.rows]
    shown = ("fits", "TTFT", "ms a token", "tokens/s", "time")
    assert [named[0][head] for head in shown] == ["yes", "16.9 ms", "9.70", "103", "1.50 s"]
    assert [named[1][head] for head in shown] == ["no", "-", "-", "-", "-"]
    assert "requests/s" not in cells.headers


def test_without_noted_words_the_columns_tell_the_runs_apart() -> None:
    assert run_cells(runs()).headers[:4] == ("run", "hardware", "batch", "fits")


def test_without_times_there_are_costs() -> None:
    nothing = {"wall_s": None, "flops": 2e12, "io_bytes": 3e9, "fits": None}
    figures = ("time_to_first_token", "time_per_output_token", "tokens_per_second")
    nothing |= dict.fromkeys((*figures, "requests_per_second"))
    cells = run_cells(runs(**nothing))
    assert cells.headers[-2:] == ("FLOPs", "bytes") and "2.00 TFLOP" in cells.rows[0]


@pytest.mark.parametrize("columns", [80, 100, 140])
@pytest.mark.parametrize("count", range(9))
def test_it_never_is_wider_than_the_terminal(
    count: int, columns: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As far as the keys' words can be cut."""
    monkeypatch.setenv("COLUMNS", str(columns))
    names = ("decode_steps", "implementation", "execution", "logits", "seed", "layers", "heads")
    more = dict.fromkeys([f"model.{n}" for n in (*names, "a_very_long_name")][:count], "v")
    asked = [dict(hw="h200", **more), dict(hw="rtx5090", **dict.fromkeys(more, "w" * 20))]
    table = with_keys(runs(), asked)
    print_runs(table)
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines())) <= columns or count > {80: 2, 100: 5, 140: 9}[columns]
    assert "interp." in text or "interpolated" in text
    cells = run_cells(table)
    for head in ("fits", "TTFT", "ms a token", "tokens/s"):
        assert head in cells.headers
    assert len(cells.headers) >= 6 + count


def test_words_are_cut_in_the_middle_and_paths_at_what_they_share() -> None:
    assert clipped("deepseek_ocr_vendor", 9) == "deep…ndor"
    assert clipped("short", 9) == "short"
    paths = pd.Series(["/a/b/llama/config.json", "/a/b/vit/config.json"])
    assert words_of(paths) == ["llama/config.json", "vit/config.json"]
    assert words_of(pd.Series([1.0, None])) == ["1", "-"]


def test_what_an_earlier_sweep_left_is_not_of_this_one(tmp_path: Path) -> None:
    for name in ("0", "1", "2", "9"):
        (tmp_path / name).mkdir()
    for name in ("0", "1", "9"):
        (tmp_path / name / "estimates.parquet").write_text("old")
    (tmp_path / "2" / "error.txt").write_text("old")
    before = stamps(tmp_path)
    (tmp_path / "0" / "estimates.parquet").unlink()
    (tmp_path / "0" / "estimates.parquet").write_text("new")
    (tmp_path / "1" / "error.txt").write_text("it failed")
    found, failed = outcome(tmp_path, before)
    assert [run.name for run in found] == ["0"] and failed == {"1": "it failed"}
    found, failed = outcome(tmp_path)
    assert [run.name for run in found] == ["0", "9"] and set(failed) == {"1", "2"}


@pytest.mark.parametrize(
    ("joules", "head"),
    [
        ({"joules_a_token": [2.9, 3.1], "joules_a_request": [380.0, 400.0]}, "J a token"),
        ({"joules_a_token": [2.9, None], "joules_a_request": [380.0, 0.57]}, "J a request"),
        ({"joules_a_token": [2.9, None]}, "J a token"),
        ({}, ""),
    ],
)
def test_joules_stand_beside_the_times_where_they_are_known(
    joules: dict[str, list[float]], head: str
) -> None:
    """One column, what most runs know; a run that does not fit draws nothing."""
    table = runs().assign(**joules)
    cells = run_cells(table.assign(fits=True), 200)
    assert [h for h in cells.headers if h.startswith("J ")] == ([head] if head else [])
    cells = run_cells(table, 200)
    if head:
        at = next(i for i, h in enumerate(cells.headers) if h.startswith("J "))
        assert cells.rows[0][at] != "-" and cells.rows[1][at] == "-"
