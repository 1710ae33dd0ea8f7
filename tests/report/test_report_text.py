"""Texts of a report: units, the terminal's tables, ``report.md``."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pandas as pd
import pytest
from markdown_it import MarkdownIt
from report_record import RUNS, run

from calib.report.document.kinds import kind_cells
from calib.report.document.write import how_much, report_markdown
from calib.report.layers.tree import branches
from calib.report.lines import bare_lines, memory_lines, timeline_lines, unknown_lines, verdict
from calib.report.record import RunRecord, known
from calib.report.terminal import (
    Cells,
    component_cells,
    figure_cells,
    remarks,
)
from calib.report.units import (
    UNKNOWN,
    counted,
    digits,
    figure,
    flops,
    grouped,
    interval,
    nbytes,
    percent,
    seconds,
)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (1.2345, "1.23 s"),
        (0.99999, "1.00 s"),
        (0.0123, "12.3 ms"),
        (640e-6, "640 µs"),
        (3.3e-9, "3.30 ns"),
        (1e-12, "0.00100 ns"),
        (1234.5, "1234 s"),
        (None, UNKNOWN),
        (float("nan"), UNKNOWN),
        (pd.NA, UNKNOWN),
    ],
)
def test_seconds(value: Any, text: str) -> None:
    assert seconds(value) == text


def test_units_are_chosen_sensibly() -> None:
    assert flops(2.287e11) == "229 GFLOP"
    assert flops(3.83e12) == "3.83 TFLOP"
    assert flops(12) == "0.0120 kFLOP"
    assert nbytes(6.672e9) == "6.67 GB"
    assert nbytes(61440) == "61.4 kB"
    assert interval(0.71, 0.934) == "710-934 ms"
    assert interval(0.71, 1.934) == "0.710-1.93 s"
    assert interval(1.0, 1.0) == UNKNOWN
    assert interval(None, 1.0) == UNKNOWN
    assert interval(2.0, 3.0, "pages/s") == "2.00-3.00 pages/s"
    assert percent(0.0312, signed=True) == "+3.1%"
    assert percent(-0.44) == "-44%"
    assert figure(0.0123, "s") == "12.3 ms"
    assert figure(61.6, "pages/s") == "61.6 pages/s"
    assert digits(999.96) == "1000"


def test_known() -> None:
    assert [known(v) for v in (1, 0.0, "", None, float("nan"), pd.NA)] == [True] * 3 + [False] * 3


def test_no_word_of_a_clock_where_nothing_was_measured() -> None:
    assert figure_cells(run("measured")).headers[-1] == "measured"
    assert figure_cells(run("predicted")).headers[-1] == "interval"
    assert "never saw" in markdown("measured") and "never saw" not in markdown("predicted")


def markdown(name: str, **changes: Any) -> str:
    record = replace(run(name), **changes)
    return report_markdown(record, branches(record), [("roofline.png", "A caption.")], "layers")


@pytest.mark.parametrize("name", RUNS)
def test_markdown_is_well_formed(name: str) -> None:
    """Every table parses, each with as many cells in every row; no stray pipes are left over."""
    tokens = MarkdownIt("gfm-like", {"linkify": False}).parse(markdown(name))
    widths: list[list[int]] = []
    for token in tokens:
        if token.type == "table_open":
            widths.append([])
        if token.type == "tr_open":
            widths[-1].append(0)
        if token.type in ("td_open", "th_open"):
            widths[-1][-1] += 1
    assert len(widths) == {"measured": 8, "predicted": 4}[name]
    assert all(len(set(rows)) == 1 and len(rows) > 1 for rows in widths)
    texts = [t.content for t in tokens if t.type == "inline"]
    assert not [text for text in texts if "|" in text]
    assert [t.tag for t in tokens if t.type == "heading_open"].count("h1") == 1


def test_modules_and_components_err_by_the_same_measure() -> None:
    """The root of the modules is the total: one error, drift taken out, in both tables."""
    record = run("measured")
    error = percent(record.total["error"], signed=True)
    root = next(r for r in markdown("measured").splitlines() if r.startswith(f"| `{record.model}`"))
    assert f"| {error} |" in root


def test_the_first_lines_answer() -> None:
    """How long, whether it fits, how sure: as the page's card says it, before any head."""
    record, text = run("measured"), markdown("measured").split("\n## ")[0]
    for row in record.figures.to_dict("records"):
        assert figure(row["estimate"], row["unit"]) in text
    assert seconds(record.total["measured_s"]) in text
    for question in ("**Does it fit?**", "**What bounds it?**", "**How sure is it?**"):
        assert f"- {question} " in text
    order = re.findall(r"^## (.*)$", markdown("measured"), flags=re.MULTILINE)
    assert order[:3] == ["Where the time goes", "Roofline", "How good it is"]
    assert order[-1] == "This run"


