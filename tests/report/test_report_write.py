"""Writing a report: all of it or nothing, and one clear error where it cannot be."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import yaml
from report_record import RUNS, run

from calib.checkout import ROOT
from calib.errors import CalibError
from calib.report import write
from calib.report.write import ReportError, merge_estimates, write_report

TEXTS = {"report.html", "report.json", "report.yaml", "report.md", "environment.json", "trace.json"}
TABLES = {"estimates.parquet", "modules.parquet"}


ASKED = {"config/config.yaml": "seed: 0\n"}


def files(folder: Path) -> set[str]:
    return {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize("name", RUNS)
def test_tables_and_texts(name: str, tmp_path: Path) -> None:
    paths = write_report(run(name), tmp_path / "a" / "b", pictures=False, config=ASKED)
    folder = tmp_path / "a" / "b"
    assert files(folder) == TEXTS | TABLES | set(ASKED)
    assert {str(p.relative_to(folder)) for p in paths} == files(folder)
    assert [p.name for p in folder.iterdir() if p.name.startswith(".")] == []
    report = json.loads((folder / "report.json").read_text("utf-8"))
    assert yaml.safe_load((folder / "report.yaml").read_text("utf-8")) == report
    assert report["layer_docs_dir"] is None
    assert (folder / "config" / "config.yaml").read_text("utf-8") == "seed: 0\n"
    environment = json.loads((folder / "environment.json").read_text("utf-8"))
    assert environment == run(name).environment


def test_tables_read_back_as_they_were(tmp_path: Path) -> None:
    write_report(run("measured"), tmp_path, pictures=False)
    for table, expected in zip(
        ("estimates", "modules"), (run("measured").operators, run("measured").modules), strict=True
    ):
        found = pd.read_parquet(tmp_path / f"{table}.parquet")
        pd.testing.assert_frame_equal(found, expected, check_dtype=False)


@pytest.mark.parametrize(
    ("missing", "lost"),
    [
        ("calib.report.page.write.write_page", "report.html"),
        ("calib.report.write.report_markdown", "report.md"),
        ("calib.report.write.chrome_trace", "trace.json"),
    ],
)
def test_what_was_measured_is_kept_where_a_text_cannot_be_made(
    missing: str, lost: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A package that a page needs was missing once, on a card that is lent by the minute."""

    def fails(*_: object, **__: object) -> None:
        raise ModuleNotFoundError("a package that draws")

    monkeypatch.setattr(missing, fails)
    with pytest.raises(ModuleNotFoundError, match="a package that draws"):
        write_report(run("measured"), tmp_path, pictures=False, config=ASKED)
    assert files(tmp_path) == (TEXTS | TABLES | set(ASKED)) - {lost}
    pd.testing.assert_frame_equal(
        pd.read_parquet(tmp_path / "modules.parquet"), run("measured").modules, check_dtype=False
    )


def test_layer_documents_come_with_pictures_or_formulas(tmp_path: Path) -> None:
    """By default in mode analytic, and with pictures; the report says where they are."""
    analytic = replace(run("predicted"), mode="analytic")
    write_report(analytic, tmp_path, pictures=False)
    assert (tmp_path / "layers" / "index.md").exists()
    report = json.loads((tmp_path / "report.json").read_text("utf-8"))
    assert report["layer_docs_dir"] == str(tmp_path.resolve() / "layers")
    assert "](layers/index.md)" in (tmp_path / "report.md").read_text("utf-8")


def test_everything_that_is_linked_exists(tmp_path: Path) -> None:
    write_report(run("measured"), tmp_path)
    assert {"roofline.png", "accuracy.png", "components.png", "layers/index.md"} < files(tmp_path)
    text = (tmp_path / "report.md").read_text("utf-8")
    links = [part.split(")")[0] for part in text.split("](")[1:]]
    assert len(links) > 6
    assert all((tmp_path / link).exists() for link in links), links


