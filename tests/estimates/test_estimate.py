"""Tables of estimates: what a module's row holds that its operators' rows do not."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pandas as pd
import pytest

from calib.estimates.modules import module_table
from calib.estimates.replay.first_time import Extra
from calib.estimates.sums import component_table, figure_table
from calib.estimates.tables import operator_table
from calib.estimates.timeline import with_wall
from calib.fit.calibration import uncalibrated
from calib.fit.fitting import fit
from calib.hardware.datasheet import floor, load_hardware
from calib.samples.host_costs import host_costs
from calib.samples.sample import Sample
from calib.trace.tree import TracedLayer
from model.deepseek_ocr import DeepseekOCRModel
from model.layer import Call, Child, total
from model.ops import Matmul, Other
from model.vit import Vit
from model.workload import Phase, Workload

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


def test_sums_over_what_no_rule_knows_are_marked() -> None:
    """A step of two modules, one of which calls an operator without a rule."""
    known, odd = Call("a", Matmul(8, 8, 8)), Call("b", Other("odd", 64, 64, unknown=True))
    layer = TracedLayer("", (Child("a", one(known)), Child("b", one(odd))))
    calibration = uncalibrated(load_hardware("h200"))
    phases = {"prefill": Phase(layer, 1)}
    operators = operator_table(phases, calibration, None, "torch", NAMES)
    assert operators["unknown"].tolist() == [False, True]
    modules = module_table(phases, operators).set_index("path")
    assert modules["at_least"].to_dict() == {"": True, "a": False, "b": True}
    assert component_table(operators)["at_least"].tolist() == [True, True]


def one(call: Call) -> TracedLayer:
    return TracedLayer("", (replace(call, path=""),))


def products(implementation: str, slower: float) -> list[Sample]:
    """Products of an H200 at ``slower`` times their roofline."""
    card = load_hardware("h200")
    shapes = [Matmul(m, n, k) for m in (64, 500) for n in (1024, 3072) for k in (768, 4096)]
    return [
        Sample(op, [float(floor(op, card)) * slower + 2e-6] * 3, "h200", implementation)
        for op in shapes
    ]


def test_our_kernels_stand_beside_torch_where_they_were_sampled() -> None:
    card, phases = load_hardware("h200"), Vit().phases(Workload("image", 224, prompt_tokens=0))
    torch_only = fit(products("torch", 2.0), card)
    alone = operator_table(phases, torch_only, None, "torch", NAMES)
    assert alone["triton_s"].isna().all()
    both = fit([*products("torch", 2.0), *products("triton", 1.5)], card)
    table = operator_table(phases, both, None, "torch", NAMES)
    pd.testing.assert_frame_equal(table.drop(columns="triton_s"), alone.drop(columns="triton_s"))
    sampled = table["kind"] == "matmul"
    assert table.loc[~sampled, "triton_s"].isna().all()
    faster = table.loc[sampled, "triton_s"] / table.loc[sampled, "estimate_s"]
    assert faster.between(0.7, 1.0).all()
    ours = operator_table(phases, both, None, "triton", NAMES)
    assert ours.loc[sampled, "estimate_s"].tolist() == table.loc[sampled, "triton_s"].tolist()


def components_of(model: Any, asked: Workload) -> pd.DataFrame:
    calibration = uncalibrated(load_hardware("h200"))
    operators = operator_table(model.phases(asked), calibration, None, "torch", NAMES)
    repeats = {phase: p.repeat for phase, p in model.phases(asked).items()}
    return component_table(with_wall(operators, repeats, host_costs([], "h200"), "eager"))


def test_figures_are_those_that_a_user_of_such_a_model_asks_for() -> None:
    """A page has tokens; a picture without a decoder has one pass and none of them "rest"."""
    page, image = Workload("page", 512, decode_steps=4), Workload("image", 224, prompt_tokens=0)
    ocr, vit = components_of(DeepseekOCRModel(), page), components_of(Vit(), image)
    assert list(ocr["component"]) == ["SAM", "CLIP", "vision (rest)", "prefill", "decode", "total"]
    assert list(vit["component"]) == ["vision", "total"]
    assert list(figure_table(ocr, page)["name"]) == [
        "time to first token",
        "time per output token",
        "pages per second",
    ]
    longer = figure_table(ocr, page, extra=Extra(0.05, 0.04, 0.07)).set_index("name")
    new, token = longer.loc["time per token of a new length"], longer.loc["time per output token"]
    for end, seconds in (("estimate", 0.05), ("low", 0.04), ("high", 0.07)):
        assert new[end] == pytest.approx(token[end] + seconds, nan_ok=True)
    assert new["roofline"] == token["roofline"]
    seen = figure_table(vit, image).set_index("name")
    assert list(seen.index) == ["time of a pass", "images per second"]
    read = figure_table(ocr[ocr["component"].isin(["prefill", "decode", "total"])], page, False)
    assert read["name"].iloc[-1] == "requests per second"
    total = float(vit["estimate_s"].iloc[-1])
    assert seen.loc["images per second", "estimate"] == pytest.approx(1 / total)
    assert seen.loc["images per second", "high"] >= 1 / total
