"""What a run prints: as wide as the terminal, whole, and nothing that is not so."""

from __future__ import annotations

import io
import re
from dataclasses import replace

import pytest
from report_record import RUNS, run

from calib.report.record import RunRecord
from calib.report.terminal import (
    NARROWEST,
    SHORT,
    WIDTH,
    Cells,
    component_cells,
    figure_cells,
    known_in_words,
    print_cells,
    print_report,
)


def printed(record: RunRecord) -> list[str]:
    stream = io.StringIO()
    print_report(record, stream)
    return stream.getvalue().splitlines()


@pytest.mark.parametrize("name", RUNS)
def test_terminal_fits_and_is_whole(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing says how many columns there are: a hundred, nothing cut off."""
    monkeypatch.delenv("COLUMNS", raising=False)
    lines = printed(run(name))
    assert max(len(line) for line in lines) <= WIDTH
    text = "\n".join(lines)
    assert "…" not in text
    assert "\x1b" not in text
    cells = [component_cells(run(name), ("error", "error_unseen")), figure_cells(run(name))]
    for table in cells:
        for row in table.rows:
            assert any(all(cell in line for cell in row) for line in lines), row


def test_terminal_shows_errors_where_there_is_a_clock() -> None:
    measured, predicted = component_cells(run("measured")), component_cells(run("predicted"))
    assert measured.headers[-2:] == ("error", "error unseen")
    assert measured.rows[-1][0] == "total"
    assert predicted.headers[-3:] == ("kernels", "bound by", "known by")
    assert {row[-2:] for row in predicted.rows} == {("host", "roofline")}
    without = run("measured").components.assign(error_unseen=None)
    assert component_cells(replace(run("measured"), components=without)).headers[-1] == "error"


def test_a_run_prints_at_most_a_screen() -> None:
    """The longest: measured, with everything that a run may have to say."""
    for name in RUNS:
        record = replace(run(name), notes=["A note of a hundred words. " * 4] * 6)
        assert len(printed(record)) <= 60


def test_what_does_not_fit_has_no_time_in_the_terminal() -> None:
    record = run("predicted")
    lines = printed(replace(record, memory={**(record.memory or {}), "fits": False}))
    assert any(line.startswith("It does not fit: it needs ") for line in lines)
    assert not re.search(r"\d [mµn]?s\b", "\n".join(lines))


@pytest.mark.parametrize("columns", [40, 80, 90, 100, 120])
@pytest.mark.parametrize("how", ["transferred", "interpolated", "transferred" * 4])
def test_a_narrow_terminal_loses_columns_no_digits_and_never_how_it_is_known(
    columns: int, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lesser columns go first, in full; what has no room for the word has a line for it."""
    monkeypatch.setenv("COLUMNS", str(columns))
    long = replace(run("predicted"), components=run("predicted").components.assign(provenance=how))
    lines = printed(long)
    assert max(map(len, lines)) <= max(columns, NARROWEST)
    text = "\n".join(lines)
    assert "…" not in text
    assert how in text or SHORT.get(how, how) in text
    cells = component_cells(long)
    for header in ("bytes", "FLOPs", "bound by", "known by"):
        cells = cells.without(header)
    assert any(all(cell in line for cell in cells.rows[0]) for line in lines)
    if columns == 120 and len(how) < 13:
        assert "2.20 GB" in text and how in text


@pytest.mark.parametrize("name", RUNS)
@pytest.mark.parametrize("columns", [80, 90, 100, 120, 200])
def test_no_cell_is_cut_at_any_width(
    name: str, columns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    text = printed(run(name))
    assert "…" not in "".join(text)
    assert max(map(len, text)) <= columns


def test_how_times_are_known_in_words() -> None:
    assert known_in_words([("SAM", "roofline"), ("CLIP", "roofline")]) == "known by: all roofline"
    rows = [("SAM", "roofline"), ("CLIP", "measured"), ("decode", "roofline")]
    assert known_in_words(rows) == "known by: roofline (SAM, decode), measured (CLIP)"
    assert known_in_words([*rows, rows[0]]) == known_in_words(rows)


def test_terminal_takes_no_text_for_markup() -> None:
    lines = printed(replace(run("predicted"), notes=["[bold]layers.[1-11][/bold] :smile:"]))
    assert lines[-1].strip() == "[bold]layers.[1-11][/bold] :smile:"


def test_an_unstable_run_says_so() -> None:
    assert not any("unstable" in line for line in printed(run("measured")))
    shaken = replace(run("measured"), measurement={"unstable": True, "drift": 0.21})
    text = "\n".join(printed(shaken))
    assert "drifted by 21%" in text
    assert "This run is unstable" in text
    uneven = replace(run("measured"), measurement={"unstable": True, "drift": 0.1, "spread": 0.2})
    assert "its repeats lie 20% apart" in " ".join(" ".join(printed(uneven)).split())


def test_a_table_that_no_terminal_holds_is_wider_and_whole(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    print_cells(Cells(("name", "value", "known by"), [("n" * 60, "3" * 40, "transferred")]))
    text = capsys.readouterr().out
    assert "n" * 60 in text and "3" * 40 in text and "known by: all transferred" in text
