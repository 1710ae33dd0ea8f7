"""Files that are missing, and none that hold anything."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.dirty_flush import main


def test_a_missing_file_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--samples", str(tmp_path / "none.parquet")]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ") and "none.parquet" in said and said.count("\n") == 1
