"""Large products on thirteen cards: what ships beside what strangers published.

    python -m benchmarks.public_products [--write docs/cards.md]

``benchmarks/data/public_products.csv``: the most that ``torch.mm`` reached of random square
matrices of 1024, 2048, 4096, 8192 and 10240, thirty in a row, by card and dtype, as users sent it
in (github.com/zzc0721/torch-performance-test-data, database.md of commit 0785868). The estimate is
the most that the same five products reach, warm; its error is that of the time. *Told*: the figure
itself stands in ``conf/hw``; of float32 ``blind`` is the estimate without it, by what was published
of other cards.

``benchmarks/data/public_shapes.csv``: the fastest shapes that a finder met among many, on cards of
the tables: by ml-engineering (github.com/stas00/ml-engineering, compute/accelerator/README.md),
and by someone's eight H100 of one node (a page of results of the same finder). What is fastest of
many was lucky, besides: an estimate that is right on the whole says a little less of these.

Ends with one line of JSON.
"""

from __future__ import annotations

import argparse
import csv
import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import mean, median
from typing import Any

from benchmarks.recorded.__main__ import write
from benchmarks.recorded.text import lines, percent
from calib.cards.shipped import load_card
from calib.fit.calibration import ROOFLINE
from calib.hardware.datasheet import Hardware, floor, load_hardware
from model.ops import Matmul

PUBLISHED = Path(__file__).parent / "data" / "public_products.csv"
SHAPES = PUBLISHED.with_name("public_shapes.csv")
SIDES = (1024, 2048, 4096, 8192, 10240)
BEGIN, END = "<!-- python -m benchmarks.public_products -->", "<!-- end of public products -->"


def published(path: Path = PUBLISHED) -> dict[tuple[str, str], list[float]]:
    """(card, dtype) -> FLOP/s, one a report."""
    found: dict[tuple[str, str], list[float]] = defaultdict(list)
    with path.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            found[row["card"], row["dtype"]].append(float(row["tflops"]) * 1e12)
    return dict(found)


def most(hardware: Hardware, dtype: str) -> dict[str, Any]:
    """FLOP/s of the fastest of the products and the ends of its interval, and what told it."""
    ops = [Matmul(n, n, n, dtype=dtype) for n in SIDES]
    card = load_card(hardware)
    assert card is not None
    table = card.estimate(ops, "torch", [True] * len(ops))
    rates = [float(op.flops) / s for op, s in zip(ops, table["estimate_s"], strict=True)]
    best = max(range(len(ops)), key=rates.__getitem__)
    ends = (float(ops[best].flops) / float(table[end].iloc[best]) for end in ("high_s", "low_s"))
    low, high = ends
    bare = max(float(op.flops) / float(floor(op, hardware)) for op in ops)
    known = str(table["provenance"].iloc[best])
    return {"rate": rates[best], "low": low, "high": high, "known_as": known, "roofline": bare}


def compared() -> list[dict[str, Any]]:
    """A row a card and dtype; rates in FLOP/s, errors of the time."""
    return [row(name, dtype, rates) for (name, dtype), rates in published().items()]


def row(card: str, dtype: str, rates: Sequence[float]) -> dict[str, Any]:
    hardware, middle = load_hardware(card), median(rates)
    found = most(hardware, dtype)
    told, blind = f"products.{dtype}" in hardware.measured, None
    if told and dtype == "float32":  # the others' stands in what was fitted
        rest = {k: v for k, v in hardware.measured.items() if k != "products.float32"}
        blind = middle / most(replace(hardware, measured=rest), dtype)["rate"] - 1
    return {
        "card": card,
        "dtype": dtype,
        "reports": len(rates),
        "published": middle,
        **found,
        "told": told,
        "error": middle / found["rate"] - 1,
        "blind": blind,
        "bare": middle / found["roofline"] - 1,
        "inside": all(found["low"] <= rate <= found["high"] for rate in rates),
    }


