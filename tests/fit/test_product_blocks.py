"""How a product may be cut, what the cuts cost, and the physics that a fit finds in it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calib.fit.physics.blocks.product_blocks import (
    CHOICE,
    COSTS,
    MISSED,
    TILES,
    Candidates,
    product_columns,
    share_missed,
    told_apart,
)
from calib.fit.physics.features import features
from calib.fit.physics.prior import Prior, columns_of, fit_prior
from calib.hardware.datasheet import load_hardware, peak
from model.ops import Matmul, grid

H200, L40S, RTX_PRO_6000 = (load_hardware(name) for name in ("h200", "l40s", "rtx_pro_6000"))
MIB = 2**20


def candidates(op: Matmul, hardware: Any = H200) -> Candidates:
    found = Candidates.of(product_columns(op, hardware, np.array([True])))
    assert found is not None
    return found


def test_a_whole_tile_costs_what_the_formula_says() -> None:
    """128 x 128 x 4096 as one tile: its terms once each, on one multiprocessor."""
    op, k = Matmul(128, 128, 4096), 4096
    logs = dict.fromkeys(COSTS, -40.0) | {
        CHOICE + "step": np.log(3.0),
        CHOICE + "product": np.log(1.25),
        CHOICE + "load": np.log(0.01),
        CHOICE + "store": np.log(0.5),
    }
    rate = peak(op, H200) / H200.sm_count / H200.clock_hz
    expected = 3 * k + (1.25 * 2 * 128 * 128 / rate + 0.01 * 256) * k + 0.5 * 128 * 128
    found = candidates(op).cycles(logs)[TILES.index((128, 128)), 0]
    assert found == pytest.approx(expected, rel=1e-9)


def test_tiles_move_in_rounds_over_the_multiprocessors() -> None:
    row = TILES.index((128, 128))
    full, over = (candidates(Matmul(128 * n, 128, 512)) for n in (H200.sm_count, H200.sm_count + 1))
    assert full.rounds[row, 0] == 1
    assert over.rounds[row, 0] == 2
    small = TILES.index((32, 32))
    held = 8  # as many as registers hold: their steps overlap, their products do not
    many = candidates(Matmul(32 * H200.sm_count * held, 32, 512))
    assert many.rounds[small, 0] == held
    assert many.steps[small, 0] == 512


def test_sums_are_split_where_tiles_leave_multiprocessors_idle() -> None:
    split = len(TILES) + TILES.index((128, 128))
    deep = candidates(Matmul(128, 128, 65536))
    assert deep.terms[split, 0] == pytest.approx(65536 / H200.sm_count)
    assert deep.parts[split, 0] == pytest.approx(128 * 128)
    shallow, wide = candidates(Matmul(128, 128, 128)), candidates(Matmul(8192, 8192, 8192))
    for whole in (shallow, wide):
        assert np.isinf(whole.cycles(COSTS)[split, 0])


sizes = st.integers(1, 20_000)


@settings(max_examples=60, deadline=None)
@given(m=sizes, n=sizes, k=sizes)
def test_the_soft_minimum_lies_below_every_candidate(m: int, n: int, k: int) -> None:
    cut = candidates(Matmul(m, n, k))
    cycles, soft = cut.cycles(COSTS), cut.log_cycles(COSTS)
    assert np.all(soft <= np.log(cycles.min(axis=0)) + 1e-9)
    sharp = cut.log_cycles(COSTS | {CHOICE + "sharpness": np.log(1e3)})
    assert sharp[0] == pytest.approx(np.log(cycles.min()), abs=1e-2)


@settings(max_examples=60, deadline=None)
@given(m=sizes, n=sizes, k=sizes, more=st.integers(1, 300))
def test_a_whole_sum_takes_no_less_where_a_size_grows(m: int, n: int, k: int, more: int) -> None:
    """By rows that fit 16 bytes as well as before: more may be aligned, and take less."""
    more *= 8
    costs = COSTS | dict.fromkeys((CHOICE + "pieces", CHOICE + "waits"), -50.0)
    before = candidates(Matmul(m, n, k)).cycles(costs)[: len(TILES), 0]
    for larger in (Matmul(m + more, n, k), Matmul(m, n + more, k), Matmul(m, n, k + more)):
        assert np.all(candidates(larger).cycles(costs)[: len(TILES), 0] >= before)


@settings(max_examples=40, deadline=None)
@given(m=sizes, n=sizes, k=sizes)
def test_units_are_per_multiprocessor(m: int, n: int, k: int) -> None:
    """Twice the products on twice the multiprocessors of the same rate take as many cycles."""
    op = Matmul(m, n, k, batch=3)
    double = replace(
        H200,
        sm_count=2 * H200.sm_count,
        peak_flops={name: 2 * rate for name, rate in H200.peak_flops.items()},
    )
    here, there = candidates(op), candidates(replace(op, batch=6), double)
    if here.is_small[0] == there.is_small[0]:
        np.testing.assert_allclose(there.cycles(COSTS), here.cycles(COSTS))


def test_some_libraries_are_reluctant_to_split_a_small_product() -> None:
    few, more, deeper = Matmul(7, 32, 8192), Matmul(8, 32, 8192), Matmul(7, 32, 10240)
    costs = COSTS | {CHOICE + "reluctance": 3.0, CHOICE + "reduce": 7.0}
    assert [bool(candidates(op).is_small[0]) for op in (few, more, deeper)] == [True, False, False]
    slow, fast = (candidates(op, RTX_PRO_6000).log_cycles(costs)[0] for op in (few, more))
    assert slow - fast > np.log(2)


def test_only_a_single_row_goes_to_the_kernel_without_tiles() -> None:
    costs = COSTS | {CHOICE + "vector": 1.0}
    assert candidates(Matmul(1, 4096, 4096)).cycles(costs)[-1, 0] == pytest.approx(np.e)
    assert np.isinf(candidates(Matmul(2, 4096, 4096)).cycles(costs)[-1, 0])


def test_hot_weights_miss_where_six_of_them_exceed_the_cache() -> None:
    """The RTX PRO 6000's L2 holds 128 MiB: 6 x 16 MiB fit, 6 x 32 MiB do not."""
    fits, misses = Matmul(1, 4096, 2048), Matmul(1, 4096, 4096)
    shares = [
        float(np.exp(product_columns(op, RTX_PRO_6000, np.array([hot]))[MISSED][0]))
        for op, hot in ((fits, True), (misses, True), (fits, False))
    ]
    assert shares[0] < 0.3
    assert shares[1] > 0.95
    assert shares[2] == 1.0
    output = Matmul(4096, 8192, 32)  # 64 MiB that are written once over and over
    assert np.exp(product_columns(output, RTX_PRO_6000, np.array([True]))[MISSED][0]) < 0.1
    assert share_missed(0.9) == pytest.approx(0.5)


