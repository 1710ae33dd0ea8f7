"""Products by CUDA 12.9 as one engine timed them: what ships with and without ``cuda=12.9``.

    python -m benchmarks.older_products [--write docs/cards.md]
    python -m benchmarks.older_products --read FOLDER && python -m calib.cards.build products:b200

``benchmarks/data/older_products.parquet`` (``older_products.md`` beside it says what and whence).
From one half of the groups of n and k ships what a product takes longer; these are rows of the
other half. *late*: the median of what was published less the estimate. ``--read`` makes the file
again from the folder into which the wheel of the older tables was unpacked. The last line is one
JSON object.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.recorded.__main__ import write
from benchmarks.recorded.text import lines, percent
from calib.cards.build.older_products import TABLES, read_products
from calib.cards.older.shipped import load_torch
from calib.hardware.datasheet import Hardware, load_hardware
from calib.hardware.versions import PRODUCTS
from calib.samples.public import package_data
from model.ops import Matmul

BEGIN, END = "<!-- python -m benchmarks.older_products -->", "<!-- end of older products -->"
SMALL_S = 20e-6
"""Products are shown below and above it."""
SIZES = ["m", "n", "k"]
VERSIONS = {
    **dict.fromkeys(("b200", "gb200"), ("1.0.0rc6", "1.2.0rc5")),
    **dict.fromkeys(("h100", "h200"), ("1.0.0rc3", "1.2.0rc5")),
    "l40s": ("1.0.0", "1.3.0rc20"),
}
"""Of TensorRT-LLM, by either CUDA."""


def rows_of(table: pd.DataFrame) -> Iterator[dict[str, Any]]:
    """A row for a card's small products, its large ones, and all, of what nothing was learned."""
    for card, judged in table[~table["is_learned"]].groupby("card"):
        hardware, older = load_hardware(str(card)), judged["older"].to_numpy()
        grid = Matmul(*(judged[name].to_numpy(dtype=np.int64) for name in SIZES))
        said = {cuda: _told(grid, replace(hardware, cuda=cuda or None)) for cuda in ("", PRODUCTS)}
        small = older < SMALL_S
        for name, some in (
            (f"{card}, up to 20 us", small),
            (f"{card}, longer", ~small),
            (f"{card}", small | ~small),
        ):
            row: dict[str, Any] = {"rows": name, "n": int(some.sum())}
            for cuda, (seconds, low, high) in said.items():
                error = (seconds / older - 1)[some]
                row[cuda or "today"] = {
                    "median": float(np.median(np.abs(error))),
                    "bias": float(np.median(error)),
                    "late_s": float(np.median((older - seconds)[some])),
                    "held": float(np.mean(((low <= older) & (older <= high))[some])),
                }
            yield row


def _told(grid: Matmul, hardware: Hardware) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    estimator = load_torch(hardware)
    assert estimator is not None
    found = estimator.estimates(grid, "torch", True)
    return found.seconds, found.low, found.high


def report(rows: Sequence[dict[str, Any]]) -> str:
    head = [f"products by CUDA {PRODUCTS}", "n"]
    head += [*("as today", "bias", "late us", "held"), *(PRODUCTS, "bias", "late us", "held")]
    shown = [
        [row["rows"], str(row["n"])]
        + [cell for cuda in ("today", PRODUCTS) for cell in _cells(row[cuda])]
        for row in rows
    ]
    return lines(head, shown)


def _cells(of: dict[str, float]) -> list[str]:
    sizes = [percent(of["median"], sign=False), percent(of["bias"])]
    return [*sizes, f"{of['late_s'] * 1e6:.1f}", f"{of['held']:.0%}"]


def read_published(folder: Path) -> pd.DataFrame:
    """What the file holds, from tables by both versions."""
    found = []
    for card, (older, newer) in VERSIONS.items():
        place = folder / (card if card == "l40s" else f"{card}_sxm") / "trtllm"
        other = place if (place / newer).exists() else package_data() / card / "gemm" / "trtllm"
        pair = [_medians(place / older), _medians(other / newer)]
        both = pd.concat(pair, axis=1, keys=["older_us", "newer_us"]).dropna().reset_index()
        found.append(both.assign(card=card))
    table = pd.concat(found, ignore_index=True)[["card", *SIZES, "older_us", "newer_us"]]
    whole, real = dict.fromkeys(SIZES, "int32"), ("older_us", "newer_us")
    return table.astype({**whole, **dict.fromkeys(real, "float32"), "card": "category"})


def _medians(place: Path) -> pd.Series:
    """Microseconds of products of bfloat16, by shape."""
    text = place / "gemm_perf.txt"
    table = pd.read_csv(text) if text.exists() else pd.read_parquet(place / "gemm_perf.parquet")
    table = table[table["gemm_dtype"].isin(["float16", "bfloat16"])]
    return table.groupby(SIZES)["latency"].median() * 1e3


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--read", type=Path, help=f"a folder of tables; writes {TABLES.name}")
    parser.add_argument("--write", type=Path, help="a page to put the table into")
    asked = parser.parse_args()
    if asked.read:
        read_published(asked.read).to_parquet(TABLES, compression="zstd", index=False)
    rows = list(rows_of(read_products()))
    shown = report(rows)
    print(shown)
    if asked.write:
        write(asked.write, f"\n```text\n{shown}\n```\n", (BEGIN, END))
    print(json.dumps({"products": rows}))


if __name__ == "__main__":
    main()
