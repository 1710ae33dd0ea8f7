"""Products as XLA timed them on an H100 and a B200: what ships for torch beside them.

    python -m benchmarks.public_xla_products [--rows] [--write docs/cards.md]

``benchmarks/data/public_xla_products.csv``: the tables of products that OpenXLA ships, by the
profiler, one kernel at a time (``public_xla_products.md`` beside it says how, and what was left
out). Rows fall into four classes as in :mod:`benchmarks.unseen_cards`. *late* is the median of what
was published less the estimate: what every kernel of the source has alike is the same in all
classes. *start*: with what a product takes longer, however small, by traces of an H100 with CUDA
12.4 (one number, which ships for such a CUDA). ``12.4``: as torch by that CUDA, of which all else
is known on Hoppers alone. Nothing is fitted to these rows.

What every row of the source has alike nearly cancels in ratios between two of its rows. They tell
of two rules of :mod:`calib.cards.stand_ins`: a batched product is one product of all rows, and a
product of another dtype is the bfloat16 product of as many bytes. Ends with one line of JSON.
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
from calib.cards.card import NARROW
from calib.cards.older.shipped import OLDER as FOLDER_OF_OLDER
from calib.cards.older.shipped import Older, load_torch, teacher_of
from calib.cards.shipped import FOLDER
from calib.cards.stored import read_record
from calib.hardware.datasheet import Hardware, floors, load_hardware
from calib.hardware.versions import OLDER
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
    start = older_start()
    for card in dict.fromkeys(t.card for t in timed):
        hardware, some = load_hardware(card), [t for t in timed if t.card == card]
        ops, seconds = [t.op for t in some], np.array([t.seconds for t in some])
        compute, memory = (
            np.array(f, dtype=float) for f in zip(*bounds(ops, hardware), strict=True)
        )
        now, older = told(ops, hardware), replace(hardware, cuda=OLDER)
        then = told(ops, older) if teacher_of(older) else None
        kinds = classes(seconds, compute, memory)
        for i, t in enumerate(some):
            op, estimate, low, high = t.op, *now[:, i]
            yield {
                **{"card": card, "dtype": op.dtype, "batch": op.batch, "class": str(kinds[i])},
                **{
                    "shape": [op.m, op.n, op.k],
                    "op": op,
                    "published_s": t.seconds,
                    "again_s": t.again,
                },
                **{"estimate_s": float(estimate), "error": float(estimate / t.seconds - 1)},
                "inside": bool(low <= t.seconds <= high),
                "roofline": float(max(compute[i], memory[i]) / t.seconds - 1),
                "start": float((estimate + start) / t.seconds - 1),
                "older": None if then is None else float(then[0, i] / t.seconds - 1),
                "older_s": None if then is None else float(then[0, i]),
                "older_inside": then is not None and bool(then[1, i] <= t.seconds <= then[2, i]),
            }


def older_start(card: str = "h100") -> float:
    """Seconds that a product takes longer by the older CUDA, however small it is."""
    return read_record(FOLDER / FOLDER_OF_OLDER / f"{card}.npz", Older).starts["matmul"]


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
    older = [r["older"] for r in rows if r["older"] is not None]
    started = [r["start"] for r in rows]
    return [
        *(name, str(len(rows)), *sizes([r["error"] for r in rows])),
        *(percent(median(r["error"] for r in rows)), f"{late * 1e6:.1f}", held(rows, "inside")),
        *(*sizes(started), percent(median(started))),
        *(sizes(older)[0] if older else "-", held(rows, "older_inside") if older else "-"),
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
    head += ["start", "90th", "bias", OLDER, "held", "roofline"]
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
                    name: None if row[key] is None else row[key] / over[key]
                    for name, key in (
                        *(("published", "published_s"), ("told", "estimate_s")),
                        ("older", "older_s"),
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
            known = [r[name] for r in some if r[name] is not None]
            cells.append(f"{median(known):.2f}" if known else "-")
            if name != "published":
                off = [abs(np.log(r[name] / r["published"])) for r in some if r[name] is not None]
                cells.append(f"{np.exp(np.percentile(off, NINE_TENTHS)):.2f}" if off else "-")
        shown.append(cells)
    return lines(["ratios", "n", "published", "told", "within", OLDER, "within"], shown)


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


def each(rows: Sequence[dict[str, Any]]) -> str:
    shown = [
        [f"{r['card']} {r['dtype']} {r['batch']} x {' x '.join(map(str, r['shape']))}"]
        + [f"{r['published_s'] * 1e6:.4g}", f"{r['estimate_s'] * 1e6:.4g}", percent(r["error"])]
        + ["yes" if r["inside"] else "no", percent(r["older"]), percent(r["roofline"])]
        for r in rows
    ]
    return lines(["a product", "us", "estimate", "error", "held", OLDER, "roofline"], shown)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.public_xla_products")
    parser.add_argument("--rows", action="store_true", help="a line a published time")
    parser.add_argument("--write", type=Path, help="a page to put the tables into")
    asked = parser.parse_args()
    timed = published()
    rows = list(compared([t for t in timed if t.is_steady]))
    found = list(ratios(rows))
    shown = "\n\n".join([described(rows), described_ratios(found), "\n".join(twice(timed))])
    print(f"{each(rows)}\n\n{shown}" if asked.rows else shown)
    if asked.write:
        write(asked.write, f"\n```text\n{shown}\n```\n", (BEGIN, END))
    print(json.dumps({"products": [{k: v for k, v in r.items() if k != "op"} for r in rows]}))


if __name__ == "__main__":
    main()
