"""What a calibration is asked by mistake: a sentence, and no trace of numpy's."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from calib.cards.shipped import load_card
from calib.errors import CalibError, did_you_mean
from calib.fit.calibration import uncalibrated
from calib.hardware.datasheet import hardware_names, load_hardware
from model.ops import Matmul, grid

H200 = load_hardware("h200")
CARD = load_card(H200)
OP = Matmul(8, 16, 32)


@pytest.mark.parametrize("calibration", [CARD, uncalibrated(H200)], ids=["card", "none"])
@pytest.mark.parametrize("ops", [None, "matmul", ["matmul"], [OP, None], 5, [[OP]]])
def test_what_is_no_operator_is_said(calibration: Any, ops: Any) -> None:
    with pytest.raises(CalibError, match=r"^ops = .*: expected operators of model.ops"):
        calibration.estimate(ops)


@pytest.mark.parametrize("calibration", [CARD, uncalibrated(H200)], ids=["card", "none"])
def test_any_iterable_of_operators_is_a_list_of_them(calibration: Any) -> None:
    """One that can be read but once, too."""
    expected = calibration.estimate([OP, OP])["estimate_s"]
    for ops in ((op for op in [OP, OP]), (OP, OP), iter([OP, OP])):
        assert list(calibration.estimate(ops)["estimate_s"]) == list(expected)
    assert len(calibration.estimate([])) == 0


@pytest.mark.parametrize("hot", [[True] * 3, (True, False, True), np.array([True] * 4)])
def test_flags_are_as_many_as_operators(hot: Any) -> None:
    assert CARD is not None
    with pytest.raises(CalibError, match=r"^hot = .*: expected a flag, or one for each of 2"):
        CARD.estimate([OP, OP], hot=hot)
    many = grid(Matmul, m=[8, 9], n=8, k=8)
    assert len(CARD.estimate(many, hot=[True, False])) == 2


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("H100", "h100?"),
        ("A100-PCIE-40GB", "a100_pcie_40gb?"),
        ("rtx 4090", "rtx4090 or rtx5090?"),
        ("RTX_Pro 6000", "rtx_pro_6000?"),
    ],
)
def test_a_card_is_found_as_people_write_it(name: str, meant: str) -> None:
    assert f"did you mean {meant}" in did_you_mean(name, hardware_names())
