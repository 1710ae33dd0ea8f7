"""Disaggregated runs: which are asked for, and that a step is the whole model's."""

from __future__ import annotations

import zlib
from pathlib import Path

import pandas as pd

from benchmarks.serving.disagg import DENSE, SPARSE, runs, step, traced
from benchmarks.serving.runs import FINAL, SPLITS
from calib.estimates.stack.formats import Formats
from model.ops import LatentAttention, MoeMlp
from model.parallel import Layout

ROW = {
    **{"silicon_data_source": "source_file=2026-1; silicon_concurrency=8", "backend": "trtllm"},
    **{"model_path": "deepseek-ai/DeepSeek-R1", "system": "h200_sxm", "precision": "fp8"},
    **{"mode": "disagg", "isl": 1024, "osl": 1024, "gemm_quant_mode": "fp8"},
    **{"moe_quant_mode": "fp8", "decode_tp_size": 8, "decode_attention_dp_size": 1},
    **{"decode_moe_tp_size": 8, "decode_moe_ep_size": 1, "decode_num_workers": 1},
    **{"decode_batch_size": 4, "silicon_tpot_ms": 10.0},
}
ODD = (
    {},
    {"decode_num_workers": None},
    {"model_path": "openai/gpt-oss-120b"},
    {"system": "gb200"},
    {"decode_moe_ep_size": 4},
    {"mode": "agg"},
)


def test_only_development_runs_that_say_their_workers_are_judged(tmp_path: Path) -> None:
    rows = [ROW | odd | {"id": f"r{i}-{j}"} for i, odd in enumerate(ODD) for j in range(9)]
    path = tmp_path / "runs.csv"
    pd.DataFrame(rows).to_csv(path, index=False)
    found = runs(path)
    assert FINAL not in {zlib.crc32(name.encode()) % SPLITS for name in found["id"]}
    why = {name[:2]: said for name, said in zip(found["id"], found["said"], strict=True)}
    assert why.pop("r0") == ""
    assert set(why) == {"r1", "r2", "r3", "r4"}
    assert all(why.values())
    assert set(found["products"]) == {"fp8_block"}


def test_a_step_has_all_layers_of_the_model() -> None:
    kernels = step(traced(), Layout(tp=8), 4, 1500, Formats("fp8_block", "fp8_block", "fp8"))
    attention = [k for k in kernels if isinstance(k.op, LatentAttention)]
    assert sum(k.count for k in attention) == DENSE + SPARSE
    assert {(k.op.batch, k.op.kv_len, k.op.heads) for k in attention} == {(4, 1500, 16)}
    assert sum(k.count for k in kernels if isinstance(k.op, MoeMlp)) == SPARSE
