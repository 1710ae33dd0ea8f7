"""Products as XLA timed them on an H100 and a B200: what ships for torch beside them.

    python -m benchmarks.public_xla_products [--rows] [--write docs/cards.md]

``benchmarks/data/public_xla_products.csv``: the tables of products that OpenXLA ships, by the
profiler, one kernel at a time (``public_xla_products.md`` beside it says how, and what was left
out). Rows fall into four classes as in :mod:`benchmarks.unseen_cards`. *late* is the median of what
was published less the estimate: what every kernel of the source has alike is the same in all
classes. ``12.9``: as torch by that CUDA, a version like the source's. *alone*: and with what each
of the source's products takes besides, whose kernel starts on an idle card: one number a card, the
median of its bfloat16 rows, of each half of the groups of n and k by the other half.

What every row of the source has alike nearly cancels in ratios between two of its rows. They tell
of two rules of :mod:`calib.cards.tables.stand_ins`: a batched product is one of all rows, and a
product of another dtype is the bfloat16 product of as many bytes. One thing that ships was learned
from half of these groups: how far a Hopper's tf32 may lie above a linear layer's
(:data:`calib.cards.tables.times.OTHER_WAY`). Ends with one line of JSON.
"""

from __future__ import annotations

import argparse
import csv
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from benchmarks.recorded.__main__ import write
from benchmarks.recorded.text import lines, percent
from benchmarks.unseen_cards import CLASSES, classes
from calib.cards.asked import DEPTH_ONLY
from calib.cards.older.shipped import load_torch
from calib.cards.tables.figures import NARROW
from calib.hardware.datasheet import Hardware, floors, load_hardware
from calib.hardware.versions import PRODUCTS
from model.ops import Matmul, item_bytes

PUBLISHED = Path(__file__).parent / "data" / "public_xla_products.csv"
BEGIN, END = "<!-- python -m benchmarks.public_xla_products -->", "<!-- end of xla products -->"
NEWER, BEFORE = "0.12.0.1", "0.7.0"
"""jaxlib, in which each table shipped. The second is another run on an H100, months before."""
APART = 1.2
"""Of two runs further apart one is no kernel's time, but the median of a product's two kernels."""
NINE_TENTHS = 90
SIZES = ("m", "n", "k", "batch")


@dataclass(frozen=True)
class Timed:
    """``again``: seconds by the source's earlier run, where there is one."""

    card: str
    op: Matmul
    seconds: float
    again: float | None = None

    @property
    def is_steady(self) -> bool:
        """Not so: one of the two is of another kernel, or of two, whose times were mixed."""
        return self.again is None or max(self.again, self.seconds) < APART * min(
            self.again, self.seconds
        )


def published(path: Path = PUBLISHED) -> list[Timed]:
    runs: dict[str, dict[tuple[str, Matmul], float]] = {NEWER: {}, BEFORE: {}}
    with path.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            op = product(row["dtype"], **{name: int(row[name]) for name in SIZES})
            runs[row["source"]][row["card"], op] = float(op.flops) / float(row["flops_per_s"])
    return [Timed(c, op, s, runs[BEFORE].get((c, op))) for (c, op), s in runs[NEWER].items()]


def compared(timed: Sequence[Timed]) -> Iterator[dict[str, Any]]:
    """A row a published time; errors are those of the estimate."""
    for card in dict.fromkeys(t.card for t in timed):
        hardware, some = load_hardware(card), [t for t in timed if t.card == card]
        ops, seconds = [t.op for t in some], np.array([t.seconds for t in some])
        compute, memory = (
            np.array(f, dtype=float) for f in zip(*bounds(ops, hardware), strict=True)
        )
        now, then = told(ops, hardware), told(ops, replace(hardware, cuda=PRODUCTS))
        kinds, besides = classes(seconds, compute, memory), alone(some, then[0])
        for i, t in enumerate(some):
            op, published = t.op, t.seconds
            started = then[:, i] + besides[i]
            yield {
                **{"card": card, "dtype": op.dtype, "batch": op.batch, "class": str(kinds[i])},
                **{"shape": [op.m, op.n, op.k], "op": op},
                **{"published_s": published, "again_s": t.again, "besides_s": float(besides[i])},
                **_judged("", published, now[:, i]),
                **_judged("older_", published, then[:, i]),
                **_judged("alone_", published, started),
                "low_s": float(now[1, i]),
                "roofline": float(max(compute[i], memory[i]) / published - 1),
            }


def _judged(name: str, published: float, ends: np.ndarray) -> dict[str, Any]:
    seconds, low, high = (float(end) for end in ends)
    return {
        f"{name}estimate_s": seconds,
        f"{name}error": seconds / published - 1,
        f"{name}inside": low <= published <= high,
    }


