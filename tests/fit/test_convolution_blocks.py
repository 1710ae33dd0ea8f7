"""Convolutions as a GPU runs them, and what a fit learns of it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from calib.fit.calibration import kind_of
from calib.fit.physics.blocks.convolution_blocks import padded_waves
from calib.fit.physics.features import features, features_of_list
from calib.fit.physics.prior import fit_prior
from calib.hardware.convolutions import kernels, moves_map
from calib.hardware.datasheet import load_hardware
from model.ops import Conv2d, Convolution

H200 = load_hardware("h200")
PATCHES = {"kernel": 16, "stride": 16}


def conv(inside: int, side: int, kernel: int = 1, stride: int = 1, **more: Any) -> Conv2d:
    return Conv2d(1, inside, 256, side, side, kernel, stride, kernel // 2, **more)


@pytest.mark.parametrize(
    ("op", "launches"),
    [
        (conv(256, 14), 1),
        (conv(256, 14, bias=True), 2),
        (conv(256, 14, kernel=3), 2),  # the weights are moved
        (conv(256, 14, kernel=3, planar=True), 4),
        (conv(256, 14, kernel=3, planar=True, one_way=True), 3),
        (conv(256, 14, kernel=3, one_way=True), 2),  # not moved at all
        (conv(256, 28, planar=True), 1),  # 784 places: as they lie
        (conv(256, 14, planar=True), 3),  # 196 places are no multiple of 16 bytes
        (conv(256, 28, stride=2, planar=True), 3),
        (Conv2d(1, 3, 768, 512, 512, bias=True, **PATCHES), 2),
        (Conv2d(1, 3, 768, 224, 224, bias=True, **PATCHES), 7),  # padded to eight channels
        (Conv2d(32, 3, 1024, 224, 224, bias=True, **PATCHES), 7),
        (Conv2d(1, 3, 384, 224, 224, **PATCHES), 1),
        (conv(256, 11, planar=True), 1),  # odd: two bytes at a time
        (conv(512, 11, planar=True), 3),
        (Convolution(1, 80, 512, 3000, 3000, taps=3, bias=True), 5),
    ],
)
def test_launches_of_a_convolution(op: Conv2d | Convolution, launches: int) -> None:
    assert kernels(op) == launches


def test_a_grid_of_convolutions_is_as_its_points() -> None:
    sides = (7, 14, 28, 56)
    grid = conv(64, np.array(sides), kernel=1, planar=np.array([True] * 4))  # type: ignore[arg-type]
    assert list(moves_map(grid)) == [bool(moves_map(conv(64, s, planar=True))) for s in sides]
    found, points = features(grid, H200), [conv(64, s, planar=True) for s in sides]
    single = features_of_list(points, H200)
    for name, values in single.columns.items():
        assert found.columns[name] == pytest.approx(values), name


def test_one_fit_holds_any_number_of_dimensions_of_a_convolution() -> None:
    sound, image = Convolution(1, 80, 512, 3000, 3000, taps=3), conv(80, 55, kernel=3)
    assert kind_of(sound) == kind_of(image) == "conv2d"
    both = set(features(sound, H200).columns), set(features(image, H200).columns)
    assert both[0] == both[1]


def test_few_channels_are_no_product_and_wait_for_their_steps() -> None:
    few = features(Conv2d(1, 3, 768, 512, 512, **PATCHES), H200).columns
    many = features(conv(256, 32, kernel=3), H200).columns
    assert few["choice depth"] == 1
    assert np.exp(few["bound steps convolved"]) == pytest.approx(3 * 16 * 16)
    rounds = np.ceil(32 * 24 / H200.sm_count)
    assert np.exp(few["bound sums convolved"]) == pytest.approx(768 * rounds)
    assert many["choice depth"] == 256 * 9
    assert many["bound steps convolved"] < -40


def test_a_window_of_14_waits_as_one_of_16_and_computes_less() -> None:
    odd = features(Conv2d(1, 3, 384, 448, 448, kernel=14, stride=14), H200).columns
    even = features(Conv2d(1, 3, 384, 512, 512, kernel=16, stride=16), H200).columns
    assert odd["bound steps convolved"] == even["bound steps convolved"]
    assert odd["bound sums convolved"] == pytest.approx(
        even["bound sums convolved"] + 2 * np.log(14 / 16)
    )


@pytest.mark.parametrize(("side", "out", "waves"), [(43, 960, 1), (45, 640, 1), (48, 832, 2)])
def test_waves_of_padded_patches_are_of_bundles(side: int, out: int, waves: int) -> None:
    patches = Conv2d(1, 3, out, side * 8, side * 8, kernel=8, stride=8)
    assert padded_waves(side * side, out, H200) == waves
    found = features(patches, H200).columns
    assert np.exp(found["bound taps convolved"]) == pytest.approx(64 * waves)
    assert found["bound steps convolved"] < -40


def test_only_what_skips_places_pays_for_it() -> None:
    plain, skips = (features(conv(256, 32, stride=s), H200).columns for s in (1, 2))
    assert plain["added strided convolved"] == 0
    assert skips["added strided convolved"] == 256


def test_a_fit_tells_scalar_arithmetic_from_products() -> None:
    rng = np.random.default_rng(0)
    sides, outs = rng.integers(8, 64, 60), rng.integers(4, 18, 60) * 64
    few = [
        Conv2d(1, 3, int(o), int(s) * 16, int(s) * 16, **PATCHES)
        for s, o in zip(sides, outs, strict=True)
    ]
    many = [conv(int(o), int(s)) for s, o in zip(sides, outs, strict=True)]
    x = features_of_list([*few, *many], H200)
    steps, sums = x.columns["bound steps convolved"], x.columns["bound sums convolved"]
    cycles = 5000 + 140 * np.exp(steps) + 32 * np.exp(sums) + 1.3 * np.exp(x.log_memory)
    prior = fit_prior(x, np.log(cycles))
    assert np.abs(prior.log_cycles(x) - np.log(cycles)).mean() < 0.05
