"""How accuracy is scored: whole groups held out, final ones unseen, baselines by hand."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from benchmarks import accuracy
from benchmarks.scoring import report
from benchmarks.scoring.baselines import BASELINES, log_shape
from benchmarks.scoring.cases import CASES, MARKS, Case, Mark
from benchmarks.scoring.rows import Rows, load
from benchmarks.scoring.score import (
    CHOSEN,
    OURS,
    RANDOM,
    calib_scores,
    chosen_rows,
    errors,
    intervals,
    operators,
    random_rows,
    setting,
)
from benchmarks.scoring.splits import final_rows, split
from calib.hardware.datasheet import load_hardware
from calib.samples import public
from calib.samples.public_tables import CARDS

GROUPS = np.repeat([f"{n}/{k}" for n in range(20) for k in range(20)], 3)


def gemm_rows(m, n, k, seconds, card="h200"):
    """Rows of a GEMM table, without samples."""
    m, n, k, seconds = np.broadcast_arrays(m, n, k, seconds)
    frame = pd.DataFrame({"m": m, "n": n, "k": k, "seconds": seconds, "hardware": card})
    frame["flops"], frame["bytes"] = 2.0 * m * n * k, 2.0 * (m * k + n * k + m * n)
    frame["group"] = [f"{a}/{b}" for a, b in zip(n, k, strict=True)]
    return Rows("gemm", frame)


@pytest.mark.parametrize("final", [False, True])
def test_groups_are_held_out_whole(final):
    known, held_out = split(GROUPS, seed=1, final=final)
    assert not set(GROUPS[known]) & set(GROUPS[held_out])
    assert len(set(GROUPS[held_out])) == pytest.approx(100 if final else 60, abs=15)
    for group in set(GROUPS[held_out]):
        assert (GROUPS[held_out] == group).sum() == 3


def test_development_never_touches_a_final_group():
    known, held_out = split(GROUPS, seed=0, final=False)
    development = set(GROUPS[known]) | set(GROUPS[held_out])
    scored = {g for seed in range(5) for g in GROUPS[split(GROUPS, seed, final=True)[1]]}
    assert scored and not development & scored
    assert development.isdisjoint(GROUPS[final_rows(GROUPS)])


def test_the_final_groups_do_not_depend_on_the_table():
    """A pair that is final on one card is final on all, however many rows each has of it."""
    some = np.array(["7/9", "3/3", "7/9"])
    assert final_rows(some)[0] == final_rows(some)[2] == final_rows(GROUPS)[GROUPS == "7/9"][0]


def test_seeds_hold_out_different_groups():
    assert set(split(GROUPS, 0, True)[1]) != set(split(GROUPS, 1, True)[1])
    assert np.array_equal(split(GROUPS, 0, True)[1], split(GROUPS, 0, True)[1])


def test_roofline_and_constant_efficiency_by_hand():
    card = load_hardware("h200")
    rows = gemm_rows([64, 8192], 4096, 4096, 1.0)
    compute = 2 * 8192 * 4096**2 / card.peak_flops["bfloat16"]
    memory = 2 * (2 * 64 * 4096 + 4096**2) / card.bandwidth
    assert BASELINES["roofline"](rows, rows) == pytest.approx([memory, compute])
    slower = gemm_rows([64, 8192], 4096, 4096, 4 * rows.floor_s)
    assert BASELINES["constant efficiency"](slower, rows) == pytest.approx(4 * rows.floor_s)


@pytest.mark.parametrize("name", sorted(set(BASELINES) - {"roofline"}))
def test_what_learns_finds_a_constant_efficiency(name):
    sizes = np.array([64, 128, 256, 512, 1024, 2048])
    m, n, k = (a.ravel() for a in np.meshgrid(sizes, sizes, sizes))
    rows = gemm_rows(m, n, k, 1.0)
    train = gemm_rows(m, n, k, 1.5 * rows.floor_s)
    asked = gemm_rows([96, 700], [300, 1500], 900, 1.0)
    assert BASELINES[name](train, asked) == pytest.approx(1.5 * asked.floor_s, rel=1e-3)


def test_routing_of_a_mixture_is_a_number():
    names = ["balanced", "power_law_1.01", "power_law_1.2"]
    sizes = dict.fromkeys(["tokens", "experts", "top_k", "hidden", "intermediate"], 8)
    rows = Rows("moe", pd.DataFrame({**sizes, "distribution": names}))
    assert log_shape(rows)[:, -1].tolist() == [0.0, 1.01, 1.2]


def table(root, card, card_speed):
    """A GEMM table in the package's schema, timed by a law of our own."""
    sizes = np.array([32, 128, 512, 2048, 8192])
    m, n, k = (a.ravel() for a in np.meshgrid(sizes, sizes, sizes))
    ideal = gemm_rows(m, n, k, 1.0, card).floor_s
    folder = root / CARDS[card] / "gemm" / "vllm" / "0.24.0"
    folder.mkdir(parents=True)
    rows = {"m": m, "n": n, "k": k, "latency": 1e3 * (5e-6 + ideal / card_speed)}
    rows |= {"gemm_dtype": "bfloat16", "device": card, "kernel_source": "sglang"}
    pd.DataFrame(rows).to_parquet(folder / "gemm_perf.parquet")


