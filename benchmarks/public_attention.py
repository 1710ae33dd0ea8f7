"""Attention on six cards: what ships for torch beside what others timed of the same kernels.

    python -m benchmarks.public_attention [--write docs/cards.md]

``benchmarks/data/public_attention.csv``, only where torch takes that kernel
(``calib.hardware.attention_backend``), warm, since tensors were the same in each repeat:

- cuDNN 9.27 on an H200 and a B200 as NVIDIA published it (github.com/NVIDIA/cudnn-frontend, MIT,
  benchmark/attention_inference/results, prefill_sweep and decode_sweep of September 2026; heads of
  a Llama of 70B and its shards, and of a Qwen of wide heads). What ships for the H200 has learned
  from heads of 256, from 64 and 16 heads and from single queries of 64 (``judged`` 0 in the file);
- FlashAttention 2 on an A100 of 300 W as NVIDIA published it (the same, benchmark/
  attention_training/results, llama3.1, auto_regressive_dit, wan22, ltx2 and qwen35 of 2026-09-28).
  Learned from: a Llama's 64 heads over 8, and 9 heads over long caches;
- the same on an A100 of 400 W (github.com/liangan1/GPU_travel, performance/flash-attn; one row of
  torch 2.3.1 of github.com/microsoft/onnxruntime, pull request 21449), an RTX 4090
  (github.com/apache/tvm, tl_doc/flash_perf.md of the TileLang branch: the flash-attn of 2023,
  float16, rates; batch and heads are those of the script beside it) and an RTX 5090 held to 400 W
  (github.com/gau-nernst/learn-cuda, 07_attention). Nothing was learned from these.

Judged by are the others, whole groups of heads. Ends with one line of JSON.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from statistics import mean, median
from typing import Any

from benchmarks.recorded.__main__ import write
from benchmarks.recorded.text import lines, percent
from calib.cards.build.published import published_attention
from calib.cards.shipped import load_card
from calib.hardware.datasheet import load_hardware
from model.ops import Attention, AttentionBackward

CARDS = ("h200", "b200", "a100", "a100_pcie_80gb", "rtx4090", "rtx5090")
BEGIN, END = "<!-- python -m benchmarks.public_attention -->", "<!-- end of public attention -->"


def judged(card: str) -> list[tuple[Attention, float]]:
    """Operators, each with its seconds."""
    found = published_attention(card, judged=True)
    return [(s.op, s.seconds[0]) for s in found if isinstance(s.op, Attention)]


def group(op: Attention) -> str:
    if op.q_len == 1:
        return "one query"
    kind = "causal" if op.causal else "no mask"
    last = ", the last of a cache" if op.causal and op.q_len < op.kv_len else ""
    wide = ", heads of 256" if op.head_dim > 128 else ""
    if isinstance(op, AttentionBackward):
        return f"backward{wide}"
    return f"{kind}{last}{wide}"


def compared() -> list[dict[str, Any]]:
    """A row a published time: card, group, shape, seconds, estimates; errors of the time."""
    rows = []
    for name in CARDS:
        timed, card = judged(name), load_card(load_hardware(name))
        assert card is not None
        ops = [op for op, _ in timed]
        table = card.estimate(ops, "torch", [True] * len(ops))
        engine = card.estimate(ops, "vllm", [True] * len(ops))["estimate_s"]
        for i, (op, seconds) in enumerate(timed):
            told, low, high, floor = (
                float(table[n].iloc[i]) for n in ("estimate_s", "low_s", "high_s", "floor_s")
            )
            rows.append(
                {"card": name, "group": group(op), "shape": str(op), "seconds": seconds}
                | {"estimate_s": told, "error": told / seconds - 1, "bare": floor / seconds - 1}
                | {"engine": float(engine.iloc[i]) / seconds - 1, "inside": low <= seconds <= high}
            )
    return rows


def described(rows: Sequence[dict[str, Any]]) -> str:
    headers = ["attention as others timed it", "n", "median |error|", "worst", "bias"]
    headers += ["inside", "tables", "roofline"]
    groups: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    for r in rows:
        groups[r["card"], r["group"]].append(r)
    shown = []
    for (card, kind), some in groups.items():
        errors = [r["error"] for r in some]
        shown.append(
            [f"{card}, {kind}", str(len(some)), percent(median(map(abs, errors)), sign=False)]
            + [percent(max(errors, key=abs)), percent(mean(errors))]
            + [percent(mean(r["inside"] for r in some), sign=False)]
            + [percent(median(abs(r["engine"]) for r in some), sign=False)]
            + [percent(median(abs(r["bare"]) for r in some), sign=False)]
        )
    return lines(headers, shown)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.public_attention")
    parser.add_argument("--write", type=Path, help="a page to put the table into")
    asked = parser.parse_args()
    rows = compared()
    shown = described(rows)
    print(shown)
    if asked.write:
        write(asked.write, f"\n```text\n{shown}\n```\n", (BEGIN, END))
    print(json.dumps({"attention": rows}, default=bool))


if __name__ == "__main__":
    main()