def test_the_answer_without_a_clock() -> None:
    text = markdown("predicted")
    assert "Nothing was measured in this run." in text
    assert "nothing but the peaks is known: a lower bound" in text
    assert "How it was measured" not in text


def test_a_report_says_a_fact_once_and_its_caveats_at_the_end() -> None:
    record = replace(run("predicted"), notes=["A caveat."])
    text = report_markdown(record, branches(record), [])
    assert text.index("A caveat.") > text.index("## This run")
    for line in (*timeline_lines(record), *memory_lines(record)):
        assert line in remarks(record) and line not in text


def test_what_does_not_fit_has_no_time_in_its_report() -> None:
    record = run("predicted")
    assert record.memory is not None
    record = replace(record, memory={**record.memory, "fits": False})
    text = report_markdown(record, branches(record), [])
    assert "**Does it fit?** No: it needs" in text
    assert not re.search(r"\d [mµn]?s\b", text.split("## This run")[0])


def test_kinds_are_summed() -> None:
    operators = run("measured").operators
    cells = kind_cells(run("measured"))
    assert [row[0] for row in cells.rows][:2] == ["matmul", "grouped matmul"]
    of_kind = operators[operators["kind"] == "matmul"]
    row = dict(zip(cells.headers, cells.rows[0], strict=True))
    steps = of_kind["phase"].map({"vision": 1, "prefill": 1, "decode": 16})
    assert row["calls"] == f"{(of_kind['count'] * steps).sum():,}"
    assert row["kernels"] == seconds(of_kind["estimate_s"].sum())
    error = of_kind["estimate_s"].sum() / of_kind["measured_s"].sum() - 1
    assert row["error"] == percent(error, signed=True)


def test_errors_of_kinds_are_against_steady_times_too() -> None:
    """The machine was a quarter slower beside the model than in the sweep: no error changes."""
    record = run("measured")
    slower = record.operators.assign(measured_s=1.25 * record.operators["measured_s"])
    rows = {r[0]: r for r in kind_cells(replace(record, operators=slower)).rows}
    for name, *cells in kind_cells(record).rows:
        assert rows[name][3] == cells[2]  # a name, kernels, measured, error
        clock = slower.loc[slower["kind"] == name.replace(" ", "_"), "measured_s"].sum()
        assert rows[name][2] == seconds(clock)


def traced(**found: Any) -> RunRecord:
    """A run beside a trace: no wall time is known, ``found`` of it is."""
    record = run("measured")
    blank = record.components.assign(measured_s=float("nan"), error=float("nan"))
    about = {"trace": "t.json", "repeats": {"decode": [1.0]}, "refused": {}, "clocks": [], **found}
    return replace(record, components=blank, measurement=about)


def test_what_the_clock_says_of_kernels_only() -> None:
    clock = {"phase": "decode", "what": "operators", "estimate_s": 0.9, "measured_s": 1.0}
    text = verdict(traced(clocks=[clock, {**clock, "what": "wall", "measured_s": None}]))
    assert "Of decode the clock knows what the device did, 1.00 s: the estimate" in text
    assert re.search(r"of the kernels, 900 ms, is 10(.0)?% too low\.", text)


def test_what_the_clock_says_of_a_part() -> None:
    record = traced()
    components = record.components.copy()
    prefill = components["component"] == "prefill"
    components.loc[prefill, "measured_s"] = components.loc[prefill, "estimate_s"] / 1.1
    record = replace(record, components=components)
    assert "The clock knows prefill only" in verdict(record)
    assert "their estimate is 10% too high." in verdict(record)
    cells = component_cells(record)
    assert "measured" in cells.headers
    shown = dict(zip((row[0] for row in cells.rows), cells.rows, strict=True))
    column = cells.headers.index("measured")
    assert shown["prefill"][column] != UNKNOWN and shown["total"][column] == UNKNOWN