def test_a_file_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("mine")
    for target in (tmp_path / "taken", tmp_path / "taken" / "below"):
        with pytest.raises(ReportError, match=rf"{target}: the report cannot be written \(") as e:
            write_report(run("predicted"), target, pictures=False)
        assert isinstance(e.value, CalibError) and isinstance(e.value, OSError)
    assert (tmp_path / "taken").read_text() == "mine"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_permission(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(ReportError, match="Permission denied"):
            write_report(run("predicted"), tmp_path, pictures=False)
    finally:
        tmp_path.chmod(0o700)


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """As on a disk that is about to be full: writing more than ``size`` bytes to a file fails."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("size", [4_000, 60_000, 240_000])
def test_a_disk_that_is_full(tmp_path: Path, size: int) -> None:
    """Whether a table or a text is the first that does not fit: the old report is untouched."""
    old = write_report(run("predicted"), tmp_path / "old", pictures=False)
    before = {path: path.read_bytes() for path in old}
    assert max(len(content) for content in before.values()) > size
    for folder in ("old", "new"):
        with files_of_at_most(size), pytest.raises(ReportError, match=str(tmp_path / folder)):
            write_report(run("measured"), tmp_path / folder, pictures=False)
    assert {path: path.read_bytes() for path in old} == before
    assert files(tmp_path) == {f"old/{path.name}" for path in old}
    assert not (tmp_path / "new").exists()


def test_an_interrupt_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> str:
        raise KeyboardInterrupt

    old = write_report(run("predicted"), tmp_path, pictures=False)
    before = {path: path.read_bytes() for path in old}
    monkeypatch.setattr(write, "report_markdown", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_report(run("measured"), tmp_path, pictures=False)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_runs_are_merged(tmp_path: Path) -> None:
    for name in RUNS:
        write_report(run(name), tmp_path / name, pictures=False)
    target = tmp_path / "all" / "estimates.parquet"
    assert merge_estimates([tmp_path / name for name in RUNS], target) == target
    merged = pd.read_parquet(target)
    rows = merged.groupby("run", sort=False)["estimate_s"].agg(["size", "sum"])
    for name in RUNS:
        expected = run(name).operators["estimate_s"]
        assert rows.loc[name].tolist() == pytest.approx([len(expected), expected.sum()])
    assert files(tmp_path / "all") == {"estimates.parquet"}


def test_a_run_without_estimates_is_named(tmp_path: Path) -> None:
    with pytest.raises(ReportError, match=r"gone/estimates.parquet: cannot be read"):
        merge_estimates([tmp_path / "gone"], tmp_path / "all.parquet")
    (tmp_path / "cut").mkdir()
    (tmp_path / "cut" / "estimates.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(ReportError, match=r"cut/estimates.parquet: cannot be read"):
        merge_estimates([tmp_path / "cut"], tmp_path / "all.parquet")
    with pytest.raises(ReportError, match="no runs"):
        merge_estimates([], tmp_path / "all.parquet")


def test_no_heavy_import_without_pictures() -> None:
    """Whoever wants tables and texts alone does not wait for matplotlib or sympy."""
    code = (
        "import sys, tempfile\nsys.path.insert(0, 'tests/report')\n"
        "from report_record import run\n"
        "from calib.report.write import write_report\n"
        "from calib.report.terminal import print_report\n"
        "write_report(run('predicted'), tempfile.mkdtemp(), pictures=False)\n"
        "heavy = {'torch', 'sklearn', 'scipy', 'matplotlib', 'sympy', 'jsonschema'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_a_second_run_leaves_nothing_of_the_first(tmp_path: Path) -> None:
    """Neither pictures nor a page that a run did not write may pass for its own."""
    write_report(run("predicted"), tmp_path)
    assert (tmp_path / "report.html").exists() and (tmp_path / "roofline.png").exists()
    (tmp_path / "notes.txt").write_text("mine")
    write_report(run("predicted"), tmp_path, pictures=False, html=False)
    assert not (tmp_path / "report.html").exists() and not list(tmp_path.glob("*.png"))
    assert not list(tmp_path.glob("layers/*.md")) and (tmp_path / "notes.txt").exists()
