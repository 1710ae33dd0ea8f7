"""What a run was asked lies beside what it found, and a run that was refused leaves nothing."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from calib.checkout import ROOT
from calib.steps.manners.asked import HELD_BACK, hold_back, leave_nothing

LIGHT = ("mode=analytic", "report.html=false", "report.pictures=false", "report.trace=false")
SMALL = ("+hw=h200", "model=vit_l", "workload=image_224", "report.layers=false")
SERVE = ("+hw=h200", "model=llama_3_1_8b", "mode=serve", "serve.batches=2", "serve.cards=1")


def calib(*words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    places = {**os.environ, "PYTHONPATH": str(ROOT), "XDG_DATA_HOME": str(cwd / "data")}
    command = [sys.executable, "-m", "calib.run", *words]
    kept = {"capture_output": True, "text": True, "timeout": 120, "env": places}
    return subprocess.run(command, check=False, cwd=cwd, **kept)


def contents(folder: Path) -> dict[str, bytes]:
    """All that a user reads: neither the lock nor the log."""
    found = (p for p in folder.rglob("*") if p.is_file() and p.name not in ("run.log", ".lock"))
    return {str(p.relative_to(folder)): p.read_bytes() for p in found}


@pytest.mark.parametrize("words", [(*SMALL, *LIGHT), (*SERVE, *LIGHT[1:])])
def test_a_refused_run_leaves_an_earlier_one_as_it_was(words: tuple[str, ...], tmp_path: Path):
    first = calib(*words, "hydra.run.dir=run", cwd=tmp_path)
    assert first.returncode == 0, first.stderr
    before = contents(tmp_path / "run")
    noted = yaml.safe_load(before["config/overrides.yaml"])
    assert noted == list(words)
    assert yaml.safe_load(before["config/config.yaml"])["hw"]["name"] == "h200"
    assert yaml.safe_load(before["config/hydra.yaml"])["hydra"]["overrides"]["task"] == noted
    for wrong in ("energy=none.parquet", "hw.bandwidth=-1", "repeats=0"):
        refused = calib(*words, wrong, "hydra.run.dir=run", cwd=tmp_path)
        assert refused.returncode == 2
        assert contents(tmp_path / "run") == before
    again = calib(*words, "seed=3", "hydra.run.dir=run", cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert "seed=3" in (tmp_path / "run" / "config" / "overrides.yaml").read_text("utf-8")


def test_a_refused_run_leaves_no_folder_of_outputs(tmp_path: Path):
    done = calib(*SMALL, *LIGHT, "energy=none.parquet", cwd=tmp_path)
    assert done.returncode == 2 and done.stderr.startswith("error: energy")
    assert not (tmp_path / "outputs").exists()


def test_only_what_holds_nothing_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    for name, text in (("a", ""), ("b", "measured")):
        folder = tmp_path / "outputs" / "day" / name
        folder.mkdir(parents=True)
        (folder / "run.log").write_text(text)
        leave_nothing(folder)
        assert folder.exists() == bool(text)
    (tmp_path / "mine").mkdir()
    leave_nothing(tmp_path / "mine")
    assert (tmp_path / "mine").exists()


@pytest.mark.parametrize(
    ("words", "added"),
    [
        (["+hw=h200"], [HELD_BACK]),
        (["-m", "+hw=h200,h100"], []),
        (["hydra.output_subdir=mine"], []),
        (["--cfg", "job"], []),
        ([], [HELD_BACK]),
    ],
)
def test_hydra_notes_what_is_asked_of_many_runs_alone(words: list[str], added: list[str]):
    assert hold_back(words) == [*words, *added]
