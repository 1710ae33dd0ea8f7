"""The report as data: the module tree, its sums against pandas, and the schema of both."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, replace
from typing import Annotated, Any, Literal

import numpy as np
import pandas as pd
import pytest
from jsonschema import Draft202012Validator, ValidationError
from report_record import RUNS, SLOWDOWN, run, synthetic_record

from calib.checkout import ROOT
from calib.report.layers.analytic_report import AnalyticModelReport, report_schema
from calib.report.layers.build import build_report, plain, tokens_prefilled
from calib.report.layers.schema import Doc, json_schema
from calib.report.layers.tree import Branch, branches, folded_name, shared_params, weakest
from model.deepseek_ocr import DeepseekOCRModel
from model.workload import Workload

ORIGINAL = {
    "AnalyticModelReport": "report_id model workload modules operator_categories module_metrics "
    "profile_run_id predicted_total_time_ms measured_total_time_ms predicted_vs_measured_ratio "
    "notes layer_docs_dir",
    "AnalyticModuleNode": "module_id name qualified_class_name stage parent_id children repetition "
    "repetition_count constructor_params",
    "ModuleMetricsSnapshot": "module_id profile_id calls total_time_ms total_flops_tflops "
    "total_io_tb memory_weights_gb memory_activations_gb memory_kvcache_gb share_of_model_time "
    "operator_breakdown",
    "OperatorMetrics": "category_id calls flops_tflops io_tb share_of_module_flops",
    "OperatorCategory": "category_id display_name description match_classes",
}
"""Fields that readers of the original report expect."""
PUBLISHED_PARAMETERS = 3_336_106_240


@pytest.fixture(scope="module", params=RUNS)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def tree(name: str) -> list[Branch]:
    return branches(run(name))


@pytest.fixture(scope="module")
def report(name: str, tree: list[Branch]) -> AnalyticModelReport:
    return build_report(run(name), tree)


def test_tree_is_a_tree(report: AnalyticModelReport) -> None:
    """Unique ids; children and parents say the same; every node hangs on the root."""
    nodes = {node.module_id: node for node in report.modules}
    assert len(nodes) == len(report.modules)
    roots = [node for node in report.modules if node.parent_id is None]
    assert [root.module_id for root in roots] == ["deepseek_ocr"]
    seen, pending = set(), ["deepseek_ocr"]
    while pending:
        module = pending.pop()
        assert module not in seen, f"{module} is reached twice"
        seen.add(module)
        for child in nodes[module].children:
            assert nodes[child].parent_id == module
        pending += nodes[module].children
    assert seen == set(nodes)


def test_identical_siblings_are_folded(report: AnalyticModelReport) -> None:
    """SAM attends in windows in eight blocks, globally in four; decoder layer 0 is dense."""
    sam = "vision/model.vision_tower.sam_encoder.layers."
    decoder = "prefill/model.language_model.layers."
    repeated = {n.module_id: (n.repetition, n.repetition_count) for n in report.modules}
    assert repeated[sam + "[0-1,3-4,6-7,9-10]"] == ("for", 8)
    assert repeated[sam + "[2,5,8,11]"] == ("for", 4)
    assert repeated[decoder + "0"] == ("none", None)
    assert repeated[decoder + "[1-11]"] == ("for", 11)
    assert repeated[decoder + "[1-11].mlp.experts"] == ("none", None)
    assert {n.repetition for n in report.modules} == {"none", "for"}


def test_every_module_is_in_one_node(tree: list[Branch], name: str) -> None:
    modules = run(name).modules
    listed = [(b.phase, path) for b in tree if b.phase for path in b.paths]
    assert sorted(listed) == sorted(zip(modules["phase"], modules["path"], strict=True))


def test_routing_does_not_unfold(name: str) -> None:
    """Layers that touched different numbers of experts differ in bytes and in one parameter."""
    record = run(name)
    modules = record.modules.copy()
    experts = modules["path"].str.endswith("layers.3.mlp.experts")
    modules.loc[experts, "bytes"] *= 0.9
    modules.loc[experts, "params_json"] = '{"hidden": 1280, "active_experts": 33}'
    tree = branches(replace(record, modules=modules))
    found = {b.id: b for b in tree}["prefill/model.language_model.layers.[1-11].mlp.experts"]
    assert found.count == 11
    assert found.params == {"hidden": 1280}


def test_costs_are_sums_of_the_modules(tree: list[Branch], name: str) -> None:
    modules = run(name).modules.set_index(["phase", "path"])
    for branch in tree[1:]:
        rows = modules.loc[[(branch.phase, path) for path in branch.paths]]
        for column in ("flops", "bytes", "estimate_s", "weight_bytes", "kv_cache_bytes"):
            assert branch.costs[column] == pytest.approx(rows[column].sum()), (branch.id, column)
        assert branch.costs["activation_bytes"] == rows["activation_bytes"].max()
        clock = rows["measured_s"].astype(float)
        expected = None if clock.isna().any() else pytest.approx(clock.sum())
        assert branch.costs["measured_s"] == expected


def test_operators_are_those_below_the_path(tree: list[Branch], name: str) -> None:
    record = run(name)
    steps = record.operators["phase"].map({"decode": record.workload["decode_steps"]}).fillna(1)
    operators = record.operators.assign(calls=record.operators["count"] * steps)
    for branch in tree[1:]:
        of_phase = operators[operators["phase"] == branch.phase]
        inside = np.zeros(len(of_phase), dtype=bool)
        for path in branch.paths:
            inside |= (of_phase["path"] + ".").str.startswith(path + ".") | (path == "")
        by_kind = of_phase[inside].groupby("kind")[["calls", "flops", "estimate_s"]].sum()
        assert set(branch.operators) == set(by_kind.index)
        for kind, (calls, flops, _, _, seconds) in branch.operators.items():
            assert [calls, flops, seconds] == pytest.approx(by_kind.loc[kind].tolist())


def test_calls_are_executions_of_the_whole_workload() -> None:
    """The page and its tiles: the tower sees twice. 5 tokens: 5 decode steps of 11 equal layers."""
    asked = Workload("tiled", 512, tiles=(2, 3), tile_side=512, decode_steps=5)
    record = synthetic_record(measured=False, workload=asked)
    report = build_report(record, branches(record))
    calls = {m.module_id: m.calls for m in report.module_metrics}
    assert calls["deepseek_ocr"] == calls["vision"] == calls["prefill"] == 1
    tower = "vision/model.vision_tower"
    assert calls[tower] == 2
    assert calls[tower + ".sam_encoder.layers.[2,5,8,11].attn"] == 8
    assert calls["decode"] == calls["decode/lm_head"] == 5
    assert calls["decode/model.language_model.layers.[1-11].self_attn"] == 55
    by_id = {m.module_id: m for m in report.module_metrics}
    [head] = by_id["decode/lm_head"].operator_breakdown
    assert (head.category_id, head.calls) == ("matmul", 5)


def test_model_shares_its_weights_between_phases(tree: list[Branch]) -> None:
    """bfloat16: two bytes a parameter, prefill and decode through the same ones."""
    assert tree[0].costs["weight_bytes"] == 2 * PUBLISHED_PARAMETERS


def test_shares_sum_to_one(report: AnalyticModelReport) -> None:
    several = 0
    for metrics in report.module_metrics:
        kinds = metrics.operator_breakdown
        assert kinds, metrics.module_id
        assert sum(k.share_of_module_flops for k in kinds) == pytest.approx(1)
        assert sum(k.share_of_module_time for k in kinds) == pytest.approx(1)
        several += len(kinds) > 1
    assert several > 20
    known = {category.category_id for category in report.operator_categories}
    used = {k.category_id for m in report.module_metrics for k in m.operator_breakdown}
    assert used <= known and "other" in known
    phases = [m for m in report.module_metrics if m.module_id in ("vision", "prefill", "decode")]
    assert sum(m.share_of_model_time for m in phases) == pytest.approx(1)


def test_nine_tenths_of_the_cost_are_named(report: AnalyticModelReport) -> None:
    assert 0.9 < report.named_share <= 1
    root = report.module_metrics[0].operator_breakdown
    other = sum(k.predicted_s for k in root if k.category_id == "other")
    kernels = report.components[-1].kernel_s
    assert report.named_share == pytest.approx(1 - other / kernels)


def test_a_module_without_flops_is_shared_by_bytes(report: AnalyticModelReport) -> None:
    by_id = {m.module_id: m for m in report.module_metrics}
    embedding = by_id["decode/model.language_model.embed_tokens"]
    assert embedding.flops == 0
    assert [k.share_of_module_flops for k in embedding.operator_breakdown] == [1]


def test_units_of_the_original(report: AnalyticModelReport) -> None:
    """Milliseconds, TFLOP, terabits, gigabytes beside seconds, FLOP and bytes."""
    for m in report.module_metrics:
        assert m.total_time_ms == pytest.approx(1000 * m.predicted_s)
        assert m.total_flops_tflops == pytest.approx(m.flops / 1e12)
        assert m.total_io_tb == pytest.approx(8 * m.io_bytes / 1e12)
        assert m.memory_weights_gb == pytest.approx(m.weight_bytes / 1e9)
    assert report.predicted_total_time_ms == pytest.approx(1000 * report.predicted_total_s)


def test_what_was_not_measured_is_null() -> None:
    report = build_report(run("predicted"), branches(run("predicted")))
    nulls = (report.profile_run_id, report.measured_total_time_ms, report.measurement)
    assert nulls == (None, None, None)
    assert report.predicted_vs_measured_ratio is None
    assert {m.measured_s for m in report.module_metrics} == {None}
    assert report.provenance == "roofline"


def test_what_was_measured_is_compared() -> None:
    report = build_report(run("measured"), branches(run("measured")))
    total = run("measured").total
    assert report.measured_total_time_ms == pytest.approx(1000 * total["measured_s"])
    assert report.predicted_vs_measured_ratio == pytest.approx((1 + total["error"]) / SLOWDOWN)
    assert report.module_metrics[0].error == pytest.approx(total["error"])  # the drift taken out
    assert report.profile_run_id == report.report_id
    assert [c.component for c in report.components][-1] == "total"


def test_stages_and_classes(report: AnalyticModelReport) -> None:
    nodes = {n.module_id: n for n in report.modules}
    assert nodes["deepseek_ocr"].qualified_class_name == "model.deepseek_ocr.DeepseekOCRModel"
    assert nodes["vision/model.multi_modal_projector"].stage == "projector"
    experts = nodes["decode/model.language_model.layers.[1-11].mlp.experts"]
    assert experts.stage == "decode"
    assert experts.qualified_class_name.startswith("model.")
    assert experts.qualified_class_name.endswith(".Experts")
    assert experts.constructor_params["top_k"] == 6


def test_sequence_length_is_image_and_prompt() -> None:
    model = DeepseekOCRModel()
    asked = {"side": 1024, "tiles": [2, 3], "tile_side": 640, "prompt_tokens": 10}
    assert tokens_prefilled(model, asked) == 20 * 31 + 273 + 10
    assert tokens_prefilled(object(), {"side": None, "prompt_tokens": 7}) == 7


def test_original_fields_are_all_there() -> None:
    schema = json.loads(report_schema())
    for record, names in ORIGINAL.items():
        of_record = schema if record == "AnalyticModelReport" else schema["$defs"][record]
        assert set(names.split()) <= set(of_record["properties"]), record


def test_kept_schema_is_the_generated_one() -> None:
    """To mend: python -m calib.report.layers.analytic_report > docs/report.schema.json"""
    assert (ROOT / "docs" / "report.schema.json").read_text("utf-8") == report_schema()


def test_report_conforms_to_the_schema(report: AnalyticModelReport) -> None:
    validator = Draft202012Validator(json.loads(report_schema()))
    validator.check_schema(validator.schema)
    fields_ = json.loads(json.dumps(asdict(report), allow_nan=False))
    validator.validate(fields_)
    for spoil in (
        {"predicted_total_time_ms": "12"},
        {"provenance": "guessed"},
        {"measured_total_s": -1.0},
        {"modules": [{"module_id": "x"}]},
        {"more": 1},
    ):
        with pytest.raises(ValidationError):
            validator.validate({**fields_, **spoil})


@dataclass(frozen=True)
class Inner:
    """Within."""

    size: Annotated[float | None, Doc("width [m]", minimum=0)]


@dataclass(frozen=True)
class Outer:
    """A record
    of two lines."""

    parts: list[Inner]
    how: Literal["for", "none"]
    counts: dict[str, int]
    first: Inner | None


def test_schema_of_a_record() -> None:
    schema = json_schema(Outer)
    assert schema["description"] == "A record of two lines."
    assert schema["required"] == ["parts", "how", "counts", "first"]
    assert schema["properties"] == {
        "parts": {"type": "array", "items": {"$ref": "#/$defs/Inner"}},
        "how": {"enum": ["for", "none"]},
        "counts": {"type": "object", "additionalProperties": {"type": "integer"}},
        "first": {"anyOf": [{"$ref": "#/$defs/Inner"}, {"type": "null"}]},
    }
    width = {"type": ["number", "null"], "description": "width [m]", "minimum": 0}
    assert schema["$defs"]["Inner"]["properties"] == {"size": width}


def test_a_type_without_a_counterpart_is_named() -> None:
    @dataclass(frozen=True)
    class Odd:
        value: complex

    Odd.__annotations__["value"] = complex
    with pytest.raises(TypeError, match="no JSON counterpart of <class 'complex'>"):
        json_schema(Odd)


@pytest.mark.parametrize(
    ("names", "folded"),
    [
        (["layers.0"], "layers.0"),
        (["layers.0", "layers.1"], "layers.[0-1]"),
        (["layers.1", "layers.9", "layers.10"], "layers.[1,9-10]"),
    ],
)
def test_folded_names(names: list[str], folded: str) -> None:
    assert folded_name(names) == folded


def test_the_weakest_provenance_counts() -> None:
    assert weakest(["measured", "transferred", "interpolated"]) == "transferred"
    rows: list[dict[Any, Any]] = [{"params_json": '{"a": 1, "b": 2}'}, {"params_json": '{"a": 1}'}]
    assert shared_params(rows) == {"a": 1}


def test_a_phase_without_a_root_is_named() -> None:
    record = run("predicted")
    modules = record.modules[(record.modules["phase"] != "decode") | (record.modules["path"] != "")]
    with pytest.raises(ValueError, match="phase 'decode' has no row with an empty path"):
        branches(replace(record, modules=modules))


def test_plain_values() -> None:
    value = {"a": np.float64(1.5), 2: (math.nan, math.inf), "c": np.arange(2), "d": pd.NA}
    assert plain(value) == {"a": 1.5, "2": [None, None], "c": [0, 1], "d": None}
