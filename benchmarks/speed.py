"""How fast calib itself is: estimates, fits and the loading of a card that ships.

    python -m benchmarks.speed              (make public first: the fit needs the tables)
    python -m benchmarks.speed --card h200
    python -m benchmarks.speed --front      a server's front over 100,000 configurations, alone

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
from itertools import product
from typing import Any

import numpy as np

from benchmarks.scoring.rows import load
from calib.cards.engines.card import load_engine_card
from calib.cards.engines.overheads import Overheads, load_overheads
from calib.checkout import ROOT
from calib.estimates.serving.front import Limits, judged
from calib.estimates.serving.habits import HABITS
from calib.estimates.serving.kernels import Server
from calib.estimates.serving.points import Asked, Serving, points
from calib.estimates.stack.formats import Formats
from calib.fit.calibration import Calibration
from calib.fit.fitting import fit
from calib.hardware.datasheet import load_hardware
from calib.steps.engine.front import batches_of
from calib.steps.settings.limits import ServeRequest
from model.architectures import build
from model.ops import Matmul, grid
from model.parallel import Layout

MARKS_S = {
    "a million Matmul with intervals": 5.0,
    "one operator": 2e-3,
    "fit of 27,000 samples": 10.0,
    "loading a shipped card": 0.3,
    "a front over 100,000 configurations": 10.0,
}
"""Seconds aimed at."""
FRONT_MODEL = {"hidden": 8192, "layers": 80, "dense_layers": 80, "heads": 64, "intermediate": 28672}
FRONT_POINTS = 100_000
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


def of_front(card: str) -> dict[str, Times]:
    """Seconds of all layouts of a 70B on up to eight cards, batches and lengths: at least 100,000
    that memory holds, each with its interval, and the front of them."""
    layouts = [
        Layout(tp, pp, 1, dp) for tp, pp, dp in product((1, 2, 4, 8), repeat=3) if tp * pp * dp <= 8
    ]
    model = build("llama", **FRONT_MODEL)
    servers = [Server(model, layout, Formats()) for layout in layouts]
    kernels, beside = load_engine_card(card, "vllm"), load_overheads("vllm")
    serving = Serving(kernels, kernels.hardware.memory_bytes, HABITS["vllm"], beside or Overheads())
    batches = batches_of(ServeRequest(batches=470, most=1024))
    asked = Asked(batches, list(product((256, 512, 1024, 2048, 4096), (256, 512, 1024, 2048))))

    def front() -> int:
        return len(judged(points(servers, serving, asked), Limits()))

    count = front()
    assert count >= FRONT_POINTS, count
    tried = len(servers) * len(asked.batches) * len(asked.lengths)
    print(f"{tried:,} configurations, {count:,} fit")
    return {"a front over 100,000 configurations": seconds(front, 3)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=_KeepLines)
    parser.add_argument("--card", default="h200", help="whose GEMM table is fitted")
    parser.add_argument("--front", action="store_true", help="time a server's front alone")
    options = parser.parse_args()
    figures = of_front(options.card) if options.front else of_fits(options.card)
    for name, (wall, cpu) in figures.items():
        print(f"{name:36} {wall:9.4f} s, processor {cpu:9.4f} s, mark {MARKS_S[name]:g} s")
    print(json.dumps({"cores": os.cpu_count(), **figures}))


def of_fits(card: str) -> dict[str, Times]:
    rows = load(card, "gemm")
    rng = np.random.default_rng(0)
    samples = rows.take(rng.permutation(len(rows))[:_ROWS]).samples()
    hardware = load_hardware(card)
    fit(samples[:300], hardware)  # imports scikit-learn
    fitted: list[Calibration] = []
    figures = {"fit of 27,000 samples": seconds(lambda: fitted.append(fit(samples, hardware)), 1)}
    return figures | of_estimates(fitted[0]) | of_loading(card)


class _KeepLines(argparse.RawDescriptionHelpFormatter):
    """The commands of the docstring stay commands."""


if __name__ == "__main__":
    main()
