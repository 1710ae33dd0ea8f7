"""The choice of the next shapes: where the fit is unsure, spread out, for what matters."""

import numpy as np
import pytest

from calib.measure.choice import choose, choose_rows, coordinates
from model import ops

GRID = np.stack(np.meshgrid(np.linspace(0, 1, 21), np.linspace(0, 1, 21)), -1).reshape(-1, 2)
NONE = np.zeros((0, 2))
SHAPES = [ops.Matmul(m, n, 512) for m in (1, 8, 64, 512, 4096) for n in (256, 1024, 4096)]


def covering(rows, of=GRID):
    """The farthest that any point lies from the nearest of ``rows``."""
    return np.sqrt(((of[:, None] - of[rows][None]) ** 2).sum(-1)).min(1).max()


def test_start_fills_the_space_better_than_chance():
    rows = choose_rows(GRID, NONE, 12)
    chance = [
        covering(np.random.default_rng(s).choice(len(GRID), 12, replace=False)) for s in range(20)
    ]
    assert len(set(rows)) == 12
    assert covering(rows) < min(chance)


def test_what_is_known_is_kept_clear_of():
    known = GRID[GRID[:, 0] < 0.5]
    rows = choose_rows(GRID, known, 4)
    assert all(GRID[rows][:, 0] >= 0.5)


def test_batch_goes_where_the_fit_is_unsure_and_holds_no_clones():
    spread = np.where(GRID[:, 0] > 0.6, 0.5, 0.01)
    rows = choose_rows(GRID, GRID[:40], 6, spread)
    chosen = GRID[rows]
    assert all(chosen[:, 0] > 0.55)
    gaps = np.sqrt(((chosen[:, None] - chosen[None]) ** 2).sum(-1)) + np.eye(6)
    assert gaps.min() > 0.09  # two cells of the grid


def test_a_lone_corner_waits_for_the_crowd():
    crowd = 0.01 * np.random.default_rng(0).standard_normal((50, 2))
    points = np.concatenate([[[5.0, 5.0]], crowd])
    assert 0 not in choose_rows(points, NONE, 5)
    assert 0 in choose_rows(points, points[1:], 1)


def test_weights_and_cost_decide_between_equals():
    left = GRID[:, 0] < 0.5
    assert all(GRID[choose_rows(GRID, NONE, 4, weights=left + 1e-3)][:, 0] < 0.6)
    assert all(GRID[choose_rows(GRID, NONE, 4, cost=np.where(left, 9.0, 1.0))][:, 0] >= 0.5)


@pytest.mark.parametrize("seed", [0, 1])
def test_same_question_same_answer(seed):
    assert choose_rows(GRID, NONE, 9, seed=seed) == choose_rows(GRID, NONE, 9, seed=seed)


def test_operators_measured_are_not_chosen_again():
    asked = []

    def uncertainty(some):
        asked.extend(some)
        return np.full(len(some), 0.1)

    rows = choose(SHAPES, SHAPES[:10], 15, uncertainty)
    assert sorted(rows) == list(range(10, 15))  # all that are left, and no more
    assert asked == SHAPES


def test_coordinates_are_logarithms_of_what_varies():
    rows = coordinates(SHAPES)
    assert rows.shape == (15, 4)  # FLOPs, bytes, m, n; k, batch and dtype are one value each
    assert np.allclose(rows.std(0), 1) and np.allclose(rows.mean(0), 0)
    steps = np.diff(coordinates([ops.Copy(4**i) for i in range(1, 6)])[:, 0])
    assert np.allclose(steps, steps[0])
