"""The reference model in miniature: built, run, timed and profiled in seconds."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from dispatched import dispatched

from calib.errors import CalibError
from calib.measure.reference import model as reference_model
from calib.measure.reference.measurement import Measurement, measure_built, spread
from calib.measure.reference.model import (
    Reference,
    build_reference,
    control_group_memory,
    needed_memory,
    reference_dimensions,
)
from calib.measure.reference.operators import Ranges
from calib.measure.reference.passes import (
    ModuleTimer,
    Passes,
    experts_touched,
    make_inputs,
    observed,
    over_lengths,
    run_phases,
)
from calib.measure.reference.stored import load_measurement, save_measurement
from model.deepseek_ocr import DeepseekOCRModel
from model.workload import Workload

TINY: dict[str, Any] = {
    **{"sam_hidden": 48, "sam_layers": 2, "sam_heads": 3, "sam_intermediate": 96},
    **{"sam_global_layers": (1,), "sam_neck": 16, "sam_downsample": (24, 32)},
    **{"clip_hidden": 32, "clip_layers": 2, "clip_heads": 2, "clip_intermediate": 64},
    **{"hidden": 64, "layers": 3, "heads": 2, "kv_heads": 2, "head_dim": 32},
    **{"intermediate": 96, "experts": 8, "top_k": 2, "expert_intermediate": 32},
    **{"shared_experts": 2, "vocabulary": 211},
}
# A page of 2 x 2 windows, two tiles of one, three steps of two sequences.
WORKLOAD = Workload("tiny", side=256, tiles=(1, 2), tile_side=256, batch=2, decode_steps=3)
UNUSED = 32 * 3 * 14**2
"""CLIP's patch convolution, which this implementation leaves out."""


@pytest.fixture(scope="module")
def reference() -> Reference:
    torch.set_num_threads(1)
    return build_reference(TINY, WORKLOAD)


@pytest.fixture(scope="module")
def passes(reference: Reference) -> Passes:
    return Passes(reference, WORKLOAD, make_inputs(reference, WORKLOAD))


@pytest.fixture(scope="module")
def names() -> list[str]:
    return []


@pytest.fixture(scope="module")
def measurement(reference: Reference, names: list[str]) -> Measurement:
    return measure_built(
        reference, WORKLOAD, repeats=2, profiles=2, profiled_steps=2, between=names.append
    )


def test_parameters_are_those_of_the_analytic_model(reference: Reference) -> None:
    assert reference.parameters == DeepseekOCRModel(**TINY).parameters() - UNUSED
    assert reference.decoder_layers == 3
    assert reference.notes == ()


def test_weights_are_random_and_norms_are_not(reference: Reference) -> None:
    for name, parameter in reference.model.named_parameters():
        values = parameter.float()
        if "norm" in name and name.endswith(".weight"):
            assert torch.all(values == 1), name
        elif name.endswith(".bias"):
            assert torch.all(values == 0), name
        elif values.numel() > 1000:
            assert values.std() == pytest.approx(0.02, rel=0.1), name
            assert abs(values.mean()) < 0.003, name


def test_no_two_experts_or_tokens_are_alike(reference: Reference) -> None:
    parameters = dict(reference.model.named_parameters())
    experts = parameters["model.language_model.layers.1.mlp.experts.down_proj"].flatten(1)
    embedding = parameters["model.language_model.embed_tokens.weight"]
    assert torch.unique(experts, dim=0).shape[0] == TINY["experts"]
    assert torch.unique(embedding, dim=0).shape[0] == TINY["vocabulary"]
    assert not torch.equal(embedding, parameters["lm_head.weight"])


def test_a_tile_that_is_longer_than_its_block_goes_round() -> None:
    target = torch.zeros(11)
    reference_model.tile(target, torch.arange(4.0), start=3)
    assert target.tolist() == [3, 0, 1, 2, 3, 0, 1, 2, 3, 0, 1]


def test_buffers_are_recomputed(reference: Reference) -> None:
    buffers = dict(reference.model.named_buffers())
    frequencies = [10000 ** (-2 * i / 32) for i in range(16)]
    assert buffers["model.language_model.rotary_emb.inv_freq"].tolist() == pytest.approx(
        frequencies, rel=1e-5
    )
    positions = buffers["model.vision_tower.vision_encoder.embeddings.position_ids"]
    assert positions.tolist() == [list(range(257))]


