"""One case, one seed: who learns from what, and how far off each is on the rows held out."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from functools import lru_cache
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.scoring.baselines import BASELINES
from benchmarks.scoring.cases import BOTH, SIX, Case
from benchmarks.scoring.rows import Rows, join, load, of_kernel
from benchmarks.scoring.splits import final_rows, split
from calib.fit.calibration import Calibration
from calib.fit.fitting import fit
from calib.hardware.datasheet import load_hardware
from calib.measure.sweep.choice import choose
from calib.samples.public_tables import TABLES
from model.ops import Operator

OURS = "calib"
RANDOM, CHOSEN = "random", "chosen"
_CANDIDATES = 4000
"""The sweep's rule chooses among so many rows, drawn at random from those that may be learned."""
NONE = np.zeros(0, dtype=int)
_SPREADS = 2 * 1.6449
"""Standard deviations between the ends of a 90% interval."""


@dataclass(frozen=True)
class Setting:
    """What one seed of a case gives to all methods alike.

    ``pool``: the card's rows that may be learned; ``held_out``: those that are asked for;
    ``others``: rows of other cards, none within a card. ``target``: all rows of the card, and
    ``asked`` the indices of the held-out ones.
    """

    case: Case
    seed: int
    pool: Rows
    held_out: Rows
    others: Rows | None
    target: Rows
    asked: np.ndarray

    def with_others(self, own: Rows) -> Rows:
        parts = [p for p in (self.others, own) if p is not None and len(p)]
        return join(parts) if len(parts) > 1 else parts[0]


def setting(case: Case, seed: int, final: bool) -> Setting:
    target = _rows(case, case.card)
    known, held_out = split(target.groups, seed, final)
    others = _others(case, final) if case.donors else None
    pool, asked = target.take(known), target.take(held_out)
    return Setting(case, seed, pool, asked, others, target, held_out)


def _rows(case: Case, card: str) -> Rows:
    rows = load(card, case.table, pooled=bool(case.donors))
    return of_kernel(rows, f"vllm/{case.kernel}" if case.kernel else None)


@lru_cache(maxsize=2)
def _others(case: Case, final: bool) -> Rows:
    """Donors' rows: all of them at the end, without the final groups in development."""
    rows = join([_rows(case, card) for card in case.donors])
    return rows if final else rows.take(np.flatnonzero(~final_rows(rows.groups)))


# What each method learns from


def random_rows(s: Setting) -> Rows:
    """As many rows as the budget has, all of them where it is None."""
    if s.case.budget is None:
        return s.pool
    rng = np.random.default_rng(s.seed)
    return s.pool.take(rng.choice(len(s.pool), s.case.budget, replace=False))