def test_a_trace_of_something_else_is_no_clock() -> None:
    record = traced(refused={"decode": ["it is of something else"]})
    assert "A trace was given, and is not taken for this model's." in verdict(record)
    section = report_markdown(record, branches(record), []).split("## How it was measured")[1]
    assert "Of decode this is what the trace holds, which was not taken" in section


HOSTILE = "<b>x</b>|`y`\n# [z](http://u)"


def test_names_from_a_trace_are_no_markup() -> None:
    row = {"phase": "decode", "path": "", "aten": HOSTILE, "count": 1, "seconds": 1.0}
    record = traced(coverage={"unmatched": [row]}, card=HOSTILE)
    text = report_markdown(replace(record, notes=[HOSTILE]), branches(record), [])
    safe = "&lt;b&gt;x&lt;/b&gt;&#124;&#96;y&#96; # &#91;z&#93;(http://u)"
    assert text.count(safe) == 3 and "<b>" not in text and "[z](" not in text


def test_our_kernels_have_a_column_where_they_were_sampled() -> None:
    """Of a kind whose operators were not all sampled there is no sum to compare."""
    record = run("predicted")
    assert "by Triton" not in kind_cells(record).headers
    operators = record.operators.copy()
    matmul = operators["kind"] == "matmul"
    operators.loc[matmul, "triton_s"] = operators.loc[matmul, "estimate_s"] / 2
    norms = operators.index[operators["kind"] == "norm"]
    operators.loc[norms[1:], "triton_s"] = 1e-6
    cells = kind_cells(replace(record, operators=operators))
    ours = {row[0]: dict(zip(cells.headers, row, strict=True))["by Triton"] for row in cells.rows}
    assert ours["matmul"] == seconds(operators.loc[matmul, "triton_s"].sum())
    assert {ours["norm"], ours["copy"]} == {UNKNOWN}


def test_kinds_compare_only_what_the_clock_saw() -> None:
    """A kind half of which has no measured time is compared on the other half."""
    operators = run("measured").operators.copy()
    norms = operators.index[operators["kind"] == "norm"]
    operators.loc[norms[::2], "measured_s"] = None
    operators.loc[operators["kind"] == "softmax", "measured_s"] = None
    seen = operators.loc[norms[1::2]]
    rows = {r[0]: r for r in kind_cells(replace(run("measured"), operators=operators)).rows}
    expected = seen["estimate_s"].sum() / seen["measured_s"].sum() - 1
    assert rows["norm"][3] == percent(expected, signed=True)
    assert rows["softmax"][2:4] == (UNKNOWN, UNKNOWN)


def test_modules_are_folded_and_small_ones_left_out() -> None:
    text = markdown("measured")
    assert "`layers.[1-11]` \N{MULTIPLICATION SIGN}11 |" in text
    assert "layers.5" not in text
    assert "rotary_emb" not in text


def test_measurement_is_told_for_reading() -> None:
    """A row a phase with units and rounding; no raw list, dict or number of ten digits."""
    text = markdown("measured").split("## How it was measured")[1].split("\n## ")[0]
    for row in (
        "| vision | 1.08 s | 1.38, 1.08, 1.06 s | +12%, -0.4% | 805 of 806 | 99% | 41.1 µs |",
        "| decode | 562 ms | 544, 562, 618 ms | -2.2%, +1.3% | 805 of 806 | 99% | - |",
        "| drift of the machine | 4.3% |",
        "| unstable | no |",
        "| error of the total, drift not taken out | -3.2% |",
        "| probes | 2: product 1.84 TFLOP/s to 1.88 TFLOP/s, copy 20.8 GB/s to 21.1 GB/s |",
        "| parameters | 3,335,504,128 |",
        "| memory used | 7.10 GB |",
        "| warm-up | 3.43, 3.20 s |",
        "| a module's clock costs | 2.24 µs |",
        "| distinct experts touched | prefill 38-44 (by layer 41, 38, 44); decode 6 |",
        "| operators that no row took | 16 x argmax in decode, 7.87 ms |",
    ):
        assert row in text.splitlines(), row
    assert not re.search(r"[{}\[\]]|e[+-]\d\d|\d\.\d{4}", text)


