"""The process: what it is likely to be, of one device or of several, and what it then says."""

import numpy as np
from scipy.optimize import check_grad

from calib.fit.physics.features import Features
from calib.fit.residual import Left, fit_lengths, fit_residual, tamed, unlikelihood

RNG = np.random.default_rng(3)


def features(count: int, **columns: np.ndarray) -> Features:
    ones = np.ones(count)
    return Features(ones, ones, ones > 0, ones, columns)


def left_of(count: int, columns: int = 0) -> Left:
    """A residual that changes over a, not over b, up and down from device to device."""
    a, b = RNG.uniform(0, 4, (2, count))
    wave = 0.2 * np.sin(2 * a + RNG.uniform(0, 6)) + RNG.normal(0, 0.01, count)
    beside = RNG.normal(size=(count, columns))
    return Left(features(count, a=a, b=b), wave, beside)


def test_the_slope_is_that_of_the_likelihood():
    rows, residual, columns = (
        RNG.normal(size=(25, 3)),
        RNG.normal(size=25),
        RNG.normal(size=(25, 2)),
    )
    for has_columns in (False, True):
        theta = 0.3 * RNG.normal(size=5 + has_columns)
        args = (has_columns, rows, residual, columns)
        apart = check_grad(
            lambda t, args=args: unlikelihood(t, *args)[0],
            lambda t, args=args: unlikelihood(t, *args)[1],
            theta,
        )
        assert apart < 1e-4


def test_devices_that_differ_share_the_length_over_which_they_change():
    lengths = fit_lengths([left_of(30) for _ in range(4)])
    along = dict(zip(lengths.names, lengths.scale, strict=True))
    assert along["b"] > 4 * along["a"]
    assert lengths.noise < 0.05**2 < lengths.variance


def test_a_dozen_samples_say_more_once_other_devices_told_the_lengths():
    shared, errors = fit_lengths([left_of(60) for _ in range(4)]), []
    for _ in range(12):
        device = left_of(200)
        few, asked = device.rows(np.arange(12)), device.rows(np.arange(12, 200))
        errors.append(
            [
                np.abs(fit_residual(lengths, few)[0].predict(asked.x)[0] - asked.residual).mean()
                for lengths in (shared, fit_lengths([few]))
            ]
        )
    with_others, alone = np.mean(errors, axis=0)
    assert with_others < alone


def test_columns_get_the_coefficients_that_made_the_residual():
    devices = []
    for _ in range(3):
        plain = left_of(80, columns=2)
        slopes = RNG.normal(0, 0.3, 2)
        devices.append(
            (slopes, Left(plain.x, plain.residual + plain.columns @ slopes, plain.columns))
        )
    lengths = fit_lengths([left for _, left in devices])
    for slopes, left in devices:
        process, found = fit_residual(lengths, left)
        np.testing.assert_allclose(found, slopes, atol=0.02)
        mean, spread = process.predict(left.x)
        off = np.abs(mean + left.columns @ found - left.residual)
        assert off.mean() < 0.02 and np.mean(off <= 2 * spread) > 0.9


def test_one_wild_sample_of_few_counts_as_five_deviations():
    residual = np.append(np.linspace(-0.1, 0.1, 31), 1.3)
    found = tamed(residual)
    deviation = 1.4826 * np.median(np.abs(residual - np.median(residual)))
    np.testing.assert_array_equal(found[:-1], residual[:-1])
    assert np.isclose(found[-1] - np.median(residual), 5 * deviation)
    exact = np.append(np.zeros(31), 0.2)  # where nothing differs a small miss is none to be cut
    np.testing.assert_array_equal(tamed(exact), exact)
