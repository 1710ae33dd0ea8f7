"""How far one card is from another: each card foretold from each other one alone.

    python -m benchmarks.lone_donor      (make public first)

Where a kind has one donor only, no card can be held out to tell its interval. Here every pair of
cards that ran the same kernel is such a case whose answer is known: the 90th percentile of
|log(estimate / measured)| over development groups. It grows with the distance between the two
cards' figures: a power of it, fitted by least absolute deviations of the logarithms, is what
:func:`calib.fit.likeness.card_to_card` holds. Ends with one line of JSON.
"""

from __future__ import annotations

import json
from itertools import permutations

import numpy as np
from scipy.optimize import minimize

from benchmarks.scoring.cases import SAME_KERNEL, SIX
from benchmarks.scoring.rows import Rows, load, of_kernel
from benchmarks.scoring.score import operators
from benchmarks.scoring.splits import final_rows
from calib.fit.fitting import fit
from calib.fit.likeness import distance
from calib.hardware.datasheet import load_hardware

_ROWS = 2000
_SETS = [("gemm", "", SIX)] + [
    (f"{phase}_attention", kernel, cards)
    for phase in ("context", "generation")
    for kernel, cards in SAME_KERNEL.items()
]


def rows_of(table: str, kernel: str, card: str) -> Rows:
    """At most ``_ROWS`` rows of development groups."""
    rows = of_kernel(load(card, table, pooled=True), f"vllm/{kernel}" if kernel else None)
    known = np.flatnonzero(~final_rows(rows.groups))
    return rows.take(np.sort(np.random.default_rng(0).permutation(known)[:_ROWS]))


def apart(donor: Rows, target: Rows, card: str) -> float:
    """The 90th percentile of |log(estimate / measured)| of ``card`` from ``donor`` alone."""
    calibration = fit(donor.samples(), load_hardware(card))
    implementation = str(target.frame["implementation"].iloc[0])
    table = calibration.estimate(operators(target), implementation=implementation)
    error = np.log(table["estimate_s"].to_numpy() / target.seconds)
    return float(np.quantile(np.abs(error), 0.9))


def fitted_power(distances: np.ndarray, errors: np.ndarray) -> tuple[float, float]:
    """Scale and exponent of ``errors`` [n] as a power of ``distances`` [n]: half lie below."""
    x, y = np.log(distances), np.log(errors)

    def misfit(line: np.ndarray) -> float:
        return float(np.abs(y - line[0] - line[1] * x).sum())

    best = minimize(misfit, np.polyfit(x, y, 1)[::-1], method="Nelder-Mead").x
    return float(np.exp(best[0])), float(best[1])


def main() -> None:
    found, distances = {}, []
    for table, kernel, cards in _SETS:
        rows = {card: rows_of(table, kernel, card) for card in cards}
        for donor, card in permutations(cards, 2):
            figure = apart(rows[donor], rows[card], card)
            distances.append(distance(load_hardware(donor), load_hardware(card), "bfloat16"))
            found[f"{table} {kernel} {donor} -> {card}".replace("  ", " ")] = figure
            pair = f"{table:22} {kernel:13} {donor:13} -> {card:13}"
            print(f"{pair} {distances[-1]:.2f} {figure:.3f}", flush=True)
    errors = np.array(list(found.values()))
    scale, power = fitted_power(np.array(distances), errors)
    figures = {"pairs": len(found), "median": float(np.median(errors))}
    print(json.dumps(figures | {"scale": scale, "power": power}))


if __name__ == "__main__":
    main()
