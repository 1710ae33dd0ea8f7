"""Products by size on thirteen cards: what others published, whole tiles, and what ships.

    python -m benchmarks.public_sizes [--write docs/cards.md]

``benchmarks/data/public_sizes.csv`` (sources beside it, in ``public_sizes.md``): products of random
matrices of bfloat16 and float16 by torch's library, warm, one after the other. Most are of cards
that accumulate in float32 at half the rate of their die, of which no table tells.

- **Rounds.** ``least``: what :func:`calib.fit.physics.limits.rounds.seconds_of_rounds` says at the
  rated boost clock over what was published: no product should be far above one, since cards run a
  few percent above that clock. ``spread``: of the clocks that 4096, 8192 and 10240 cubed in
  bfloat16 would need, the highest over the lowest less one, were they cut into tiles of 128 x 256,
  of 128 x 128, or run at one share of the peak: the true cut has the least.
- **Error.** Of what ships, for the cards that have a calibration, with whole tiles and without.

Nothing was learned from these; nor from those of the RTX 5090, which are judged in docs/rtx5090.md.
Ends with one line of JSON.
"""

from __future__ import annotations

import argparse
import csv
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from benchmarks.recorded.__main__ import write
from benchmarks.recorded.text import lines, percent
from calib.cards.shipped import load_card, shipped_cards
from calib.fit.physics.limits.rounds import seconds_of_rounds
from calib.hardware.datasheet import Hardware, floor, load_hardware
from model.ops import Matmul

PUBLISHED = Path(__file__).parent / "data" / "public_sizes.csv"
BEGIN, END = "<!-- python -m benchmarks.public_sizes -->", "<!-- end of public sizes -->"
OTHERS = {
    "rtx5080": (84, 2.617e9),
    "rtx5070ti": (70, 2.452e9),
    "rtx5070": (48, 2.512e9),
    "rtx4070ti": (60, 2.610e9),
    "rtx4060ti": (34, 2.535e9),
    "l20": (92, 2.520e9),
}
"""Cards without a file: multiprocessors and rated boost clock, by NVIDIA's product pages."""
HALF_RATE = 512
"""FLOP a cycle of a multiprocessor of theirs."""
LARGE = (4096, 8192, 10240)


@dataclass(frozen=True)
class Product:
    card: str
    op: Matmul
    seconds: float
    source: str


def published() -> list[Product]:
    found = []
    with PUBLISHED.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            op = Matmul(int(row["m"]), int(row["n"]), int(row["k"]), dtype=row["dtype"])
            value = float(row["value"])
            seconds = value * 1e-6 if row["unit"] == "us" else op.flops / (value * 1e12)
            found.append(Product(row["card"], op, seconds, row["source"]))
    return found


def hardware_of(card: str) -> Hardware:
    """Of a card without a file an RTX 4090's, but for what rounds read."""
    if card not in OTHERS:
        return load_hardware(card)
    sms, clock = OTHERS[card]
    peaks = dict.fromkeys(("bfloat16", "float16"), HALF_RATE * sms * clock)
    like = load_hardware("rtx4090")
    return replace(like, name=card, sm_count=sms, clock_hz=clock, peak_flops=peaks)


def is_half(hardware: Hardware) -> bool:
    rate = hardware.peak_flops["bfloat16"] / hardware.sm_count / hardware.clock_hz
    return bool(np.isclose(rate, HALF_RATE, rtol=0.05))


def spread(products: Sequence[Product], sms: int, tile: tuple[int, int] | None) -> float | None:
    """Highest over lowest clock, less one, of each source's large products; the median source's."""
    found = []
    for source in {p.source for p in products}:
        rates = []
        for p in products:
            side = p.op.m
            if p.source != source or p.op.dtype != "bfloat16" or side not in LARGE:
                continue
            area = side * side / sms
            if tile:
                tiles = np.ceil(side / tile[0]) * np.ceil(side / tile[1])
                area = np.ceil(tiles / sms) * tile[0] * tile[1]
            rates.append(area * side / p.seconds)
        if rates:
            found.append(max(rates) / min(rates) - 1)
    return float(median(found)) if found else None


def of_card(card: str, products: Sequence[Product]) -> dict[str, Any]:
    hardware = hardware_of(card)
    least = [float(seconds_of_rounds(p.op, hardware)[0]) / p.seconds for p in products]
    row: dict[str, Any] = {
        "card": card,
        "products": len(products),
        "half_rate": is_half(hardware),
        "least": max(least),
        "spread": {
            name: spread(products, hardware.sm_count, tile)
            for name, tile in (("128x256", (128, 256)), ("128x128", (128, 128)), ("share", None))
        },
    }
    if card not in shipped_cards():
        return row
    known = load_card(hardware)
    assert known is not None
    ops, seconds = [p.op for p in products], np.array([p.seconds for p in products])
    for name, one in (("error", known), ("without", replace(known, in_rounds=False))):
        table = one.estimate(ops, "torch", [True] * len(ops))
        off = table["estimate_s"].to_numpy() / seconds - 1
        row[name] = {"median": float(np.median(abs(off))), "bias": float(np.median(off))}
        if name == "error":
            inside = (table["low_s"] <= seconds) & (seconds <= table["high_s"])
            row["inside"] = float(inside.mean())
    roofline = [float(floor(p.op, hardware)) / p.seconds - 1 for p in products]
    return row | {"roofline": float(np.median(np.abs(roofline)))}


def document(rows: Sequence[dict[str, Any]]) -> str:
    cells = []
    for row in rows:
        tiles = [row["spread"][n] for n in ("128x256", "128x128", "share")]
        ships = ["", "", "", ""]
        if "error" in row:
            error, bare = row["error"], row["without"]
            ships = [
                f"{percent(error['median'], False)} ({percent(error['bias'])})",
                percent(bare["median"], False),
                f"{row['inside']:.0%}",
                percent(row["roofline"], False),
            ]
        cells.append(
            [
                row["card"] + (", half" if row["half_rate"] else ""),
                str(row["products"]),
                f"{row['least']:.2f}",
                " / ".join(percent(t, False) for t in tiles),
                *ships,
            ]
        )
    head = ["card", "products", "least", "spread", "error (bias)", "without", "inside", "roofline"]
    return lines(head, cells)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--write", type=Path, help="the document whose table is renewed")
    arguments = parser.parse_args()
    products = published()
    names = dict.fromkeys(p.card for p in products)
    rows = [of_card(name, [p for p in products if p.card == name]) for name in names]
    if arguments.write:
        write(arguments.write, f"\n```text\n{document(rows)}\n```\n", (BEGIN, END))
    print(json.dumps({"sizes": rows}))


if __name__ == "__main__":
    main()
