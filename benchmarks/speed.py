"""How fast calib itself is: estimates, fits and the loading of a card that ships.

    python -m benchmarks.speed              (make public first: the fit needs the tables)
    python -m benchmarks.speed --card h200

Every figure is the median of a few repeats on an otherwise idle machine; the first is left out
where it warms something up. Ends with one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.scoring.rows import load
from calib.checkout import ROOT
from calib.fit import Calibration, fit
from calib.hardware import load_hardware
from model.ops import Matmul, grid

MARKS_S = {
    "a million Matmul with intervals": 5.0,
    "one operator": 2e-3,
    "fit of 27,000 samples": 10.0,
    "loading a shipped card": 0.3,
}
"""Seconds aimed at."""
IMPLEMENTATION = "vllm-0.24.0"
_ROWS = 27_000


def seconds(action: Callable[[], Any], repeats: int) -> float:
    """Median over ``repeats`` calls."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        action()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def million() -> Matmul:
    """[10^6] products, sizes log-uniform over what the tables sample."""
    rng = np.random.default_rng(0)
    sizes = np.exp(rng.uniform(np.log(16), np.log(16384), (3, 1_000_000))).astype(np.int64)
    return grid(Matmul, m=sizes[0], n=sizes[1], k=sizes[2])


def of_estimates(calibration: Calibration) -> dict[str, float]:
    """Seconds of a grid of a million and of one operator."""
    points, one = million(), [Matmul(493, 1280, 1280)]

    def estimate(ops: Any) -> Any:
        return calibration.estimate(ops, implementation=IMPLEMENTATION)

    table = estimate(one)
    assert table["low_s"][0] < table["estimate_s"][0] < table["high_s"][0]
    return {
        "a million Matmul with intervals": seconds(lambda: estimate(points), 3),
        "one operator": seconds(lambda: estimate(one), 200),
    }


def of_loading(card: str) -> dict[str, float]:
    """Seconds that a shipped card takes in a fresh process that has imported the fit."""
    code = (
        "import time, calib.fit\n"
        "from calib.hardware import load_hardware\n"
        "from calib.cards.shipped import load_card\n"
        f"hardware = load_hardware({card!r})\n"
        "start = time.perf_counter()\n"
        "assert load_card(hardware)\n"
        "print(time.perf_counter() - start)"
    )
    command = [sys.executable, "-c", code]

    def once() -> float:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
        return float(done.stdout)

    return {"loading a shipped card": statistics.median(once() for _ in range(3))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=_KeepLines)
    parser.add_argument("--card", default="h200", help="whose GEMM table is fitted")
    options = parser.parse_args()
    rows = load(options.card, "gemm")
    rng = np.random.default_rng(0)
    samples = rows.take(rng.permutation(len(rows))[:_ROWS]).samples()
    hardware = load_hardware(options.card)
    fit(samples[:300], hardware)  # imports scikit-learn
    start = time.perf_counter()
    calibration = fit(samples, hardware)
    figures = {"fit of 27,000 samples": time.perf_counter() - start}
    figures |= of_estimates(calibration) | of_loading(options.card)
    for name, value in figures.items():
        print(f"{name:34} {value:10.4f} s   mark {MARKS_S[name]:g} s")
    print(json.dumps({"cores": os.cpu_count(), **figures}))


class _KeepLines(argparse.RawDescriptionHelpFormatter):
    """The commands of the docstring stay commands."""


if __name__ == "__main__":
    main()