def described(rows: list[dict[str, Any]]) -> str:
    headers = ["products of 1024 to 10240 cubed", "reports", "published", "roofline"]
    headers += ["estimate", "90% interval", "error", "blind"]
    shown = []
    for r in rows:
        bare = r["known_as"] == ROOFLINE
        interval = "-" if bare else f"{r['low'] / 1e12:.4g}-{r['high'] / 1e12:.4g}"
        shown.append(
            [f"{r['card']} {r['dtype']}", str(r["reports"]), f"{r['published'] / 1e12:.4g}"]
            + [f"{r['roofline'] / 1e12:.4g}", "-" if bare else f"{r['rate'] / 1e12:.4g}", interval]
            + ["-" if bare else percent(r["error"]) + " told" * r["told"], percent(r["blind"])]
        )
    known = [r for r in rows if r["known_as"] != ROOFLINE]
    parts = [lines(headers, shown)]
    for dtype in ("bfloat16", "float16", "float32"):
        some = [r for r in known if r["dtype"] == dtype]
        untold = [r for r in some if not r["told"] or r["blind"] is not None]
        errors = [r["error"] if r["blind"] is None else r["blind"] for r in untold]
        parts.append(
            f"{dtype}: mean |error| of {len(untold)} cards not told of themselves "
            f"{mean(map(abs, errors)):.1%}, by the roofline "
            f"{mean(abs(r['bare']) for r in untold):.1%}; "
            f"intervals hold {sum(r['inside'] for r in some)} of {len(some)}"
        )
    return "\n".join([parts[0], "", *parts[1:]])


def exact(path: Path = SHAPES) -> list[dict[str, Any]]:
    """A row a published shape; rates in FLOP/s, errors of the time."""
    found = []
    with path.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            m, n, k = (int(row[name]) for name in ("m", "n", "k"))
            hardware, op = load_hardware(row["card"]), Matmul(m, n, k, dtype=row["dtype"])
            card = load_card(hardware)
            assert card is not None
            told, flops = card.estimate([op], "torch", [True]).iloc[0], float(op.flops)
            rate, low, high = (flops / told[n] for n in ("estimate_s", "high_s", "low_s"))
            published, roofline = float(row["tflops"]) * 1e12, flops / float(floor(op, hardware))
            found.append(
                {"card": row["card"], "dtype": row["dtype"], "shape": f"{m} x {n} x {k}"}
                | {"published": published, "rate": rate, "low": low, "high": high}
                | {"roofline": roofline, "error": published / rate - 1}
                | {"bare": published / roofline - 1, "inside": bool(low <= published <= high)}
            )
    return found


def of_shapes(rows: list[dict[str, Any]]) -> str:
    headers = ["fastest shapes", "m x n x k", "published", "roofline", "estimate"]
    headers += ["90% interval", "error"]
    shown = [
        [f"{r['card']} {r['dtype']}", r["shape"], f"{r['published'] / 1e12:.4g}"]
        + [f"{r['roofline'] / 1e12:.4g}", f"{r['rate'] / 1e12:.4g}"]
        + [f"{r['low'] / 1e12:.4g}-{r['high'] / 1e12:.4g}", percent(r["error"])]
        for r in rows
    ]
    parts = []
    for dtype in dict.fromkeys(r["dtype"] for r in rows):
        some = [r for r in rows if r["dtype"] == dtype]
        parts.append(
            f"{dtype}: mean |error| of {len(some)} shapes {mean(abs(r['error']) for r in some):.1%}"
            f", by the roofline {mean(abs(r['bare']) for r in some):.1%}; "
            f"intervals hold {sum(r['inside'] for r in some)}"
        )
    return "\n".join([lines(headers, shown), "", *parts])


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.public_products")
    parser.add_argument("--write", type=Path, help="a page to put the table into")
    asked = parser.parse_args()
    rows, shapes = compared(), exact()
    shown = f"{described(rows)}\n\n{of_shapes(shapes)}"
    print(shown)
    if asked.write:
        write(asked.write, f"\n```text\n{shown}\n```\n", (BEGIN, END))
    print(json.dumps({"products": rows, "shapes": shapes}))


if __name__ == "__main__":
    main()
