"""``mode=serve``: what is refused in one line, and what a run writes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from calib.checkout import CONF
from calib.errors import CalibError
from calib.hardware.datasheet import load_hardware
from calib.steps.engine.front import batches_of, layouts_on, serve
from calib.steps.request import Request, read_request
from calib.steps.settings.limits import PriceRequest, ServeRequest
from calib.steps.settings.words import checked

LLAMA = ["+hw=h200", "mode=serve", "model=llama_3_1_8b", "implementation=vllm"]


def request_of(*words: str) -> Request:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("config", overrides=[*LLAMA, *words])
    return read_request(OmegaConf.to_container(config, resolve=True, throw_on_missing=False))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["serve.isl=0"], "serve.isl = 0: expected a whole number from 1 to"),
        (["serve.osl=[]"], "serve.osl = []: expected a whole number from 1 to"),
        (["serve.cards=0"], "serve.cards = 0: expected a whole number from 1 to 4,096"),
        (["serve.cache=int8"], "serve.cache = 'int8': expected one of bfloat16, fp8, null"),
        (["limit.ttft=500"], "limit.ttft = 500: expected a time above 0 with its unit"),
        (["price.per_hour=0"], "price.per_hour = 0: expected a number above 0"),
        (["parallel.tp=2"], "parallel.tp = 2: expected 1 with mode=serve"),
        (["implementation=triton"], "implementation = 'triton': expected one of torch, vllm"),
        (["pass=train"], "pass = 'train': expected inference with mode=serve"),
        (["mode=run", "limit.ttft=1s"], "limit.ttft = 1.0: expected mode=serve beside it"),
        (["mode=run", "price.per_hour=1"], "price.per_hour = 1.0: expected mode=serve beside it"),
    ],
)
def test_a_wrong_key_is_one_line(words: list[str], said: str) -> None:
    with pytest.raises(CalibError) as error:
        request_of(*words)
    assert str(error.value).startswith(said) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["model=vit_l"], "model.architecture = 'vit': expected a decoder of text"),
        (["model=deepseek_ocr"], "model.architecture = 'deepseek_ocr': expected a decoder of text"),
        (
            ["model=llama_3_1_70b", "serve.cards=1"],
            "model = 'llama_3_1_70b': expected one",
        ),
        (
            ["serve.batches=100000", "serve.most=1000000", "serve.isl=[1,2,3,4,5,6,7,8,9,10,11]"],
            "serve.batches = 100000: expected at most 20,000,000 configurations",
        ),
    ],
)
def test_what_cannot_be_served_is_one_line(words: list[str], said: str, tmp_path: Path) -> None:
    with pytest.raises(CalibError) as error:
        serve(request_of(*words), tmp_path)
    assert str(error.value).startswith(said) and "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())


def test_a_run_writes_its_front(tmp_path: Path) -> None:
    words = ["serve.batches=12", "serve.cards=2", "limit.tpot=20ms", "price.per_hour=3"]
    front = serve(request_of(*words, "serve.isl=[256,2048]"), tmp_path)
    table = pd.read_parquet(tmp_path / "front.parquet")
    assert len(table) == len(front.rows) and set(table["cards"]) == {1, 2}
    assert (table.loc[table["front"], "tpot_s"] <= 0.02).all() and table["front"].any()
    text = (tmp_path / "front.md").read_text("utf-8")
    assert "## 256 in, 1,024 out" in text and "## 2,048 in, 1,024 out" in text
    assert "front.png" in text and (tmp_path / "front.png").stat().st_size > 10_000
    page = (tmp_path / "front.html").read_text("utf-8")
    assert 'data-figure="front"' in page and "256 in, 1,024 out" in page


def test_batches_reach_from_one_to_the_most() -> None:
    found = batches_of(ServeRequest(batches=50, most=300))
    assert found[0] == 1 and found[-1] == 300 and len(found) >= 50 and sorted(set(found)) == found
    assert batches_of(ServeRequest(batches=100, most=8)) == list(range(1, 9))


def test_layouts_are_those_that_links_join() -> None:
    card = load_hardware("h200")
    found = layouts_on(card, 8, experts=False)
    assert len(found) == 20 and {layout.cards for layout in found} == {1, 2, 4, 8}
    assert all(layout.ep == 1 for layout in found)
    assert any(layout.ep == 8 for layout in layouts_on(card, 8, experts=True))


@pytest.mark.parametrize("value", [10**40, -1, 0, "x", True, float("nan")])
def test_a_price_that_cannot_be_is_one_line(value: Any) -> None:
    with pytest.raises(CalibError, match=r"^price\.per_hour = "):
        checked(PriceRequest, {"per_hour": value}, "price")
