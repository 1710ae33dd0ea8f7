"""How far two sweeps agree, over a machine whose speed and law are made up."""

import numpy as np
import pytest

from benchmarks.repeatability import exponents, frame, pairs, summary
from calib.hardware import floor, load_hardware
from calib.samples import Sample
from model import ops

H200 = load_hardware("h200")


def sweep(seed: int, flops_power: float, bandwidth_power: float) -> list[Sample]:
    """The same 60 products on a machine whose two probes wander; seconds follow them by powers."""
    rng, samples = np.random.default_rng(seed), []
    for i in range(60):
        m, n, k = (int(2 ** (5 + 7 * ((i * step) % 1))) for step in (0.618, 0.414, 0.732))
        flops, bandwidth = np.exp(rng.normal(0, 0.2, 2))
        op = ops.Matmul(m, n, k)
        seconds = (4e-6 + 1.3 * float(floor(op, H200))) * 1e3
        seconds *= flops**-flops_power * bandwidth**-bandwidth_power
        probes = {"probe_flops": 1e14 * flops, "probe_bandwidth": 1e12 * bandwidth}
        samples.append(Sample(op, [seconds] * 3, "h200", "torch", **probes))
    return samples


def test_exponents_are_found_and_differences_shrink():
    stores = [sweep(seed, 0.9, 0.6) for seed in range(3)]
    samples = frame(stores, H200)
    table = pairs(samples, H200)
    assert len(table) == 3 * 60
    raw, norm, fitted = (table[name].median() for name in ("raw", "norm", "fitted"))
    assert fitted < 0.6 * norm < 0.6 * raw
    figures = summary(table.assign(kind="matmul"))
    assert {"raw median", "normalised p90", "fitted median"} <= set(figures.columns)


def test_a_blend_that_takes_the_wrong_probe_is_undone():
    """Seconds follow the bandwidth's probe alone: the blend's share of the other is in vain."""
    samples = frame([sweep(0, 0.0, 1.0)], H200)
    found = exponents(samples, H200)["matmul"]
    compute = np.array([s.op.min_flops / H200.peak_flops["bfloat16"] for s in samples["sample"]])
    memory = np.array([s.op.bytes / H200.bandwidth for s in samples["sample"]])
    share = (compute / (compute + memory)).mean()
    assert found[0] == pytest.approx(share, abs=0.15)
    assert found[1] == pytest.approx(-share, abs=0.15)


def test_two_stores_are_compared_without_a_third():
    table = pairs(frame([sweep(0, 1.0, 0.0), sweep(1, 1.0, 0.0)], H200), H200)
    assert "fitted" not in table and len(table) == 60
