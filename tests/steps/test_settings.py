"""Keys that a user mistypes: one sentence with the key, its value and the nearest that exist."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from omegaconf import OmegaConf

from calib.checkout import CONF
from calib.errors import CalibError
from calib.steps.command_line import explain
from calib.steps.manners.texts import quoted
from calib.steps.request import read_request
from calib.steps.subject import build_model, phases_of


def composed(*words: str) -> Any:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return OmegaConf.to_container(compose("config", list(words)))


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("+hw=rtx509", "hw = 'rtx509': expected one of a10, .*; did you mean rtx5090 or rtx4090"),
        ("hw=rtx5090", r"hw = 'rtx5090': .* give it as \+hw=rtx5090$"),
        ("model=llama", "model = 'llama': .*; did you mean llama_3_1_70b or llama_3_1_8b?"),
        ("workload=ocr_tin", "workload = 'ocr_tin': expected one of .*; did you mean ocr_tiny"),
        ("workload.batc=2", "workload.batc = 2: .* workload has name, .*; did you mean batch"),
        ("model.foo=1", "model.foo = 1: there is no such key; model has .*, heads, .*dtype$"),
        ("model.layrs=1", "model.layrs = 1: .*; did you mean layers"),
        ("sample.dir=/x", "sample.dir = /x: there is no such key; .*; did you mean samples.dir"),
        ("modle=vit_l", "modle = vit_l: there is no such key; .*; did you mean model?"),
        ("hydra.run.dri=/x", "hydra.run.dri = /x: .*; did you mean dir"),
        ("batch", "'batch': expected key=value, such as"),
    ],
)
def test_a_mistyped_word_names_the_nearest(word: str, said: str) -> None:
    """With words beside it that are right, and none of Hydra's advice to add the key."""
    words = ["hydra/launcher=joblib", "repeats=3", word, "model.layers=2"]
    with pytest.raises(HydraException) as caught:
        composed(*words)
    text = explain(caught.value, words)
    assert re.search(said, text), text
    assert "append" not in text and "\n" not in text


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("implementation", "vlm", "one of torch, triton, vllm, .*; did you mean vllm"),
        ("execution", "graphs", "one of eager, graph, compiled; did you mean graph"),
        ("mode", "zzz", "one of run, analytic, calibrate, serve$"),
        ("mode", 3, "one of run, analytic, calibrate, serve$"),
    ],
)
def test_a_word_of_a_list_names_the_nearest(key: str, value: Any, said: str) -> None:
    with pytest.raises(CalibError, match=f"{key} = .*: expected {said}"):
        read_request({**composed(), key: value})


def test_keys_are_those_of_the_chosen_options() -> None:
    text = explain(HydraException("?"), ["+hw=h200", "model=vit_l", "hw.bandwith=1", "model.top=2"])
    assert text.startswith("hw.bandwith = 1: there is no such key; hw has name, ")
    text = explain(HydraException("?"), ["model=vit_l", "model.patc=2"])
    assert text.endswith("; did you mean patch?")


def test_what_cannot_be_explained_is_passed_on() -> None:
    said = "Cannot see\nTo append to your config use +x=1"
    assert explain(HydraException(said), ["repeats=3"]) == "Cannot see"


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("+hv=rtx5090", "hv = 'rtx5090': expected one of hw, .*"),
        ("+report.picture=false", "report.picture = False: expected one of .*did you mean pict"),
        ("report.layers=maybe", "report.layers = 'maybe': expected one of true, false, null"),
        ("report.pictures=1", "report.pictures = 1: expected one of true, false"),
        ("mode=guess", "mode = 'guess': expected one of run, analytic, calibrate"),
        (
            "implementation=jax",
            "implementation = 'jax': expected one of torch, triton, vllm, sglang, trtllm",
        ),
        ("execution=fast", "execution = 'fast': expected one of eager, graph, compiled"),
        ("repeats=0", "repeats = 0: expected a whole number from 1 to 1,000"),
        ("seed=x", "seed = 'x': expected a whole number from 0 to 4,294"),
        ("workload.batch=1000000000", "workload.batch = 1000000000: .* from 1 to 1,048,576"),
        (
            "workload.prompt_tokens=10000000000",
            "workload.prompt_tokens = .*: expected a whole .* from 0",
        ),
        ("sweep.budget_s=-1", "sweep.budget_s = -1: expected a number above 0"),
        ("sweep.spread=wide", "sweep.spread = 'wide': expected a number above 0"),
        ("measured_step=decode", "measured_step = 'decode': expected measured=<a trace> beside it"),
        ("training.state_dtype=float32", "training.state_dtype = 'float32': expected pass=train"),
        ("limit.tpot=20", "limit.tpot = 20: expected a time above 0 with its unit"),
        ("measured=/no/trace.json", "measured = '/no/trace.json': expected the path of a trace"),
        ("measured=5", "measured = 5: expected the path of a trace of torch.profiler, or null"),
        ("hf=1", "hf = 1: expected keys out of config, dtype"),
        ("hf.dtype=int8", "hf.dtype = 'int8': expected one of bfloat16, float16, float32, null"),
        ("samples.dir=5", "samples.dir = 5: expected a folder, or null"),
        ("samples.dir=/dev/null", "samples.dir = '/dev/null': expected a folder"),
        ("samples.dir=/dev/null/below", "samples.dir = '/dev/null/below': expected a folder"),
        ("workload.tiles=2", r"workload.tiles = 2: expected \[rows, columns\], each"),
        ("workload.tiles=[1,x]", r"workload.tiles = \[1, 'x'\]: expected \[rows, columns\]"),
        ("~workload.name", "workload.name is missing: expected a text of at most 100"),
        ("model.heads=[8]", r"model.heads = \[8\]: expected a whole number from 1 to 4,096"),
        ("model.layers=1e22", r"model.layers = 1e\+22: expected a whole number from 1 to 256"),
        ("model.architecture=[1]", r"model.architecture = \[1\]: expected one of deepseek_ocr, "),
        ("model.sam_downsample=[1]", r"model.sam_downsample = \[1\]: expected a list of two whole"),
        ("sweep.least=60", "sweep.least = 60: expected at most sweep.most = 50"),
        ("sweep.spread=nan", "sweep.spread = nan: expected a number above 0, at most 1"),
        ("seed=4294967296", "seed = 4294967296: expected a whole number from 0 to 4,294,967,295"),
        ("+sweep.foo=1", "sweep.foo = 1: expected one of name, budget_s"),
    ],
)
def test_a_key_that_is_not_read_or_cannot_be_is_named(word: str, said: str) -> None:
    read_request(composed())
    with pytest.raises(CalibError, match=f"^{said}"):
        read_request(composed(word))


