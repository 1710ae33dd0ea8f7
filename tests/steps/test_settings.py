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
from calib.steps.request import read_request


def composed(*words: str) -> Any:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return OmegaConf.to_container(compose("config", list(words)))


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("+hw=rtx509", "hw = 'rtx509': expected one of a10, .*; did you mean rtx5090 or rtx4090"),
        ("hw=rtx5090", r"hw = 'rtx5090': .* give it as \+hw=rtx5090$"),
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
        ("implementation=jax", "implementation = 'jax': expected one of torch, triton, vllm"),
        ("execution=fast", "execution = 'fast': expected one of eager, graph, compiled"),
        ("repeats=0", "repeats = 0: expected an integer >= 1"),
        ("seed=x", "seed = 'x': expected an integer >= 0"),
        ("workload.batch=1000000000", "workload.batch = 1000000000: expected at most 1,048,576"),
        ("workload.prompt_tokens=10000000000", "workload.prompt_tokens = .*: expected at most"),
        ("sweep.budget_s=-1", "sweep.budget_s = -1: expected a number above 0"),
        ("sweep.spread=wide", "sweep.spread = 'wide': expected a number above 0"),
        ("measured_step=decode", "measured_step = 'decode': expected measured=<a trace> beside it"),
        ("measured=/no/trace.json", "measured = '/no/trace.json': expected a trace"),
    ],
)
def test_a_key_that_is_not_read_or_cannot_be_is_named(word: str, said: str) -> None:
    read_request(composed())
    with pytest.raises(CalibError, match=f"^{said}"):
        read_request(composed(word))
