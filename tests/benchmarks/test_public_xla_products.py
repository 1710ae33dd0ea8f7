"""Products as XLA timed them, beside what ships."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import public_xla_products as xla
from calib.cards.asked import OTHER_WAY
from calib.hardware.datasheet import load_hardware
from model.ops import Matmul


@pytest.fixture(scope="module")
def timed() -> list[xla.Timed]:
    return xla.published()


@pytest.fixture(scope="module")
def rows(timed: list[xla.Timed]) -> list[dict[str, Any]]:
    return list(xla.compared([t for t in timed if t.is_steady]))


def some(rows: list[dict[str, Any]], *key: object) -> list[dict[str, Any]]:
    return [r for r in rows if xla.group(r) == key]


def test_every_row_is_within_the_peak_and_the_second_run_is_the_h100s(
    timed: list[xla.Timed],
) -> None:
    assert len(timed) == 5 * 375
    for t in timed:
        peak = load_hardware(t.card).peak_flops[t.op.dtype]
        assert float(t.op.flops) / t.seconds < peak
        assert (t.again is not None) == (t.card == "h100")
    assert sum(not t.is_steady for t in timed) == 16


def test_every_product_takes_as_much_besides(rows: list[dict[str, Any]]) -> None:
    """Small or large, on either card, by either half of the groups: how the source timed them, and
    with it they are told. Of the H100 and bfloat16 nothing was fitted to a row."""
    for card in ("h100", "b200"):
        found = {r["besides_s"] for r in rows if r["card"] == card}
        assert len(found) == 2 and all(2.2e-6 < besides < 2.5e-6 for besides in found)
    for card, before, after in (("h100", 0.2, 0.03), ("b200", 0.3, 0.04)):
        some_rows = some(rows, card, "bfloat16", False)
        errors = {k: [abs(r[f"{k}error"]) for r in some_rows] for k in ("", "alone_")}
        assert np.median(errors[""]) > before and np.median(errors["alone_"]) < after
        assert np.mean([r["alone_inside"] for r in some_rows]) > 0.85


def test_a_hoppers_tf32_holds_either_way(rows: list[dict[str, Any]]) -> None:
    """Half of the groups told the width; of the others as many lie within it."""
    others = [r for r in rows if (r["card"], r["dtype"]) == ("h100", "tf32")]
    others = [r for r in others if not xla.is_even(r["op"])]
    assert 0.8 < np.mean([r["alone_inside"] for r in others]) < 0.97
    assert f"{OTHER_WAY:.2f} more" in xla.other_way(rows)[0]


def test_a_batch_is_one_product_of_its_rows_and_other_dtypes_as_many_bytes(
    rows: list[dict[str, Any]],
) -> None:
    found = list(xla.ratios(rows))
    for rule, card, dtype, within in (
        ("a batch over one product of its rows", "b200", "bfloat16", 1.1),
        ("a batch over one product of its rows", "h100", "bfloat16", 1.1),
        ("another dtype over bfloat16 of as many bytes", "b200", "float8_e4m3fn", 1.25),
        ("another dtype over bfloat16 of as many bytes", "b200", "tf32", 1.3),
    ):
        those = [r for r in found if (r["rule"], r["card"], r["dtype"]) == (rule, card, dtype)]
        off = [abs(np.log(r["told"] / r["published"])) for r in those]
        assert len(those) > 150 and np.exp(np.percentile(off, 90)) < within


def test_what_rules_name() -> None:
    assert xla.all_rows(Matmul(64, 32, 16)) is None
    assert xla.all_rows(Matmul(64, 32, 16, 4)) == Matmul(256, 32, 16)
    wide = xla.as_many_bytes(xla.product("tf32", m=64, n=32, k=16, batch=2))
    assert wide == Matmul(64, 32, 32, 2)
    assert xla.as_many_bytes(xla.product("float8_e4m3fn", m=64, n=32, k=16, batch=1)) == Matmul(
        64, 32, 8
    )
    assert xla.as_many_bytes(Matmul(64, 32, 16)) is None


def test_the_page_and_the_last_line(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    timed: list[xla.Timed],
) -> None:
    few = [t for t in timed if t.op.m == t.op.n == t.op.k == 1024 or t.op.m == 2048 == t.op.n]
    monkeypatch.setattr(xla, "published", lambda: few)
    page = tmp_path / "page.md"
    monkeypatch.setattr("sys.argv", ["public_xla_products", "--rows", "--write", str(page)])
    xla.main()
    shown = capsys.readouterr().out
    last = json.loads(shown.splitlines()[-1])["products"]
    assert {r["card"] for r in last} == {"h100", "b200"}
    assert "1 x 1024 x 1024 x 1024" in shown and "late us" in page.read_text("utf-8")
    assert "two runs of the source" in shown