def test_a_card_is_read_as_its_file_is() -> None:
    with pytest.raises(
        CalibError, match=r"^hw.sm_count = 1e\+300: expected a positive whole number"
    ):
        read_request(composed("+hw=h200", "hw.sm_count=1e300"))
    with pytest.raises(
        CalibError, match=r"^hw.measured = 3: expected a mapping from figure to low"
    ):
        read_request({**composed(), "hw": composed("+hw=h200")["hw"] | {"measured": 3}})


def test_a_long_value_is_cut() -> None:
    with pytest.raises(CalibError) as caught:
        read_request({**composed(), "repeats": ["x" * 10_000] * 5})
    assert len(str(caught.value)) < 200


def test_a_path_prints_on_one_line() -> None:
    with pytest.raises(
        CalibError, match=r"^hf.config = 'a\\nb': expected the path of a config.json"
    ):
        read_request({**composed(), "hf": {"config": "a\nb"}})


@pytest.mark.parametrize("word", ["sweep=[1]", "model=[1]"])
def test_hydra_fails_over_a_list_and_the_word_is_named(word: str) -> None:
    with pytest.raises(TypeError) as caught:
        composed(word)
    name = word.partition("=")[0]
    assert explain(caught.value, [word]).startswith(f"{name} = '[1]': expected one of ")


def test_an_error_of_hydra_without_words_names_those_given() -> None:
    said = explain(AssertionError(), ["hydra.verbose=7"])
    assert said == "Hydra cannot read hydra.verbose=7 (AssertionError)"


def test_a_workload_that_does_not_fit_names_those_that_do() -> None:
    request = read_request(composed("model=vit_l", "workload=ocr_tiny"))
    model = build_model(request.model, request.hf)
    with pytest.raises(CalibError, match=r"^workload.side = 512: expected 224.*workload=image_224"):
        phases_of(model, request.workload)


def test_work_that_no_table_can_count_is_refused() -> None:
    words = ["workload.side=65536", "workload.batch=1048576", "workload.tiles=[1024,1024]"]
    request = read_request(composed(*words))
    with pytest.raises(CalibError, match=r"^workload and model: conv2d of vision, .* less than"):
        phases_of(build_model(request.model, request.hf), request.workload)


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("model.kv_heads=3", "model.kv_heads = 3: expected a divisor of heads = 10"),
        ("model.top_k=65", "model.top_k = 65: expected at most experts = 64"),
        ("model.dense_layers=13", "model.dense_layers = 13: expected at most layers = 12"),
        ("model.sam_global_layers=[12]", r"model.sam_global_layers = \(12,\): expected indices"),
    ],
)
def test_dimensions_that_do_not_go_together_are_named(word: str, said: str) -> None:
    request = read_request(composed(word))
    with pytest.raises(CalibError, match=f"^{said}"):
        build_model(request.model, request.hf)


@pytest.mark.parametrize("version", ["12.4", "12.10", "12.1"])
def test_a_version_of_cuda_is_read_as_it_is_written(version: str) -> None:
    asked = read_request(composed("+hw=h100", *quoted([f"cuda={version}"])))
    assert asked.cuda == version
    with pytest.raises(CalibError, match=rf"^cuda = {float(version)}: expected .* as a text"):
        read_request(composed("+hw=h100", f"cuda={version}"))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["+hw=h100", "cuda='12'"], "cuda = '12': expected a version of CUDA with both parts"),
        (["+hw=cpu", "cuda='12.4'"], r"cuda = '12.4': expected null with \+hw=cpu"),
        (["+hw=h100", "cuda='12.4'", "implementation=vllm"], "null with implementation=vllm"),
        (["+hw=h100", "samples.traces=none.json"], "samples.traces = .*'none.json' does not exist"),
        (["+hw=h100", "measured=none.json"], "measured = .*'none.json' does not exist"),
        (["+hw=h100", "energy=/"], "energy = .*'/' is a folder"),
        (["+hw=h100", "cuda='0.0'"], "cuda = '0.0': expected a version of CUDA"),
        (["+hw=h100", "mode=serve", f"measured={__file__}"], "measured = .*null with mode=serve"),
        (
            ["+hw=h100", "mode=serve", f"samples.traces={__file__}"],
            r"expected \[\] with mode=serve",
        ),
        (["+hw=cpu", f"samples.traces=[{__file__}]"], r"expected \[\] with \+hw=cpu"),
    ],
)
def test_a_version_of_cuda_is_torchs(words: list[str], said: str) -> None:
    with pytest.raises(CalibError, match=said):
        read_request(composed(*words))