def test_a_pass_is_finite_and_has_the_expected_shapes(passes: Passes) -> None:
    features = passes.vision()
    tokens = 4 * 5 + 1 + 4 * (8 + 1)
    assert [tuple(f.shape) for f in features] == [(tokens, 64)] * 2
    assert all(torch.isfinite(f).all() for f in features)
    state = passes.prefill()
    assert state.logits.shape == (2, tokens + 10, 211)
    state = passes.step(state)
    assert state.logits.shape == (2, 1, 211)
    assert state.cache.get_seq_length() == tokens + 11
    assert torch.isfinite(state.logits).all()


def test_last_logits_only(reference: Reference, passes: Passes) -> None:
    last = Passes(reference, replace(WORKLOAD, logits="last"), passes.inputs).prefill().logits
    assert torch.equal(last, passes.prefill().logits[:, -1:])


def test_routing_spreads_over_experts_unless_tokens_are_alike(passes: Passes) -> None:
    touched = experts_touched(passes)
    assert len(touched["prefill"]) == len(touched["decode"]) == 2  # layer 0 is dense
    assert all(n == 8 for n in touched["prefill"])
    assert all(2 <= n <= 4 for n in touched["decode"])
    same = torch.zeros_like(passes.inputs.features) + passes.inputs.features[:1, :1]
    alike = replace(passes, inputs=replace(passes.inputs, features=same))
    assert experts_touched(alike)["prefill"] == [2.0, 2.0]


@pytest.mark.parametrize("phase", ["vision", "prefill", "decode"])
def test_operators_are_those_that_the_dispatcher_saw(
    passes: Passes, measurement: Measurement, phase: str
) -> None:
    state = passes.prefill()
    run = {
        "vision": passes.vision,
        "prefill": passes.prefill,
        "decode": lambda: passes.step(state),
    }[phase]
    whole: Any = passes.reference.model
    module, start = (whole.model, "model") if phase == "vision" else (whole, "")
    seen = [(r.path, r.name) for r in dispatched(module, run, start)]
    table = measurement.operators[measurement.operators["phase"] == phase]
    profiled = [
        (path, aten.partition(".")[0])
        for path, aten in zip(table["path"], table["aten"], strict=True)
    ]
    assert profiled == seen


def test_operator_table_numbers_its_rows(measurement: Measurement) -> None:
    for _, rows in measurement.operators.groupby("phase"):
        assert rows["order"].tolist() == list(range(len(rows)))
        for _, here in rows.groupby("path"):
            assert here["index"].tolist() == list(range(len(here)))
    assert (measurement.operators["seconds"] > 0).all()
    raw = {p: {len(r) for r in t["raw"]} for p, t in measurement.operators.groupby("phase")}
    assert raw == {"vision": {2}, "prefill": {2}, "decode": {4}}


def test_operators_take_no_longer_than_their_pass(measurement: Measurement) -> None:
    for phase, rows in measurement.operators.groupby("phase"):
        whole = measurement.overheads["profiled"][phase]["seconds"]
        sums = [sum(pass_) for pass_ in zip(*rows["raw"], strict=True)]
        assert all(0 < part < total for part, total in zip(sums, whole, strict=True))


def test_a_module_takes_at_least_as_long_as_its_parts(measurement: Measurement) -> None:
    times = {(r["phase"], r["path"]): r["seconds"] for r in measurement.modules.to_dict("records")}
    phase, path = "decode", "model.language_model.layers.1"
    parts = [f"{path}.{n}" for n in ("input_layernorm", "self_attn", "mlp")]
    for index in range(2):
        inside = sum(times[phase, part][index] for part in parts)
        assert 0 < inside < times[phase, path][index]
        step = times[phase, "model.language_model"][index] + times[phase, "lm_head"][index]
        assert 3 * step < measurement.hooked["decode"][index]
    counted = measurement.modules.set_index(["phase", "path"])["calls"]
    assert counted["vision", "model.vision_tower"] == 2  # the page, then all tiles at once
    assert counted["decode", "lm_head"] == 1


