"""How much of nine models' work a trace gives a kind: ``python -m benchmarks.trace_coverage``.

Prints the share of FLOPs and bytes in named kinds, and with ``--write`` puts the table into
``docs/trace.md`` between its marks. Nothing is timed and no memory is taken.
"""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path
from typing import Any

from calib.checkout import ROOT
from calib.trace.hf import load
from calib.trace.module import unknown
from model.workload import Workload

CONFIGS = ROOT / "tests" / "data" / "hf"
PAGE = ROOT / "docs" / "trace.md"
BEGIN, END = "<!-- coverage -->", "<!-- end of coverage -->"
TEXT = Workload("text_512", prompt_tokens=512, decode_steps=128)
IMAGE = Workload("image_224", side=224, prompt_tokens=0, decode_steps=1)
LARGE = Workload("image_1024", side=1024, prompt_tokens=0, decode_steps=1)
PAGE_1024 = Workload("ocr_base", side=1024, prompt_tokens=10, decode_steps=16)
SPEECH = Workload("speech_30s", prompt_tokens=4, decode_steps=128)
MODELS = {
    "llama_3_1_8b": TEXT,
    "qwen3_30b_a3b": TEXT,
    "mixtral_8x7b": TEXT,
    "gemma_3_12b": TEXT,
    "deepseek_ocr_2": PAGE_1024,
    "vit_l": IMAGE,
    "sam_vit_b": LARGE,
    "whisper_large_v3": SPEECH,
    "resnet_50": IMAGE,
}
"""Each with the workload that it is traced at."""


def coverage(name: str) -> dict[str, Any]:
    """FLOPs and bytes of all phases, the shares of them in named kinds, and the largest rest."""
    model = load(CONFIGS / name)
    total: Counter[str] = Counter()
    rest: Counter[str] = Counter()
    nobody: set[str] = set()
    for passed in model.phases(MODELS[name]).values():
        calls = passed.layer.calls()
        nobody |= set(unknown(calls))
        for call in calls:
            op, times = call.op, call.count * passed.repeat
            named = op.operator != "other"
            total["calls"] += times
            for figure in ("flops", "bytes"):
                amount = float(getattr(op, figure)) * times
                total[figure] += amount
                total[f"named {figure}"] += amount if named else 0
            if not named:
                rest[op.name] += float(op.bytes) * times
    return {
        "model": name,
        "workload": MODELS[name].name,
        "calls": total["calls"],
        "flops": total["flops"],
        "bytes": total["bytes"],
        "named_flops": total["named flops"] / total["flops"],
        "named_bytes": total["named bytes"] / total["bytes"],
        "rest": ", ".join(n for n, _ in rest.most_common(3)) or "-",
        "unknown": ", ".join(sorted(nobody)) or "-",
    }


def table(rows: list[dict[str, Any]]) -> str:
    lines = [
        "| model | workload | calls | TFLOP | GB | FLOPs named | bytes named | rest | unknown |",
        "|---|---|---:|---:|---:|---:|---:|---|---|",
    ]
    lines += [
        f"| {r['model']} | {r['workload']} | {r['calls']:,} | {r['flops'] / 1e12:.4g} "
        f"| {r['bytes'] / 1e9:.4g} | {r['named_flops']:.4%} | {r['named_bytes']:.3%} "
        f"| {r['rest']} | {r['unknown']} |"
        for r in rows
    ]
    return "\n".join(lines) + "\n"


def write(text: str, page: Path = PAGE) -> None:
    before, _, rest = page.read_text("utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    page.write_text(f"{before}{BEGIN}\n{text}{END}{after}", "utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="put the table into docs/trace.md")
    parser.add_argument("models", nargs="*", default=list(MODELS))
    asked = parser.parse_args()
    text = table([coverage(name) for name in asked.models])
    print(text, end="")
    if asked.write:
        write(text)


if __name__ == "__main__":
    main()
