"""Configurations of ``transformers``, traced: against torch's counter, our formulas, bad files."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from calib.errors import CalibError
from calib.steps.request import Subject, Traced
from calib.steps.subject import build_model
from calib.trace.hf import HFModel, load, name_of
from calib.trace.hf.ours import agreement, formula_columns
from calib.trace.module import unknown
from model.layer import total
from model.ops import GroupedMatmul
from model.workload import Workload

DATA = Path(__file__).parents[1] / "data" / "hf"
TEXT = Workload("text", prompt_tokens=83, decode_steps=6)
IMAGE = Workload("image", side=224, prompt_tokens=0, decode_steps=1)
PAGE = Workload("page", side=1024, prompt_tokens=10, decode_steps=6)
SPEECH = Workload("speech", prompt_tokens=4, decode_steps=6)
TWO = {"num_hidden_layers": 2}
SHORT: dict[str, tuple[Workload, dict[str, Any]]] = {
    "llama_3_1_8b": (TEXT, TWO),
    "qwen3_30b_a3b": (TEXT, TWO),
    "mixtral_8x7b": (TEXT, TWO),
    "gemma_3_12b": (TEXT, {"text_config": TWO}),
    "deepseek_ocr_2": (PAGE, {}),
    "vit_l": (IMAGE, TWO),
    "sam_vit_b": (PAGE, {"vision_config": {"num_hidden_layers": 3}}),
    "whisper_large_v3": (SPEECH, {"encoder_layers": 2, "decoder_layers": 2}),
    "resnet_50": (IMAGE, {}),
}
"""A workload for each, and what makes it short enough for a test."""


@pytest.fixture(scope="module")
def shortened(tmp_path_factory: pytest.TempPathFactory) -> dict[str, HFModel]:
    found = {}
    for name, (_, changes) in SHORT.items():
        given = json.loads((DATA / name / "config.json").read_text("utf-8"))
        for key, value in changes.items():
            given[key] = {**given[key], **value} if isinstance(value, dict) else value
        found[name] = load(written(tmp_path_factory.mktemp(name), given))
    return found


def written(folder: Path, given: Any) -> Path:
    (folder / "config.json").write_text(json.dumps(given), "utf-8")
    return folder / "config.json"


PUBLISHED = {
    "llama_3_1_8b": 8_030_261_248,
    "qwen3_30b_a3b": 30_532_122_624,
    "mixtral_8x7b": 46_702_792_704,
    "gemma_3_12b": 12_187_325_040,
    "deepseek_ocr_2": 3_389_119_360,
    "vit_l": 304_326_632,
    "whisper_large_v3": 1_543_490_560,
    "resnet_50": 25_557_032,
}
"""Parameters of the models whose configurations are in ``data/hf``; tied ones count once."""


@pytest.mark.parametrize("name", PUBLISHED)
def test_configurations_have_the_published_parameters(name: str) -> None:
    with FakeTensorMode():
        module = load(DATA / name).build()
    assert sum(p.numel() for p in module.parameters()) == PUBLISHED[name]


def test_a_run_is_given_the_model_of_its_file() -> None:
    subject = Subject(architecture="hf")
    model = build_model(subject, Traced(config=str(DATA / "vit_l"), dtype="float32"))
    assert (model.name, model.dtype) == ("vit_l", "float32")
    with pytest.raises(CalibError, match=r"hf\.config is missing"):
        build_model(subject, Traced())


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("vit_l/config.json", "vit_l"),
        ("somewhere/llama_70b.json", "llama_70b"),
        ("hub/models--meta-llama--Llama-3.1-8B/snapshots/0e9e39f2/config.json", "Llama-3.1-8B"),
    ],
)
def test_a_configuration_is_called_as_people_call_it(path: str, name: str) -> None:
    assert name_of(Path(path)) == name


@pytest.mark.parametrize("name", SHORT)
def test_every_call_has_a_kind_that_is_known(shortened: dict[str, HFModel], name: str) -> None:
    model, workload = shortened[name], SHORT[name][0]
    for phase, passed in model.phases(workload).items():
        calls = passed.layer.calls()
        assert unknown(calls) == {}
        named = [c for c in calls if c.op.operator != "other"]
        assert total(named, lambda op: op.bytes) >= 0.95 * total(calls, lambda op: op.bytes), phase
        assert not any(c.sync for c in calls)
        assert passed.layer.weight_bytes() > 0


@pytest.mark.parametrize("name", ["llama_3_1_8b", "qwen3_30b_a3b", "vit_l", "deepseek_ocr_2"])
def test_trace_and_formulas_agree(shortened: dict[str, HFModel], name: str) -> None:
    model, workload = shortened[name], SHORT[name][0]
    traced, ours = model.phases(workload), model.formulas(workload)
    assert list(traced) == list(ours)
    for phase in traced:
        here, there = traced[phase].layer, ours[phase].layer
        assert here.forward_tensor_core_flops() == there.forward_tensor_core_flops()
        assert here.forward_io_bytes() == pytest.approx(there.forward_io_bytes(), rel=1e-12)
        assert here.activation_bytes() == pytest.approx(there.activation_bytes(), rel=1e-3)
        assert here.kv_cache_bytes() == there.kv_cache_bytes()
        launches = [sum(c.launches * c.count for c in v.calls()) for v in (here, there)]
        assert launches[0] == launches[1]


def test_modules_show_what_formulas_say(shortened: dict[str, HFModel]) -> None:
    model = shortened["vit_l"]
    formulas = model.formulas(IMAGE)
    sums = {
        key: total(formulas["vision"].layer.calls(), lambda op, k=key: getattr(op, k))
        for key in ("flops", "bytes")
    }
    modules = pd.DataFrame(
        [{"phase": "vision", "path": "", **sums}, {"phase": "vision", "path": "gone", **sums}]
    )
    table = formula_columns(modules, formulas)
    assert table["formula_flops"][0] == sums["flops"]
    assert table["formula_bytes"].isna().tolist() == [False, True]
    assert agreement(table) == [
        "vision: traced FLOPs / those of our formulas = 1.000000, bytes 1.000000."
    ]
    assert formula_columns(modules, {})["formula_flops"].isna().all()
    assert agreement(formula_columns(modules, {})) == []


@pytest.mark.parametrize("name", ["resnet_50", "sam_vit_b", "vit_l"])
def test_vision_costs_what_the_counter_counts(shortened: dict[str, HFModel], name: str) -> None:
    model, workload = shortened[name], SHORT[name][0]
    traced = model.phases(workload)["vision"].layer
    model.config._attn_implementation = "eager"
    with torch.device("meta"):
        module: Any = model.build().requires_grad_(False)
        image = torch.empty(1, 3, workload.side, workload.side, dtype=getattr(torch, model.dtype))
        given = {"pixel_values": image}
        if name == "sam_vit_b":
            given["input_points"] = torch.empty(1, 1, 1, 2, dtype=image.dtype)
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            module(**given)
    assert traced.forward_tensor_core_flops() == counter.get_total_flops()


def test_speech_costs_what_the_counter_counts(shortened: dict[str, HFModel]) -> None:
    model = shortened["whisper_large_v3"]
    phases = model.phases(SPEECH)
    assert list(phases) == ["encoder", "prefill", "decode"]
    model.config._attn_implementation = "eager"
    with torch.device("meta"):
        module: Any = model.build()
        sound = torch.empty(1, 128, 3000, dtype=getattr(torch, model.dtype))
        ids = torch.zeros(1, 4, dtype=torch.long)
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            module(input_features=sound, decoder_input_ids=ids)
    ours = [phases[p].layer.forward_tensor_core_flops() for p in ("encoder", "prefill")]
    assert sum(ours) == counter.get_total_flops()


def test_routing_is_that_of_the_indices_and_said(shortened: dict[str, HFModel]) -> None:
    model = shortened["mixtral_8x7b"]
    products = [
        c.op for c in model.phases(TEXT)["decode"].layer.calls() if isinstance(c.op, GroupedMatmul)
    ]
    assert [(p.tokens, p.experts, p.top_k, p.n, p.k) for p in products[:2]] == [
        (1, 8, 2, 28672, 4096),
        (1, 8, 2, 4096, 14336),
    ]
    assert products[0].experts_read == pytest.approx(2)
    assert "uniform routing" in model.notes[0]
    assert shortened["vit_l"].notes == []


def test_dimensions_for_the_report(shortened: dict[str, HFModel]) -> None:
    found = shortened["qwen3_30b_a3b"].dimensions
    assert found["class"] == "Qwen3MoeForCausalLM"
    assert (found["hidden"], found["experts"], found["top_k"]) == (2048, 128, 8)


def test_memory_grows_with_the_batch_without_another_trace(shortened: dict[str, HFModel]) -> None:
    model = shortened["llama_3_1_8b"]
    parts = model.working(TEXT)
    assert parts["prefill"][0] == 2 * 2 * 83 * 8 * 128 * 2
    assert parts["decode"][0] == 2 * 2 * 89 * 8 * 128 * 2
    many = model.working(replace(TEXT, batch=7))
    assert many == {name: (7 * cache, 7 * held) for name, (cache, held) in parts.items()}
    assert list(model.traced) == [TEXT]


GIVEN = {"model_type": "llama", "architectures": ["LlamaForCausalLM"]}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ([], "expected a JSON object"),
        ({}, "has no model_type"),
        ({"_class_name": "AutoModel"}, "AutoModel.: expected a model of diffusers"),
        ({"model_type": "my_llama"}, "'my_llama': expected one of the"),
        (
            {"model_type": "my_llama", "auto_map": {"AutoModel": "modeling.My"}},
            "needs code from the hub",
        ),
        ({**GIVEN, "architectures": ["os"]}, "architectures = .'os'.: transformers has for llama"),
        ({**GIVEN, "dtype": "int8"}, "hf.dtype = 'int8'"),
        ({**GIVEN, "num_attention_heads": "many"}, "hf.config = .*many|hf.config = .*heads"),
    ],
)
def test_a_bad_configuration_is_one_error(tmp_path: Path, given: Any, said: str) -> None:
    with pytest.raises(CalibError, match=said):
        load(written(tmp_path, given))


def test_a_missing_or_broken_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(CalibError, match=r"hf.config is missing"):
        load(None)
    with pytest.raises(CalibError, match=r"none.json: No such file"):
        load(tmp_path / "none.json")
    (tmp_path / "config.json").write_text("{", "utf-8")
    with pytest.raises(CalibError, match="not JSON"):
        load(tmp_path)


def test_an_image_is_refused_by_a_model_of_text(shortened: dict[str, HFModel]) -> None:
    with pytest.raises(CalibError, match="reads text only"):
        shortened["llama_3_1_8b"].phases(PAGE)


def test_a_tower_of_default_sizes_that_fit_none_is_said_to_be_missing(tmp_path: Path) -> None:
    """Of Llama 4 the library's defaults do not go together: a file of its text alone reads text,
    and an image by no workload until it says what the tower is."""
    text = {"hidden_size": 64, "intermediate_size": 64, "intermediate_size_mlp": 64}
    text |= {"num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1}
    text |= {"head_dim": 32, "vocab_size": 128, "num_local_experts": 2, "pad_token_id": 0}
    given = {"model_type": "llama4", "architectures": ["Llama4ForConditionalGeneration"]}
    model = load(written(tmp_path, {**given, "text_config": text}))
    assert list(model.phases(replace(PAGE, side=None))) == ["prefill", "decode"]
    with pytest.raises(CalibError) as refused:
        model.phases(PAGE)
    said = str(refused.value)
    assert "Llama4ForConditionalGeneration was built and fails in vision: " in said
    assert "expected vision_config in the file" in said and "such as text_512" in said
    assert "\n" not in said
    tower = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "image_size": 56}
    tower |= {"num_attention_heads": 2, "projector_input_dim": 32, "projector_output_dim": 32}
    tower |= {"vision_output_dim": 32, "intermediate_size": 128}
    whole = load(written(tmp_path, {**given, "text_config": text, "vision_config": tower}))
    assert list(whole.phases(PAGE)) == ["vision", "prefill", "decode"]
