"""The hardening benchmark, shortly: its trials end as they should, its table and its last line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.hardening import __main__ as hardening
from benchmarks.hardening import configurations, settings
from benchmarks.hardening.outcome import Outcome
from benchmarks.hardening.tally import BAD, Tally, tried
from calib.errors import CalibError


@pytest.mark.slow
def test_random_settings_are_taken_or_refused_in_one_sentence() -> None:
    for trial, seconds in ((settings.data_trial, 3.0), (settings.hydra_trial, 2.0)):
        found = settings.in_process("settings", seconds, 11, trial)
        assert found.tried > 0
        assert (found.traceback, found.silently_wrong, found.hang) == (0, 0, 0), found.examples


@pytest.mark.slow
def test_random_configurations_are_taken_or_refused_in_one_sentence() -> None:
    (found,) = configurations.run(5.0, 1)  # no bigbird_pegasus among 600: docs/reliability.md
    assert found.tried > 0
    assert (found.traceback, found.silently_wrong, found.hang) == (0, 0, 0), found.examples


def test_every_key_is_tried() -> None:
    assert {"measured", "samples.dir", "workload.tiles", "model.heads", "hw.peak_flops"} <= set(
        settings.keys()
    )


def fails(error: Exception) -> None:
    raise error


def test_an_end_is_told_by_what_is_raised() -> None:
    assert tried(lambda: None, 1.0)[0] == "right"
    assert tried(lambda: None, 1.0, should_fail=True)[0] == "silently_wrong"
    assert tried(lambda: fails(CalibError("seed = -1: expected 0")), 1.0)[0] == "clear"
    assert tried(lambda: fails(CalibError("two\nlines")), 1.0)[0] == "traceback"
    assert tried(lambda: fails(TypeError("x")), 1.0)[0] == "traceback"

    def endless() -> None:
        while True:
            pass

    assert tried(endless, 0.05)[0] == "hang"


def test_what_went_wrong_is_kept() -> None:
    tally = Tally("kind")
    for end in (*BAD, "clear", "right"):
        tally.add(end, "what")
    found = tally.outcome()
    assert (found.tried, len(found.examples)) == (5, 3)


def test_it_ends_with_a_table_and_one_object(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    one = Outcome("settings", 1200, 1100, 99, 1, 0, 0, ("a\nb",))
    monkeypatch.setattr(settings, "run", lambda seconds, seed: [one])
    page = tmp_path / "page.md"
    for _ in range(2):  # the second takes the place of the first
        asked = ["--minutes", "1", "--part", "settings.run", "--write", str(page)]
        assert hardening.main(asked) == 1
    lines = capsys.readouterr().out.splitlines()
    assert "| settings | 1,200 | 1,100 | 99 | 1 | 0 | 0 |" in lines
    assert json.loads(lines[-1])["outcomes"][0]["tried"] == 1200
    text = page.read_text("utf-8")
    assert text.count("| settings |") == 1 and text.startswith("# Reliability")
