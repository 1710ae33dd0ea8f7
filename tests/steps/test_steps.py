"""Steps of a run: what a sweep asks of a fit."""

from __future__ import annotations

from pathlib import Path

import pytest

from calib.hardware.datasheet import floor, load_hardware
from calib.samples.sample import Sample
from calib.samples.store import SampleStore
from calib.steps.fitting import fit_samples, uncertainty
from calib.steps.target import Target
from model.ops import Matmul


def test_a_budget_too_small_for_a_design_leaves_every_shape_unsure() -> None:
    """A sweep whose budget the model's own shapes used up has nothing to fit, and goes on."""
    spread = uncertainty([], load_hardware("h200"))
    assert spread([Matmul(m=1, n=2, k=3), Matmul(m=4, n=5, k=6)]).tolist() == [1.0, 1.0]


def test_a_shape_of_the_model_is_unseen_though_an_earlier_design_had_it(tmp_path: Path) -> None:
    hardware = load_hardware("l40s")
    ops = [Matmul(m=m, n=n, k=256) for m in (64, 128, 256, 512) for n in (256, 512, 1024)]
    odd = ops[5]
    samples = [
        Sample(
            op=op,
            seconds=[float(floor(op, hardware)) * (90 if op == odd else 2)] * 5,
            hardware="l40s",
            implementation="torch",
        )
        for op in ops
    ]
    store = SampleStore(tmp_path, "l40s", "L40S")
    target = Target(hardware, here=False, device="L40S", store=store, samples=samples)

    def over_floor(own: list[Matmul]) -> list[float]:
        both = fit_samples(target, own)
        tables = [known.estimate([odd], "torch") for known in both if known]
        return [float(t["estimate_s"][0] / t["floor_s"][0]) for t in tables]

    assert over_floor([]) == pytest.approx([90, 90])
    seen, unseen = over_floor([odd])
    assert seen == pytest.approx(90)
    assert unseen < 10
