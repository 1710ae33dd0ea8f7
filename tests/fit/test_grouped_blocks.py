"""Grouped products as a GPU cuts them: tiles of each expert, and loads that are not even."""

from __future__ import annotations

import warnings
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from calib.checkout import ROOT
from calib.fit.calibration import uncalibrated
from calib.fit.fitting import fit
from calib.fit.held_out import data_of
from calib.fit.physics.features import features
from calib.hardware.datasheet import load_hardware
from calib.samples.files import read_samples
from calib.samples.sample import Sample
from model.ops import GroupedMatmul, Matmul

H200, L40S = load_hardware("h200"), load_hardware("l40s")
RECORD = ROOT / "benchmarks" / "data" / "h200" / "pool.parquet"


def columns(op: GroupedMatmul) -> dict[str, float]:
    found = features(op, H200).columns
    assert all(len(values) == 1 for values in found.values())
    return {name: float(values[0]) for name, values in found.items()}


def test_an_expert_of_one_row_costs_a_whole_tile() -> None:
    one, full = (
        columns(GroupedMatmul(t, 32, 1, 1792, 1280, active_experts=32)) for t in (32, 3200)
    )
    names = [n for n in one if n.startswith("serial steps")]
    assert len(names) == 5
    for name in names:
        expected = 2 if "64x128" in name else 1
        assert one[name] <= full[name] <= 2 * expected * one[name], name
    few = columns(GroupedMatmul(1, 64, 1, 1792, 1280, active_experts=1.0))
    assert few["serial steps 128x64"] == 1280  # one walk, however many multiprocessors are idle


def test_torch_cuts_pairs_of_small_tiles_or_of_large_ones() -> None:
    """66 pairs of multiprocessors. 64 experts x 14 columns of tiles: 13.6 waves of 1280 terms. At
    505 rows an expert 16 x 2 x 3 large ones: two waves of 512."""
    small = columns(GroupedMatmul(283, 64, 6, 1792, 1280))
    assert small["serial waves paired"] == 14
    assert small["serial steps paired"] == small["serial products paired"] == 14 * 1280
    large = columns(GroupedMatmul(2020, 16, 4, 704, 512))
    assert (large["serial waves paired"], large["serial stores paired"]) == (2, 8)
    assert (large["serial steps paired"], large["serial products paired"]) == (1024, 4096)


def test_the_rule_is_the_one_that_the_names_of_kernels_tell() -> None:
    """The schedule of 64 x 128 outputs a block, and that of 128 x 256 (``cooperative``)."""
    seen = {}
    for sample in read_samples(RECORD):
        if isinstance(sample.op, GroupedMatmul) and sample.implementation == "torch":
            for kernel in sample.kernels:
                if "GroupProblemShape" in kernel.name:
                    seen[sample.op] = "Pingpong" in kernel.name
    assert len(seen) == 80 and len(set(seen.values())) == 2
    for op, is_small in seen.items():
        found = columns(op)
        assert (found["serial stores paired"] == found["serial waves paired"]) == is_small, op


def test_only_torch_on_a_hopper_follows_torchs_rule() -> None:
    op = GroupedMatmul(283, 64, 6, 1792, 1280)

    def rules(hardware: str, implementation: str) -> set[str]:
        sample = Sample(op, [1e-4], hardware, implementation)
        x = data_of([sample], load_hardware(hardware)).x
        return {n.rpartition(" ")[2] for n in x.columns if n.startswith("serial ")}

    assert rules("h200", "torch") == {"paired"}
    assert len(rules("l40s", "torch")) == 5
    assert rules("h200", "triton") == rules("l40s", "torch") - {"paired"}


def test_experts_that_are_expected_count_as_those_that_were_seen() -> None:
    op = GroupedMatmul(100, 64, 6, 1792, 1280)
    told = replace(op, active_experts=op.experts_read, max_load=300)
    assert columns(op) == columns(told)


def test_the_busiest_experts_rows_alone_tell_nothing_and_that_is_said() -> None:
    known = uncalibrated(H200)
    op = GroupedMatmul(100, 64, 6, 1792, 1280)
    with pytest.warns(UserWarning, match="max_load is read by no estimate.*expected active_exp"):
        stated = known.estimate([Matmul(8, 8, 8), replace(op, max_load=90)])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        told = known.estimate([Matmul(8, 8, 8), op])
        known.estimate(replace(op, max_load=90, active_experts=50))
    pd.testing.assert_frame_equal(stated, told)


def test_uneven_loads_need_more_tiles_and_are_told_apart() -> None:
    """5418 rows over 64 experts: 85 each fit a tile of 128; a router that leaves nine of them out
    gives others several tiles."""
    even, uneven = (
        columns(GroupedMatmul(903, 64, 6, 1792, 1280, active_experts=e)) for e in (64, 55)
    )
    assert even["uneven"] == 0 and np.log(4) < uneven["uneven"] < np.log(903 / 98)
    assert uneven["serial waves paired"] > 1.2 * even["serial waves paired"]
    assert uneven["serial reads paired"] == pytest.approx(even["serial reads paired"] * 55 / 64)


def test_what_was_learned_of_even_loads_fades_where_they_are_uneven() -> None:
    """The card takes 30% longer for 64 experts than for 16, whatever the tiles: no rule says so."""
    rng = np.random.default_rng(3)
    shapes = [
        GroupedMatmul(int(t), int(e), 6, int(n) * 64, int(k) * 64, active_experts=float(e))
        for t, e, n, k in zip(
            *(rng.integers(500, 1500, 80), rng.choice([16, 32, 48, 64], 80)),
            *rng.integers(8, 32, (2, 80)),
            strict=True,
        )
    ]

    def seconds(op: GroupedMatmul) -> float:
        found = columns(op)
        cycles = 1000 * found["serial waves paired"] + 8 * found["serial steps paired"]
        return (15_000 + cycles) * (op.experts / 16) ** 0.19 / H200.clock_hz

    fitted = fit([Sample(op, [seconds(op)], "h200", "torch") for op in shapes], H200)
    even = GroupedMatmul(1000, 64, 6, 1216, 1088)
    skewed = [replace(even, active_experts=e) for e in (64.0, 58.0, 40.0)]
    found = fitted.estimate(skewed, "torch")
    assert list(found["provenance"]) == ["interpolated", "extrapolated", "extrapolated"]
    assert found["estimate_s"][0] == pytest.approx(seconds(even), rel=0.05)
    assert found["estimate_s"][1] > 1.1 * found["estimate_s"][0]  # more tiles
    width = np.log(found["high_s"] / found["low_s"])
    assert width[1] > 1.5 * width[0] and width[2] > 1.5 * width[0]


def test_a_grid_of_loads_is_as_its_operators() -> None:
    touched = np.array([64, 60, 40, 6])
    grid = features(GroupedMatmul(903, 64, 6, 1792, 1280, active_experts=touched), L40S).columns
    for i, experts in enumerate(touched):
        op = GroupedMatmul(903, 64, 6, 1792, 1280, active_experts=float(experts))
        alone = features(op, L40S).columns
        for name in ("uneven", "serial waves paired", "serial waves 128x64"):
            assert grid[name][i] == pytest.approx(alone[name][0]), name
