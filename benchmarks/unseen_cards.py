"""Where the error of products on a card that nobody measured lies: each card from the five others.

    python -m benchmarks.unseen_cards      (make public first)

Development groups only. Rows fall into four classes: ``launch``, measured to take less than 8 us;
of the others those whose arithmetic takes less than half, or more than twice, as long as their
bytes (``memory``, ``compute``), and what lies between (``ridge``). For each card the mean of
|estimate / measured - 1|, and what would be left of it if somebody told the one factor, or one
factor a class, that is best (the median of the logarithms): what is level, and what is form. Last
of a row: cycles of the smallest products (up to 100 kB and 256 terms, median), which are mostly
what a call costs. Ends with one line of JSON.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from benchmarks.scoring.cases import SIX
from benchmarks.scoring.rows import Rows, join, load
from benchmarks.scoring.score import operators
from benchmarks.scoring.splits import final_rows
from calib.fit.fitting import fit
from calib.hardware.datasheet import load_hardware

LAUNCH_S = 8e-6
SMALL_BYTES, SMALL_DEPTH = 1e5, 256
CLASSES = ("launch", "memory", "ridge", "compute")


def development_rows(card: str) -> Rows:
    rows = load(card, "gemm", pooled=True)
    return rows.take(np.flatnonzero(~final_rows(rows.groups)))


def classes(seconds: np.ndarray, compute_s: np.ndarray, memory_s: np.ndarray) -> np.ndarray:
    """[n] one of ``CLASSES``, by what was measured and the two floors."""
    ratio = compute_s / memory_s
    bound = np.where(ratio < 0.5, "memory", np.where(ratio > 2.0, "compute", "ridge"))
    return np.where(seconds < LAUNCH_S, "launch", bound)


def mean_error(off: np.ndarray) -> float:
    """Of ``off`` [n], log(estimate / measured), the mean of |estimate / measured - 1|, in %."""
    return float(100 * np.abs(np.expm1(off)).mean())


def decomposed(off: np.ndarray, kinds: np.ndarray) -> dict[str, Any]:
    """Figures of one card: ``off`` [n] log(estimate / measured), ``kinds`` [n] of ``CLASSES``."""
    by_class, level = {}, off.copy()
    for kind in CLASSES:
        some = kinds == kind
        if not some.any():
            continue
        bias = float(np.median(off[some]))
        level[some] -= bias
        by_class[kind] = {"share": float(some.mean()), "error": mean_error(off[some]), "bias": bias}
    return {
        "error": mean_error(off),
        "one_factor_told": mean_error(off - np.median(off)),
        "one_a_class_told": mean_error(level),
        "classes": by_class,
    }


def of_card(card: str, tables: dict[str, Rows]) -> dict[str, Any]:
    """``card`` foretold from all other ``tables``."""
    others = join([rows for name, rows in tables.items() if name != card])
    asked = tables[card]
    table = fit(others.samples(), load_hardware(card)).estimate(operators(asked), "vllm")
    off = np.log(table["estimate_s"].to_numpy() / asked.seconds)
    small = (asked.column("bytes") < SMALL_BYTES) & (asked.column("k") <= SMALL_DEPTH)
    cycles = float(np.median(asked.seconds[small])) * load_hardware(card).clock_hz
    kinds = classes(asked.seconds, asked.compute_s, asked.memory_s)
    return decomposed(off, kinds) | {"smallest_cycles": cycles}


def main() -> None:
    tables = {card: development_rows(card) for card in SIX}
    found = {}
    told = [f"{kind} (share, error, bias)" for kind in CLASSES]
    print("| card | error | one factor told | one a class told |", " | ".join(told), "| cycles |")
    print("|---|" + "--:|" * (4 + len(CLASSES)))
    for card in SIX:
        found[card] = known = of_card(card, tables)
        cells = [f"{known[k]:.1f}%" for k in ("error", "one_factor_told", "one_a_class_told")]
        for kind in CLASSES:
            some = known["classes"].get(kind)
            text = "{share:.2f}, {error:.1f}%, {bias:+.2f}"
            cells.append(text.format(**some) if some else "")
        cells.append(f"{known['smallest_cycles']:,.0f}")
        print(f"| {card} |", " | ".join(cells), "|", flush=True)
    mean = float(np.mean([known["error"] for known in found.values()]))
    print(f"mean {mean:.2f}%")
    print(json.dumps({"mean": mean, "cards": found}))


if __name__ == "__main__":
    main()
