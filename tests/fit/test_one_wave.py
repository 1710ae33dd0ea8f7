"""How cuBLAS cuts products on Hopper: tiles as the record's kernels are named, and their cost."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calib.checkout import ROOT
from calib.fit.physics.blocks.product_blocks import BIAS
from calib.fit.physics.blocks.product_blocks import COSTS as OF_TILES
from calib.fit.physics.features import Features, concatenate, features, features_of_list
from calib.fit.physics.one_wave import COSTS, WAVE, OneWave, told_by
from calib.fit.physics.prior import Prior, columns_of, fit_prior
from calib.hardware.datasheet import load_hardware, peak
from calib.samples.files import read_samples
from model.ops import Matmul

H200, A100, L40S = (load_hardware(name) for name in ("h200", "a100", "l40s"))
POOL = Path(ROOT) / "benchmarks" / "data" / "h200" / "pool.parquet"
NAMED = re.compile(r"nvjet_sm90_\w+?_(\d+)x(\d+)_\d+x\d+_\dx\d_\w_bz_?(\w*)")


def waves(*ops: Matmul) -> OneWave:
    found = OneWave.of(features_of_list(ops, H200).columns)
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("shape", "tile", "parts"),
    [
        ((2, 5952, 1792), (64, 8), 1),  # columns of a tile, then rows, as the kernel is named
        ((13, 5952, 320), (64, 16), 1),
        ((117, 8192, 3584), (64, 120), 1),
        ((191, 2560, 3008), (64, 64), 1),
        ((1023, 2496, 640), (192, 104), 1),
        ((2, 384, 9152), (64, 8), 7),
        ((17, 1536, 6208), (64, 24), 4),
    ],
)
def test_tiles_are_those_that_the_profiler_saw(
    shape: tuple[int, int, int], tile: tuple[int, int], parts: int
) -> None:
    tall, wide, split = waves(Matmul(*shape)).best(COSTS)
    assert (tall[0], wide[0]) == tile
    assert split[0] == parts


def test_most_tiles_of_the_record_are_told() -> None:
    """Of products whose kernel is named: the tile's area within 30%, and whether the sum is split.

    Alignment is told by the kernel's family; a Memset may stand before it.
    """
    told, ops = [], []
    for sample in read_samples(POOL):
        names = [NAMED.match(kernel.name) for kernel in sample.kernels]
        found = next((name for name in names if name), None)
        if isinstance(sample.op, Matmul) and found and sample.op.batch == 1:
            ops.append(sample.op)
            told.append((int(found[1]) * int(found[2]), "splitK" in found[3]))
    tall, wide, parts = waves(*ops).best(COSTS)
    area, split = np.array(told).T
    assert len(ops) > 200
    assert np.mean(np.abs(np.log(tall * wide / area)) < np.log(1.3)) > 0.8
    assert np.mean((parts > 1) == split) > 0.97


def test_a_single_tile_costs_what_the_formula_says() -> None:
    """191 x 2560 x 3008: 3 x 40 tiles of 64 x 64, one each, of 47 steps."""
    costs = {WAVE + n: np.log(v) for n, v in {"step": 150.0, "product": 1.5, "load": 30.0}.items()}
    costs |= {WAVE + n: np.log(v) for n, v in {"store": 0.25, "reduce": 3e3}.items()}
    costs[WAVE + "reduce terms"] = 0.0
    op = Matmul(191, 2560, 3008)
    cut = waves(op)
    lone = replace(cut, possible=(cut.tall == 64) & (cut.wide == 64) & (cut.parts == 1))
    rate = peak(op, H200) / H200.sm_count / H200.clock_hz
    multiplied, loaded = 1.5 * 2 * 64**3 / rate, 30 * 128 * 120 / H200.sm_count
    expected = 47 * (150**3 + multiplied**3 + loaded**3) ** (1 / 3) + 0.25 * 64 * 64
    work, added = lone.cycles(costs)
    assert work[0] == pytest.approx(expected)
    assert added[0] == 0


def test_parts_are_added_up_after_whatever_came_first() -> None:
    """A reduction is not hidden behind what main memory moves."""
    op = Matmul(2, 1536, 8192)
    x, costs = features(op, H200), dict(COSTS)
    assert waves(op).best(costs)[2][0] > 1
    slow = Prior(8.0, 0.0, -2.0, -2.0, -40.0, 0.3, 1.2, {**OF_TILES, **costs})
    dear = {WAVE + "reduce": np.log(np.exp(costs[WAVE + "reduce"]) + 500.0)}
    more = replace(slow, costs={**slow.costs, **dear})
    took = np.exp(more.log_cycles(x)) - np.exp(slow.log_cycles(x))
    assert took[0] == pytest.approx(500.0, rel=1e-3)


def test_tiles_fill_whole_waves() -> None:
    """(3037, 2816, 8960): the record's kernel has 22 x 12 tiles of 128 x 256, two waves of 132."""
    tall, wide, _ = waves(Matmul(3037, 2816, 8960)).best(COSTS)
    assert np.ceil(2816 / tall[0]) * np.ceil(3037 / wide[0]) in range(2 * 128, 2 * 132 + 1)


