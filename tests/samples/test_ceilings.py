"""Ceilings: which operators stand for them, and figures from made-up samples."""

from __future__ import annotations

from dataclasses import replace

import pytest

from calib.hardware.datasheet import load_hardware
from calib.hardware.device import clock_true_peak
from calib.samples.ceilings import ORIGIN, ceiling_operators, ceilings
from calib.samples.host_costs import LAUNCH
from calib.samples.sample import Sample
from model import ops

H200, RTX5090 = load_hardware("h200"), load_hardware("rtx5090")
PRODUCT = ops.Matmul(8192, 8192, 8192)


def sample(op, seconds, cache="hot", origin=ORIGIN, **more):
    return Sample(op, [seconds], "h200", "torch", cache=cache, origin=origin, **more)


def test_a_card_has_one_product_for_every_dtype_that_torch_multiplies():
    found = [op for op, _ in ceiling_operators(RTX5090) if isinstance(op, ops.Matmul)]
    assert {op.dtype for op in found} == set(RTX5090.peak_flops) - {"float4_e2m1fn"}
    assert all(op.m == (4096 if op.dtype == "float32" else 8192) for op in found)


def test_streams_overflow_the_l2_and_one_stays_in_half_of_it():
    streams = [(op, c) for op, c in ceiling_operators(H200) if isinstance(op, ops.Elementwise)]
    assert [cache for _, cache in streams] == ["cold", "cold", "hot"]
    assert all(op.bytes > 20 * H200.l2_bytes for op, cache in streams if cache == "cold")
    assert streams[2][0].bytes == H200.l2_bytes / 2


def test_figures_stand_beside_the_datasheet_and_the_clock():
    at_clock = clock_true_peak(H200, "bfloat16", 1.5e9)
    assert at_clock == pytest.approx(4096 * 132 * 1.5e9)
    found = {
        c.name: c
        for c in ceilings(
            [
                sample(PRODUCT, PRODUCT.flops / 700e12, sm_clock_hz=1.5e9),
                sample(ops.Elementwise(2**28), 2**30 / 4.3e12, "cold"),
                sample(ops.Elementwise(2**28, 2), 1.5 * 2**30 / 4.0e12, "cold"),
                sample(ops.Elementwise(2**20), 2**22 / 7e12),
                sample(LAUNCH, 3e-6, origin="host"),
                sample(PRODUCT, 1.0, status="throttled"),
                sample(ops.Matmul(9, 9, 9), 1.0, origin="design"),
            ],
            H200,
        )
    }
    product, stream = found["product of bfloat16"], found["bandwidth"]
    assert (product.measured, product.datasheet) == (pytest.approx(700e12), 989e12)
    assert product.share == pytest.approx(700 / 989)
    assert product.clock_share == pytest.approx(700e12 / at_clock)
    assert stream.measured == pytest.approx(4.3e12) and stream.share == pytest.approx(4.3 / 4.8)
    assert found["bandwidth of the last cache"].measured == pytest.approx(7e12)
    assert (found["launch"].measured, found["launch"].unit) == (3e-6, "s")
    assert len(found) == 4


def test_the_best_of_several_is_the_ceiling_and_the_least_of_costs():
    two = [sample(PRODUCT, 2.0), sample(PRODUCT, 1.0), sample(PRODUCT, 3.0)]
    costs = [sample(LAUNCH, s, origin="host") for s in (3e-6, 2e-6, 4e-6)]
    product, launch = ceilings([*two, *costs], H200)
    assert (product.measured, launch.measured) == (PRODUCT.flops, 2e-6)


def test_the_clock_s_peak_is_the_datasheet_s_at_its_own_clock():
    """209.5 TFLOP/s of an RTX 5090 are those of 2.407 GHz, half rate for float32 sums."""
    assert clock_true_peak(RTX5090, "bfloat16", RTX5090.clock_hz) == pytest.approx(209.5e12, 1e-3)
    assert clock_true_peak(RTX5090, "int8", RTX5090.clock_hz) == pytest.approx(838e12, 1e-3)
    assert clock_true_peak(load_hardware("cpu"), "bfloat16", 1e9) is None
    assert clock_true_peak(H200, "float4_e2m1fn", 1e9) is None


def test_our_kernels_cut_float32_to_tf32_and_are_no_ceiling_of_float32():
    """On an H200 (2026-11-27): 50.6 TFLOP/s by torch, 390 by our kernel, which stood at 582% of
    the datasheet's 67."""
    op = ops.Matmul(4096, 4096, 4096, dtype="float32")
    torch_s, ours_s = op.flops / 50.6e12, op.flops / 390e12
    found = ceilings(
        [sample(op, torch_s), replace(sample(op, ours_s), implementation="triton")], H200
    )
    shares = {c.name: c.share for c in found}
    assert shares["product of float32, factors whole"] == pytest.approx(50.6 / 67)
    assert shares["product of tf32"] == pytest.approx(390 / 494.5)
