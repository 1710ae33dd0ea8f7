"""Convolutions channel by channel, of which no sample ships: by physics, beside what was timed."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from benchmarks.kernel_cases import DEPTHWISE
from calib.cards.shipped import load_card
from calib.cards.tables.stand_ins import stand_in
from calib.checkout import ROOT
from calib.hardware.convolutions import is_depthwise
from calib.hardware.datasheet import load_hardware
from model.ops import Conv2d, Convolution, Elementwise

H200 = load_hardware("h200")
TIMED = ROOT / "benchmarks" / "data" / "h200" / "kernels.parquet"


def by_channel(
    channels: int, side: int, kernel: int, batch: int = 1, planar: bool = False
) -> Conv2d:
    sizes = (batch, channels, channels, side, side)
    return Conv2d(*sizes, kernel, padding=kernel // 2, groups=channels, planar=planar)


def seconds(*ops: Conv2d | Convolution) -> list[float]:
    card = load_card(H200)
    assert card is not None
    found: list[float] = card.estimate(list(ops), "torch")["estimate_s"].tolist()
    return found


def test_what_was_timed_on_the_card_is_met() -> None:
    """Timed by events, which add a microsecond to each."""
    table = pd.read_parquet(TIMED)
    clock = table.loc[table["kind"] == "depthwise", "vendor_s"].to_numpy()
    assert len(clock) == len(DEPTHWISE) == 2
    assert seconds(*DEPTHWISE) == pytest.approx(clock - 1.2e-6, rel=0.15)


@pytest.mark.parametrize("planar", [False, True])
def test_it_costs_less_than_a_dense_one_and_grows_with_what_it_computes(planar: bool) -> None:
    op = by_channel(144, 56, 3, 32, planar)
    dense = Conv2d(32, 144, 144, 56, 56, 3, padding=1, planar=planar)
    larger = (by_channel(144, 56, 5, 32, planar), by_channel(288, 56, 3, 32, planar))
    first, whole, *others = seconds(op, dense, *larger)
    assert first < whole and all(first < other < 4 * first for other in others)
    twice = seconds(by_channel(144, 56, 3, 64, planar))[0]
    assert twice == pytest.approx(2 * first, rel=0.1)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_what_stands_beside_it_in_a_list_changes_nothing(dtype: str) -> None:
    apart = replace(by_channel(144, 56, 3, 32, planar=True), dtype=dtype)
    dense = Conv2d(32, 144, 96, 56, 56, 1, dtype=dtype)
    assert seconds(apart, dense) == pytest.approx([*seconds(apart), *seconds(dense)], rel=1e-6)


def test_one_dimension_is_as_two() -> None:
    line = Convolution(1, 512, 512, in_positions=4096, out_positions=4096, taps=9, groups=512)
    assert seconds(line)[0] == pytest.approx(seconds(by_channel(512, 64, 3))[0], rel=0.5)


def test_what_stands_in_streams_in_as_many_passes_as_the_window_takes() -> None:
    small, large = (stand_in(by_channel(96, 56, k)) for k in (3, 7))
    assert isinstance(small.ops[0], Elementwise)
    assert large.passes > small.passes > 1


def test_a_multiplier_of_channels_is_by_channel_and_groups_of_several_are_not() -> None:
    assert is_depthwise(Conv2d(1, 8, 16, 9, 9, 3, groups=8))
    assert not is_depthwise(Conv2d(1, 64, 64, 9, 9, 3, groups=32))
    assert not is_depthwise(Conv2d(1, 1, 16, 9, 9, 3))
    grid = Conv2d(1, np.array([8, 8]), np.array([8, 8]), 9, 9, 3, groups=np.array([8, 1]))
    assert is_depthwise(grid).tolist() == [True, False]
