"""What an engine costs beside its kernels, fitted to runs of the development splits.

A few numbers an engine, the same for every model, card and layout:

    decode step = gpu + (host where it exceeds the gpu)
    gpu  = kernels * decode's kernels + gap * launches + step
    host = base + request * running
    prompt = prompts * prompt's kernels, at least eager * launches for each step that carries it

``kernels`` and ``prompts`` are near one; ``hit`` is the share of a prompt that the engine finds in
its cache of prefixes, which the gap analysis left on (a run on an H200 would else exceed the
card's peak), and InferenceMAX turns off. ``burst`` is the share of the gap analysis' requests that
come all at once, as a tenth of InferenceMAX's do. The first token comes later by ``front`` and by
``front_token`` a token.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.serving.runs import GAP
from calib.estimates.serving.steady import Load, Served, Steps, steady

_SHARP = 4.0
"""How sharply the slower of card and host takes over."""


@dataclass(frozen=True)
class Number:
    """Of one engine: where a fit starts, and how far it is expected to go (one deviation).

    ``log``: the fitted quantity is the logarithm of the number."""

    start: float
    spread: float
    log: bool = True


NUMBERS = {
    "kernels": Number(1.0, 0.1),
    "gap": Number(0.3e-6, 1.0),
    "step": Number(0.2e-3, 1.0),
    "base": Number(2e-3, 1.0),
    "request": Number(10e-6, 1.0),
    "prompts": Number(1.0, 0.15),
    "eager": Number(4e-6, 1.0),
    "hit": Number(-1.5, 2.0, log=False),
    "burst": Number(-1.5, 1.5, log=False),
    "front": Number(20e-3, 1.0),
    "front_token": Number(5e-6, 1.5),
    "queue": Number(1.0, 0.5),
}
NAMES = tuple(NUMBERS)
Overheads = dict[str, float]


def started() -> Overheads:
    return {n: (np.log(v.start) if v.log else v.start) for n, v in NUMBERS.items()}


def served(rows: pd.DataFrame, told: Mapping[str, float]) -> Served:
    """The closed form for ``rows`` of one engine; ``told``: its numbers, as they are fitted."""
    value = {n: float(np.exp(told[n])) if NUMBERS[n].log else told[n] for n in NAMES}
    is_gap = (rows["harness"] == GAP).to_numpy()
    hit = _share(value["hit"]) * is_gap
    waves = np.where(is_gap, 1 / _share(value["burst"]), rows["waves"].to_numpy())
    running = np.maximum(np.rint(rows["running"].to_numpy()), 1)
    half = np.maximum(running // 2, 1)
    gpu, less = (
        value["kernels"] * rows[n].to_numpy() + value["gap"] * rows["decode_launches"].to_numpy()
        for n in ("decode_s", "half_s")
    )
    host, host_less = (value["base"] + value["request"] * n for n in (running, half))
    decode = value["step"] + _slower(gpu, host)
    lesser = value["step"] + _slower(less, host_less)
    slope = (decode - lesser) / np.maximum(running - half, 1)
    pieces = rows["pieces"].to_numpy()
    together = np.maximum(running / np.maximum(rows["mean_osl"].to_numpy() - 1, 1), 1.0)
    kernels = value["prompts"] * rows["prompt_s"].to_numpy() * (1 - hit)
    eager = pieces * value["eager"] * rows["prompt_launches"].to_numpy()
    prompt = np.maximum(kernels, (eager - pieces * decode) / together)
    steps = Steps(decode, prompt, slope, pieces, rows["prompts"].to_numpy())
    load = Load(
        rows["concurrency"].to_numpy() / rows["dp"].to_numpy(),
        rows["mean_isl"].to_numpy(),
        rows["mean_osl"].to_numpy(),
        rows["places"].to_numpy(),
        waves,
        rows["hold"].to_numpy(),
    )
    found = steady(steps, load)
    front = value["front"] + value["front_token"] * load.isl
    return replace(found, ttft=found.ttft * value["queue"] + front)


def _share(value: float) -> float:
    """From all numbers to what lies between 0 and 1."""
    return float(1 / (1 + np.exp(-value)))


def _slower(a: Any, b: Any) -> Any:
    return (a**_SHARP + b**_SHARP) ** (1 / _SHARP)


def fit(rows: pd.DataFrame) -> Overheads:
    """The numbers of one engine that its ``rows`` make likeliest: TPOT and TTFT in log, outliers
    weighted down, each number pulled to its start by its spread."""
    from scipy.optimize import least_squares

    first = started()

    def misfits(theta: np.ndarray) -> np.ndarray:
        found = served(rows, dict(zip(NAMES, theta, strict=True)))
        of_tpot = np.log(found.tpot / rows["tpot_s"].to_numpy()) / 0.1
        of_ttft = np.log(found.ttft / rows["ttft_s"].to_numpy()) / 0.6
        return np.concatenate([_soft(of_tpot), _soft(of_ttft), _pulls(theta, first)])

    start = np.array([first[n] for n in NAMES])
    best = least_squares(misfits, start, max_nfev=200, x_scale=[NUMBERS[n].spread for n in NAMES])
    return dict(zip(NAMES, (float(v) for v in best.x), strict=True))


def _soft(misfit: np.ndarray) -> np.ndarray:
    """Large misfits count linearly."""
    return np.sign(misfit) * np.sqrt(2 * (np.sqrt(1 + misfit**2) - 1))


def _pulls(theta: np.ndarray, first: Overheads) -> np.ndarray:
    return np.array([(v - first[n]) / NUMBERS[n].spread for n, v in zip(NAMES, theta, strict=True)])
