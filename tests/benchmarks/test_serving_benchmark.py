"""Serving runs: what is kept apart, what is fitted, what an interval holds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from benchmarks.serving import overheads, score
from benchmarks.serving.intervals import factors, with_intervals
from benchmarks.serving.runs import FINAL, GAP, INFERENCEMAX, contradictions, runs

COLUMNS = (
    "id,silicon_data_source,backend,backend_version,model_path,system,precision,mode,isl,osl,"
    "gemm_quant_mode,moe_quant_mode,batch_size,tp_size,pp_size,attention_dp_size,moe_tp_size,"
    "moe_ep_size,silicon_ttft_ms,silicon_tpot_ms"
)


def file_of(folder: Path, count: int = 60) -> Path:
    lines = [COLUMNS]
    for i in range(count):
        source = "db-dump/2026; silicon_concurrency=8" if i % 2 else "source_file=/a.csv"
        layout = "2,1,1,2,1" if i % 3 else "2,,,4,1"
        lines.append(
            f"r{i},{source},vllm,1,Qwen/Qwen3-235B-A22B-FP8,h200_sxm,fp8,agg,1024,1024,fp8,fp8,"
            f"8,{layout},100.0,{10 + i}.0"
        )
    path = folder / "runs.csv"
    path.write_text("\n".join(lines), "utf-8")
    return path


def test_the_final_split_is_apart(tmp_path: Path) -> None:
    path = file_of(tmp_path)
    final, others = runs(True, path), runs(False, path)
    assert set(final["split"]) == {FINAL}
    assert FINAL not in set(others["split"])
    assert len(final) + len(others) == 60


def test_what_cannot_be_said_says_why(tmp_path: Path) -> None:
    rows = runs(False, file_of(tmp_path))
    assert set(rows.loc[rows["harness"] == GAP, "said"]) == {
        "how many requests ran at a time is not stated"
    }
    stated = rows[rows["harness"] == INFERENCEMAX]
    assert (stated["said"] == "").equals(stated["moe_tp"] == 2)
    assert set(rows["products"]) == {"fp8_block"}  # as the checkpoint is, whatever the row says


def test_rows_that_contradict_each_other(tmp_path: Path) -> None:
    found = contradictions(runs(False, file_of(tmp_path)))
    assert len(found)
    assert (found["max"] > 1.15 * found["min"]).all()


def made(count: int = 60, seed: int = 0) -> pd.DataFrame:
    """Runs of one engine whose host is slow and whose kernels are 0.9 of the tables'."""
    draw = np.random.default_rng(seed)
    running = draw.integers(1, 200, count)
    rows = pd.DataFrame(
        {
            **{"engine": "vllm", "card": "h100", "harness": INFERENCEMAX, "split": 1},
            "concurrency": running.astype(float),
            "running": running.astype(float),
            **{"dp": 1, "pieces": 1.0, "prompts": 4.0, "places": 1e6, "hold": 0.0, "waves": 10.0},
            "mean_isl": draw.choice([900.0, 7000.0], count),
            "mean_osl": draw.choice([900.0, 7000.0], count),
            "decode_s": 0.004 + 5e-5 * running,
            "half_s": 0.004 + 2.5e-5 * running,
            **{"decode_comm": 0.0, "half_comm": 0.0, "decode_launches": 400.0},
            **{"prompt_s": 0.05, "prompt_launches": 400.0},
            **{"decode_spread": 0.1, "prompt_spread": 0.1},
        }
    )
    told = {n: v.first for n, v in overheads.numbers([INFERENCEMAX]).items()}
    told |= {"kernels": np.log(0.9), "request": np.log(6e-5)}
    found = overheads.served(rows, told)
    noise = np.exp(draw.normal(0, 0.05, (2, count)))
    return rows.assign(tpot_s=found.tpot * noise[0], ttft_s=found.ttft * noise[1])


def test_a_fit_finds_what_the_engine_costs() -> None:
    rows = made(200)
    told = overheads.fit(rows)
    shown = overheads.shown(told)
    assert shown["request"] == pytest.approx(6e-5, rel=0.25)
    error = overheads.served(rows, told).tpot / rows["tpot_s"] - 1
    assert float(error.abs().median()) < 0.05


def test_intervals_hold_nine_of_ten() -> None:
    known, asked = made(200), made(200, seed=1)
    told = overheads.fit(known)
    known, asked = (
        rows.assign(tpot=found.tpot, ttft=found.ttft)
        for rows, found in ((r, overheads.served(r, told)) for r in (known, asked))
    )
    judged = with_intervals(asked, factors(known))
    assert 0.8 <= score.coverage(judged)["covered"] <= 0.98


def test_a_server_of_no_campaign_takes_the_misfits_of_all() -> None:
    """Two campaigns of which one errs more: apart each has its own width, together they share."""
    rows = made(200).assign(tpot=lambda table: table["tpot_s"])
    odd = np.arange(len(rows)) % 2 == 1
    rows["harness"] = np.where(odd, GAP, INFERENCEMAX)
    draw = np.random.default_rng(3)
    rows["tpot"] *= np.exp(draw.normal(0, 1, len(rows)) * np.where(odd, 0.3, 0.05))
    own, shared = factors(rows), factors(rows, of_campaigns=False)
    assert own.keys() == shared.keys()
    assert len(set(shared.values())) == 1
    assert min(f for _, f in own.values()) <= next(iter(shared.values()))[1]
    assert next(iter(shared.values()))[1] <= max(f for _, f in own.values())
    held = score.coverage(with_intervals(rows, shared))["covered"]
    assert held == pytest.approx(0.9, abs=0.02)
    assert score.widths(with_intervals(rows, shared)).count("\n") == 2
