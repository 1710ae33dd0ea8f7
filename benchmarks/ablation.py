"""What each part of the efficiency model is worth, and where it fails, on development groups.

    python benchmarks/ablation.py [--cards h200 rtx_pro_6000] [--samples 3000]

The model is fitted to the GEMM table of each card again and again, each time without one part, and
scored on groups of (n, k) that it never saw: mean and median absolute percentage error. Then the
ten shapes that the whole model misses most. Final groups are not touched. Needs the extra
``public``.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.scoring.splits import split
from calib.fit.kind import KindFit, fit_kind
from calib.fit.physics.blocks.product_blocks import CHOICE, MISSED
from calib.fit.physics.features import Features, features_of_list
from calib.fit.plan import plan_of
from calib.hardware.datasheet import load_hardware
from calib.samples.public import read_table, samples_of

Change = Callable[[Features], Features]


def without(*prefixes: str) -> Change:
    """Features that lack the columns whose names start so."""

    def change(x: Features) -> Features:
        kept = {n: v for n, v in x.columns.items() if not n.startswith(prefixes)}
        return replace(x, columns=kept)

    return change


def without_tiles(x: Features) -> Features:
    """The physics keeps what it reads."""
    kept = {n: v for n, v in x.columns.items() if n == MISSED or not n.startswith("tile ")}
    return replace(x, columns=kept)


VARIANTS: dict[str, Change] = {
    "the whole model": lambda x: x,
    "no candidates in the physics": without(CHOICE),
    "no misses of the cache": without(MISSED),
    "no tile columns for the trees": without_tiles,
    "no waves": without("tile waves"),
    "no fill of the last wave": without("tile fill"),
    "no share used of a tile": without("tile used"),
    "no depth per multiprocessor": without("tile depth"),
    "no cache columns": without("tile cache", "tile weights"),
    "no shape, floors and tiles only": without("m", "n", "k", "tile outputs", "tile aspect"),
}
"""``memory`` starts with m too: see :func:`_changed`, which keeps what the physics needs."""
_NEEDED = ("compute", "memory", "depth", "hot")


def _changed(x: Features, change: Change) -> Features:
    changed = change(x)
    needed = {n: x.columns[n] for n in _NEEDED if n not in changed.columns}
    return replace(changed, columns={**changed.columns, **needed})


PARTS: dict[str, Callable[[KindFit], KindFit]] = {
    "physics alone": lambda fit: replace(fit, process_share=0.0, trees_share=0.0),
    "physics and process": lambda fit: replace(fit, process_share=1.0, trees_share=0.0),
    "physics and trees": lambda fit: replace(fit, process_share=0.0, trees_share=1.0),
}


def folds_of(groups: np.ndarray, count: int = 5) -> np.ndarray:
    """[n] the fold of each group, by a fixed draw."""
    names, index = np.unique(groups, return_inverse=True)
    return (np.random.default_rng(0).permutation(len(names)) % count)[index]


def study(card: str, count: int) -> list[str]:
    """The lines of the report of one card."""
    samples = samples_of(read_table(card, "gemm"), "gemm")
    groups = np.array([s.group for s in samples])
    known, held_out = split(groups, 0, final=False)
    known = np.random.default_rng(0).permutation(known)[:count]
    hardware = load_hardware(card)
    x = features_of_list([s.op for s in samples], hardware, True)
    seconds = np.array([s.median for s in samples])
    folds, test = folds_of(groups[known]), x.rows(held_out)

    def line(name: str, fitted: KindFit, rows: Features) -> tuple[str, np.ndarray]:
        error = np.expm1(fitted.log_seconds(rows)[0] - np.log(seconds[held_out]))
        size = np.abs(error)
        text = f"| {name} | {100 * size.mean():.2f}% | {100 * np.median(size):.2f}% |"
        print(text, flush=True)
        return text, error

    title = f"{card}: {len(known)} samples, {len(held_out)} held out"
    print(f"\n{title}\n\n| | mean | median |\n|---|---|---|", flush=True)
    lines, whole, errors = [title], None, np.zeros(0)
    for name, change in VARIANTS.items():
        fitted, _ = fit_kind(_changed(x.rows(known), change), seconds[known], plan_of(folds))
        text, error = line(name, fitted, _changed(test, change))
        lines.append(text)
        if whole is None:
            whole, errors = fitted, error
    assert whole is not None
    lines += [line(name, part(whole), test)[0] for name, part in PARTS.items()]
    return lines + worst([samples[i].op for i in held_out], seconds[held_out], errors)


def worst(ops: Sequence[object], seconds: np.ndarray, errors: np.ndarray) -> list[str]:
    """The ten shapes with the largest error, as table rows."""
    rows = ["", "| m | n | k | measured | error |", "|---|---|---|---|---|"]
    for i in np.argsort(-np.abs(errors))[:10]:
        shape = vars(ops[i])
        sizes = " | ".join(str(shape[name]) for name in ("m", "n", "k"))
        rows.append(f"| {sizes} | {1e6 * seconds[i]:.1f} us | {100 * errors[i]:+.0f}% |")
    print("\n".join(rows), flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description="Error without each part of the model.")
    parser.add_argument("--cards", nargs="+", default=["h200", "rtx_pro_6000"])
    parser.add_argument("--samples", type=int, default=3000)
    chosen = parser.parse_args()
    for card in chosen.cards:
        study(card, chosen.samples)


if __name__ == "__main__":
    main()
