"""Tables of estimates: what a module's row holds that its operators' rows do not."""

from __future__ import annotations

import pytest

from calib.estimate import module_table, operator_table
from calib.fit import uncalibrated
from calib.hardware import load_hardware
from model.deepseek_ocr import DeepseekOCRModel
from model.layer import total
from model.workload import Workload

NAMES = {"model": "deepseek_ocr", "workload": "tiled"}


def test_a_module_that_runs_twice_is_one_row_of_both_runs() -> None:
    """The page and its six tiles go through one tower; the tiles' pass holds more memory."""
    model, asked = DeepseekOCRModel(), Workload("tiled", 512, tiles=(2, 3), decode_steps=5)
    phases = model.phases(asked)
    calibration = uncalibrated(load_hardware("h200"))
    operators = operator_table(phases, calibration, None, "torch", NAMES)
    modules = module_table(phases, operators).set_index(["phase", "path"])
    tower = modules.loc[("vision", "model.vision_tower")]
    page, tiles = model.vision_tower(1, 512), model.vision_tower(6, 640)
    assert tower["calls"] == 2
    assert tower["activation_bytes"] == tiles.activation_bytes() > page.activation_bytes()
    assert tower["weight_bytes"] == page.weight_bytes()
    both = sum(total(run.calls(), lambda op: op.flops) for run in (page, tiles))
    assert tower["flops"] == pytest.approx(both)
    clip = modules.loc[("vision", "model.vision_tower.vision_encoder")]
    assert '"hidden": 1024' in clip["params_json"] and '"batch"' not in clip["params_json"]
    steps = modules.loc["decode", "calls"]
    assert (steps[[p != "" for p in steps.index]] % 5 == 0).all() and steps[""] == 5
