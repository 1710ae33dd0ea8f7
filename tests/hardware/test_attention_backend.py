"""Which family of kernels torch takes for an attention, and which of them are planned."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from calib.hardware.attention_backend import (
    backend_of,
    clears,
    growing,
    kernels,
    parts,
    planned,
)
from calib.hardware.datasheet import load_hardware
from calib.samples.files import read_samples
from model.ops import Attention, Matmul

STEP = Attention(batch=1, q_len=1, kv_len=545, heads=32, kv_heads=8, head_dim=128)
PROMPT = replace(STEP, q_len=512, kv_len=512, causal=True)
CROSS = replace(STEP, kv_len=1500, heads=20, kv_heads=20, head_dim=64)
WINDOW = replace(STEP, kv_len=1024, causal=True, window=1024)


@pytest.mark.parametrize(
    ("op", "card", "taken"),
    [
        (STEP, "9.0", "cudnn"),
        (STEP, "10.0", "cudnn"),
        (STEP, "8.9", "flash"),
        (STEP, "12.0", "flash"),
        (replace(STEP, kv_len=1), "9.0", "flash"),
        (replace(STEP, head_dim=256), "9.0", "cudnn"),
        (replace(STEP, head_dim=256), "10.0", "flash"),
        (replace(STEP, head_dim=512), "9.0", "efficient"),
        (replace(STEP, bias=True), "12.0", "efficient"),
        (replace(STEP, bias=True, head_dim=36), "12.0", "math"),
        (replace(STEP, dtype="float32"), "9.0", "efficient"),
        (replace(STEP, dtype="float32", head_dim=33), "9.0", "math"),
        (replace(PROMPT, kv_len=600), "8.0", "efficient"),
        (PROMPT, None, "math"),
    ],
)
def test_the_first_family_that_takes_an_attention(op: Attention, card: str, taken: str) -> None:
    assert backend_of(op, card) == taken


def test_layers_of_one_shape_share_a_plan() -> None:
    ops = [STEP, STEP, Matmul(1, 8, 8), CROSS]
    assert planned(ops, "9.0") == {STEP, CROSS}
    assert planned(ops, "12.0") == set()


def test_what_grows_is_neither_an_encoders_keys_nor_a_full_window() -> None:
    heard = replace(CROSS, q_len=4)
    assert growing([STEP, CROSS, WINDOW], [PROMPT, heard]) == {STEP}


def test_every_attention_of_the_record_is_what_the_table_says() -> None:
    """On an H200 torch 2.11 took cuDNN for each attention of these models."""
    import pandas as pd

    folder = Path(__file__).parents[2] / "benchmarks" / "data" / "h200" / "models"
    assert json.loads((folder / "models.json").read_text("utf-8"))
    seen = 0
    for path in folder.glob("*.parquet"):
        table = pd.read_parquet(path)
        names = table.loc[table["aten"].str.contains("attention"), "aten"]
        assert names.str.contains("cudnn").all()
        seen += len(names)
    assert seen > 100


def test_the_grids_of_the_record_are_as_many_blocks_as_the_rules_say() -> None:
    h200 = load_hardware("h200")
    folder = Path(__file__).parents[2] / "benchmarks" / "data" / "h200"
    read = [s for name in ("pool", "sweep") for s in read_samples(folder / f"{name}.parquet")]
    asked = [s for s in read if isinstance(s.op, Attention) and s.implementation == "torch"]
    asked = [s for s in asked if s.kernels]
    seen = {True: 0, False: 0}
    for sample in asked:
        op: Attention = sample.op  # type: ignore[assignment]
        card = h200.compute_capability
        assert kernels(op, card, h200.sm_count) == len(sample.kernels)
        assert clears(op, card) == sample.kernels[0].name.startswith("Memset")
        if op.q_len == 1:
            assert parts(op, h200.sm_count) == sample.kernels[0].grid[0]
        seen[op.q_len == 1] += 1
    assert seen == {True: 106, False: 214}
