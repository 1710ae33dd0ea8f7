"""The fit against devices whose law is known."""

from dataclasses import replace

import numpy as np
import pytest

from calib.errors import CalibError
from calib.fit.calibration import uncalibrated
from calib.fit.fitting import IN_MODEL, fit, measured_shapes
from calib.hardware.datasheet import floor, load_hardware
from calib.samples.drift import drift_corrected
from calib.samples.sample import Sample
from model import ops

H200 = load_hardware("h200")
RNG = np.random.default_rng(7)


def truth(op: ops.Operator) -> float:
    """A made-up device: 4 microseconds, 80% of both peaks, and a third more below 64 rows."""
    penalty = 1 + 0.33 / (1 + (op.m / 64) ** 2)
    return 4e-6 + float(floor(op, H200)) / 0.8 * penalty


def made_up(count: int, noise: float = 0.02, hardware: str = "h200") -> list[Sample]:
    samples = []
    for m, n, k in np.exp(RNG.uniform(np.log(16), np.log(8192), (count, 3))).astype(int):
        op = ops.Matmul(int(m), int(n), int(k))
        seconds = truth(op) * np.exp(RNG.normal(0, noise, 5))
        samples.append(Sample(op, list(seconds), hardware, "torch"))
    return samples


@pytest.fixture(scope="module")
def calibration():
    return fit(made_up(120), H200)


def test_unseen_shapes_are_within_a_few_percent_and_beat_both_baselines(calibration):
    fresh = [s.op for s in made_up(200)]
    table = calibration.estimate(fresh)
    true = np.array([truth(op) for op in fresh])
    error = np.median(np.abs(table["estimate_s"] / true - 1))
    assert error < 0.05
    held_out = calibration.held_out.iloc[0]
    assert held_out["median_error"] < 0.06
    assert held_out["median_error"] < held_out["constant_median_error"]
    assert held_out["median_error"] < held_out["roofline_median_error"]


def test_intervals_cover_what_they_say(calibration):
    fresh = made_up(300)
    table = calibration.estimate([s.op for s in fresh])
    seen = np.array([s.expected for s in fresh])
    inside = (table["low_s"] <= seen) & (seen <= table["high_s"])
    assert 0.82 <= inside.mean() <= 0.99


def test_provenance_is_measured_interpolated_or_extrapolated(calibration):
    seen = next(iter(calibration.measured))[1]
    table = calibration.estimate([seen, ops.Matmul(300, 300, 300), ops.Matmul(2**20, 64, 64)])
    assert list(table["provenance"]) == ["measured", "interpolated", "extrapolated"]


def test_estimate_never_jumps_at_the_edge_of_the_samples(calibration):
    sizes = np.unique(np.geomspace(4000, 40000, 400).astype(int))
    grid = ops.grid(ops.Matmul, m=sizes, n=4096, k=4096)
    seconds = calibration.estimate(grid)["estimate_s"].to_numpy()
    step = np.diff(np.log(seconds)) / np.diff(np.log(sizes))
    assert np.all(step > 0) and np.all(step < 2)


def test_grid_equals_a_list(calibration):
    grid = ops.grid(ops.Matmul, m=[1, 64, 999], n=512, k=2048)
    listed = calibration.estimate(list(ops.grid_points(grid)))
    gridded = calibration.estimate(grid)
    np.testing.assert_allclose(gridded["estimate_s"], listed["estimate_s"])
    assert list(gridded["provenance"]) == list(listed["provenance"])


def test_kind_without_samples_is_the_roofline_and_says_so(calibration):
    op = ops.Softmax(128, 128)
    row = calibration.estimate([op]).iloc[0]
    assert row["provenance"] == "roofline"
    assert row["estimate_s"] == row["floor_s"] == float(floor(op, H200))
    assert np.isnan(row["high_s"])
    assert uncalibrated(H200).estimate([op]).iloc[0]["provenance"] == "roofline"


def test_other_cards_samples_give_a_transferred_calibration():
    table = fit(made_up(40, hardware="h100"), H200).estimate([ops.Matmul(300, 300, 300)])
    assert list(table["provenance"]) == ["transferred"]


def test_own_samples_refine_what_other_cards_tell():
    """A handful of the card's own, on top of another card's that follow the same law faster."""
    others = made_up(100, hardware="h100")
    few = [replace(s, seconds=[1.3 * t for t in s.seconds]) for s in made_up(12)]
    fresh = [s.op for s in made_up(200)]
    true = np.array([1.3 * truth(op) for op in fresh])

    def error(samples):
        return np.median(np.abs(fit(samples, H200).estimate(fresh)["estimate_s"] / true - 1))

    both = error(others + few)
    assert both < error(others) and both < error(few)
    table = fit(others + few, H200).estimate([few[0].op, ops.Matmul(2**20, 64, 64)])
    assert list(table["provenance"]) == ["measured", "transferred"]


