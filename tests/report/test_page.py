"""``report.html`` by its structure: what it says, that it asks nobody, that names do no harm."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import pytest
from report_record import RUNS, run, synthetic_record

from calib.report.layers.tree import branches
from calib.report.page import library
from calib.report.page.answer import facts, how_known
from calib.report.page.sums import distinct
from calib.report.page.write import page
from calib.report.record import AVOIDED, GROWS, RunRecord
from calib.report.units import percent, seconds
from calib.report.write import write_report

VOID = {"meta", "link", "br", "hr", "img", "input"}
MOST_BYTES = 2_000_000


@pytest.fixture(autouse=True, scope="module")
def _cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp().parent / "page-cache"))
        yield


def alternatives() -> pd.DataFrame:
    asked = {"needed_bytes": 7e9, "memory_bytes": 3.4e10, "fits": True, "why": "", "batch": 1}
    times = {"first_s": 0.1, "token_s": 0.01, "rate": 100.0, "provenance": "transferred"}
    ends = {"first_low_s": 0.09, "first_high_s": 0.2, "token_low_s": 8e-3, "token_high_s": 0.02}
    rows = [
        {"group": "asked", "name": "as asked", **times, **ends},
        {"group": "execution", "name": "CUDA graph", **times, **ends, "rate": 212.0},
        {"group": "batch", "name": "batch 512", "fits": False, "needed_bytes": 9e10},
        {"group": "weights", "name": "fp8 weights", "why": "no such kernel was timed"},
        {"group": "card", "name": "h200", **times, **ends, "rate": 50.0},
    ]
    return pd.DataFrame([asked | row for row in rows])


@cache
def record(name: str) -> RunRecord:
    if name == "unfit":
        found = run("predicted")
        memory = {**(found.memory or {}), "fits": False, "needed_bytes": 1.41e11}
        return replace(found, memory=memory, alternatives=alternatives())
    return replace(run(name), alternatives=alternatives())


@cache
def html(name: str) -> str:
    return page(record(name), branches(record(name)))


class Reader(HTMLParser):
    """Texts outside scripts and styles, the tags that were opened, and what they refer to."""

    def __init__(self, text: str):
        super().__init__()
        self.open: list[str] = []
        self.texts: list[str] = []
        self.refers: list[str] = []
        self.heads: list[str] = []
        self.figures: dict[str, str] = {}
        self.name = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {k: v or "" for k, v in attrs}
        self.refers += [given[k] for k in ("src", "href", "action", "data") if k in given]
        self.name = given.get("data-figure", "")
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "script" and self.name:
            self.figures[self.name] = data
        elif self.open and self.open[-1] not in ("script", "style"):
            self.texts += [data.strip()] if data.strip() else []
            self.heads += [data] if self.open[-1] == "h2" else []


@cache
def reader(name: str) -> Reader:
    return Reader(html(name))


NAMES = (*RUNS, "unfit")


@pytest.mark.parametrize("name", NAMES)
def test_it_is_whole_and_small_and_asks_nobody(name: str) -> None:
    found = reader(name)
    assert found.open == []
    assert len(html(name).encode()) < MOST_BYTES
    assert {r for r in found.refers if not r.startswith("#")} == {"data:,"}
    assert "@import" not in html(name) and "url(" not in html(name).split("</style>")[0]


@pytest.mark.parametrize("name", RUNS)
def test_sections_stand_in_order(name: str) -> None:
    heads = [h.strip() for h in reader(name).heads]
    assert heads[:2] == ["Where the time goes", "Roofline"]
    assert heads[2].startswith("Timeline of one decode step")
    assert heads[3:] == ["How good it is", "What if", "This run"]


@pytest.mark.parametrize("name", RUNS)
def test_the_card_answers_the_five_questions(name: str) -> None:
    card = " ".join(reader(name).texts[: reader(name).texts.index("This run")])
    asked = ["Does it fit? Yes:", "What bounds it? Decode is bound by", "How sure is it?"]
    asked += ["Which operator is worst known?"] if name == "measured" else []
    asked += ["What would a CUDA graph save?"] if name == "predicted" else []
    assert [a for a in asked if a not in card] == []


@pytest.mark.parametrize("name", RUNS)
def test_the_title_says_what_was_asked(name: str) -> None:
    texts = reader(name).texts
    hardware = record(name).hardware["name"]
    assert f"deepseek_ocr on {hardware}" in texts
    for word in ("batch 1", "prompt of 83 tokens", "16 tokens decoded", "eager", "bfloat16"):
        assert word in texts


@pytest.mark.parametrize("name", NAMES)
def test_no_exponents_and_no_words_of_the_machine(name: str) -> None:
    said = " ".join(reader(name).texts)
    assert re.findall(r"\d[eE][+-]\d", said) == []
    assert re.findall(r"\b(nan|NaN|None|NaT)\b", said) == []


def test_what_does_not_fit_takes_no_time() -> None:
    texts = reader("unfit").texts
    card = " ".join(texts[: texts.index("What it costs", texts.index("Does not fit") + 9)])
    assert "No: it needs 141 GB, the device has 34.2 GB." in card
    assert "What would fit? CUDA graph, fp8 weights, on h200" in card
    assert re.findall(r"\d (s|ms|µs)\b", card) == []
    assert "Roofline" not in texts and reader("unfit").figures == {}


def test_what_was_measured_stands_beside_the_estimate() -> None:
    texts = reader("measured").texts
    for head in ("measured", "error", "Against the clock"):
        assert head in texts
    total = record("measured").total
    assert seconds(total["measured_s"]) in texts
    assert "Against the clock" not in reader("predicted").texts


@pytest.mark.parametrize("name", RUNS)
def test_vega_draws_every_figure(name: str) -> None:
    import vl_convert

    figures = reader(name).figures
    assert {"timeline", "roofline-vision", "roofline-prefill", "roofline-decode"} <= set(figures)
    assert ("clock" in figures) == (name == "measured")
    for text in figures.values():
        spec = json.loads(text)
        spec["width"] = 400  # there is no page here to be as wide as
        svg = vl_convert.vegalite_to_svg(spec)
        assert svg.count("<path") > 10


def test_names_from_files_do_no_harm() -> None:
    evil = "</script><script>alert(1)</script><b>"
    found = record("measured")
    operators = found.operators.assign(path=evil + found.operators["path"])
    launches = found.launches.assign(path=evil) if found.launches is not None else None
    harmless = replace(found, model=evil, notes=[evil], operators=operators, launches=launches)
    text = page(harmless, branches(replace(found, model=evil)))
    assert "alert(1)</script>" not in text
    assert f"{evil} on cpu" in "".join(Reader(text).texts)


def test_the_library_is_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    made = library.vega_script()
    (kept,) = (tmp_path / "calib").iterdir()
    assert kept.read_text("utf-8") == made
    assert "</script" not in made and "vegaEmbed" in made
    kept.write_text("as it was", "utf-8")
    assert library.vega_script() == "as it was"


def test_a_cache_that_cannot_be_written_costs_time_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "calib").write_text("a file where the folder should be", "utf-8")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert "vegaEmbed" in library.vega_script()


def test_no_page_where_none_was_asked_for(tmp_path: Path) -> None:
    write_report(run("measured"), tmp_path, pictures=False, html=False)
    assert not (tmp_path / "report.html").exists()


@pytest.mark.parametrize("name", RUNS)
def test_sums_over_shapes_are_sums_over_the_run(name: str) -> None:
    table, operators = distinct(record(name)), record(name).operators
    for column in ("flops", "bytes", "estimate_s", "roofline_s"):
        assert table[column].sum() == pytest.approx(operators[column].sum())
    assert table["estimate_s"].is_monotonic_decreasing


def test_what_a_growing_text_costs_on_top_stands_in_the_answer() -> None:
    note = f"Decode takes 5 ms. {GROWS} a plan a token: 52 ms more. {AVOIDED} a graph."
    record = replace(run("predicted"), notes=[note])
    found = {f.question: f for f in facts(record, distinct(record))}
    assert found["What comes on top?"].answer.startswith(GROWS)
    assert found["What comes on top?"].answer.endswith("52 ms more.")


def test_how_it_is_known_is_told_by_part_of_the_time_or_in_one_word() -> None:
    record = synthetic_record(measured=False)
    alike = record.operators.assign(provenance="transferred")
    components = record.components.assign(provenance="transferred")
    record = replace(record, operators=alike, components=components)
    assert how_known(record) == "Known as transferred: fitted to samples of other devices."
    half = alike.copy()
    half.loc[half["phase"] == "decode", "provenance"] = "interpolated"
    share = half.groupby("provenance")["estimate_s"].sum() / half["estimate_s"].sum()
    said = how_known(replace(record, operators=half))
    assert f"{percent(share['interpolated'])} is known as interpolated" in said
    second = f"{percent(share['transferred'])} as transferred"
    assert f"{second}; the whole goes by the weakest that takes 5%." in said
