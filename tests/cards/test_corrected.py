"""Own samples over what was known: they shift it, take over where they are many, and fade."""

from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import pytest

from calib.cards.corrected import Away, Blend, Said, blended, corrected, kernels_of, weight_of
from calib.cards.correcting import correct, quantile
from calib.cards.correction import columns_of, fit_correction, matrix
from calib.fit.calibration import Estimates, uncalibrated
from calib.fit.fitting import fit
from calib.hardware.datasheet import floor, load_hardware
from calib.samples.sample import Sample
from model import ops

H200 = load_hardware("h200")
HALF = 0.4


def law(op):
    return 3e-6 + float(floor(op, H200)) / 0.8


@dataclass(frozen=True)
class Known:
    """Says 80% of both peaks and 3 microseconds, of every operator, give or take 40%."""

    hardware = H200
    held_out = pd.DataFrame()

    def estimate(self, ops_, implementation="torch", hot=None):
        return self.estimates(ops_, implementation, hot).table()

    def estimates(self, ops_, implementation="torch", hot=None):
        seconds = np.array([law(op) for op in ops_])
        floors = np.array([float(floor(op, H200)) for op in ops_])
        known_as = np.full(len(ops_), "transferred", dtype=object)
        low, high = seconds * np.exp(-HALF), seconds * np.exp(HALF)
        return Estimates(floors, seconds, low, high, known_as)


def products(count, seed=0):
    rng = np.random.default_rng(seed)
    sizes = np.exp(rng.uniform(np.log(64), np.log(8192), (count, 3))).astype(int)
    return [ops.Matmul(*(int(v) for v in row)) for row in sizes]


def samples(shapes, factor):
    """Give or take 2%."""
    noise = np.exp(np.random.default_rng(9).normal(0, 0.02, len(shapes)))
    return [
        Sample(op, [factor(op) * law(op) * off], "h200", "torch")
        for op, off in zip(shapes, noise, strict=True)
    ]


def over(some):
    return correct(Known(), fit(some, H200), some)


def test_seven_samples_shift_what_was_known_and_keep_its_form():
    some = samples(products(7), lambda op: 1.3)
    asked = products(40, seed=1)
    table = over(some).estimate(asked)
    ratio = table["estimate_s"].to_numpy() / [law(op) for op in asked]
    assert 1.15 < np.median(ratio) < 1.35 and ratio.min() > 1.0
    half = np.log(table["high_s"] / table["low_s"]) / 2
    assert half.max() < 1.5  # the fit to the seven alone says a hundredfold far from them


def test_one_sample_is_believed_in_part():
    op = products(1)[0]
    some = samples([op], lambda op: 2.0)
    known = over(some)
    assert known.estimate([op])["provenance"].iloc[0] == "measured"
    near = replace(op, m=op.m + 1)
    ratio = float(known.estimate([near])["estimate_s"].iloc[0]) / law(near)
    assert 1.1 < ratio < 2.0


def test_far_from_all_samples_the_interval_is_the_known_ones():
    shapes = [ops.Matmul(64 + i, 64 + 8 * i, 64) for i in range(12)]
    known = over(samples(shapes, lambda op: 1.5))
    near, far = known.estimate([ops.Matmul(70, 72, 64), ops.Matmul(65536, 8192, 8192)]).to_dict(
        "records"
    )
    halves = [np.log(r["high_s"] / r["low_s"]) / 2 for r in (near, far)]
    assert halves[0] < 0.2 and halves[1] > 0.75 * HALF


def test_better_than_either_where_both_know_something():
    def wrong(op):  # smooth in a shape: what an offset alone does not take away
        return 1.5 * (op.k / 1024) ** 0.2

    asked = products(60, seed=2)
    some = samples(products(30), wrong)
    truth = np.array([wrong(op) * law(op) for op in asked])

    def error(calibration):
        return float(np.abs(np.log(calibration.estimate(asked)["estimate_s"] / truth)).mean())

    found = error(over(some))
    assert found < min(error(Known()), error(fit(some, H200))) and found < 0.05