@pytest.fixture
def tables(tmp_path, monkeypatch):
    """The public tables of two cards, made up; the package is not asked for."""
    table(tmp_path, "h200", 0.7)
    monkeypatch.setattr(public, "package_data", lambda: tmp_path)
    load.cache_clear()
    yield tmp_path
    load.cache_clear()


def test_a_case_is_scored_once_and_resumed(tables, tmp_path, monkeypatch, capsys):
    case = Case("gemm", "h200", 24)
    assert accuracy.score(case, True, tmp_path / "work", (0,), stored=True) == []
    first = pd.concat(accuracy.score(case, True, tmp_path / "work", (0,)))
    assert capsys.readouterr().err.count("gemm-h200-24 seed 0") == 2
    monkeypatch.setattr(accuracy, "setting", None)  # nothing is to be scored again
    again = pd.concat(accuracy.score(case, True, tmp_path / "work", (0,), stored=True))
    pd.testing.assert_frame_equal(first, again)
    ours = first[first["method"] == OURS].set_index("selection")
    assert set(ours.index) == {RANDOM, CHOSEN}
    assert (ours["learned"] == 24).all()
    assert ours.loc[CHOSEN, "mean"] < first.set_index("method").loc["constant efficiency", "mean"]
    assert {"coverage", "width", "share interpolated"} <= set(ours)


def test_no_held_out_group_is_learned(tables):
    for final in (False, True):
        s = setting(Case("gemm", "h200", 24), 0, final)
        held_out = set(s.held_out.groups)
        for learned in (random_rows(s), chosen_rows(s)):
            assert len(learned) == 24
            assert held_out.isdisjoint(learned.groups)
            assert len({(o.m, o.n, o.k) for o in operators(learned)}) == 24


def test_chosen_samples_are_scored_beside_random_ones_where_other_cards_help(tables):
    table(tables, "h100", 0.7)
    rows = list(calib_scores(setting(Case("gemm", "h200", 24, ("h100",)), 0, False)))
    assert [(row["method"], row["selection"]) for row in rows] == [(OURS, RANDOM), (OURS, CHOSEN)]
    assert len({row["learned"] for row in rows}) == 1 and rows[0]["learned"] > 24
    assert all(row["mean"] < 0.1 for row in rows)


