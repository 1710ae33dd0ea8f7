"""The calibrations that a record is asked of, and the pool by folds of groups."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.recorded.estimates import Way
from calib.cards.corrected import Corrected
from calib.cards.correcting import correct
from calib.cards.energy.shipped import load_energy
from calib.cards.shipped import load_card
from calib.fit.calibration import Calibration, Estimator, uncalibrated
from calib.fit.fitting import fit, measured_shapes
from calib.fit.held_out import group_of
from calib.hardware.datasheet import Hardware
from calib.samples.faults import Cleaned
from calib.samples.host_costs import host_costs
from calib.samples.sample import Sample
from model.ops import Operator

FOLDS = 5
ROOFLINE, SHIPS, OWN, OVER, UNSEEN = "roofline", "ships", "own only", "own", "unseen"


def ways(
    samples: Cleaned,
    hardware: Hardware,
    own: frozenset[Operator],
    swept: Sequence[Sample],
) -> list[Way]:
    """Roofline; what ships; the record's samples alone; the same over what ships, as a run has
    it; and that without a model's own shapes. ``own``: the shapes of the recorded models;
    ``swept``: the samples of the machine whose host costs are among them.

    Of what ships nothing of the card's host is known, of the others what the samples hold. What
    ships holds torch's samples where the record went into it, so samples are put over the engine's
    tables alone, as they would be on a card that ships without.
    """
    published, costs = host_costs([], hardware.name), host_costs(swept, hardware.name)
    card, engine = load_card(hardware), load_card(hardware, taught=False)
    blind, seen, used = fit_own(samples.samples, hardware, own)
    unseen = over(blind, engine, used)
    known = replace(unseen, own=seen) if isinstance(unseen, Corrected) else seen
    energy = load_energy(hardware)
    return [
        Way(ROOFLINE, uncalibrated(hardware), published),
        Way(SHIPS, card or uncalibrated(hardware), published, energy),
        Way(OWN, seen, costs, energy),
        Way(OVER, known, costs, energy),
        Way(UNSEEN, unseen, costs, energy),
    ]


def over(own: Calibration, card: Estimator | None, samples: Sequence[Sample]) -> Estimator:
    """Own samples over the card's shipped figures, as a run takes them together."""
    return correct(card, own, samples) if card else own


def fit_own(
    samples: Sequence[Sample], hardware: Hardware, own: frozenset[Operator]
) -> tuple[Calibration, Calibration, list[Sample]]:
    """Without the models' shapes, and with them: one fit, to the rest, and their measured times
    beside it, as a run has it. And the samples that it was fitted to."""
    torchs = [s for s in samples if s.implementation == "torch"]
    designs = [s for s in torchs if s.origin == "design" and s.op not in own]
    blind = fit(designs, hardware)
    seen = replace(blind, measured=measured_shapes(torchs, hardware))
    return replace(blind, measured={}), seen, designs


def folds(samples: Sequence[Sample]) -> np.ndarray:
    """[n] the fold that each sample is held out in; a group of a kind is never split.

    Drawn kind by kind, so that it does not hang on what else a pool holds.
    """
    groups = [(s.op.operator, group_of(s)) for s in samples]
    fold: dict[tuple[str, str], int] = {}
    for kind in sorted({kind for kind, _ in groups}):
        names = sorted({group for group in groups if group[0] == kind})
        order = np.random.default_rng(0).permutation(len(names))
        fold |= {name: int(place) % FOLDS for name, place in zip(names, order, strict=True)}
    return np.array([fold[group] for group in groups])


def by_folds(samples: Sequence[Sample], hardware: Hardware) -> pd.DataFrame:
    """A row a sample of the pool, by a fit to the other folds over the engine's tables: kind,
    shape, measured_s, estimate_s, low_s, high_s, roofline_s, ships_s (by the tables alone)."""
    usable = [s for s in samples if s.status == "ok" and s.implementation == "torch"]
    fold, card = folds(usable), load_card(hardware, taught=False)
    parts = []
    for k in range(FOLDS):
        rest = [s for s, f in zip(usable, fold, strict=True) if f != k]
        held = [s for s, f in zip(usable, fold, strict=True) if f == k]
        parts.append(asked(over(fit(rest, hardware), card, rest), held, card))
    return pd.concat([p for p in parts if len(p)], ignore_index=True)


def asked(
    calibration: Estimator, samples: Sequence[Sample], card: Estimator | None
) -> pd.DataFrame:
    if not samples:
        return pd.DataFrame()
    ops, hot = [s.op for s in samples], [s.cache == "hot" for s in samples]
    table = calibration.estimate(ops, "torch", hot)
    ships = card.estimate(ops, "torch", hot)["estimate_s"].to_numpy() if card else np.nan
    return pd.DataFrame(
        {
            "kind": [s.op.operator for s in samples],
            "shape": [str(s.op) for s in samples],
            "measured_s": [s.expected for s in samples],
            **{n: table[n].to_numpy() for n in ("estimate_s", "low_s", "high_s")},
            "roofline_s": table["floor_s"].to_numpy(),
            "ships_s": ships,
        }
    )


def kinds(pool: pd.DataFrame) -> Iterator[dict[str, Any]]:
    """A row a kind: n, median and 90th percentile of the error, share inside the 90% interval,
    the median of what ships and of the roofline."""
    for kind, rows in pool.groupby("kind"):
        clock = rows["measured_s"]
        error = (rows["estimate_s"] / clock - 1).abs()
        inside = (rows["low_s"] <= clock) & (clock <= rows["high_s"])
        known = rows["low_s"].notna()
        yield {
            "kind": str(kind),
            "n": len(rows),
            "median": float(error.median()),
            "p90": float(error.quantile(0.9)),
            "coverage": float(inside[known].mean()) if known.any() else None,
            "ships": float((rows["ships_s"] / clock - 1).abs().median()),
            "roofline": float((rows["roofline_s"] / clock - 1).abs().median()),
        }