@dataclass(frozen=True)
class OfAnotherForm(Known):
    """The same, but off by up to threefold in waves of the width."""

    def estimates(self, ops_, implementation="torch", hot=None):
        said = super().estimates(ops_, implementation, hot)
        off = np.array([3 ** np.sin(4 * np.log(op.n)) for op in ops_])
        return replace(said, seconds=said.seconds * off, low=said.low * off, high=said.high * off)


def test_what_was_far_off_counts_for_less_beside_ten_samples():
    some, asked = samples(products(10), lambda op: 1.0), products(200, seed=1)
    own = fit(some, H200)
    near, far = (correct(base, own, some) for base in (Known(), OfAnotherForm()))
    key = ("torch", "matmul")
    assert near.blends[key].share < 0.5 < far.blends[key].share
    true = np.array([law(op) for op in asked])
    missed = np.abs(np.log(far.estimates(asked).seconds / true)).mean()
    alone = np.abs(np.log(own.estimates(asked).seconds / true)).mean()
    assert missed < 1.5 * alone


@dataclass(frozen=True)
class OffBy(Known):
    """The same, but off by ``factor``, and by up to ``waves`` more in waves of the bytes."""

    factor: float = 1.0
    waves: float = 1.0

    def estimates(self, ops_, implementation="torch", hot=None):
        said = super().estimates(ops_, implementation, hot)
        waves = np.array([self.waves ** np.sin(3 * np.log(float(op.bytes))) for op in ops_])
        off = self.factor * waves
        return replace(said, seconds=said.seconds * off, low=said.low * off, high=said.high * off)


def copies(count, seed):
    sizes = np.exp(np.random.default_rng(seed).uniform(np.log(1e5), np.log(1e9), count))
    return [ops.Copy(int(n), "bfloat16", "bfloat16") for n in sizes]


@pytest.mark.parametrize(("base", "most"), [(OffBy(waves=1.6), 1.1), (OffBy(2.0), 1.0)])
def test_ten_samples_give_at_least_the_better_of_both(base: Known, most: float) -> None:
    """Own samples of 10% noise, over what has another form, and what is off by an offset alone."""
    asked, errors = copies(100, seed=99), []
    true = np.log([law(op) for op in asked])
    for seed in range(8):
        shapes, noise = copies(10, seed), np.random.default_rng(seed).normal(0, 0.1, 10)
        some = [
            Sample(op, [law(op) * np.exp(off)], "h200", "torch")
            for op, off in zip(shapes, noise, strict=True)
        ]
        own = fit(some, H200)
        told = [np.log(s.estimates(asked).seconds) for s in (base, own, correct(base, own, some))]
        errors.append([np.abs(log_seconds - true).mean() for log_seconds in told])
    known, alone, both = np.mean(errors, axis=0)
    assert both < most * min(known, alone)


def test_what_the_base_knows_nothing_of_is_told_by_samples_alone():
    some = samples(products(12), lambda op: 1.0)
    own = fit(some, H200)
    known = correct(uncalibrated(H200), own, some)
    asked = products(5, seed=3)
    pd.testing.assert_frame_equal(known.estimate(asked), own.estimate(asked))
    other = known.estimate([ops.Softmax(8, 64)])
    assert other["provenance"].iloc[0] == "roofline"


def test_a_grid_equals_a_list():
    known = over(samples(products(20), lambda op: 1.2))
    grid = ops.grid(ops.Matmul, m=[64, 100, 5000], n=640, k=512)
    listed = [ops.Matmul(m, 640, 512) for m in (64, 100, 5000)]
    flags = np.zeros(3, dtype=bool)
    base = replace(known, base=uncalibrated(H200), blends={})
    pd.testing.assert_frame_equal(base.estimate(grid, hot=flags), base.estimate(listed, hot=flags))


def test_weights_go_by_spread_and_share():
    own, base = Said(np.zeros(3), np.array([0.1, 0.1, np.nan])), Said(np.ones(3), np.full(3, 0.1))
    assert weight_of(0.5, own, base)[0] == pytest.approx(0.5)
    assert weight_of(0.9, own, base)[0] == pytest.approx(0.9)
    wide = Said(own.centre, own.spread * 10)
    assert weight_of(0.9, wide, base)[0] == pytest.approx(9 / 109)
    missing = Said(np.full(3, np.nan), np.full(3, np.nan))
    assert list(weight_of(0.9, missing, base)) == [0, 0, 0]
    assert list(weight_of(None, own, missing)) == [1, 1, 1]


