"""How far two sweeps agree, over a machine whose speed and law are made up."""

from dataclasses import replace

import numpy as np
import pytest

from benchmarks.repeatability import frame, pairs, summary
from calib.hardware.datasheet import floor, load_hardware
from calib.samples.sample import Sample
from model import ops

H200 = load_hardware("h200")


def sweep(seed: int, visits: int = 1, unseen: float = 0.0, count: int = 60) -> list[Sample]:
    """The same products on a machine whose speed wanders by 20%, as the probes see, and by
    ``unseen`` besides."""
    rng, samples = np.random.default_rng(seed), []
    for i in (i for i in range(count) for _ in range(visits)):
        m, n, k = (int(2 ** (5 + 7 * ((i * step) % 1))) for step in (0.618, 0.414, 0.732))
        speed = np.exp(rng.normal(0, 0.2))
        op = ops.Matmul(m, n, k)
        seconds = (
            (4e-6 + 1.3 * float(floor(op, H200))) * 1e3 / speed * np.exp(rng.normal(0, unseen))
        )
        probes = {"probe_flops": 1e14 * speed, "probe_bandwidth": 1e12 * speed}
        samples.append(Sample(op, [seconds] * 3, "h200", "torch", **probes))
    return samples


def test_what_the_probes_see_is_taken_out():
    table = pairs(frame([sweep(seed) for seed in range(3)], H200))
    assert len(table) == 3 * 60
    assert table["norm"].max() < 1e-9
    assert table["raw"].median() > 0.1


def test_visits_average_what_the_probes_do_not_see():
    table = pairs(frame([sweep(seed, 4, 0.1, 300) for seed in range(2)], H200))
    assert len(table) == 300
    assert table["norm"].median() == pytest.approx(table["single"].median() / 2, rel=0.2)
    figures = summary(table)
    assert {"raw median", "normalised p90", "one visit median"} <= set(figures.columns)


def test_what_is_found_in_cache_is_not_blended():
    """Main memory slows by half in one sweep; nothing that was measured hot does."""
    hot = [replace(s, cache="hot", probe_flops=1e14) for s in sweep(0)]
    hot = [replace(s, seconds=[1e-3] * 3, probe_bandwidth=1e12) for s in hot]
    other = [replace(s, probe_bandwidth=0.5e12) for s in hot]
    table = pairs(frame([hot, other], H200))
    assert table["norm"].max() < 1e-9
    assert table["blend"].median() > 0.01
