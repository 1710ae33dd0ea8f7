"""The choice of the next shapes: where the fit is unsure, spread out, like what is asked for."""

import numpy as np
import pytest

from calib.measure.sweep.choice import chances, choose, choose_rows, coordinates, distinctness
from model import ops

GRID = np.stack(np.meshgrid(np.linspace(0, 1, 21), np.linspace(0, 1, 21)), -1).reshape(-1, 2)
SHAPES = [ops.Matmul(m, n, 512) for m in (1, 8, 64, 512, 4096) for n in (256, 1024, 4096)]


def apart(rows):
    """Mean distance [1] of each chosen point to the nearest other one."""
    distance = np.sqrt(((GRID[rows][:, None] - GRID[rows][None]) ** 2).sum(-1))
    return (distance + 9 * np.eye(len(rows))).min(1).mean()


def at_random(count, seed):
    return np.random.default_rng(seed).choice(len(GRID), count, replace=False)


def test_start_is_spread_out_more_than_chance():
    ours = [apart(choose_rows(GRID, 40, seed=s)) for s in range(10)]
    chance = [apart(at_random(40, s)) for s in range(10)]
    assert min(ours) > max(chance)


def test_every_prefix_is_spread_out():
    rows = [choose_rows(GRID, 80, seed=s) for s in range(10)]
    assert len(set(rows[0])) == 80
    for count in (20, 40):
        chance = np.mean([apart(at_random(count, s)) for s in range(10)])
        assert np.mean([apart(r[:count]) for r in rows]) > 1.2 * chance


def test_candidates_are_taken_in_proportion_to_the_spread():
    spread = np.where(GRID[:, 0] > 0.5, 3.0, 1.0)
    wanted = chances(spread, 40)
    draws = [choose_rows(GRID, 40, spread, seed=s) for s in range(100)]
    taken = np.bincount(np.ravel(draws), minlength=441) / len(draws)
    right = GRID[:, 0] > 0.5
    assert taken[right].sum() == pytest.approx(wanted[right].sum(), abs=0.5)
    assert np.abs(taken - wanted).max() < 5 * np.sqrt(wanted.max() / len(draws))


def test_what_is_known_is_kept_clear_of():
    known = GRID[GRID[:, 0] < 0.5]
    for seed in range(5):
        assert all(GRID[choose_rows(GRID, 12, known=known, seed=seed)][:, 0] >= 0.5)
    near = distinctness(GRID, GRID[:1], 20)
    assert near[0] == 0 and near[-1] > 0.99 and np.all(np.diff(near[:21]) >= 0)


def test_the_distribution_of_the_candidates_is_kept():
    """A crowd that is half of the candidates has half of the chosen, corners or not."""
    crowd = 0.01 * np.random.default_rng(0).standard_normal((441, 2))
    rows = choose_rows(np.concatenate([GRID, crowd]), 100)
    assert np.sum(np.array(rows) >= 441) == pytest.approx(50, abs=3)


@pytest.mark.parametrize("weights", [[1.0, 1.0, 1.0, 97.0], [0.0, 0.0, 1.0, 1.0], [0.0] * 4])
@pytest.mark.parametrize("count", [0, 1, 2, 3, 4])
def test_chances_sum_to_the_count_and_none_is_above_one(weights, count):
    found = chances(np.array(weights), count)
    assert found.sum() == pytest.approx(count)
    assert np.all(found >= 0) and np.all(found <= 1)
    assert np.all(np.diff(found) >= 0)


@pytest.mark.parametrize("count", [0, 1, 7, 440, 441, 500])
def test_as_many_as_wanted_or_as_there_are(count):
    spread = np.random.default_rng(count).lognormal(0, 2, 441)
    for some in (None, spread):
        rows = choose_rows(GRID, count, some)
        assert len(rows) == len(set(rows)) == min(count, 441)


def test_same_question_same_answer_and_other_seeds_others():
    assert choose_rows(GRID, 9, seed=1) == choose_rows(GRID, 9, seed=1)
    assert choose_rows(GRID, 9, seed=1) != choose_rows(GRID, 9, seed=2)


def test_operators_measured_are_not_chosen_again():
    asked = []

    def uncertainty(some):
        asked.extend(some)
        return np.full(len(some), 0.1)

    rows = choose(SHAPES, SHAPES[:10], 15, uncertainty)
    assert sorted(rows) == list(range(10, 15))  # all that are left, and no more
    assert asked == SHAPES
    assert choose([], [], 3) == []


def test_shapes_that_are_alike_in_all_that_counts():
    alike = [ops.Softmax(8, 8, dtype=dtype) for dtype in ("float32",) * 3]
    assert len(choose(alike, [], 2)) == 2
    assert choose(alike, alike[:1], 2) == []
    assert len(choose(SHAPES[:1], SHAPES[1:], 2)) == 1


def test_coordinates_are_logarithms_of_what_varies():
    rows = coordinates(SHAPES)
    assert rows.shape == (15, 4)  # FLOPs, bytes, m, n; k, batch and dtype are one value each
    assert np.allclose(rows.std(0), 1) and np.allclose(rows.mean(0), 0)
    steps = np.diff(coordinates([ops.Copy(4**i) for i in range(1, 6)])[:, 0])
    assert np.allclose(steps, steps[0])