def test_phases_and_what_runs_between_them(measurement: Measurement, names: list[str]) -> None:
    assert {p: len(s) for p, s in measurement.phases.items()} == dict.fromkeys(
        ("vision", "prefill", "decode"), 2
    )
    assert measurement.repeat == {"vision": 1, "prefill": 1, "decode": 3}
    steps = [f"timed 0 decode{step}" for step in ("", " step 1", " step 2")]
    first = ["timed 0 vision", "timed 0 prefill", *steps, "timed 0 end"]
    assert names[:7] == [*first, "modules 0 vision"]
    assert names[-1] == "operators end"
    assert measurement.overheads["hook_s"] < 1e-3
    assert measurement.overheads["warm_up"]


def test_out_of_time_there_is_one_of_each_and_a_note(reference: Reference) -> None:
    hasty = measure_built(reference, WORKLOAD, repeats=3, profiles=2, profiled_steps=1, limit_s=0)
    assert {len(s) for s in hasty.phases.values()} == {1}
    assert {len(s) for s in hasty.modules["seconds"]} == {1}
    assert {len(r) for r in hasty.operators["raw"]} == {1}
    assert hasty.notes == [
        "1 of 3 repeats were made within 0 s",
        "1 of 2 operator passes were made within 0 s",
    ]


def test_hooks_are_gone_after_an_interrupt(passes: Passes) -> None:
    def interrupt(name: str) -> None:
        if name.endswith("decode"):
            raise KeyboardInterrupt

    timer = ModuleTimer("cpu")
    with pytest.raises(KeyboardInterrupt), observed(passes.reference.model, timer):
        run_phases(passes, interrupt, "x", timer)
    for module in passes.reference.model.modules():
        assert not module._forward_hooks
        assert not module._forward_pre_hooks


def test_less_memory_means_fewer_decoder_layers() -> None:
    dimensions = reference_dimensions(TINY)
    enough_for_two = needed_memory(dimensions, WORKLOAD, 2)
    reference = build_reference(TINY, WORKLOAD, available_bytes=enough_for_two)
    assert reference.decoder_layers == 2
    assert len(reference.model.model.language_model.layers) == 2
    assert "2 of 3 decoder layers" in reference.notes[0]
    assert f"{needed_memory(dimensions, WORKLOAD, 3) / 1e9:.1f} GB" in reference.notes[0]


def test_too_little_memory_says_how_much_is_needed() -> None:
    need = needed_memory(reference_dimensions(TINY), WORKLOAD, 3)
    with pytest.raises(CalibError, match=rf"0\.1 GB .*expected {need / 1e9:.1f} GB"):
        build_reference(TINY, WORKLOAD, available_bytes=1e8)


def test_memory_of_the_published_model() -> None:
    """6.67 GB of weights; seen on a CPU at 512 pixels: 7.9 GB in all."""
    need = needed_memory(DeepseekOCRModel(), Workload("tiny", side=512), 12)
    assert 7.6e9 < need < 8.5e9
    larger = needed_memory(DeepseekOCRModel(), Workload("base", side=1024), 12)
    assert larger - need > 3 * 2 * 12 * (4096**2 - 1024**2)  # the bias of all pairs of patches