def test_a_device_without_figures_gives_nothing_to_transfer():
    with pytest.raises(CalibError, match="cpu"):
        fit(made_up(8, hardware="cpu"), H200)


def test_failed_samples_are_left_out():
    failed = Sample(ops.Matmul(1, 1, 1), [], "h200", "torch", status="unsupported")
    assert len(fit([*made_up(20), failed], H200).measured) == 20


def test_slow_blocks_are_brought_to_the_typical_machine():
    op = ops.Matmul(64, 64, 64)
    speeds = [(1.0, 1e-3), (1.0, 1e-3), (0.5, 2e-3)]
    samples = [
        Sample(op, [t], "h200", "torch", probe_flops=s * 1e14, probe_bandwidth=s * 1e12)
        for s, t in speeds
    ]
    np.testing.assert_allclose(drift_corrected(samples, H200), 1e-3)


def test_what_is_found_in_cache_goes_by_the_product_s_probe():
    """Main memory at half its speed slows what reads it, and not what reads a cache."""
    op = ops.Elementwise(2**20)

    def second_of_two(cache: str) -> float:
        slow = {"probe_flops": 1e14, "probe_bandwidth": 0.5e12}
        usual = Sample(op, [1e-3], "h200", "torch", cache, probe_flops=1e14, probe_bandwidth=1e12)
        samples = [usual, usual, replace(usual, **slow)]
        return float(drift_corrected(samples, H200)[2])

    assert second_of_two("hot") == pytest.approx(1e-3)
    assert second_of_two("cold") == pytest.approx(0.5e-3, rel=0.02)


def visited(samples, count):
    """Each shape ``count`` times, on a machine whose speed wanders from visit to visit by 20%, of
    which the probes see half."""
    found = []
    for sample in (s for s in samples for _ in range(count)):
        seen, unseen = np.exp(RNG.normal(0, 0.14, 2))
        probes = {"probe_flops": 1e14 * seen, "probe_bandwidth": 1e12 * seen}
        found.append(replace(sample, seconds=[s / seen / unseen for s in sample.seconds], **probes))
    return found


def test_visits_to_a_shape_are_taken_together():
    once, often = made_up(60, 0.0), made_up(60, 0.0)
    one, many = fit(visited(once, 1), H200), fit(visited(often, 6), H200)
    assert many.held_out.iloc[0]["samples"] == len(many.measured) == 60

    def off(known, samples):
        seconds = np.array([known.measured["torch", s.op, "cold"][0] for s in samples])
        ratio = np.log(seconds / [truth(s.op) for s in samples])
        return np.median(np.abs(ratio - np.median(ratio)))

    assert off(many, often) < 0.6 * off(one, once)  # six visits of one machine: 0.41
    fresh = [s.op for s in made_up(200)]
    error = [
        np.median(np.abs(c.estimate(fresh)["estimate_s"] / [truth(op) for op in fresh] - 1))
        for c in (many, one)
    ]
    assert error[0] < error[1]


def test_the_interval_of_a_measured_shape_spans_its_visits():
    sample = Sample(ops.Matmul(64, 64, 64), [1e-3, 1.01e-3], "h200", "torch")
    slower = replace(sample, seconds=[1.3e-3, 1.31e-3])
    cpu = replace(H200, compute_capability=None)
    ((seconds, low, high),) = measured_shapes([sample, slower], cpu).values()
    assert 1e-3 <= low < 1.02e-3 < seconds == pytest.approx(1.145e-3, rel=0.01)
    assert 1.29e-3 < high <= 1.31e-3


def test_on_a_card_a_measured_shape_may_differ_within_a_model():
    sample = Sample(ops.Matmul(64, 64, 64), [1e-3] * 5, "h200", "torch")
    ((seconds, low, high),) = measured_shapes([sample], H200).values()
    assert np.log([seconds / low, high / seconds]) == pytest.approx([IN_MODEL["matmul"]] * 2)


def test_no_interval_leaves_what_shares_of_the_floor_were_seen():
    """2^32 elements of a kind that was sampled up to 2^24: not a sixth of the floor, nor weeks."""
    shapes = [ops.Elementwise(2**i, inputs=2) for i in range(10, 25)]
    samples = [Sample(op, [3e-6 + float(floor(op, H200)) / 0.8], "h200", "torch") for op in shapes]
    row = fit(samples, H200).estimate([ops.Elementwise(2**40, inputs=2)]).iloc[0]
    assert 0.6 < row["efficiency"] < 1.3
    assert row["high_s"] < 10 * row["floor_s"] and row["low_s"] > row["floor_s"] / 3
