"""What a decode step pays for a length that its process meets for the first time."""

from __future__ import annotations

from dataclasses import replace

from calib.estimates.replay.first_time import Extra, Plans, of_new_length, plans_of
from calib.samples.host_costs import host_costs
from model.deepseek_ocr import DeepseekOCRModel
from model.workload import Workload

COSTS = host_costs([], "h200")


def test_plans_are_those_of_shapes_and_of_the_card_whose_torch_makes_them() -> None:
    phases = DeepseekOCRModel().phases(Workload("ocr_base", side=1024, decode_steps=16))
    assert plans_of(phases, "9.0") == Plans(a_step=1, once=4)
    assert plans_of(phases, "12.0") == plans_of(phases, None) == Plans(0, 0)
    without = {name: phase for name, phase in phases.items() if name != "decode"}
    assert plans_of(without, "9.0") == Plans(0, 4)


def test_two_kinds_of_attention_that_grow_are_two_plans() -> None:
    plan = COSTS.attention_plan
    assert plan and of_new_length(Plans(2, 0), COSTS).high_s == 2 * plan.high_s
    assert of_new_length(Plans(0, 3), COSTS) == Extra()
    assert of_new_length(Plans(1, 0), None) == Extra()
    assert of_new_length(Plans(1, 0), replace(COSTS, attention_plan=None)) == Extra()
