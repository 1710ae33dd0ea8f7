"""Published figures of an RTX 5090 as operators: what their authors say twice agrees."""

from __future__ import annotations

import csv

import pytest

from benchmarks.rtx5090 import ELSEWHERE, IN_TURNS, PUBLISHED, STOCK, Case, case


def cases() -> list[Case]:
    with PUBLISHED.open(encoding="utf-8", newline="") as file:
        return [found for row in csv.DictReader(file) if (found := case(row))]


def test_a_rate_is_of_the_sequences_that_were_timed() -> None:
    """One author gives rates and, of two of them, milliseconds: of four sequences each."""
    timed = {"187.0": 2.9398e-3, "197.45": 2.7842e-3}
    found = {c.row["value"]: c.seconds for c in cases() if c.row["value"] in timed}
    assert found == pytest.approx(timed, rel=1e-3)


def test_no_published_product_is_faster_than_the_matrix_units() -> None:
    """At 2.94 GHz, the highest clock that a card of this kind was seen to boost to."""
    for one in cases():
        if one.row["kind"] in ("matmul", "attention") and one.row["dtype"] != "tf32":
            assert one.op.min_flops / one.seconds < 170 * 512 * 2.94e9, one.row


def test_what_is_not_sold_so_is_judged_apart() -> None:
    groups = {c.group.rpartition(", ")[2] for c in cases() if c.row["kind"] == "matmul"}
    assert groups == {STOCK, *ELSEWHERE} - {"600 W limit", IN_TURNS}
    turns = [c for c in cases() if c.group.endswith(IN_TURNS)]
    assert {c.hot for c in turns} == {True, False}
    assert all(2 * c.op.bytes <= 96 * 2**20 for c in turns if c.hot)