def test_a_container_has_its_own_limit(tmp_path: Path) -> None:
    assert control_group_memory(tmp_path) == float("inf")
    (tmp_path / "memory.max").write_text("1000\n")
    (tmp_path / "memory.current").write_text("700\n")
    (tmp_path / "memory.stat").write_text("anon 500\ninactive_file 150\n")
    assert control_group_memory(tmp_path) == 450
    (tmp_path / "memory.max").write_text("max\n")
    assert control_group_memory(tmp_path) == float("inf")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"dtype": "int8"}, "dtype = 'int8': expected one of bfloat16"),
        ({"head_dim": 16}, "head_dim = 16: expected hidden / heads = 64 / 2"),
        ({"weight_dtype": "int4"}, "weight_dtype = 'int4': expected null"),
        ({"clip_hidden": 48}, r"sam_downsample = \(24, 32\): expected clip_hidden = 48"),
        ({"layers": 0}, "layers = 0"),
        ({"depth": 3}, "depth"),
    ],
)
def test_dimensions_that_cannot_be(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(CalibError, match=message):
        build_reference({**TINY, **wrong}, WORKLOAD)


def test_a_transformers_without_the_class(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    old = SimpleNamespace(__version__="5.17.0")
    monkeypatch.setitem(sys.modules, "transformers", old)
    with pytest.raises(CalibError, match=r"transformers 5\.17\.0 has no Unlimited.*>= 5\.23"):
        reference_model.model_class()


def test_an_unknown_buffer_is_not_left_as_garbage() -> None:
    module = torch.nn.BatchNorm1d(3)
    with pytest.raises(CalibError, match="running_mean"):
        reference_model.fill_buffers(module)


def test_a_measurement_comes_back_as_it_was(measurement: Measurement, tmp_path: Path) -> None:
    folder = save_measurement(measurement, tmp_path / "m")
    assert sorted(p.name for p in folder.iterdir()) == [
        *("measurement.json", "modules.parquet", "operators.parquet")
    ]
    loaded = load_measurement(folder)
    assert loaded.phases == measurement.phases
    assert loaded.lengths == measurement.lengths == {}  # a CPU plans nothing
    assert loaded.workload == measurement.workload
    assert loaded.experts_touched == measurement.experts_touched
    assert loaded.operators["aten"].tolist() == measurement.operators["aten"].tolist()
    assert [list(s) for s in loaded.modules["seconds"]] == measurement.modules["seconds"].tolist()


def test_a_measurement_of_before_new_lengths_were_timed_is_read(
    measurement: Measurement, tmp_path: Path
) -> None:
    folder = save_measurement(replace(measurement, lengths={"new": [1.0]}), tmp_path)
    assert load_measurement(folder).lengths == {"new": [1.0]}
    stored = json.loads((folder / "measurement.json").read_text())
    del stored["lengths"]
    (folder / "measurement.json").write_text(json.dumps({**stored, "schema_version": 1}))
    assert load_measurement(folder).lengths == {}


def test_decode_goes_over_new_lengths_and_the_same_again(
    passes: Passes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two steps behind the workload's own, whose lengths a repeat has seen."""
    lengths: list[int] = []
    plain = Passes.step

    def step(self: Passes, state: Any) -> Any:
        lengths.append(state.cache.get_seq_length())
        return plain(self, state)

    monkeypatch.setattr(Passes, "step", step)
    found = over_lengths(passes, most=2)
    assert [len(found[name]) for name in ("new", "seen")] == [2, 2]
    first, steps = lengths[0], WORKLOAD.decode_steps
    assert lengths == [*range(first, first + steps + 2)] * 2
    assert all(seconds > 0 for seconds in (*found["new"], *found["seen"]))


def test_a_broken_measurement_is_refused(measurement: Measurement, tmp_path: Path) -> None:
    folder = save_measurement(measurement, tmp_path)
    text = (folder / "measurement.json").read_text()
    (folder / "measurement.json").write_text(json.dumps({**json.loads(text), "schema_version": 9}))
    with pytest.raises(CalibError, match="schema version 9: expected 2"):
        load_measurement(folder)
    (folder / "measurement.json").write_text(text[:50])
    with pytest.raises(CalibError, match="does not hold a whole one"):
        load_measurement(folder)
    (folder / "measurement.json").write_text(text)
    whole = (folder / "operators.parquet").read_bytes()
    (folder / "operators.parquet").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CalibError, match="does not hold a whole one"):
        load_measurement(folder)


def test_a_folder_that_cannot_be_written(measurement: Measurement, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(CalibError, match="cannot write"):
        save_measurement(measurement, tmp_path / "file")


def test_steps_are_spread_evenly() -> None:
    assert spread(16, 4) == {2, 6, 10, 14}
    assert spread(3, 8) == {0, 1, 2}
    assert spread(5, 1) == {2}


def test_ranges_close_in_order(reference: Reference) -> None:
    ranges = Ranges()
    with torch.no_grad(), observed(reference.model, ranges):
        reference.model.lm_head(torch.zeros(1, 64, dtype=torch.bfloat16))
    assert ranges._open == []


@pytest.fixture(autouse=True)
def without_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield
