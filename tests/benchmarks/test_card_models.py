"""Models as a step of the checklist, on the CPU: small ones, in the record's layout."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from benchmarks.card import asked as asked_for
from benchmarks.card import models
from benchmarks.card.asked import Asked
from calib.measure.cuda.stream import Uncapturable
from model.workload import Workload

TEXT = Workload("text", prompt_tokens=7, decode_steps=4, logits="last")
IMAGE = Workload("image", side=32, prompt_tokens=0, decode_steps=1)
LLAMA = {
    "model_type": "llama",
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 99,
}
VIT = {
    "model_type": "vit",
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 32,
    "patch_size": 8,
}


@pytest.fixture
def asked(tmp_path: Path) -> list[Asked]:
    found = []
    for name, config, workload in (("llama", LLAMA, TEXT), ("vit", VIT, IMAGE)):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps(config), "utf-8")
        found.append(Asked(name, folder, workload, "float32"))
    return found


class Captured:
    """Stands for CUDA graphs: runs once to record and at each replay; refuses the prefill."""

    def __init__(self) -> None:
        self.captures = 0

    def __call__(self, runs):
        self.captures += 1
        if self.captures == 1:
            raise Uncapturable("operation not permitted when stream is capturing")
        return lambda: [run() for run in runs]


def test_a_phase_is_timed_taken_apart_and_kept(asked: list[Asked], tmp_path: Path) -> None:
    out, said = tmp_path / "out", []
    counted = []

    def count(run):
        run()
        counted.append(run)
        return 2.0, 0.5, 100.0 + len(counted)

    speeds = iter(range(1, 100))
    how = {"say": said.append, "count": count, "speed": lambda: float(next(speeds))}
    failures = models.run(out, asked, "cpu", Captured(), **how)
    assert failures == []
    entries = {(e["model"], e["phase"]): e for e in json.loads((out / "models.json").read_text())}
    assert list(entries) == [("llama", "prefill"), ("llama", "decode"), ("vit", "vision")]
    prefill, decode = entries["llama", "prefill"], entries["llama", "decode"]
    assert prefill["graph_s"] is None and "not permitted" in prefill["refused"]
    assert decode["graph_s"] > 0 and decode["refused"] == ""
    assert len(decode["graph_seconds"]) == len(decode["graph_host"]) == models.REPLAYS
    assert min(decode["graph_seconds"]) <= decode["graph_s"] <= max(decode["graph_seconds"])
    assert (prefill["repeat"], decode["repeat"]) == (1, 4)
    assert prefill["graph_energy"] == [] and decode["graph_energy"] == [2.0, 0.5, 101.0]
    assert len({one["eager_energy"][2] for one in entries.values()}) == 3
    assert (prefill["host_speed"], prefill["host_speed_again"]) == ([1, 2], [])
    assert (decode["host_speed"], decode["host_speed_again"]) == ([3, 4], [5, 6])
    for one in entries.values():
        assert len(one["seconds"]) == len(one["host"]) == models.REPEATS
        assert all(h <= s for h, s in zip(one["host"], one["seconds"], strict=True))
    assert len(decode["seconds_again"]) == models.REPEATS and prefill["seconds_again"] == []
    assert len(said) == 3 and said[1].startswith("llama text decode: wall ")
    table = pd.read_parquet(out / "llama.text.decode.parquet")
    assert list(table.columns) == models.COLUMNS
    assert len(table) == decode["operators"]
    assert table["seconds"].sum() == pytest.approx(decode["kernel_s"])
    assert set(table["path"]) > {"model.layers.0.self_attn.q_proj", "model.norm"}


def test_lengths_of_the_second_round_are_those_of_the_first(
    asked: list[Asked], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a plan for a new length costs is in the first round and not in the second."""
    import torch

    lengths: list[int] = []
    original = torch.nn.functional.scaled_dot_product_attention

    def spy(query, key, value, **options):
        if query.shape[2] == 1:
            lengths.append(key.shape[2])
        return original(query, key, value, **options)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", spy)
    models.run(tmp_path / "out", asked[:1], "cpu", None)
    steps = lengths[:: LLAMA["num_hidden_layers"]]
    count = models.WARM_UPS + models.REPEATS
    again = steps[-count:]
    assert steps[:count] == again == list(range(again[0], again[0] + count))


def test_what_is_there_is_not_run_again_and_what_fails_stops_nothing(
    asked: list[Asked], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, broken = tmp_path / "out", replace(asked[0], model="broken", dtype="no type")
    ran = []
    monkeypatch.setattr(models, "build", lambda one, device: ran.append(one.name) or build(one))

    def build(one):
        if one.dtype == "no type":
            raise ValueError("dtype = 'no type'\nand more")
        return "module"

    timed = models.Timed("", "", "vision", 1, [1.0], [1.0])
    monkeypatch.setattr(
        models,
        "phases",
        lambda module, one, *_: iter(
            [(replace(timed, model=one.model, workload=one.workload.name), ())]
        ),
    )
    assert models.run(out, [broken, *asked], "cpu", None) == ["broken.text: dtype = 'no type'"]
    assert models.run(out, [broken, *asked], "cpu", None, more=lambda: False) == []
    models.run(out, [broken, *asked], "cpu", None)
    assert ran == ["broken.text", "llama.text", "vit.image", "broken.text"]
    assert len(models.known(out)) == 2


def test_one_build_serves_several_workloads_of_a_model(
    asked: list[Asked], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built = []
    monkeypatch.setattr(models, "build", lambda one, device: built.append(one.model))
    monkeypatch.setattr(models, "phases", lambda *_: iter(()))
    wide = replace(asked[0], workload=replace(TEXT, name="text_b16", batch=16))
    models.run(tmp_path / "out", [asked[0], wide, asked[1]], "cpu", None)
    assert built == ["llama", "vit"]


def test_the_plan_begins_with_text_and_every_configuration_is_there() -> None:
    plan = asked_for.plan()
    assert [one.name for one in plan[:5]] == [
        "llama_3_1_8b.text",
        "llama_3_1_8b.text_b16",
        "vit_l.image",
        "vit_l.image_b32",
        "resnet_50.image",
    ]
    assert all((one.config / "config.json").is_file() for one in plan)
    assert [one.name for one in asked_for.chosen("vit_l.image", None, TEXT, "float32")] == [
        "vit_l.image"
    ]
    with pytest.raises(ValueError, match=r"--only vit: expected of llama_3_1_8b\.text"):
        asked_for.chosen("vit", None, TEXT, "float32")


def test_any_configuration_can_be_given(asked: list[Asked]) -> None:
    (one,) = asked_for.chosen(
        "", asked[0].config, replace(TEXT, name="given_b4", batch=4), "float32"
    )
    assert (one.name, one.workload.batch) == ("llama.given_b4", 4)
    (same,) = asked_for.chosen("", asked[0].config / "config.json", TEXT, "float32")
    assert same.model == "llama"