def test_other_products_and_other_cards_are_not_cut_so() -> None:
    for hardware in (A100, L40S):
        assert OneWave.of(features(Matmul(64, 64, 640), hardware).columns) is None
    assert OneWave.of(features(Matmul(64, 64, 640, dtype="float32"), H200).columns) is None
    mixed = waves(Matmul(64, 64, 640), Matmul(64, 63, 640))
    assert mixed.rows.tolist() == [True, False]
    assert mixed.tall.shape[1] == 1


sizes = st.integers(1, 2_000)


@settings(max_examples=60, deadline=None)
@given(m=st.integers(1, 20_000), n=sizes, k=sizes, copies=st.integers(1, 64))
def test_every_product_has_a_cut_that_covers_it(m: int, n: int, k: int, copies: int) -> None:
    cut = waves(Matmul(m, 8 * n, 8 * k, batch=copies))
    work, added = cut.cycles(COSTS)
    assert np.isfinite(work).all() and np.isfinite(added).all()
    assert (work > 0).all()
    held = cut.tall * cut.wide * cut.parts * H200.sm_count * cut.waves
    assert (held[cut.possible] >= m * 8 * n * copies).all()


def drawn(hot: bool) -> tuple[Features, Prior]:
    rng = np.random.default_rng(0)
    shapes = np.exp(rng.uniform(np.log([1, 32, 32]), np.log([2000, 1000, 1000]), (300, 3)))
    ops = [Matmul(int(m), 8 * int(n), 8 * int(k), bias=bool(m > 30)) for m, n, k in shapes]
    x = features_of_list(ops, H200, hot)
    costs = {name: value + 0.2 for name, value in COSTS.items()}
    costs |= {**OF_TILES, BIAS: np.log(700.0)}
    truth = Prior(8.4, 0.0, 0.0, 0.7, -40.0, 0.3, 1.1, costs)
    return x, truth


def test_a_fit_finds_the_rule_and_what_a_bias_costs() -> None:
    x, truth = drawn(hot=False)
    found = fit_prior(x, truth.log_cycles(x))
    assert set(COSTS) <= set(found.costs)
    assert found.costs[BIAS] == pytest.approx(np.log(700.0), abs=0.1)
    off = np.abs(found.log_cycles(x) - truth.log_cycles(x))
    assert np.quantile(off, 0.9) < 0.01


def test_other_cards_tell_nothing_of_it() -> None:
    ops = [Matmul(8 * i, 64 * i, 64 * i) for i in range(1, 40)]
    here, there = (features_of_list(ops, card) for card in (H200, A100))
    assert told_by(here.columns, here.hot)
    assert not told_by(there.columns, there.hot)
    both = concatenate([here, there])
    assert not told_by(both.columns, both.hot)


def test_tables_which_are_hot_keep_the_rule_that_they_had() -> None:
    x, truth = drawn(hot=True)
    found = fit_prior(x, truth.log_cycles(x))
    assert not set(COSTS) & set(found.costs)


def test_trees_read_nothing_of_a_bias_where_there_is_none() -> None:
    plain = features(Matmul(64, 64, 640), H200)
    assert BIAS not in plain.columns
    assert BIAS in features(Matmul(64, 64, 640, bias=True), H200).columns
    assert not [n for n in columns_of(plain, Prior(0, 0, 0, 0, 0, 0, 0)) if WAVE in n]
