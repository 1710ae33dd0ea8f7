"""What an engine costs beside its kernels, fitted to runs of the development splits.

The numbers of :mod:`calib.cards.engines.overheads`, an engine's, with which a prompt takes ``1 -
hit`` of what is there.

Three more are of a campaign (``OF_CAMPAIGN``), what one harness ran of one engine, the gap analysis
on one card: ``front``, what its client adds to the first token; ``hit``, the share of a prompt that
the engine finds in its cache of prefixes (without it runs on an H200 would exceed the card's peak);
``burst``, the share of requests that come all at once. InferenceMAX turns the second off, and its
third is a tenth.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.serving.runs import GAP
from calib.cards.engines.overheads import Overheads as Beside
from calib.estimates.serving.steady import Load, Served, Steps, steady


@dataclass(frozen=True)
class Number:
    """Where a fit starts, and how far it is expected to go (one deviation): in log, or of a share
    in its log odds."""

    start: float
    spread: float
    is_share: bool = False

    def told(self, value: float) -> float:
        """The number, of what is fitted."""
        return float(1 / (1 + np.exp(-value)) if self.is_share else np.exp(value))

    @property
    def first(self) -> float:
        """What is fitted, at the start."""
        odds = self.start / (1 - self.start) if self.is_share else self.start
        return float(np.log(odds))


NUMBERS = {
    "kernels": Number(1.0, 0.1),
    "cards": Number(1.0, 0.3),
    "gap": Number(0.3e-6, 1.0),
    "step": Number(0.2e-3, 1.0),
    "base": Number(2e-3, 1.0),
    "request": Number(10e-6, 1.0),
    "prompts": Number(1.0, 0.15),
    "eager": Number(4e-6, 1.0),
    "front_token": Number(5e-6, 1.5),
    "queue": Number(1.0, 0.5),
}
OF_CAMPAIGN = {
    "front": Number(20e-3, 1.0),
    "hit": Number(0.1, 2.0, True),
    "burst": Number(0.2, 1.5, True),
}
Overheads = dict[str, float]
"""Name (of a campaign: name and card) -> what is fitted."""


def campaigns(rows: pd.DataFrame) -> list[str]:
    """InferenceMAX is one; the gap analysis by card."""
    return sorted(campaign_of(rows).unique())


def campaign_of(rows: pd.DataFrame) -> pd.Series:
    return rows["card"].where(rows["harness"] == GAP, rows["harness"])


def numbers(known: Iterable[str]) -> dict[str, Number]:
    """All that is fitted of one engine and the ``known`` campaigns."""
    return NUMBERS | {f"{n} {c}": number for c in known for n, number in OF_CAMPAIGN.items()}


def served(rows: pd.DataFrame, told: Mapping[str, float]) -> Served:
    """The closed form for ``rows`` of one engine; ``told``: its numbers, as they are fitted; of a
    campaign that is not among them where the fit starts."""
    beside = beside_of(told)
    is_gap = (rows["harness"] == GAP).to_numpy()
    hit = _of_campaign("hit", rows, told) * is_gap
    burst = _of_campaign("burst", rows, told)
    running = np.maximum(np.rint(rows["running"].to_numpy()), 1)
    half = np.maximum(running // 2, 1)
    decode, lesser = (
        _step(rows, name, count, beside) for name, count in (("decode", running), ("half", half))
    )
    slope = (decode - lesser) / np.maximum(running - half, 1)
    pieces = rows["pieces"].to_numpy()
    together = np.maximum(running / np.maximum(rows["mean_osl"].to_numpy() - 1, 1), 1.0)
    kernels = beside.prompts * rows["prompt_s"].to_numpy() * (1 - hit)
    eager = pieces * (beside.eager * rows["prompt_launches"].to_numpy() - decode) / together
    prompts = rows["prompts"].to_numpy() / (1 - hit)
    steps = Steps(decode, np.maximum(kernels, eager), slope, pieces, prompts)
    found = steady(steps, _load(rows, np.where(is_gap, 1 / burst, rows["waves"].to_numpy())))
    front = _of_campaign("front", rows, told) + beside.front_token * rows["mean_isl"].to_numpy()
    return replace(found, ttft=found.ttft * beside.queue + front)


def _of_campaign(name: str, rows: pd.DataFrame, told: Mapping[str, float]) -> np.ndarray:
    number = OF_CAMPAIGN[name]
    of_row = campaign_of(rows)
    known = {c: number.told(told.get(f"{name} {c}", number.first)) for c in of_row.unique()}
    return of_row.map(known).to_numpy(dtype=float)


def beside_of(told: Mapping[str, float]) -> Beside:
    """The engine's own among the numbers."""
    return Beside(**{n: number.told(told[n]) for n, number in NUMBERS.items()})


def _step(rows: pd.DataFrame, name: str, running: Any, beside: Beside) -> Any:
    """``name``: of which step, ``decode`` or ``half``; ``running`` [n] requests."""
    comm = rows[f"{name}_comm"].to_numpy()
    kernels = rows[f"{name}_s"].to_numpy() - comm
    gpu = beside.on_card(kernels, comm, rows["decode_launches"].to_numpy())
    return beside.decode(gpu, beside.host(running))


def _load(rows: pd.DataFrame, waves: Any) -> Load:
    concurrency = rows["concurrency"].to_numpy() / rows["dp"].to_numpy()
    lengths = (rows[name].to_numpy() for name in ("mean_isl", "mean_osl", "places"))
    return Load(concurrency, *lengths, waves, rows["hold"].to_numpy())


def fit(rows: pd.DataFrame) -> Overheads:
    """The numbers of one engine that its ``rows`` make likeliest: TPOT and TTFT in log, large
    misfits counting linearly, each number pulled to its start by its spread."""
    from scipy.optimize import least_squares

    known = numbers(campaigns(rows))
    start = np.array([number.first for number in known.values()])
    spread = np.array([number.spread for number in known.values()])

    def misfits(theta: np.ndarray) -> np.ndarray:
        found = served(rows, dict(zip(known, theta, strict=True)))
        of_tpot = np.log(found.tpot / rows["tpot_s"].to_numpy()) / TPOT_SPREAD
        of_ttft = np.log(found.ttft / rows["ttft_s"].to_numpy()) / TTFT_SPREAD
        return np.concatenate([_soft(of_tpot), _soft(of_ttft), (theta - start) / spread])

    best = least_squares(misfits, start, max_nfev=200, x_scale=spread)
    return dict(zip(known, (float(v) for v in best.x), strict=True))


TPOT_SPREAD, TTFT_SPREAD = 0.08, 0.6
"""Misfits in log that count one: a first token hangs on more that nobody wrote down."""


def _soft(misfit: np.ndarray) -> np.ndarray:
    return np.sign(misfit) * np.sqrt(2 * (np.sqrt(1 + misfit**2) - 1))


def shown(told: Mapping[str, float]) -> dict[str, float]:
    """The numbers themselves."""
    every = {**NUMBERS, **OF_CAMPAIGN}
    return {name: every[name.split()[0]].told(value) for name, value in told.items()}