def test_a_measurement_that_knows_little_says_what_it_knows() -> None:
    text = markdown("measured", measurement={"trace": "H100", "repeats": {"decode": [0.011]}})
    assert "| decode | 11.0 ms | 11.0 ms |" in text
    assert "A trace of torch.profiler was read" in text and "drift of the machine" not in text


def test_pipes_in_cells_are_escaped() -> None:
    from calib.report.document.tables import table

    assert table(Cells(("a", "b"), [("x|y", "1")])).splitlines()[-1] == "| x\\|y | 1 |"


def test_links_are_to_files_of_the_run() -> None:
    links = set(re.findall(r"\]\(([^)]+)\)", markdown("measured")))
    assert links == {
        "roofline.png",
        "estimates.parquet",
        "modules.parquet",
        "report.json",
        "environment.json",
        "layers/index.md",
        "trace.json",
    }


def test_names_are_no_markup() -> None:
    """Of a model, a workload and a card, as files and users give them."""
    evil = "a\n# b|c`d<script>![x](http://e)"
    record = run("measured")
    record = replace(
        record,
        model=evil,
        run_id=evil,
        workload={**record.workload, "name": evil},
        hardware={**record.hardware, "device_names": [evil]},
        notes=[f"of {evil}"],
    )
    text = report_markdown(record, branches(record), [])
    assert "<script>" not in text and "](http" not in text
    assert not any(line.startswith("# b") for line in text.splitlines())
    html = MarkdownIt("commonmark", {"html": True}).enable("table").render(text)
    assert "<script" not in html and "<img" not in html


def with_unknown(record: RunRecord) -> RunRecord:
    """A run whose last operator nobody knows, a decode step's."""
    operators, components = record.operators.copy(), record.components.copy()
    last = operators.index[-1]
    operators.loc[last, ["kind", "shape", "unknown"]] = ["other", "mine::sort read=8", True]
    components["at_least"] = components["component"].isin(["decode", "total"])
    modules = record.modules.assign(at_least=record.modules["phase"] == "decode")
    return replace(record, operators=operators, components=components, modules=modules)


def test_totals_that_hold_what_nobody_knows_say_at_least() -> None:
    whole = run("predicted")
    assert not any("No rule knows" in line for line in unknown_lines(whole))
    record = with_unknown(whole)
    rows = {row[0]: row for row in component_cells(record).rows}
    assert rows["decode"][1].startswith("\u2265 ") and rows["total"][2].startswith("\u2265 ")
    assert not rows["prefill"][1].startswith("\u2265")
    (said,) = unknown_lines(record)
    row = record.operators.iloc[-1]
    times = int(record.executions.iloc[-1])
    assert f"mine::sort {times:,}" in said
    assert percent(row["bytes"] / record.operators["bytes"].sum()) in said
    text = report_markdown(record, branches(record), [])
    assert said in text
    assert "| other | " in text and "\u2265" in text.split("### Modules")[1]
    untimed = replace(record, components=record.components.assign(estimate_s=float("nan")))
    assert how_much(untimed).startswith("**\u2265 ")


def test_a_total_that_holds_a_bare_roofline_says_at_least() -> None:
    whole = run("predicted")
    assert bare_lines(whole) == []  # a run of which no more is known says so of itself
    bare = whole.operators["phase"] == "decode"
    known = bare.map({True: "roofline", False: "interpolated"})
    record = replace(whole, operators=whole.operators.assign(provenance=known))
    (said,) = bare_lines(record)
    share = record.operators.loc[bare, "estimate_s"].sum() / record.operators["estimate_s"].sum()
    kinds = set(record.operators.loc[bare, "kind"])
    assert all(f"{kind} of " in said for kind in kinds) and percent(share) in said
    assert said in report_markdown(record, branches(record), [])


def test_one_of_a_thing_is_one() -> None:
    assert [counted(n, "operator") for n in (0, 1, 2000)] == [
        "0 operators",
        "1 operator",
        "2,000 operators",
    ]
    assert counted(1, "launch") == "1 launch" and counted(2, "launch") == "2 launches"


def test_large_figures_have_their_thousands_apart() -> None:
    assert [grouped(v) for v in (0.5, 12.3, 999.9, 207364.2)] == [
        "0.500",
        "12.3",
        "1,000",
        "207,364",
    ]
    assert figure(792253521.0, "1/s") == "792,253,521 1/s"
    assert interval(36782.0, 343071.0, "1/s") == "36,782-343,071 1/s"
