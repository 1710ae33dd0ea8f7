"""What a run says of itself: only what applies to it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from calib.hardware.datasheet import load_hardware
from calib.samples.sample import Sample
from calib.samples.store import SampleStore
from calib.steps.notes import source_notes
from calib.steps.target import Target
from model.ops import Matmul

UNKNOWN = "l4_of_mine"
"""A card of which nothing ships."""


def notes(name: str, implementation: str, *sampled: str) -> str:
    samples = [Sample(Matmul(8, 8, 8), [1e-5], name, of) for of in sampled]
    hardware = load_hardware(name) if name != UNKNOWN else replace(load_hardware("l4"), name=name)
    target = Target(hardware, False, "", SampleStore(Path("/s"), name, ""), samples)
    known = ["interpolated" if sampled else "roofline"]
    operators = pd.DataFrame({"kind": ["matmul"], "estimate_s": [1.0], "provenance": known})
    return " ".join(source_notes(target, operators, implementation))


@pytest.mark.parametrize(
    ("asked", "says", "not_said"),
    [
        (("h200", "torch"), "The calibration that ships: h200", "has no samples"),
        (("h200", "torch", "torch"), "your samples lack come from the calibration", "has no"),
        (("h200", "triton"), "triton every kernel takes the roofline", "calibration that ships:"),
        (("h200", "triton", "torch"), "every kernel takes the roofline", "your samples lack"),
        (("h200", "triton", "triton"), "that your samples lack take the roofline", "that ships:"),
        ((UNKNOWN, "torch"), "l4_of_mine has no samples and no calibration", "What ships"),
        ((UNKNOWN, "torch", "torch"), "", "has no samples"),
        ((UNKNOWN, "triton", "torch"), "l4_of_mine has no samples of triton and no", "What ships"),
    ],
)
def test_where_times_come_from(asked: tuple[str, ...], says: str, not_said: str) -> None:
    said = notes(*asked)
    assert says in said and not_said not in said
