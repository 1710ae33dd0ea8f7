"""A run of which nothing but the roofline is known says so alike in all that it writes."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
from torch import nn

import calib

BARE = ("high_s", "wall_high_s", "efficiency")
"""Columns of operators that are null."""


@pytest.fixture(scope="module")
def found() -> Any:
    layer = {"dtype": torch.bfloat16, "device": "meta"}
    module = nn.Sequential(nn.Linear(64, 32, **layer), nn.Linear(32, 8, **layer))
    return calib.estimate(module, torch.zeros(8, 64, **layer), "t4")


def test_no_upper_end_is_known_of_it(found: Any) -> None:
    assert set(found.operators["provenance"]) == {"roofline"}
    assert found.operators[list(BARE)].isna().all(axis=None)
    assert (found.operators["low_s"] == found.operators["roofline_s"]).all()
    for table in ("modules", "components"):
        assert found.to_pandas(table)["high_s"].isna().all()
    assert math.isnan(found.high_s) and found.low_s > 0


def test_it_is_null_in_the_files(found: Any, tmp_path: Path) -> None:
    """And in JSON no word that JSON does not have."""
    found.report(tmp_path, pictures=False)
    stored = pq.read_table(tmp_path / "estimates.parquet")
    assert all(stored[name].null_count == len(stored) for name in BARE)
    modules = pq.read_table(tmp_path / "modules.parquet")
    assert modules["high_s"].null_count == len(modules)

    def refuse(word: str) -> None:
        raise AssertionError(word)

    said = json.loads((tmp_path / "report.json").read_text(), parse_constant=refuse)
    assert said["high_s"] is None
    assert all(row["high_s"] is None for row in said["components"])
    page = (tmp_path / "report.md").read_text()
    assert "nan" not in page.lower().replace("nano", "") and "100% | 1 |" not in page
    rows = [line.split(" | ") for line in page.splitlines() if line.startswith("| matmul |")]
    assert [row[3] for row in rows] == ["-"]
    assert pd.read_parquet(tmp_path / "estimates.parquet")["high_s"].isna().all()