def some_products(size: int) -> Matmul:
    rng = np.random.default_rng(0)
    m, n, k = np.exp(rng.uniform(np.log(1), np.log(16384), (3, size))).astype(int) + 1
    return grid(Matmul, m=m, n=n, k=k)


def test_the_prior_finds_costs_that_hold_on_another_card() -> None:
    made = {
        CHOICE + "step": 1.5,
        CHOICE + "product": 0.2,
        CHOICE + "store": -1.2,
        CHOICE + "reduce": 8.5,
    }
    truth = Prior(8.4, 0.0, 0.0, 0.8, -40.0, 0.3, 1.0, COSTS | made)
    x, there = (features(some_products(400), card, True) for card in (H200, L40S))
    found = fit_prior(x, truth.log_cycles(x))
    assert list(found.costs) == list(COSTS)
    assert np.abs(found.log_cycles(x) - truth.log_cycles(x)).mean() < 0.01
    assert np.abs(found.log_cycles(there) - truth.log_cycles(there)).mean() < 0.05


def test_trees_and_process_read_nothing_that_only_candidates_are_made_of() -> None:
    x = features(some_products(4), H200, True)
    read = columns_of(x, Prior(8.0, 0.0, 0.0, 0.0, -40.0, 0.3, 1.0, dict(COSTS)))
    assert not [name for name in (*read, *x.smooth_names) if name.startswith(CHOICE)]
    assert MISSED in read


def test_a_cpu_has_no_candidates() -> None:
    cpu = replace(H200, compute_capability=None)
    x = features(some_products(4), cpu)
    assert Candidates.of(x.columns) is None
    assert MISSED not in x.columns


def test_candidates_are_left_out_beyond_the_rates_that_were_sampled():
    """Of a multiprocessor at half the rate of all samples they would be a guess."""
    op, lender = Matmul(512, 1024, 2048), load_hardware("rtx_pro_6000")
    columns = features(op, lender).columns
    kept = told_apart(columns, op, load_hardware("l40s"))  # within a few per cent
    left = told_apart(columns, op, load_hardware("rtx5090"))  # a half
    assert kept.keys() == columns.keys() > left.keys()
    assert left.keys() == {n for n in columns if not n.startswith(CHOICE)}


@pytest.mark.parametrize(
    ("n", "k", "m", "halvings"),
    [(30528, 768, 16, 0), (30522, 768, 16, 2), (14, 64, 900, 2), (64, 63, 9, 3), (577, 192, 1, 0)],
)
def test_rows_that_16_bytes_do_not_fit_are_unaligned(n: int, k: int, m: int, halvings: int) -> None:
    columns = features(Matmul(m, n, k), H200).columns
    assert columns["tile unaligned"] == columns[CHOICE + "unaligned"] == halvings


def test_what_is_loaded_in_pieces_takes_longer_by_rows_and_columns() -> None:
    even, odd = (candidates(Matmul(32, n, 64)) for n in (32, 31))
    costs = COSTS | {CHOICE + "pieces": np.log(0.1), CHOICE + "waits": np.log(5.0)}
    dearer = odd.cycles(costs)[0, 0] - even.cycles(costs)[0, 0]
    assert dearer == pytest.approx(3 * 64 * (0.1 * 64 + 5.0))


def test_a_fit_learns_what_pieces_cost() -> None:
    rng = np.random.default_rng(1)
    m, n, batch = (rng.integers(low, high, 200) for low, high in ((16, 900), (8, 200), (8, 200)))
    x = features(grid(Matmul, m=m, n=n, k=np.full(200, 64), batch=batch), H200)
    dear = {CHOICE + "pieces": float(np.log(0.3)), CHOICE + "waits": float(np.log(8.0))}
    truth = Prior(8.4, 0.0, 0.0, 0.7, -40.0, 0.3, 1.0, COSTS | dear)
    found = fit_prior(x, truth.log_cycles(x))
    assert np.abs(found.log_cycles(x) - truth.log_cycles(x)).mean() < 0.01
    assert found.costs[CHOICE + "pieces"] == pytest.approx(np.log(0.3), abs=0.3)


def test_scalar_products_are_split_into_as_many_parts_as_there_is_room_for() -> None:
    deep = Matmul(42, 25, 7296, dtype="float32")
    wide = len(TILES) + TILES.index((64, 64))
    assert candidates(deep).terms[wide, 0] == 7296 / 132
    assert candidates(replace(deep, dtype="bfloat16")).terms[wide, 0] == 128
    assert candidates(deep).parts[wide, 0] == 132 * 512  # a thread reads them one after the other
    assert candidates(replace(deep, k=256)).terms[wide, 0] == 32
