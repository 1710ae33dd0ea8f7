"""Trees against targets that come in known steps, and tiles against a count by hand."""

import numpy as np
import pytest

from calib.fit.physics.tiles import tile_columns, work
from calib.fit.trees import Growth, bin_edges, bins_of, fit_trees, mean_of, sum_of
from calib.hardware.datasheet import load_hardware
from model import ops

RNG = np.random.default_rng(3)
ROWS = RNG.uniform(0, 8, (4, 2000))
STEPS = np.floor(ROWS[0]) + 2.0 * (ROWS[2] > 5)


@pytest.fixture(scope="module")
def forest():
    edges = bin_edges(ROWS)
    growth = Growth(trees=120, rate=0.2, depth=4, column_share=0.7)
    return fit_trees(("a", "b", "c", "d"), bins_of(ROWS, edges), edges, STEPS, growth)


def test_steps_are_found_on_rows_never_seen(forest):
    fresh = RNG.uniform(0.1, 7.9, (4, 500))
    truth = np.floor(fresh[0]) + 2.0 * (fresh[2] > 5)
    off = np.abs(forest.predict(fresh) - truth)
    assert np.median(off) < 0.1
    assert np.mean(off > 0.5) < 0.05  # a row between a step and the nearest edge of a bin


def test_one_row_is_predicted_as_among_many(forest):
    together = forest.predict(ROWS)
    np.testing.assert_allclose(forest.predict(ROWS[:, 7:8]), together[7:8], rtol=1e-5)


def test_a_forest_is_flat_beyond_what_it_saw(forest):
    edge, beyond = np.full((4, 1), 8.0), np.full((4, 1), 1e6)
    np.testing.assert_allclose(forest.predict(beyond), forest.predict(edge), rtol=1e-5)


def test_sums_and_means_of_forests(forest):
    alone = forest.predict(ROWS)
    np.testing.assert_allclose(mean_of([forest, forest]).predict(ROWS), alone, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(
        sum_of([forest, forest], [3.0, -1.0]).predict(ROWS), 2 * alone, rtol=1e-4, atol=1e-4
    )


def test_leaves_are_bytes(forest):
    assert {forest.columns.dtype, forest.codes.dtype} == {np.dtype(np.uint8)}
    assert forest.leaves.dtype == np.int8


def test_columns_that_never_vary_teach_the_mean():
    rows = np.ones((2, 50))
    edges = bin_edges(rows)
    growth = Growth(trees=5, rate=0.5, depth=3)
    flat = fit_trees(("a", "b"), bins_of(rows, edges), edges, np.full(50, 3.0), growth)
    np.testing.assert_allclose(flat.predict(rows), 3.0)


def test_waves_of_a_product_by_hand():
    """300 x 500 in tiles of 128 x 128: 3 x 4 tiles, on 132 multiprocessors less than one wave."""
    columns = tile_columns(ops.Matmul(300, 500, 64), load_hardware("h200"))
    np.testing.assert_allclose(np.exp(columns["tile waves 128x128"]), 12 / 132)
    np.testing.assert_allclose(columns["tile fill 128x128"], 12 / 132)
    np.testing.assert_allclose(columns["tile used 128x128"], 300 * 500 / (12 * 128 * 128))
    np.testing.assert_allclose(np.exp(columns["tile depth 128x128"]), 64)


def test_work_of_other_products():
    view = work(ops.Conv2d(2, 16, 32, 8, 8, 3, padding=1))
    assert (view.rows, view.cols, view.depth, view.copies) == (128, 32, 144, 1)
    view = work(ops.Attention(2, 128, 128, 8, 2, 64, causal=True))
    assert (view.rows, view.cols, view.copies) == (128, 64, 16)
    assert view.depth == 64.5  # the mean row of a causal mask of 128
    assert work(ops.Softmax(3, 5)) is None


def test_bins_count_the_edges_below_a_value_as_a_sorted_search_does():
    rows = np.random.default_rng(5).normal(size=(3, 1000)).astype(np.float32)
    rows[2] = np.round(rows[2])  # values that lie on no edge, few edges, many ties
    edges = bin_edges(rows[:, :300])
    asked = np.concatenate([rows, edges[:, :40], [[-np.inf, np.inf]] * 3], axis=1)
    expected = [np.searchsorted(edge, row) for edge, row in zip(edges, asked, strict=True)]
    np.testing.assert_array_equal(bins_of(asked, edges), expected)


def test_a_long_grid_is_answered_as_its_parts(forest, monkeypatch):
    whole = forest.predict(ROWS)
    monkeypatch.setattr("calib.fit.trees._CELLS", 7 * len(forest.scale))
    np.testing.assert_allclose(forest.predict(ROWS), whole, rtol=1e-5, atol=1e-5)
