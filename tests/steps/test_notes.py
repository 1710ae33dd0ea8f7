"""What a run says of itself: only what applies to it."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from calib.hardware.datasheet import load_hardware
from calib.samples.sample import Sample
from calib.samples.store import SampleStore
from calib.steps.notes import source_notes
from calib.steps.target import Target
from model.ops import Matmul


def notes(name: str, implementation: str, *sampled: str) -> str:
    samples = [Sample(Matmul(8, 8, 8), [1e-5], name, of) for of in sampled]
    target = Target(load_hardware(name), False, "", SampleStore(Path("/s"), name, ""), samples)
    known = ["interpolated" if sampled else "roofline"]
    operators = pd.DataFrame({"kind": ["matmul"], "estimate_s": [1.0], "provenance": known})
    return " ".join(source_notes(target, operators, implementation))


@pytest.mark.parametrize(
    ("asked", "says", "not_said"),
    [
        (("h200", "torch"), "The calibration that ships: h200", "has no samples"),
        (("h200", "torch", "torch"), "Your samples correct the calibration", "has no"),
        (("h200", "triton"), "triton every kernel takes the roofline", "calibration that ships:"),
        (("h200", "triton", "torch"), "every kernel takes the roofline", "your samples lack"),
        (("h200", "triton", "triton"), "that your samples lack take the roofline", "that ships:"),
        (("l4", "torch"), "l4 has no samples and no calibration", "What ships"),
        (("l4", "torch", "torch"), "", "has no samples"),
        (("l4", "triton", "torch"), "l4 has no samples of triton and no calibration", "What ships"),
    ],
)
def test_where_times_come_from(asked: tuple[str, ...], says: str, not_said: str) -> None:
    said = notes(*asked)
    assert says in said and not_said not in said