def test_errors_and_intervals_by_hand():
    seconds = np.array([1.0, 1.0, 2.0, 4.0])
    found = errors(np.array([1.1, 0.9, 2.0, 2.0]), seconds)
    assert found["mean"] == pytest.approx(0.7 / 4)
    assert found["median"] == pytest.approx(0.1)
    assert found["bias"] == pytest.approx(-0.5 / 4)
    estimates = pd.DataFrame({"estimate_s": 1.0, "low_s": 0.5, "high_s": [1.5, 1.5, 2.5, 2.5]})
    estimates["provenance"] = ["interpolated", "interpolated", "interpolated", "extrapolated"]
    found = intervals(estimates, seconds)
    assert found["coverage"] == 0.75
    assert found["coverage interpolated"] == 1.0
    assert found["coverage extrapolated"] == 0.0
    assert found["width interpolated"] == 0.5
    assert found["share extrapolated"] == 0.25


def scored(case, method, selection, mean, seed=0):
    row = {"case": case, "method": method, "selection": selection, "mean": mean, "seed": seed}
    return row | dict.fromkeys(["median", "p90", "bias", "part_s", "learned", "held_out"], 0.1)


def test_a_mark_takes_chosen_samples_and_the_better_trees():
    case = "gemm-h200-300"
    rows = [
        scored(case, OURS, RANDOM, 0.01),
        scored(case, OURS, CHOSEN, 0.05),
        scored(case, OURS, CHOSEN, 0.07, seed=1),
        scored(case, "boosted trees", RANDOM, 0.08),
        scored(case, "boosted trees", CHOSEN, 0.02),
    ]
    summed = report.summary(pd.DataFrame(rows))
    mark = Mark("GEMM", (case,), mark=6.5, stretch=5.0, peer=7.3, chosen=True)
    found = report.mark_figures(summed, mark)
    assert found["error"] == pytest.approx(6.0)
    assert found["trees"] == pytest.approx(8.0)
    assert (found["met"], found["stretch_met"]) == (True, False)
    found = report.mark_figures(summed, replace(mark, chosen=False))
    assert found["error"] == pytest.approx(1.0)
    assert report.mark_figures(summed, Mark("GEMM", (case, "other"), 1.0, 1.0, None)) is None
    found = report.mark_figures(summed, replace(mark, mark=None, stretch=None))
    assert (found["met"], found["stretch_met"]) == (None, False)


def test_every_mark_is_of_cases_that_are_scored():
    names = [case.name for case in CASES]
    assert len(set(names)) == len(names)
    for mark in MARKS:
        assert set(mark.cases) <= set(names)


def test_the_report_says_what_was_missed(tmp_path):
    rows = []
    for budget in ("all", "300"):
        rows += [scored(f"gemm-h200-{budget}", OURS, RANDOM, 0.036)]
        rows += [scored(f"gemm-h200-{budget}", "boosted trees", RANDOM, 0.04)]
    scores = pd.DataFrame(rows).assign(coverage=0.9, width=0.1, fit_s=1.0)
    noise = {"table": "gemm", "card": "h200", "engine": "sglang", "held_out": 9}
    noise = pd.DataFrame([noise | dict.fromkeys(["mean", "median", "p90"], 0.05)])
    report.write(scores, noise, tmp_path, final=True, variants="3")
    text = (tmp_path / "accuracy.md").read_text("utf-8")
    assert (
        "| GEMM, all samples, h200 | 3.60 | ± - (1) | - | 4.00 | 3.9 | 3.5 | 3.0 | **missed** |"
        in text
    )
    assert (
        "| GEMM, 300 samples, h200 | 3.60 | ± - (1) | - | 4.00 | 7.3 | 5.5 | 4.5 | stretch met |"
        in text
    )
    assert "| MoE MLP, all samples, h200 | - | - | - | - | - | 6.0 | 4.0 | not scored yet |" in text
    assert "run: 3." in text
    assert (tmp_path / "accuracy.png").stat().st_size > 10_000
    assert len(pd.read_parquet(tmp_path / "accuracy.parquet")) == len(scores)
