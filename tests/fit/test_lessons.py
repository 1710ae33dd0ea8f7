"""What other devices teach of a miss, on made-up devices whose law is known."""

from dataclasses import replace

import numpy as np
import pytest

from calib.fit.fitting import fit
from calib.fit.lessons import Foretold, Lessons, lessons_of
from calib.fit.physics.features import features_of_list
from calib.fit.physics.prior import fit_prior
from calib.fit.trees import Growth, bin_edges, bins_of, fit_trees
from calib.hardware.datasheet import floor, load_hardware
from calib.samples.sample import Sample
from model import ops

H200 = load_hardware("h200")
STEPS = {"h100": 0.0, "h100_pcie": 0.6, "rtx_pro_6000": 0.0}
"""By how much, in log, a device is slower where n is 512 to 2047; the target by 0.6."""


def seconds(op: ops.Matmul, card: str, step: float) -> float:
    """Every device is slower by another 0.6 where k is below 512."""
    slow = np.exp(step * (512 <= op.n < 2048) + 0.6 * (op.k < 512))
    return 4e-6 + float(floor(op, load_hardware(card))) / 0.8 * slow


def shapes(count: int, seed: int) -> list[ops.Matmul]:
    rng = np.random.default_rng(seed)
    table = np.exp(rng.uniform(np.log(32), np.log(8192), (count, 3))).astype(int) // 8 * 8
    return [ops.Matmul(int(m), int(n), int(k)) for m, n, k in table]


def samples(card: str, count: int, step: float, seed: int) -> list[Sample]:
    rng = np.random.default_rng(seed)
    return [
        Sample(op, [seconds(op, card, step) * np.exp(rng.normal(0, 0.01))], card, "torch")
        for op in shapes(count, seed)
    ]


OTHERS = [s for i, (c, step) in enumerate(STEPS.items()) for s in samples(c, 400, step, seed=i)]
FEW = samples("h200", 30, 0.6, seed=10)


def mean_error(lessons: bool, monkeypatch: pytest.MonkeyPatch) -> float:
    if not lessons:
        monkeypatch.setattr("calib.fit.fitting._lessons", lambda *args: None)
    asked = shapes(400, seed=11)
    true = np.array([seconds(op, "h200", 0.6) for op in asked])
    table = fit(OTHERS + FEW, H200).estimate(asked)
    assert set(table["provenance"]) <= {"interpolated", "transferred"}
    return float(np.mean(np.abs(table["estimate_s"] / true - 1)))


def test_what_other_devices_missed_tells_how_to_read_a_few_samples(monkeypatch):
    taught = mean_error(True, monkeypatch)
    assert taught < 0.8 * mean_error(False, monkeypatch)


def test_cards_of_the_same_capability_tell_alone_where_no_sample_is_known():
    twins = [s for s in OTHERS if s.hardware != "rtx_pro_6000"]
    asked = shapes(50, seed=12)
    both, alone = (fit(some, H200).estimate(asked) for some in (OTHERS, twins))
    np.testing.assert_array_equal(both["estimate_s"], alone["estimate_s"])
    refined = [fit(some + FEW, H200).estimate(asked)["estimate_s"] for some in (OTHERS, twins)]
    assert not np.allclose(*refined, rtol=1e-3)


@pytest.fixture(scope="module")
def lessons() -> Lessons:
    tested, every = [], []
    for i, (card, step) in enumerate(STEPS.items()):
        some = samples(card, 200, step, seed=20 + i)
        x = features_of_list([s.op for s in some], load_hardware(card))
        y = np.log([s.expected for s in some]) + np.log(x.clock_hz)
        every.append((x, y))
        likeness = np.where(np.arange(3) == i, 0.0, 0.5)
        tested.append(Foretold(x, y, np.arange(150), np.zeros(150), likeness))
    x, y = every[0]
    prior = fit_prior(x, y)
    names = tuple(sorted(x.columns))
    rows = x.matrix(names).T
    edges = bin_edges(rows)
    left = y - prior.log_cycles(x)
    blend = fit_trees(names, bins_of(rows, edges), edges, left, Growth(30, 0.2, 4))
    return lessons_of(tested, prior, blend, np.array([0.9, 0.1, 0.0]))


def test_the_forest_answers_the_columns_times_their_coefficients(lessons):
    x = features_of_list(shapes(50, seed=30), H200)
    coefficients = np.array([0.7, -0.2, 5.0])
    forest = lessons.trees(coefficients)
    np.testing.assert_allclose(
        forest.predict(x.matrix(forest.names).T),
        lessons.columns(x) @ coefficients,
        atol=1e-4,
    )


def test_nothing_is_expected_of_a_device_that_is_quite_unlike(lessons):
    x = features_of_list(shapes(50, seed=30), H200)
    columns = lessons.columns(x)
    assert not np.any(columns[:, 2]) and np.any(columns[:, 0])
    even = replace(lessons, expected=np.ones(3)).columns(x)
    np.testing.assert_allclose(columns[:, 0], np.sqrt(0.9) * even[:, 0])
