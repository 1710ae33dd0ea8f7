"""Latent attention by an engine's kernels, beside whole blocks of it that others timed.

    python -m benchmarks.latent

The fits know single kernels: products, attention over a latent, products by head. The same package
holds runs of the whole block of DeepSeek-V3 (all products, norms and attention) under TensorRT-LLM
and vLLM, which nothing was fitted to. A line an engine, card, phase and format of the products:
runs, the median and mean error of the sum of a block's kernels, its bias, and how far the two
engines with kernels of their own are apart on the same shapes (90th percentile in log). ``beside``:
the median of what a block takes longer than its kernels, of those of up to 200 us; ``large``: the
median error of those of a millisecond and more.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from calib.cards.engines.card import load_engine_card
from calib.estimates.stack.formats import QUANTISED, Formats
from calib.estimates.stack.lower import lowered
from calib.samples.engines.reading import engine_samples
from calib.samples.public import engine_version, package_data
from calib.samples.public_tables import CARDS
from model.layer import Call
from model.ops import Attention, Elementwise, Matmul, Norm

HELD = ("h100", "h200", "b200")
ENGINES = ("trtllm", "vllm")
PHASES = {"prompt": "context", "step": "generation"}
MOST = 400
"""Runs of an engine, card and phase that are asked for, at random."""
HIDDEN, QUERY_RANK, RANK, KEYS, ROTARY, VALUES = 7168, 1536, 512, 128, 64, 128


def main() -> None:
    rows = [row for c in HELD for e in ENGINES for p in PHASES for row in judged(c, e, p)]
    table = pd.DataFrame(rows)
    print(table.round(3).to_string(index=False), "\n")
    for card in HELD:
        print(f"{card}: SGLang and TensorRT-LLM apart by", apart(card))
    print(json.dumps({"blocks": rows}))


def judged(card: str, engine: str, phase: str) -> list[dict[str, Any]]:
    """A row a format of the products."""
    runs = runs_of(card, engine, phase)
    seconds, told = runs["latency"].to_numpy() * 1e-3, estimated(runs, card, engine, phase)
    errors, found = told / seconds - 1, []
    for gemm, some in runs.groupby("gemm_type"):
        at = runs.index.get_indexer(some.index)
        own, small, large = errors[at], seconds[at] <= 200e-6, seconds[at] >= 1e-3
        named = {"card": card, "engine": engine, "phase": phase, "products": gemm}
        found.append(
            named
            | {"runs": len(own), "median": float(np.median(np.abs(own)))}
            | {"mean": float(np.mean(np.abs(own))), "bias": float(np.median(own))}
            | {"beside_us": 1e6 * float(np.median((seconds - told)[at][small]))}
            | {"large": float(np.median(np.abs(own[large])))}
        )
    return found


def runs_of(card: str, engine: str, phase: str) -> pd.DataFrame:
    folder = package_data() / CARDS[card] / "mla" / engine / engine_version(card, engine)
    rows = pd.read_parquet(folder / f"mla_{PHASES[phase]}_module_perf.parquet")
    known = rows[rows["gemm_type"].isin(("bfloat16", "fp8_block"))]
    same = [*(c for c in known if c not in {"latency", "kernel_source"})]
    best = known.sort_values("latency").drop_duplicates(same).sort_index()
    some = np.random.default_rng(0).permutation(len(best))[:MOST]
    return best.iloc[np.sort(some)]


def estimated(runs: pd.DataFrame, card: str, engine: str, phase: str) -> np.ndarray:
    """[runs] seconds of the kernels of a block, one after the other."""
    known, seconds = load_engine_card(card, engine), []
    for run in runs.itertuples():
        gemm, cache = str(run.gemm_type), str(run.kv_cache_dtype)
        formats = Formats(gemm, gemm, cache, quantised=QUANTISED.get((engine, gemm), ""))
        queries, seen = (run.isl, run.isl) if phase == "prompt" else (1, run.step + 1)
        sizes = (int(v) for v in (run.batch_size, queries, seen, run.num_heads))  # type: ignore[arg-type]
        kernels = lowered(block(*sizes), formats)
        seconds.append(sum(float(known.estimates([k.op], k.name).seconds[0]) for k in kernels))
    return np.array(seconds)


def block(batch: int, queries: int, seen: int, heads: int) -> list[Call]:
    """The layer's attention as torch runs it, without the norm before it."""
    tokens, at = batch * queries, "model.layers.0.self_attn"
    wide = KEYS + ROTARY
    attention = Attention(batch, queries, seen, heads, heads, wide, causal=True, v_head_dim=VALUES)
    ops: Sequence[tuple[str, Any]] = [
        (".q_a_proj", Matmul(tokens, QUERY_RANK, HIDDEN)),
        (".q_a_layernorm", Norm(tokens, QUERY_RANK)),
        (".q_b_proj", Matmul(tokens, heads * wide, QUERY_RANK)),
        (".kv_a_proj_with_mqa", Matmul(tokens, RANK + ROTARY, HIDDEN)),
        (".kv_a_layernorm", Norm(tokens, RANK)),
        ("", Elementwise(tokens * heads * ROTARY)),
        (".kv_b_proj", Matmul(batch * seen, heads * (KEYS + VALUES), RANK)),
        ("", attention),
        (".o_proj", Matmul(tokens, HIDDEN, heads * VALUES)),
    ]
    return [Call(f"{at}{path}", op) for path, op in ops]


def apart(card: str) -> dict[str, float]:
    """By kind: 90th percentile of how far two engines are apart on the same shapes, in log."""
    tables = ["context_mla", "generation_mla", "mla_bmm"]
    one, other = (
        {
            (s.implementation.partition("/")[2], s.op): s.median
            for s in engine_samples(card, e, tables=tables)
        }
        for e in ("sglang", "trtllm")
    )
    found: dict[str, list[float]] = {}
    for key in one.keys() & other.keys():
        found.setdefault(key[1].operator, []).append(abs(np.log(one[key] / other[key])))
    return {kind: round(float(np.quantile(v, 0.9)), 2) for kind, v in sorted(found.items())}


if __name__ == "__main__":
    main()
