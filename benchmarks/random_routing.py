"""How many experts a model of random weights touches: ``python -m benchmarks.random_routing``.

A recorded model has random weights (``benchmarks.card.models``), and those route as no trained
model does: token states grow alike from layer to layer, so most tokens go to the same few experts.
Uniform routing, which is what an estimate expects of a trained model, is then wrong by the experts
that nobody asks for. Counted here on the CPU, with the record's own weights' distribution, over the
first layers; deeper ones touch as few as the last that was counted, or fewer.

    python -m benchmarks.random_routing --layers 8 --write

A few minutes and 15 GB of memory; ``data/random_routing.json`` holds what it found.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from benchmarks.traced_models import shortened, with_values
from calib.checkout import ROOT
from model.workload import Workload

KEPT = ROOT / "benchmarks" / "data" / "random_routing.json"
PLAN: Mapping[str, tuple[Workload, int]] = {
    "qwen3_30b_a3b": (Workload("text", prompt_tokens=512, decode_steps=1, logits="last"), 8),
}
"""Models of experts in a record: what was asked of it, and how many experts a token takes."""


def counted(name: str, layers: int) -> list[dict[str, int]]:
    """A row a layer of the prefill: ``rows`` (tokens times experts of a token), ``touched``
    experts, and the rows of the ``busiest``."""
    import torch

    from calib.trace.hf import load
    from calib.trace.passes import passes_of

    workload, top_k = PLAN[name]
    found: list[dict[str, int]] = []

    def watch(module: Any, given: Any, logits: Any) -> None:
        scores = logits[0] if isinstance(logits, tuple) else logits
        scores = scores.reshape(-1, scores.shape[-1]).float()
        rows = torch.bincount(scores.topk(top_k).indices.flatten(), minlength=scores.shape[-1])
        found.append(
            {
                "rows": int(rows.sum()),
                "touched": int((rows > 0).sum()),
                "busiest": int(rows.max()),
            }
        )

    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        path = shortened(name, {"num_hidden_layers": layers}, Path(folder))
        module = with_values(load(path, "bfloat16").build(), "cpu")
        for place, part in module.named_modules():
            if place.endswith("mlp.gate"):
                part.register_forward_hook(watch)
        next(iter(passes_of(module, "bfloat16", workload))).run()
    return found


@cache
def known() -> dict[str, list[dict[str, int]]]:
    """Model -> its layers, as counted."""
    found: dict[str, list[dict[str, int]]] = json.loads(KEPT.read_text("utf-8"))["models"]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.random_routing")
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--write", action="store_true")
    asked = parser.parse_args()
    models = {name: counted(name, asked.layers) for name in PLAN}
    command = f"python -m benchmarks.random_routing --layers {asked.layers} --write"
    text = json.dumps({"command": command, "models": models}, indent=1) + "\n"
    print(text, end="")
    if asked.write:
        KEPT.write_text(text, "utf-8")


if __name__ == "__main__":
    main()
