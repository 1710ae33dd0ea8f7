"""How fast calib itself is: estimates, fits and the loading of a card that ships.

    python -m benchmarks.speed              (make public first: the fit needs the tables)
    python -m benchmarks.speed --card h200

Two figures each: seconds on the clock, and seconds of processor time of all threads, which a busy
machine hardly changes. The median of a few repeats, but for the fit, which is timed once after a
small one. Ends with one line of JSON.
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
from calib.fit.calibration import Calibration
from calib.fit.fitting import fit
from calib.hardware.datasheet import load_hardware
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


Times = tuple[float, float]
"""Seconds on the clock, seconds of processor time."""


def seconds(action: Callable[[], Any], repeats: int) -> Times:
    """Medians over ``repeats`` calls."""
    wall, cpu = [], []
    for _ in range(repeats):
        start, used = time.perf_counter(), time.process_time()
        action()
        wall.append(time.perf_counter() - start)
        cpu.append(time.process_time() - used)
    return statistics.median(wall), statistics.median(cpu)


def million() -> Matmul:
    """[10^6] products, sizes log-uniform over what the tables sample."""
    rng = np.random.default_rng(0)
    sizes = np.exp(rng.uniform(np.log(16), np.log(16384), (3, 1_000_000))).astype(np.int64)
    return grid(Matmul, m=sizes[0], n=sizes[1], k=sizes[2])


def of_estimates(calibration: Calibration) -> dict[str, Times]:
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


def of_loading(card: str) -> dict[str, Times]:
    """Seconds of a shipped card in a process that has imported the fit; {} where none ships."""
    code = (
        "import time, calib.fit.calibration\n"
        "from calib.hardware.datasheet import load_hardware\n"
        "from calib.cards.shipped import load_card\n"
        f"hardware = load_hardware({card!r})\n"
        "start, used = time.perf_counter(), time.process_time()\n"
        "found = load_card(hardware)\n"
        "print(bool(found), time.perf_counter() - start, time.process_time() - used)"
    )
    command = [sys.executable, "-c", code]

    wall, cpu = [], []
    for _ in range(3):
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
        found, clock, used = done.stdout.split()
        if found != "True":
            return {}
        wall.append(float(clock))
        cpu.append(float(used))
    return {"loading a shipped card": (statistics.median(wall), statistics.median(cpu))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=_KeepLines)
    parser.add_argument("--card", default="h200", help="whose GEMM table is fitted")
    options = parser.parse_args()
    rows = load(options.card, "gemm")
    rng = np.random.default_rng(0)
    samples = rows.take(rng.permutation(len(rows))[:_ROWS]).samples()
    hardware = load_hardware(options.card)
    fit(samples[:300], hardware)  # imports scikit-learn
    fitted: list[Calibration] = []
    figures = {"fit of 27,000 samples": seconds(lambda: fitted.append(fit(samples, hardware)), 1)}
    figures |= of_estimates(fitted[0]) | of_loading(options.card)
    for name, (wall, cpu) in figures.items():
        print(f"{name:34} {wall:9.4f} s, processor {cpu:9.4f} s, mark {MARKS_S[name]:g} s")
    print(json.dumps({"cores": os.cpu_count(), **figures}))


class _KeepLines(argparse.RawDescriptionHelpFormatter):
    """The commands of the docstring stay commands."""


if __name__ == "__main__":
    main()
