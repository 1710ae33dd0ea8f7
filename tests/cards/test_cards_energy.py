"""Joules of operators: watts that were put in are found again, what cannot be is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.card.energy import operators
from calib.cards.energy import __main__ as command
from calib.cards.energy.counted import COLUMNS, Counted, CountedCard, read_counted
from calib.cards.energy.fitted import EXPONENT, RESOURCES, Energy, work_of
from calib.cards.energy.fitting import OF_PHASES, fit_energy, fitted, group_of
from calib.cards.energy.shipped import load_energy, write_energy
from calib.cards.stored import StoredError
from calib.checkout import ROOT
from calib.errors import CalibError
from calib.hardware.datasheet import floor, load_hardware
from calib.samples.files import op_to_json
from model.ops import Copy, Elementwise, Matmul

H200 = load_hardware("h200")
COUNTED = ROOT / "benchmarks" / "data" / "h200" / "energy" / "operators.parquet"
TRUE = Energy("h200", 100.0, (900.0, 3000.0, 500.0, 120.0), 550.0, 0.1, 0.03, 40, 0.0)


def counted(energy: Energy = TRUE) -> CountedCard:
    """The checklist's operators at half the floor's rate, drawing what ``energy`` says."""
    rows = []
    for op, cache in operators():
        hot = cache == "hot" and op.bytes <= H200.l2_bytes
        seconds = 2 * float(floor(op, H200)) / (4 if hot else 1)
        joules = energy.back_to_back(work_of([op], [hot], H200), np.array([seconds]))
        rows.append(Counted(op, cache, seconds, float(joules[0])))
    return CountedCard("h200", energy.idle_w, tuple(rows))


def table(**changed) -> pd.DataFrame:
    rows = [
        {"kind": c.op.operator, "shape": op_to_json(c.op), "cache": c.cache, "repeats": 10}
        | {"seconds": 10 * c.seconds, "joules": 10 * c.joules}
        for c in counted().operators
    ]
    return pd.DataFrame(rows).assign(hardware="h200", idle_w=100.0, **changed)


def test_watts_that_were_put_in_are_found_again() -> None:
    card = counted()
    found = fit_energy(card, H200)
    for row in card.operators:
        hot = row.cache == "hot" and row.op.bytes <= H200.l2_bytes
        joules = found.back_to_back(work_of([row.op], [hot], H200), np.array([row.seconds]))
        assert joules[0] == pytest.approx(row.joules, rel=0.05)
    assert found.median_error < 0.03
    assert found.operators == 40


def test_a_small_cards_ceiling_is_found_and_none_that_nothing_reached() -> None:
    small = replace(TRUE, idle_w=10.0, watts=tuple(0.1 * w for w in TRUE.watts), ceiling_w=40.0)
    found = fitted(counted(small).operators, H200, small.idle_w)
    assert found.ceiling_w == pytest.approx(small.ceiling_w, rel=0.05)
    free = replace(TRUE, ceiling_w=1e5)
    rows = counted(free).operators
    most = max(row.joules / row.seconds for row in rows) - free.idle_w
    assert fitted(rows, H200, free.idle_w).ceiling_w > 1.3 * most


def test_a_file_is_read_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "energy.parquet"
    table(watts=1.0, refused=None).to_parquet(path)
    card = read_counted(path, "h200")
    assert card.idle_w == 100.0
    assert len(card.operators) == 40
    for found, expected in zip(card.operators, counted().operators, strict=True):
        assert (found.op, found.cache) == (expected.op, expected.cache)
        assert found.joules == pytest.approx(expected.joules)


def test_operators_that_the_card_refused_are_left_out(tmp_path: Path) -> None:
    rows = table(refused=None).astype({"refused": object})
    rows.loc[3, "refused"] = "out of memory"
    rows.loc[3, "joules"] = np.nan
    rows.to_parquet(tmp_path / "energy.parquet")
    assert len(read_counted(tmp_path / "energy.parquet").operators) == 39


@pytest.mark.parametrize(
    ("column", "value", "said"),
    [
        ("joules", -3.0, r"row 2: joules = -3\.0: expected a number above 0"),
        ("seconds", float("nan"), r"row 2: seconds = nan: expected a number above 0"),
        ("repeats", 0, r"row 2: repeats = 0: expected a number above 0"),
        ("idle_w", float("inf"), r"row 2: idle_w = inf: expected a number above 0"),
        ("cache", "warm", r"row 2: cache = 'warm': expected hot or cold"),
        ("shape", '{"rows": 1}', r"row 2: shape = .*: expected the fields of elementwise"),
        (
            "kind",
            "elementwize",
            r"row 2: kind = 'elementwize': expected one of .*mean elementwise\?",
        ),
        ("hardware", "h100", r"row 2: hardware = 'h100': expected h200, the card"),
    ],
)
def test_what_cannot_be_is_refused_by_row_and_column(
    tmp_path: Path, column: str, value: object, said: str
) -> None:
    rows = table().astype({"repeats": object, column: object})
    rows.loc[2, column] = value
    if isinstance(value, float | int):
        rows[column] = rows[column].astype(float if isinstance(value, float) else int)
    rows["repeats"] = rows["repeats"].astype(int)
    path = tmp_path / "energy.parquet"
    rows.to_parquet(path)
    with pytest.raises(CalibError, match=said) as refused:
        read_counted(path, "h200")
    assert str(path) in str(refused.value)
    assert str(refused.value).endswith("(rows count from 0)")


@pytest.mark.parametrize("column", COLUMNS)
def test_a_missing_column_is_named(tmp_path: Path, column: str) -> None:
    path = tmp_path / "energy.parquet"
    table().drop(columns=column).to_parquet(path)
    with pytest.raises(CalibError, match=f"has no column {column}: expected what"):
        read_counted(path)


def test_one_kind_of_operator_is_too_few(tmp_path: Path) -> None:
    copies = pd.concat([table().query("kind == 'copy'")] * 20, ignore_index=True)
    copies["shape"] = [op_to_json(Copy(2**20 + i)) for i in range(len(copies))]
    copies.to_parquet(tmp_path / "copies.parquet")
    with pytest.raises(CalibError, match="of one kind, copy: expected 2 kinds or more"):
        read_counted(tmp_path / "copies.parquet")


def test_other_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "energy.parquet"
    path.write_text("joules", "utf-8")
    with pytest.raises(CalibError, match="cannot be read"):
        read_counted(path)
    table().iloc[:5].to_parquet(path)
    with pytest.raises(CalibError, match="counts 5 different operators: expected 12"):
        read_counted(path)
    table().iloc[[0] * 20].reset_index(drop=True).to_parquet(path)
    with pytest.raises(CalibError, match="counts 1 different operators: expected 12"):
        read_counted(path)
    table().to_parquet(path)
    with pytest.raises(CalibError, match="hardware = 'h200': expected h100, the card"):
        read_counted(path, "h100")


@pytest.mark.parametrize(
    ("factor", "column", "said"),
    [
        (1e3, "joules", r"row 0: joules = .* J in .* s, what an idle card and its board can draw"),
        (1e-3, "joules", r"row 0: joules = .* J in .* s, what an idle card and its board can draw"),
        (1e3, "idle_w", r"row 0: idle_w = .*: expected less than 1050"),
    ],
)
def test_what_no_card_draws_is_refused(
    tmp_path: Path, factor: float, column: str, said: str
) -> None:
    """Millijoules for joules, and an idle card that draws more than its board is built for."""
    path, counted = tmp_path / "energy.parquet", table()
    counted[column] *= factor
    counted.to_parquet(path)
    with pytest.raises(CalibError, match=said):
        read_counted(path)


def test_a_card_of_ones_own_needs_no_datasheet(tmp_path: Path) -> None:
    path = tmp_path / "energy.parquet"
    table().assign(hardware="some_card").to_parquet(path)
    assert read_counted(path, "some_card").hardware == "some_card"


def test_no_work_draws_nothing_above_idle() -> None:
    nothing = np.zeros((1, len(RESOURCES)))
    assert TRUE.above(nothing, np.array([1.0]))[0] == 0
    assert TRUE.back_to_back(nothing, np.array([2.0]))[0] == pytest.approx(200.0)
    assert TRUE.back_to_back(nothing, np.array([0.0]))[0] == 0


work = st.lists(st.floats(0, 1), min_size=4, max_size=4)


@given(work, work, st.floats(1e-6, 10))
def test_joules_grow_with_work_and_stay_below_the_ceiling(some, more, seconds) -> None:
    less = np.array([some]) * seconds
    whole = less + np.array([more]) * seconds
    s = np.array([seconds])
    assert TRUE.back_to_back(whole, s)[0] >= TRUE.back_to_back(less, s)[0] * (1 - 1e-9)
    assert TRUE.back_to_back(whole, s)[0] <= (TRUE.idle_w + TRUE.ceiling_w) * seconds * (1 + 1e-9)


def test_a_byte_counts_where_it_comes_from() -> None:
    """A copy that streams at half the bandwidth for a second, by hand."""
    op = Copy(2**28)
    cold, hot = work_of([op, op], [False, True], H200)
    seconds = np.array([2 * float(op.bytes) / H200.bandwidth])
    for row, watts in ((cold, 500.0), (hot, 120.0)):
        assert TRUE.above(row[None], seconds)[0] == pytest.approx(
            watts * 0.5**EXPONENT * seconds[0]
        )
    product, sums = work_of([Matmul(64, 64, 64), Elementwise(64)], [True, True], H200)
    assert product[0] > 0 == product[1]
    assert sums[1] > 0 == sums[0]


def test_halves_and_neighbours_are_held_out_together() -> None:
    def group(op, cache):
        return group_of(Counted(op, cache, 1.0, 1.0))

    half = group(Matmul(8192, 8192, 8192, dtype="float16"), "hot")
    assert half == group(Matmul(512, 512, 512), "hot")
    assert group(Matmul(1, 8192, 8192), "cold") == group(Matmul(8, 8192, 8192), "cold")
    assert group(Matmul(1, 8192, 8192), "cold") != group(Matmul(16, 8192, 8192), "cold")


def test_what_ships_is_the_fit_of_what_was_counted() -> None:
    shipped, again = load_energy(H200), fit_energy(read_counted(COUNTED), H200)
    assert shipped is not None
    assert again.watts == pytest.approx(shipped.watts, rel=1e-3)
    assert again.width == pytest.approx(shipped.width, rel=1e-3)
    assert again.ceiling_w == pytest.approx(shipped.ceiling_w, rel=1e-3)
    assert shipped.width > OF_PHASES * shipped.median_error


@pytest.mark.parametrize("card", ["h100", "h800", "b200", "rtx5090", "cpu"])
def test_no_sibling_lends_its_joules(card: str) -> None:
    assert load_energy(load_hardware(card)) is None


def test_a_file_that_ships_is_whole_or_refused(tmp_path: Path) -> None:
    path = write_energy(TRUE, {"summary": "made up"}, tmp_path)
    assert load_energy(H200, tmp_path) == TRUE
    stored = json.loads(path.read_text("utf-8"))
    (tmp_path / "h100.json").write_text(json.dumps(stored), "utf-8")
    with pytest.raises(StoredError, match="is of 'h200': expected 'h100'"):
        load_energy(load_hardware("h100"), tmp_path)
    path.write_text(json.dumps(stored | {"schema": 9}), "utf-8")
    with pytest.raises(StoredError, match="schema 9: expected 1"):
        load_energy(H200, tmp_path)
    path.write_text(json.dumps(stored)[:-20], "utf-8")
    with pytest.raises(StoredError, match="is no fit of counted energy"):
        load_energy(H200, tmp_path)


def test_a_fit_is_of_its_own_card() -> None:
    with pytest.raises(CalibError, match="counted on h200: expected h100"):
        fit_energy(counted(), load_hardware("h100"))


def test_the_command_writes_what_ships(tmp_path: Path, monkeypatch, capsys) -> None:
    arguments = ["energy", str(COUNTED), "--out", str(tmp_path)]
    monkeypatch.setattr("sys.argv", arguments)
    command.main()
    assert "fitted to the joules of 40 operators" in capsys.readouterr().out
    assert load_energy(H200, tmp_path) == load_energy(H200)
