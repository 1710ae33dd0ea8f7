"""Fits in a process of their own while a card is measured: what they are unsure of, and how good.

The card does not wait for a fit, and one that is under way is not asked for twice. What each fit
found on held-out shapes is kept with the seconds of card time that its samples had taken: so the
report can say after how long each kind was known well enough.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

from calib.hardware.datasheet import Hardware
from calib.samples.sample import Sample
from model.ops import Operator

if TYPE_CHECKING:
    import pandas as pd

    from calib.fit.calibration import Calibration
    from calib.measure.sweep.choice import Uncertainty

WITHIN = 0.05
"""The held-out median error at which a kind is known well enough."""
PACE = "pace.json"
"""In the folder of the samples."""
_LEAST_NEW = 50
"""Samples that a fit has to see beyond the last one."""


def fit_torch(samples: Sequence[Sample], hardware: Hardware) -> Calibration:
    """Of the implementation that the first sample is of; in a worker."""
    from calib.fit.fitting import fit

    first = [s for s in samples if s.implementation == samples[0].implementation]
    return replace(fit(first, hardware), measured={})


def spread_of(known: Calibration, implementation: str) -> Uncertainty:
    """How unsure a fit is of operators: half of its interval, in log seconds.

    Where too few shapes of a kind succeeded for a fit, it is unsure by a factor of e.
    """
    import numpy as np

    from calib.fit.calibration import ROOFLINE

    def spread(ops: Sequence[Operator]) -> Any:
        table = known.estimate(ops, implementation)
        half = np.log((table["high_s"] / table["low_s"]).to_numpy()) / 2
        return np.where(table["provenance"] == ROOFLINE, 1.0, half)

    return spread


def errors_of(known: Calibration) -> dict[str, float]:
    """Median error on held-out shapes by kind and dtype."""
    rows = known.held_out.to_dict("records")
    return {f"{r['kind']} {r['dtype']}": float(r["median_error"]) for r in rows}


@dataclass
class Pending:
    """One fit under way; what it says of operators when it is there."""

    future: Future[Any]
    implementation: str

    def ready(self) -> bool:
        return self.future.done()

    def result(self) -> Uncertainty:
        return spread_of(self.future.result(), self.implementation)


@dataclass
class Refits:
    """Fits of a growing list of samples of ``hardware``, one at a time, the newest list next."""

    hardware: Hardware
    executor: Executor
    spent_s: Callable[[Sequence[Sample]], float]
    """Seconds that it took to measure so many samples."""
    trail: list[dict[str, Any]] = field(default_factory=list)
    """``elapsed_s`` of the samples of each fit, and its ``errors``."""
    _pending: Pending | None = None
    _seen: tuple[int, float] = (0, 0.0)

    def __call__(self, samples: Sequence[Sample]) -> Pending:
        """A fit of at least so many samples as the last, begun now if none is under way."""
        self._harvest()
        if self._pending is None:
            self._begin(samples)
        assert self._pending is not None
        return self._pending

    def good(self, samples: Sequence[Sample]) -> bool:
        """Whether the last fit knew every kind; another is begun where there is more to fit."""
        usable = [s for s in samples if s.origin == "design" and s.status == "ok"]
        self._harvest()
        if self._pending is None and len(usable) >= self._seen[0] + _LEAST_NEW:
            self._begin(usable)
        errors = self.trail[-1]["errors"] if self.trail else {}
        return bool(errors) and max(errors.values()) <= WITHIN

    def _begin(self, samples: Sequence[Sample]) -> None:
        some = list(samples)
        self._seen = (len(some), self.spent_s(some))
        future = self.executor.submit(fit_torch, some, self.hardware)
        self._pending = Pending(future, some[0].implementation if some else "torch")

    def _harvest(self) -> None:
        """Keep what a fit that is done found, so that another may begin."""
        if self._pending is not None and self._pending.ready():
            found = errors_of(self._pending.future.result())
            self.trail.append({"elapsed_s": self._seen[1], "errors": found})
            self._pending = None

    def close(self, folder: Path) -> None:
        """Wait for the fit that is under way, and keep the trail beside what an earlier sweep into
        ``folder`` left."""
        if self._pending is not None:
            self._pending.future.exception()  # waits; what failed is told by the next fit
            if self._pending.future.exception() is None:
                self._harvest()
        self.executor.shutdown(wait=True, cancel_futures=True)
        path = folder / PACE
        part = path.with_suffix(".part")
        part.write_text(json.dumps([*read_trail(folder), *self.trail], indent=1), "utf-8")
        os.replace(part, path)


def one_process() -> Executor:
    """A process that gives way to the one that measures; spawned, since a fork would inherit the
    card's context."""
    spawn = get_context("spawn")
    return ProcessPoolExecutor(1, spawn, initializer=partial(os.nice, 10))


def read_trail(folder: Path) -> list[dict[str, Any]]:
    path = folder / PACE
    return json.loads(path.read_text("utf-8")) if path.exists() else []


def reached(trail: Sequence[Mapping[str, Any]], within: float = WITHIN) -> dict[str, float]:
    """Kind and dtype -> seconds of card time after which its error was ``within``, and stayed so
    in every later fit; infinite where the last fit was not."""
    found: dict[str, float] = {}
    for one in sorted(trail, key=lambda row: row["elapsed_s"]):
        for name, error in one["errors"].items():
            if not error <= within:
                found[name] = math.inf
            elif math.isinf(found.get(name, math.inf)):
                found[name] = float(one["elapsed_s"])
    return found


def in_words(trail: Sequence[Mapping[str, Any]]) -> str:
    """After how much of the card's time each kind was known well enough, the first one first."""
    found = sorted(reached(trail).items(), key=lambda pair: pair[1])
    known = [f"{name} after {after:.0f} s" for name, after in found if math.isfinite(after)]
    not_yet = [name for name, after in found if math.isinf(after)]
    text = f"held-out median error within {WITHIN:.0%}: {', '.join(known) or 'no kind'}"
    return text + (f"; not yet: {', '.join(not_yet)}" if not_yet else "")


def with_pace(fits: pd.DataFrame, folder: Path) -> pd.DataFrame:
    """``fits`` with a column of those seconds, ``known_after_s``; as it is without a trail."""
    trail = read_trail(folder)
    if not trail or fits.empty:
        return fits
    after = reached(trail)
    rows = fits.to_dict("records")
    return fits.assign(
        known_after_s=[after.get(f"{r['kind']} {r['dtype']}", math.nan) for r in rows]
    )