def test_carried_to_another_card_a_correction_is_shared_and_wider():
    shapes = products(20)
    known = over(samples(shapes, lambda op: 2.0))
    blend = replace(known.blends["torch", "matmul"], share=None)
    columns = columns_of(shapes, H200, np.zeros(20, dtype=bool))
    base = Said(np.zeros(20), np.full(20, 0.1))
    nothing = Said(np.full(20, np.nan), np.full(20, np.nan))
    here, half, _ = blended(blend, columns, nothing, base)
    there, wider, _ = blended(blend, columns, nothing, base, Away(0.2, 0.5, 0.3))
    np.testing.assert_allclose(there, here / 2)
    assert (wider > half).all()


def test_carried_to_another_card_a_share_is_kept_near_samples_that_are_trusted():
    """Which of two was right on the samples' card says nothing of another, unless the same stands
    in for the same kernels on both; and nothing of what lies far from the samples."""
    shapes = products(3)
    columns = columns_of(shapes, H200, np.zeros(3, dtype=bool))
    names = sorted(columns)
    rows = matrix(columns, names, 3)
    correction = fit_correction(names, rows, np.full(3, 0.5), 0.1)
    blend = Blend(correction, 0.9, 1.645, False)
    near = columns
    far = {name: values + 40.0 for name, values in columns.items()}
    own, base = Said(np.zeros(3), np.full(3, 0.1)), Said(np.zeros(3), np.full(3, 0.1))
    for asked, is_near in ((near, True), (far, False)):
        plain, trusted = (
            blended(blend, asked, own, base, Away(0.0, 0.5, 0.0, trusted=trusted))
            for trusted in (False, True)
        )
        assert (trusted[2] > plain[2] + 0.05).all() == is_near
        if not is_near:
            np.testing.assert_allclose(trusted[0], plain[0], atol=0.02)
    said = [corrected(correction, near, base, Away(0.0, 0.5, 0.0, t)).centre for t in (False, True)]
    assert (said[1] > 1.5 * said[0]).all()


def test_an_offset_is_learned_and_shrunk():
    shapes = products(3)
    columns = columns_of(shapes, H200, np.zeros(3, dtype=bool))
    names = sorted(columns)
    rows = matrix(columns, names, 3)
    found = fit_correction(names, rows, np.full(3, 0.5), expected=0.3)
    mean, spread, far = found.predict(rows + 100.0)
    assert (mean > 0.2).all() and (mean < 0.5).all()
    np.testing.assert_allclose(far, 1.0, atol=1e-6)
    assert (spread > found.predict(rows)[1]).all()


def test_uneven_loads_are_far_from_even_ones_for_the_correction_too():
    """What was known does not read how uneven loads are; all else alike, it counts as far."""
    rng = np.random.default_rng(2)
    shapes = [
        ops.GroupedMatmul(903, 64, 6, int(n) * 64, int(k) * 64)
        for n, k in rng.integers(8, 32, (20, 2))
    ]
    columns = columns_of(shapes, H200, np.zeros(20, dtype=bool))
    names = sorted(columns)
    found = fit_correction(names, matrix(columns, names, 20), rng.normal(0.3, 0.05, 20), 0.3)
    near, uneven = (
        found.predict(matrix(columns | {"uneven": np.full(20, u)}, names, 20))[2]
        for u in (0.0, np.log(8))
    )
    assert (near < 0.3).all() and (uneven > near + 0.3).all()


def test_a_quantile_of_no_scores_is_the_normal_one():
    assert quantile(np.zeros(0)) == pytest.approx(1.78, abs=0.15)
    assert quantile(np.full(1000, 3.0)) == 3.0


