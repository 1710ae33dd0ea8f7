"""The learning curve: n own samples of a kind, alone and over what ships without them.

Per seed a third of a kind's groups in the pool is asked for; of the rest, and of the sweep's own
design, n shapes are drawn to learn from. What ships are the engine's tables alone, as on a card of
which nothing of ours is known.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.recorded.text import lines, percent
from calib.cards.correcting import correct
from calib.cards.shipped import load_card
from calib.fit.calibration import Estimator
from calib.fit.fitting import fit
from calib.fit.held_out import group_of
from calib.hardware.datasheet import Hardware
from calib.samples.sample import Sample

COUNTS = (10, 30, 100, 300)
SEEDS = 5
ASKED = 1 / 3
FEWEST = 8
"""Shapes that a kind is asked for at least."""


def curve(
    pool: Sequence[Sample], sweep: Sequence[Sample], hardware: Hardware, seeds: int = SEEDS
) -> pd.DataFrame:
    """A row a kind, count and seed: n learned from, mean |log error| and the share of 90%
    intervals that hold, of what ships, of own samples alone and of both."""
    rows = []
    for kind in sorted({s.op.operator for s in pool}):
        ours = [usable(some, kind) for some in (pool, sweep)]
        for seed in range(seeds):
            rows += list(_of_kind(kind, *ours, hardware, seed))
    return pd.DataFrame(rows)


def usable(samples: Sequence[Sample], kind: str) -> list[Sample]:
    return [
        s
        for s in samples
        if s.op.operator == kind
        and (s.status, s.implementation) == ("ok", "torch")
        and s.origin != "model"
    ]


def _of_kind(
    kind: str, pool: list[Sample], sweep: list[Sample], hardware: Hardware, seed: int
) -> Iterator[dict[str, Any]]:
    rng = np.random.default_rng(seed)
    groups = sorted({group_of(s) for s in pool})
    held = {groups[i] for i in rng.permutation(len(groups))[: int(np.ceil(len(groups) * ASKED))]}
    asked = [s for s in pool if group_of(s) in held]
    rest = [s for s in [*pool, *sweep] if group_of(s) not in held]
    order = rng.permutation(len(rest))
    card = load_card(hardware, taught=False)
    if card is None or len(asked) < FEWEST:
        return
    ships = scored("ships", card, asked)
    for count in (c for c in COUNTS if c <= len(rest) or c == COUNTS[0]):
        learned = [rest[i] for i in order[:count]]
        own = fit(learned, hardware)
        both = correct(card, own, learned)
        yield {
            **{"kind": kind, "count": count, "seed": seed, "asked": len(asked)},
            **ships,
            **scored("own", own, asked),
            **scored("both", both, asked),
        }


def scored(name: str, calibration: Estimator, asked: Sequence[Sample]) -> dict[str, float]:
    table = calibration.estimate([s.op for s in asked], "torch", [s.cache == "hot" for s in asked])
    clock = np.array([s.expected for s in asked])
    error = np.abs(np.log(table["estimate_s"].to_numpy() / clock))
    inside = (table["low_s"] <= clock) & (clock <= table["high_s"])
    known = table["high_s"].notna()
    return {
        name: float(error.mean()),
        f"{name}_median": float(np.median(error)),
        f"{name}_holds": float(inside[known].mean()) if known.any() else float("nan"),
    }


def described(found: pd.DataFrame) -> str:
    """Means over seeds by kind and count, then over kinds."""
    names = ["asked", "ships", "own", "both", "both_median", "own_holds", "both_holds"]
    means = found.groupby(["kind", "count"])[names].mean()
    rows = [_row(kind, count, row) for (kind, count), row in means.iterrows()]  # type: ignore[misc]
    for count, some in means.groupby("count"):
        rows.append(_row(f"mean of {len(some)} kinds", int(str(count)), some.mean()))
    headers = ["mean |log error| by own samples", "n", "asked", "ships", "own only", "both"]
    return lines([*headers, "over better", "median", "90% hold, own", "both"], rows)


def _row(kind: str, count: int, row: pd.Series) -> list[str]:
    better = min(row["ships"], row["own"])
    return [
        *(kind, str(count), f"{row['asked']:.0f}"),
        *(percent(row[c], sign=False) for c in ("ships", "own", "both")),
        f"{row['both'] / better:.2f}",
        *(percent(row[c], sign=False) for c in ("both_median", "own_holds", "both_holds")),
    ]
