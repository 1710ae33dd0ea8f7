"""Figures of a training step: time, rates, model FLOPs utilisation."""

from __future__ import annotations

import pandas as pd
import pytest

from calib.estimates.training import training_table
from calib.hardware.datasheet import load_hardware
from model.layer import Layer, call
from model.ops import Elementwise, Matmul
from model.workload import Phase, Workload


class Product(Layer):
    mirrors = "Linear"

    def forward(self):
        yield call(Matmul(m=512, n=1024, k=256), count=3)
        yield call(Elementwise(4096))


def test_mfu_is_the_products_at_their_peak_over_the_time() -> None:
    hardware = load_hardware("h200")
    least = 2 * 3 * 2 * 512 * 1024 * 256 / hardware.peak_flops["bfloat16"]
    step = {"roofline_s": 4 * least, "estimate_s": 5 * least, "low_s": 4 * least}
    step |= {"high_s": 10 * least, "measured_s": float("nan"), "component": "total"}
    phases = {"forward": Phase(Product(), 2)}
    asked = Workload("text", prompt_tokens=64, batch=8)
    found = training_table(pd.DataFrame([step]), phases, asked, hardware).set_index("name")
    assert list(found.index) == [
        *("time of a step", "tokens per second", "samples per second", "MFU"),
    ]
    mfu = found.loc["MFU", ["estimate", "low", "high", "roofline"]].tolist()
    assert mfu == pytest.approx([20, 10, 25, 25])
    assert found.loc["tokens per second", "estimate"] == pytest.approx(512 / (5 * least))
    assert found.loc["samples per second", "low"] == pytest.approx(8 / (10 * least))
