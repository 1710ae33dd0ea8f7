"""What a launch of an eager decode step costs, by what others published: the range of
``conf/host_costs.yaml``.

    python -m benchmarks.eager_steps

Each row of ``benchmarks/data/eager_steps.csv`` is a model that ``transformers`` generates with at
batch 1, so small that the host is what it waits for. Seconds a token over launches a token is
the mean cost of about a thousand operators. Launches are those of a trace here; ``transformers`` of
the published runs may differ by a few.
"""

from __future__ import annotations

import csv
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

PUBLISHED = Path(__file__).parent / "data" / "eager_steps.csv"
SHARED = {"vocab_size": 151936, "tie_word_embeddings": True, "dtype": "bfloat16"}
CONFIGURATIONS: dict[str, dict[str, Any]] = {
    "qwen2_5_0_5b": {
        "model_type": "qwen2",
        "hidden_size": 896,
        "num_hidden_layers": 24,
        "num_attention_heads": 14,
        "num_key_value_heads": 2,
        "intermediate_size": 4864,
    },
    "qwen2_5_1_5b": {
        "model_type": "qwen2",
        "hidden_size": 1536,
        "num_hidden_layers": 28,
        "num_attention_heads": 12,
        "num_key_value_heads": 2,
        "intermediate_size": 8960,
    },
    "qwen3_0_6b": {
        "model_type": "qwen3",
        "hidden_size": 1024,
        "num_hidden_layers": 28,
        "num_attention_heads": 16,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "intermediate_size": 3072,
    },
}
"""Published dimensions."""
OCR = "deepseek_ocr"
"""Ours, written out as operators; its rows are of our own record."""


def published() -> Iterator[tuple[dict[str, str], float]]:
    """Every row, and its seconds a launch."""
    for row in csv.DictReader(PUBLISHED.open(encoding="utf-8")):
        yield row, 1 / float(row["tokens_per_second"]) / int(row["launches"])


def traced_launches(name: str) -> int:
    """Launches of a decode step of one of ``CONFIGURATIONS``, or of ``OCR``."""
    from calib.trace.hf import load
    from model.deepseek_ocr import DeepseekOCRModel
    from model.workload import Workload

    if name == OCR:
        return sum(c.launches * c.count for c in DeepseekOCRModel().decode_step(context=292))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "config.json"
        path.write_text(json.dumps({**CONFIGURATIONS[name], **SHARED}), "utf-8")
        phases = load(str(path), None).phases(Workload("text", prompt_tokens=5, decode_steps=32))
    return sum(call.launches * call.count for call in phases["decode"].layer.calls())


def main() -> None:
    traced = {name: traced_launches(name) for name in (*CONFIGURATIONS, OCR)}
    print("| model | card | launches | ms a token | microseconds a launch | source |")
    print("|---|---|---:|---:|---:|---|")
    for row, seconds in published():
        name = row["model"]
        if traced[name] != int(row["launches"]):
            raise SystemExit(
                f"{name}: {traced[name]} launches traced, {row['launches']} in the data"
            )
        print(
            f"| {name} | {row['card']} | {traced[name]:,} | "
            f"{1e3 / float(row['tokens_per_second']):.2f} | {seconds * 1e6:.2f} | {row['source']} |"
        )


if __name__ == "__main__":
    main()