def chosen_rows(s: Setting) -> Rows:
    """The sweep's rule: half drawn evenly, two rounds in proportion to the fit's spread.

    The fit is to the card's own samples only, as it is in a sweep.
    """
    budget = s.case.budget or 0
    rng = np.random.default_rng(s.seed)
    count = min(_CANDIDATES, len(s.pool))
    candidates = s.pool.take(np.sort(rng.choice(len(s.pool), count, replace=False)))
    ops = operators(candidates)
    picked = choose(ops, [], budget // 2, seed=s.seed)
    for end in (budget * 3 // 4, budget):
        calibration = _fit(candidates.take(np.array(picked)), s.case.card)
        spread = _spread(calibration, candidates)
        known = [ops[i] for i in picked]
        picked += choose(ops, known, end - len(picked), spread, seed=s.seed)
    return candidates.take(np.array(picked))


def _spread(calibration: Calibration, like: Rows) -> Callable[[Any], np.ndarray]:
    def spread(ops: Any) -> np.ndarray:
        table = calibration.estimate(ops, implementation=like.frame["implementation"].iloc[0])
        return np.asarray(np.log(table["high_s"] / table["low_s"])) / _SPREADS

    return spread


def operators(rows: Rows) -> list[Operator]:
    return [sample.op for sample in rows.samples()]


def _fit(rows: Rows, card: str) -> Calibration:
    return fit(rows.samples(), load_hardware(card))


_PREDICTED: dict[str, np.ndarray] = {}


def _predicted(s: Setting, baseline: str) -> np.ndarray:
    """Without a row of the card all seeds learn the same: one prediction of the card serves all."""
    key = f"{s.case.name} {len(s.with_others(s.pool.take(NONE)))} {baseline}"
    if key not in _PREDICTED:
        _PREDICTED[key] = BASELINES[baseline](s.with_others(s.pool.take(NONE)), s.target)
    return _PREDICTED[key][s.asked]


_FITTED: dict[str, Calibration] = {}


def _fit_others(case: Case, others: Rows) -> Calibration:
    """The fit without any row of the card: the same for every seed, so it is made once."""
    key = f"{case.table} {case.card} {case.donors} {len(others)}"
    if key not in _FITTED:
        _FITTED.clear()
        _FITTED[key] = _fit(others, case.card)
    return _FITTED[key]


# How far off each is


def baseline_scores(s: Setting) -> Iterator[dict[str, Any]]:
    """All baselines on random samples. Trees in cycles differ from trees only over cards."""
    train = s.with_others(random_rows(s))
    for name, predict in BASELINES.items():
        if s.others is None and name == "boosted trees, clock cycles":
            continue
        start = time.perf_counter()
        seconds = _predicted(s, name) if s.case.budget == 0 else predict(train, s.held_out)
        took = time.perf_counter() - start
        yield _row(s, name, RANDOM, len(train), took) | errors(seconds, s.held_out.seconds)


def calib_scores(s: Setting) -> Iterator[dict[str, Any]]:
    """Ours; with a budget also on chosen samples, and within a card the trees on those too."""
    yield from _ours(s, None if s.case.budget == 0 else random_rows(s), RANDOM)
    if not s.case.budget:
        return
    chosen = chosen_rows(s)
    yield from _ours(s, chosen, CHOSEN)
    if s.others is not None:
        return
    seconds = BASELINES["boosted trees"](chosen, s.held_out)
    row = _row(s, "boosted trees", CHOSEN, len(chosen), np.nan)
    yield row | errors(seconds, s.held_out.seconds)


def _ours(s: Setting, own: Rows | None, selection: str) -> Iterator[dict[str, Any]]:
    start = time.perf_counter()
    if own is None:
        assert s.others is not None
        calibration, count = _fit_others(s.case, s.others), len(s.others)
    else:
        train = s.with_others(own)
        calibration, count = _fit(train, s.case.card), len(train)
    took = time.perf_counter() - start
    implementation = str(s.held_out.frame["implementation"].iloc[0])
    table = calibration.estimate(operators(s.held_out), implementation=implementation)
    seconds = s.held_out.seconds
    row = _row(s, OURS, selection, count, took) | errors(np.asarray(table["estimate_s"]), seconds)
    yield row | intervals(table, seconds)


def _row(s: Setting, method: str, selection: str, count: int, took: float) -> dict[str, Any]:
    return {
        "case": s.case.name,
        "seed": s.seed,
        "method": method,
        "selection": selection,
        "learned": count,
        "held_out": len(s.held_out),
        "fit_s": took,
    }


def errors(predicted: np.ndarray, seconds: np.ndarray) -> dict[str, float]:
    """Of |predicted / measured - 1|: mean, median, 90th percentile; and the mean with its sign."""
    error = predicted / seconds - 1
    size = np.abs(error)
    return {
        "mean": float(size.mean()),
        "median": float(np.median(size)),
        "p90": float(np.quantile(size, 0.9)),
        "bias": float(error.mean()),
    }


def intervals(table: pd.DataFrame, seconds: np.ndarray) -> dict[str, float]:
    """Share of ``seconds`` [n] inside low to high, and the median of (high - low) / (2 estimate).

    Overall and for each provenance: ``coverage``, ``width``, ``share`` with its name behind it.
    """
    known = table[["low_s", "high_s", "estimate_s"]].to_numpy(float)
    inside = (seconds >= known[:, 0]) & (seconds <= known[:, 1])
    width = (known[:, 1] - known[:, 0]) / (2 * known[:, 2])
    provenance = table["provenance"].to_numpy()
    result = {"coverage": float(inside.mean()), "width": float(np.median(width))}
    for name in sorted(set(provenance)):
        some = provenance == name
        result[f"share {name}"] = float(some.mean())
        result[f"coverage {name}"] = float(inside[some].mean())
        result[f"width {name}"] = float(np.median(width[some]))
    return result


DISAGREEMENT = [("gemm", card) for card in SIX] + [
    (table, card) for table in ("context_attention", "generation_attention") for card in BOTH
]
"""Tables and cards on which engines are compared."""


def disagreement(final: bool) -> pd.DataFrame:
    """How far two engines are apart on the same shapes of the same card: |other / vLLM - 1|."""
    parts = []
    for table, card in DISAGREEMENT:
        first = load(card, table).frame
        shape = [f.name for f in fields(TABLES[table].operator) if f.name in first]
        for engine in ("sglang", "trtllm"):
            other = load(card, table, engine).frame[[*shape, "seconds"]]
            both = first.merge(other, on=shape, suffixes=("", "_other"))
            both = both[final_rows(both["group"].to_numpy()) == final]
            apart = errors(both["seconds_other"].to_numpy(), both["seconds"].to_numpy())
            row = {"table": table, "card": card, "engine": engine, "held_out": len(both)}
            parts.append(row | apart)
    return pd.DataFrame(parts)