@pytest.mark.parametrize("apart", [25, 5])
def test_float32_is_corrected_apart_where_it_has_samples_enough(apart: int) -> None:
    """It takes three times what stands in for it, where halves take nine tenths."""
    single = [replace(op, dtype="float32") for op in products(apart, seed=3)]

    def factor(op):
        return 3.0 if op.dtype == "float32" else 0.9

    found = over(samples([*products(60), *single], factor))
    both, halves = (found.blends["torch", name] for name in ("matmul float32", "matmul"))
    assert len(both.correction.points) == (apart if apart >= 20 else 60 + apart)
    assert len(halves.correction.points) == 60
    asked = [replace(op, dtype="float32") for op in products(12, seed=4)]
    told = found.estimates(asked).seconds / [3.0 * law(op) for op in asked]
    assert np.median(np.abs(np.log(told))) < (0.1 if apart >= 20 else 0.5)
    halves = found.estimates(products(12, seed=5)).seconds
    assert halves == pytest.approx([0.9 * law(op) for op in products(12, seed=5)], rel=0.15)


def test_tf32_is_corrected_with_what_the_matrix_units_multiply() -> None:
    """It was corrected as float32, by what CUDA cores take: 0.6 of what stands in for it."""
    single = [replace(op, dtype="float32") for op in products(25, seed=3)]
    found = over(samples([*products(60), *single], lambda op: 3.0 if op in single else 0.9))
    asked = [replace(op, dtype="tf32") for op in products(12, seed=4)]
    told = found.estimates(asked).seconds / [law(op) for op in asked]
    assert np.median(told) == pytest.approx(0.9, abs=0.1)
    for dtype in ("float32", "tf32"):
        assert kernels_of(ops.Conv2d(1, 8, 8, 9, 9, 3, dtype=dtype)) == "conv2d float32"


KERNELS = ("matmul", "matmul batched")


@pytest.mark.parametrize("apart", [25, 5])
def test_few_batched_products_are_corrected_with_the_others(apart: int) -> None:
    """Five of a trace, one of them of 37,632 tiny products, made every batch by an older CUDA 1.3
    times its rows."""
    many = [replace(op, batch=4) for op in products(apart, seed=3)]
    found = over(samples([*products(60), *many], lambda op: 3.0 if op.batch > 1 else 0.9))
    whole, alone = (found.blends["torch", name].correction for name in KERNELS)
    assert whole and alone and len(alone.points) == (apart if apart >= 20 else 60 + apart)
    assert len(whole.points) == 60


def test_the_fewer_of_few_are_corrected_with_the_others() -> None:
    many = [replace(op, batch=4) for op in products(3, seed=3)]
    found = over(samples([*products(6), *many], lambda op: 3.0 if op.batch > 1 else 0.9))
    assert len(found.blends["torch", KERNELS[0]].correction.points) == 9


def test_a_dtype_of_one_sample_is_far_from_the_samples_of_others() -> None:
    """What stands in for it says less of it than of bfloat16, however many of those there are."""
    shapes = [*products(60), ops.Matmul(8192, 8192, 8192, dtype="float8_e4m3fn")]
    columns = columns_of(shapes, H200, np.zeros(61, dtype=bool))
    names = sorted(columns)
    left = np.random.default_rng(2).normal(-0.1, 0.05, 61)
    found = fit_correction(names, matrix(columns, names, 61), left, 0.1)
    asked = [products(20, seed=3), [replace(op, dtype="float8_e4m3fn") for op in products(20, 3)]]
    cold = np.zeros(20, dtype=bool)
    plain, narrow = (
        found.predict(matrix(columns_of(some, H200, cold), names, 20))[2] for some in asked
    )
    assert np.median(narrow) > np.median(plain) + 0.1


def test_a_kind_is_told_by_its_own_blend_where_float32_has_none() -> None:
    found = over(samples(products(60), lambda op: 0.9))
    single = [replace(op, dtype="float32") for op in products(4)]
    assert np.isfinite(found.estimates(single).seconds).all()
    assert kernels_of(single[0]) == "matmul float32" and kernels_of(products(1)[0]) == "matmul"
    assert kernels_of(ops.Copy(64, "float32", "float32")) == "copy"