def is_even(op: Matmul) -> bool:
    """Of which half of the groups of n and k, all powers of two."""
    return (int(op.n).bit_length() + int(op.k).bit_length()) % 2 == 0


def alone(timed: Sequence[Timed], seconds: np.ndarray) -> np.ndarray:
    """[n] what products of the source take besides ``seconds``, by the half that each is not of."""
    even = np.array([is_even(t.op) for t in timed])
    plain = np.array([t.op.dtype == "bfloat16" for t in timed])
    left = np.array([t.seconds for t in timed]) - seconds
    found = np.zeros(len(timed))
    for half in (even, ~even):
        others = left[~half & plain]
        found[half] = np.median(others) if len(others) else 0.0
    return found


def bounds(ops: Sequence[Matmul], hardware: Hardware) -> Iterator[tuple[Any, Any]]:
    return (floors(op, hardware) for op in ops)


def told(ops: Sequence[Matmul], hardware: Hardware) -> np.ndarray:
    """[3, n] seconds that ships for torch, warm, and the ends of the interval."""
    estimator = load_torch(hardware)
    assert estimator is not None
    found = estimator.estimates(ops, "torch", True)
    return np.array([found.seconds, found.low, found.high])


def summary(name: str, rows: Sequence[dict[str, Any]]) -> list[str]:
    late = median(r["published_s"] - r["estimate_s"] for r in rows)
    errors, older, started = ([r[f"{k}error"] for r in rows] for k in ("", "older_", "alone_"))
    return [
        *(name, str(len(rows)), *sizes(errors), percent(median(errors)), f"{late * 1e6:.1f}"),
        *(held(rows, "inside"), sizes(older)[0], held(rows, "older_inside")),
        *(*sizes(started), percent(median(started)), held(rows, "alone_inside")),
        percent(median(abs(r["roofline"]) for r in rows), sign=False),
    ]


def sizes(errors: Sequence[float]) -> tuple[str, str]:
    """Median and 90th percentile of the sizes of errors."""
    sized = np.abs(errors)
    found = (float(np.median(sized)), float(np.percentile(sized, NINE_TENTHS)))
    return percent(found[0], sign=False), percent(found[1], sign=False)


def held(rows: Sequence[dict[str, Any]], key: str) -> str:
    return f"{sum(r[key] for r in rows) / len(rows):.0%}"


def group(row: dict[str, Any]) -> tuple[str, str, bool]:
    return row["card"], row["dtype"], row["batch"] > 1


def described(rows: Sequence[dict[str, Any]]) -> str:
    head = ["products as XLA timed them", "n", "median", "90th", "bias", "late us", "held"]
    head += [PRODUCTS, "held", "alone", "90th", "bias", "held", "roofline"]
    shown = []
    for key in dict.fromkeys(map(group, rows)):
        name = f"{key[0]} {key[1].partition('_')[0]}{' batched' * key[2]}"
        some = [r for r in rows if group(r) == key]
        parts = [(kind, [r for r in some if r["class"] == kind]) for kind in CLASSES]
        shown += [summary(f"{name}, {kind}", part) for kind, part in parts if part]
        shown.append(summary(name, some))
    return lines(head, shown)


def all_rows(op: Matmul) -> Matmul | None:
    """One product of all rows of a batched one."""
    return replace(op, m=op.m * op.batch, batch=1) if op.batch > 1 else None


def as_many_bytes(op: Matmul) -> Matmul | None:
    """The bfloat16 product of as many bytes along its depth."""
    depth, rest = divmod(op.k * int(item_bytes(op.dtype)), 2)
    plain = replace(op, k=depth, dtype="bfloat16", out_dtype=None)
    return None if rest or op.dtype == "bfloat16" else plain


RULES: dict[str, Callable[[Matmul], Matmul | None]] = {
    "a batch over one product of its rows": all_rows,
    "another dtype over bfloat16 of as many bytes": as_many_bytes,
}


