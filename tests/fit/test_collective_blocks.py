"""What cards that work together wait for beside their link."""

from __future__ import annotations

import numpy as np

from calib.fit import fit
from calib.fit.physics.blocks.collective_blocks import GATHERED, SIGNALS, collective_columns
from calib.hardware import load_hardware
from calib.hardware.datasheet import floor
from calib.samples import Sample
from model.ops import AllReduce, grid


def test_columns_count_cards_and_what_they_gather() -> None:
    columns = collective_columns(AllReduce(1000, 4))
    assert columns[SIGNALS].tolist() == [3.0]
    np.testing.assert_allclose(np.exp(columns[GATHERED]), [1000 * 2 * 3])


def test_a_fit_follows_the_link_and_its_signals() -> None:
    """Made by a rule: 2 us, 0.3 us a further card, three quarters of the link."""
    hardware, sizes = load_hardware("h200"), 2 ** np.arange(7, 28)
    ops = [AllReduce(int(n), ranks) for n in sizes for ranks in (2, 4, 8)]
    seconds = [2e-6 + 0.3e-6 * (op.ranks - 1) + float(floor(op, hardware)) / 0.75 for op in ops]
    samples = [
        Sample(op, [s], "h200", "x", cache="hot", group=str(op.elements))
        for op, s in zip(ops, seconds, strict=True)
    ]
    calibration = fit(samples, hardware)
    assert calibration.held_out["median_error"].item() < 0.03
    between = grid(AllReduce, elements=np.array([3_000, 5_000_000]), ranks=8)
    expected = 2e-6 + 2.1e-6 + floor(between, hardware) / 0.75
    found = calibration.estimate(between, "x", True)
    np.testing.assert_allclose(found["estimate_s"], expected, rtol=0.1)
