"""The table *what if*: each case is what a run of its own would say."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hydra import compose, initialize_config_dir
from jsonschema import Draft202012Validator
from omegaconf import OmegaConf

from calib.checkout import CONF
from calib.errors import CalibError
from calib.estimates.tables import found_in_cache
from calib.hardware.datasheet import load_hardware
from calib.report.layers.analytic_report import report_schema
from calib.report.lines import limit_lines
from calib.report.record import RunRecord, known
from calib.report.write import write_report
from calib.steps.alternatives.asked import Asked
from calib.steps.alternatives.cards import Work, neighbours
from calib.steps.alternatives.cases import Run
from calib.steps.alternatives.limit import _narrow, largest_batch
from calib.steps.answer import answer, issue_costs
from calib.steps.card.energy import holding
from calib.steps.fitting import fit_samples
from calib.steps.request import read_request
from calib.steps.settings.limits import seconds_of
from calib.steps.subject import build_model, shapes_of, spread
from calib.steps.target import find_target
from model.layer import Call
from model.ops import Elementwise

SMALL = ("model.layers=2", "model.dense_layers=1", "model.sam_layers=1", "model.clip_layers=1")
OCR = ("+hw=rtx5090", *SMALL, "model.sam_global_layers=[0]")
LLAMA = ("+hw=h200", "model=llama_3_1_8b", "workload=text_512", "model.layers=2")
LLAMA = (*LLAMA, "model.dense_layers=2")
HELD = (*LLAMA, "workload.prompt_tokens=8192", "workload.batch=16", "execution=graph")
CARDS = (*LLAMA, "parallel.tp=2", "parallel.dp=2", "parallel.overlap=0.5")


def parts(words: tuple[str, ...]) -> tuple[Any, ...]:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config: Any = OmegaConf.to_container(compose("config", list(words)), resolve=True)
    request = read_request(config | {"samples": {"dir": "/nonexistent/calib"}})
    model = build_model(request.model, request.hf)
    target = find_target(request.hw, request.samples.dir, request.mode, request.execution)
    model = spread(model, request, target.hardware)
    phases = model.phases(request.workload)
    return request, target, model, phases, fit_samples(target, shapes_of(phases))


@cache
def record(words: tuple[str, ...]) -> RunRecord:
    request, target, model, phases, calibrations = parts(words)
    return answer(request, target, model, phases, calibrations, None)


def case(found: RunRecord, name: str) -> dict[str, Any]:
    assert found.alternatives is not None
    (row,) = found.alternatives[found.alternatives["name"] == name].to_dict("records")
    return {str(k): v for k, v in row.items()}


def figure(found: RunRecord, name: str) -> dict[str, Any]:
    (row,) = found.figures[found.figures["name"] == name].to_dict("records")
    return {str(k): v for k, v in row.items()}


@pytest.mark.parametrize("words", [OCR, LLAMA, CARDS], ids=["ocr", "llama", "cards"])
@pytest.mark.parametrize(
    ("name", "other"),
    [
        ("as asked", ()),
        ("CUDA graph", ("execution=graph",)),
        ("compiled", ("execution=compiled",)),
        ("batch 8", ("workload.batch=8",)),
    ],
)
def test_a_case_says_what_its_own_run_says(
    words: tuple[str, ...], name: str, other: tuple[str, ...]
) -> None:
    row, own = case(record(words), name), record((*words, *other))
    first, token = figure(own, "time to first token"), figure(own, "time per output token")
    for ends, of in ((first, "first"), (token, "token")):
        said = [row[f"{of}_s"], row[f"{of}_low_s"], row[f"{of}_high_s"]]
        assert said == pytest.approx(
            [ends["estimate"], ends["low"], ends["high"]], rel=1e-3
        )  # by way of float32
    assert row["rate"] == pytest.approx(own.workload["batch"] / token["estimate"], rel=1e-3)
    assert row["provenance"] == own.total["provenance"]
    assert own.memory is not None
    assert row["needed_bytes"] == pytest.approx(own.memory["needed_bytes"])


def test_a_case_is_held_by_the_cards_power_as_its_own_run_is() -> None:
    """Of half a second at the ceiling, however it is executed, and whichever of them is asked."""
    ways = {
        "CUDA graph": record(HELD),
        "eager": record((*HELD, "execution=eager")),
        "compiled": record((*HELD, "execution=compiled")),
    }
    for asked, found in ways.items():
        assert any("run on and on" in note for note in found.notes)
        for name, own in ways.items():
            row, first = case(found, name if name != asked else "as asked"), _first(own)
            for end in ("", "low_", "high_"):
                assert row[f"first_{end}s"] == pytest.approx(first[end], rel=1e-3)
    more = _first(record((*HELD, "workload.batch=32")))
    assert case(ways["CUDA graph"], "batch 32")["first_s"] == pytest.approx(more[""], rel=1e-3)


def _first(found: RunRecord) -> dict[str, float]:
    row = figure(found, "time to first token")
    return {"": row["estimate"], "low_": row["low"], "high_": row["high"]}


def test_a_card_says_what_its_own_run_says() -> None:
    found = record(LLAMA).alternatives
    assert found is not None
    cards = found[found["group"] == "card"].to_dict("records")
    assert len(cards) == 2
    for row in cards:
        own = record((f"+hw={row['name']}", *LLAMA[1:]))
        token = figure(own, "time per output token")
        assert row["token_s"] == pytest.approx(token["estimate"], rel=1e-3)
        assert row["fits"] == (own.memory or {})["fits"]


@pytest.mark.parametrize(
    ("name", "dtype"), [("fp8 weights", "float8_e4m3fn"), ("int4 weights", "int4")]
)
def test_narrow_weights_say_what_their_own_run_says(name: str, dtype: str) -> None:
    row = case(record(LLAMA), name)
    own = record((*LLAMA, f"model.weight_dtype={dtype}"))
    token = figure(own, "time per output token")
    assert row["token_s"] == pytest.approx(token["estimate"], rel=1e-3)
    assert row["needed_bytes"] < case(record(LLAMA), "as asked")["needed_bytes"]


def test_batches_end_with_the_first_that_does_not_fit() -> None:
    found = record((*LLAMA, "workload.prompt_tokens=100000", "workload.decode_steps=2"))
    assert found.alternatives is not None
    batches = found.alternatives[found.alternatives["group"] == "batch"]
    assert batches["fits"].tolist() == [True] * (len(batches) - 1) + [False]
    assert not known(batches["token_s"].iloc[-1])


def test_what_does_not_fit_is_told_what_would() -> None:
    big = ("model.layers=80", "model.dense_layers=80", "model.hidden=8192", "model.heads=64")
    words = ("+hw=l4", *LLAMA[1:3], *big, "model.intermediate=28672")
    found = record(words)
    assert found.alternatives is not None
    assert set(found.alternatives["group"]) == {"asked", "weights", "layout", "card"}
    assert not known(case(found, "as asked").get("token_s"))
    cards = found.alternatives[found.alternatives["group"] == "card"]
    assert cards["fits"].any()
    split = case(found, "8 cards (tp=8)")
    own = record((*words, "parallel.tp=8"))
    token = figure(own, "time per output token")
    assert split["token_s"] == pytest.approx(token["estimate"], rel=1e-3)
    assert split["needed_bytes"] == case(own, "as asked")["needed_bytes"]
    assert own.place == "8 x l4 (tp=8)"


def test_no_page_no_table() -> None:
    assert record((*LLAMA, "report.html=false")).alternatives is None
    assert record(("+hw=cpu", "mode=analytic", *LLAMA[1:])).alternatives is None


def test_neighbours_are_the_nearest_by_the_peaks() -> None:
    """A long stream is bound by the memory: cards are told apart by their bandwidth alone."""
    work = Work({"decode": [Call("", Elementwise(1 << 30), 1, 1)]}, {"decode": 3})
    own = load_hardware("l40s")
    found = neighbours(own, work, needed_bytes=0.0)
    assert found["down"].bandwidth < own.bandwidth < found["up"].bandwidth
    roomy = neighbours(own, work, needed_bytes=150e9)
    assert roomy["up"].memory_bytes >= 150e9
    assert work.at_peaks(own) == pytest.approx(3 * Elementwise(1 << 30).bytes / own.bandwidth)


@pytest.mark.parametrize(("text", "seconds"), [("20ms", 0.02), ("0.5 s", 0.5), ("2e2us", 2e-4)])
def test_a_limit_is_a_time(text: Any, seconds: float) -> None:
    assert seconds_of(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["fast", "-1ms", "0ms", "20 min", True, "20", 20, 0.02])
def test_a_limit_that_is_no_time_is_refused(text: Any) -> None:
    with pytest.raises((CalibError, ValueError), match=r"limit\.tpot = .*: expected a time above"):
        read_request(parts_config() | {"limit": {"tpot": text}})


@cache
def plain_config() -> Any:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return OmegaConf.to_container(compose("config", list(LLAMA)), resolve=True)


def parts_config() -> Any:
    return dict(plain_config())


def test_the_largest_batch_is_the_last_that_is_fast_enough() -> None:
    found = record((*LLAMA, "limit.tpot=2ms"))
    assert found.alternatives is not None
    (row,) = found.alternatives[found.alternatives["group"] == "limit"].to_dict("records")
    assert row["token_s"] <= 2e-3
    request, target, model, phases, calibrations = parts(LLAMA)
    costs, energy = issue_costs(target), holding(request, target)
    run = Run(request, target, model, phases, calibrations[0], costs, 0.0, energy)
    good, bad = _narrow(run, 2e-3, [row["batch"], row["batch"] + 1], 0)
    assert (good, bad) == (row["batch"], row["batch"] + 1)
    assert largest_batch(run, 1e-9) == 0


def test_a_limit_that_nothing_meets_says_so() -> None:
    row = case(record((*LLAMA, "limit.tpot=1us")), "at most 1 µs a token")
    assert not known(row.get("token_s"))
    assert "not even" in row["why"]


def test_the_terminal_says_what_a_limit_allows() -> None:
    (said,) = limit_lines(record((*LLAMA, "limit.tpot=2ms")))
    row = case(record((*LLAMA, "limit.tpot=2ms")), "at most 2 ms a token")
    assert said.startswith(f"With at most 2 ms a token the largest batch is {row['batch']:,}: ")
    (said,) = limit_lines(record((*LLAMA, "limit.tpot=1us")))
    assert said == f"With at most 1 µs a token: no batch, {NONE_SO_FAST}."
    assert limit_lines(record(LLAMA)) == []


def test_a_limit_is_answered_without_a_page_too() -> None:
    found = record((*LLAMA, "limit.tpot=2ms", "report.html=false"))
    assert limit_lines(found) == limit_lines(record((*LLAMA, "limit.tpot=2ms")))
    assert record((*LLAMA, "report.html=false")).alternatives is None


NONE_SO_FAST = "not even a batch of 1 is that fast, or fits"


def test_the_report_as_data_and_as_text_has_the_table(tmp_path: Path) -> None:
    """Row by row what the run found, under the report's own schema."""
    found = record((*LLAMA, "limit.tpot=20ms"))
    assert found.alternatives is not None
    write_report(found, tmp_path, pictures=False, html=False)
    data = json.loads((tmp_path / "report.json").read_text("utf-8"))
    Draft202012Validator(json.loads(report_schema())).validate(data)
    rows = found.alternatives.to_dict("records")
    assert [row["name"] for row in data["alternatives"]] == [row["name"] for row in rows]
    for said, row in zip(data["alternatives"], rows, strict=True):
        assert said["fits"] == row["fits"]
        assert said["token_s"] == (pytest.approx(row["token_s"]) if known(row["token_s"]) else None)
    text = (tmp_path / "report.md").read_text("utf-8")
    table = text.split("## What if")[1].split("\n## ")[0]
    assert "| CUDA graph | " in table and "| at most 20 ms a token: batch " in table


def test_what_was_asked_for_before_is_not_asked_again() -> None:
    """And what was not, or hot where it was cold, is: the answer is the estimator's own."""
    request, _, _, phases, (estimator, _) = parts(LLAMA)
    ops = list(dict.fromkeys(c.op for p in phases.values() for c in p.layer.calls()))
    asked = Asked(estimator, request.implementation)
    asked.ask(ops)
    hot = [found_in_cache(op, estimator.hardware) for op in ops]
    for some, flags in ((ops[3:9], hot[3:9]), (ops[:1], [not hot[0]]), ([Elementwise(77)], [True])):
        mine, theirs = (e.estimates(some, "torch", flags) for e in (asked, estimator))
        assert mine.seconds == pytest.approx(theirs.seconds, rel=1e-4)  # float32, by blocks
        assert list(mine.known_as) == list(theirs.known_as)
    pd.testing.assert_frame_equal(asked.held_out, estimator.held_out)
    asked.estimator = None  # type: ignore[assignment]  # nobody is asked
    assert len(asked.estimates(ops, "torch", hot).seconds) == len(ops)