def ratios(rows: Sequence[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """What rows take over the rows that a rule names, published and told."""
    table = {(r["card"], r["op"]): r for r in rows}
    for rule, twin in RULES.items():
        for (card, op), row in table.items():
            other = twin(op)
            if other is None or (card, other) not in table:
                continue
            over = table[card, other]
            yield {
                **{"rule": rule, "card": card, "dtype": op.dtype, "batch": op.batch},
                **{
                    name: row[key] / over[key]
                    for name, key in (
                        *(("published", "published_s"), ("told", "estimate_s")),
                        ("older", "older_estimate_s"),
                    )
                },
            }


def product(dtype: str, **sizes: int) -> Matmul:
    """Narrow ones write bfloat16 there."""
    return Matmul(**sizes, dtype=dtype, out_dtype="bfloat16" if dtype in NARROW else None)


def described_ratios(found: Sequence[dict[str, Any]]) -> str:
    """Medians, and within which factor nine tenths are told."""
    shown = []
    for key in dict.fromkeys((r["rule"], r["card"], r["dtype"]) for r in found):
        some = [r for r in found if (r["rule"], r["card"], r["dtype"]) == key]
        cells = [key[0] + f", {key[1]} {key[2]}", str(len(some))]
        for name in ("published", "told", "older"):
            cells.append(f"{median(r[name] for r in some):.2f}")
            if name != "published":
                off = [abs(np.log(r[name] / r["published"])) for r in some]
                cells.append(f"{np.exp(np.percentile(off, NINE_TENTHS)):.2f}")
        shown.append(cells)
    return lines(["ratios", "n", "published", "told", "within", PRODUCTS, "within"], shown)


def twice(timed: Sequence[Timed]) -> list[str]:
    """How far apart the source's own two runs are."""
    said = []
    for card, dtype in dict.fromkeys((t.card, t.op.dtype) for t in timed):
        some = [t for t in timed if (t.card, t.op.dtype) == (card, dtype)]
        apart = [abs(np.log(t.seconds / t.again)) for t in some if t.again]
        if apart:
            said.append(
                f"{card} {dtype}: two runs of the source are {median(apart):.1%} apart (median), "
                f"{np.percentile(apart, NINE_TENTHS):.1%} at the 90th percentile; left out "
                f"{sum(not t.is_steady for t in some)} of {len(some)}, apart by a fifth or more"
            )
    return said


def besides(rows: Sequence[dict[str, Any]]) -> list[str]:
    """What the source's products take besides, by either half."""
    said = []
    for card in dict.fromkeys(r["card"] for r in rows):
        found = sorted({r["besides_s"] * 1e6 for r in rows if r["card"] == card})
        each = " and ".join(f"{us:.2f}" for us in found)
        said.append(f"{card}: a product takes {each} us besides, by either half of the groups")
    return said


def other_way(rows: Sequence[dict[str, Any]]) -> list[str]:
    """What holds nine tenths of one half above what is told of a linear layer, beside the
    half-width that this has, and how much of the other half it holds."""
    capability, dtype = DEPTH_ONLY
    some = [r for r in rows if r["dtype"] == dtype]
    some = [r for r in some if load_hardware(r["card"]).compute_capability == capability]
    if not some:
        return []
    ratio = np.log([(r["published_s"] - r["besides_s"]) / r["estimate_s"] for r in some])
    own = np.log([r["estimate_s"] / r["low_s"] for r in some])
    needed = np.sqrt(np.maximum(np.maximum(ratio, 0) ** 2 - own**2, 0))
    even = np.array([is_even(r["op"]) for r in some])
    width = np.percentile(needed[even], NINE_TENTHS)
    holds = (ratio <= np.hypot(own, width)) & (ratio >= -own)
    within = (np.abs(ratio) <= own)[~even]
    return [
        f"{dtype}, factors that lie the other way: {width:.2f} more, in log and upwards, holds "
        f"nine tenths of one half of the groups and {holds[~even].mean():.0%} of the other "
        f"(without it {within.mean():.0%})"
    ]


def each(rows: Sequence[dict[str, Any]]) -> str:
    shown = [
        [f"{r['card']} {r['dtype']} {r['batch']} x {' x '.join(map(str, r['shape']))}"]
        + [f"{r['published_s'] * 1e6:.4g}", f"{r['estimate_s'] * 1e6:.4g}", percent(r["error"])]
        + ["yes" if r["inside"] else "no", percent(r["older_error"]), percent(r["roofline"])]
        for r in rows
    ]
    return lines(["a product", "us", "estimate", "error", "held", PRODUCTS, "roofline"], shown)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.public_xla_products")
    parser.add_argument("--rows", action="store_true", help="a line a published time")
    parser.add_argument("--write", type=Path, help="a page to put the tables into")
    asked = parser.parse_args()
    timed = published()
    rows = list(compared([t for t in timed if t.is_steady]))
    found = list(ratios(rows))
    said = [*besides(rows), *other_way(rows), *twice(timed)]
    shown = "\n\n".join([described(rows), described_ratios(found), "\n".join(said)])
    print(f"{each(rows)}\n\n{shown}" if asked.rows else shown)
    if asked.write:
        write(asked.write, f"\n```text\n{shown}\n```\n", (BEGIN, END))
    print(json.dumps({"products": [{k: v for k, v in r.items() if k != "op"} for r in rows]}))


if __name__ == "__main__":
    main()
