"""Steps of a run: what a sweep asks of a fit."""

from __future__ import annotations

from calib.hardware import load_hardware
from calib.steps import _uncertainty
from model.ops import Matmul


def test_a_budget_too_small_for_a_design_leaves_every_shape_unsure() -> None:
    """A sweep whose budget the model's own shapes used up has nothing to fit, and goes on."""
    spread = _uncertainty([], load_hardware("h200"))
    assert spread([Matmul(m=1, n=2, k=3), Matmul(m=4, n=5, k=6)]).tolist() == [1.0, 1.0]
