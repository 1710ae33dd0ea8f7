"""What power makes of time: operators and phases that ran for a second beside a few milliseconds.

``calib.estimates.energy.power`` has the formula. Its one number, the power of the clock with which
joules fall, is chosen on operators here; phases and layers saw none of it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.energy.operators import constant
from benchmarks.energy.phases import CountedPhase
from calib.cards.energy.counted import Counted, CountedCard
from calib.cards.energy.fitted import Energy
from calib.cards.energy.fitting import arrays
from calib.cards.shipped import load_card
from calib.errors import CalibError
from calib.estimates.energy import power as formula
from calib.estimates.energy.power import Power
from calib.hardware.datasheet import Hardware
from calib.samples.host_costs import GRAPH

FALLS = (1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0, 5.0)
LONG_S = 20e-6
"""Shorter operators leave gaps that no sample has."""
LAYERS = ("llama_3_1_8b", "text_b16", "prefill")
SPANS = (0.0, 0.05, 0.1, 0.15, 0.2, 0.25)


@dataclass(frozen=True)
class Held:
    """One that ran for a second. ``short_s``: of a sample, or of one replay from rest;
    ``counted_s``: on and on; ``factor``: what the formula makes of the first."""

    name: str
    short_s: float
    counted_s: float
    factor: float


def held_operators(card: CountedCard, energy: Energy, hardware: Hardware) -> list[Held]:
    """Half products that would draw more than the ceiling, by what ships for the card."""
    some = [row for row in card.operators if _is_half_product(row)]
    shipped = load_card(hardware)
    if shipped is None:
        raise CalibError(f"{hardware.name} ships no calibration: expected one")
    hot = [row.cache == "hot" and row.op.bytes <= hardware.l2_bytes for row in some]
    short = shipped.estimate([row.op for row in some], "torch", hot)["estimate_s"].to_numpy()
    work, counted, _ = arrays(some, hardware)
    found = []
    for row, w, s, c in zip(some, work, short, counted, strict=True):
        power = Power(energy, w[None], np.ones(1))
        above = float(power.above(np.array([s]))[0])
        if s > LONG_S and above > energy.ceiling_w * s:
            factor = float(power.longer(np.array([s]), s, rest_s=0.0)[0][0])
            found.append(Held(str(row.op), float(s), float(c), factor))
    return found


def _is_half_product(row: Counted) -> bool:
    return row.op.operator == "matmul" and getattr(row.op, "dtype", "") == "bfloat16"


def held_phases(phases: Sequence[CountedPhase], energy: Energy, folder: Path) -> list[Held]:
    """Graphs that would draw more than the ceiling. One replay of them is in ``folder``; one that
    took longer than a card has at rest was not at rest, and is left out."""
    rows = json.loads((folder / "models.json").read_text("utf-8"))
    single = {(r["model"], r["workload"], r["phase"]): r["graph_s"] for r in rows}
    found = []
    for one in phases:
        short_s = single[one.model, one.workload, one.phase]
        if one.execution != GRAPH or not short_s or short_s > formula.AT_REST_S:
            continue
        power = Power(energy, one.work / one.executions[:, None], one.executions)
        seconds = one.seconds * min(1.0, short_s / one.kernel_s)
        factor, _ = power.longer(seconds, short_s, rest_s=0.0)
        later_s = float((seconds * (factor - 1.0)).sum())
        if later_s > 0:
            found.append(Held(one.name, short_s, one.wall_s, 1.0 + later_s / short_s))
    return found


def by_fall(card: CountedCard, energy: Energy, hardware: Hardware) -> Iterator[tuple[float, float]]:
    """(the power, root mean square of the error of those operators)."""
    for fall in FALLS:
        with constant(formula, "FALL", fall):
            rows = held_operators(card, energy, hardware)
        errors = [np.log(r.short_s * r.factor / r.counted_s) for r in rows]
        yield fall, float(np.sqrt(np.mean(np.square(errors))))


def course(folder: Path) -> list[float]:
    """Of LAYERS, seconds of a layer over those of the first ones, by when it began: the mean in
    each of SPANS."""
    rows = pd.read_parquet(folder / f"{'.'.join(LAYERS)}.parquet")
    layer = rows["path"].str.extract(r"layers\.(\d+)\.")[0]
    seconds = rows["seconds"].groupby(layer.astype(float)).sum().to_numpy()
    begins = np.cumsum(seconds) - seconds
    span = np.searchsorted(SPANS, begins, side="right") - 1
    first = seconds[span == 0].mean()
    return [float(seconds[span == i].mean() / first) for i in sorted(set(span.tolist()))]


def tables(
    card: CountedCard,
    phases: Sequence[CountedPhase],
    energy: Energy,
    hardware: Hardware,
    record: Path,
) -> str:
    """``record``: the card's folder, with ``models`` and, of another day, ``first_run/models``."""
    rows = held_operators(card, energy, hardware)
    lines = ["run for a second                       short us  counted  formula"]
    lines += [
        f"{_words(r.name):38} {r.short_s * 1e6:8.1f} {r.counted_s / r.short_s:8.3f} {r.factor:8.3f}"
        for r in [*rows, *held_phases(phases, energy, record / "models")]
    ]
    lines += ["", "joules fall with the clock's power    " + "".join(f"{f:7g}" for f in FALLS)]
    found = dict(by_fall(card, energy, hardware))
    lines += [
        "error of those operators, rms         " + "".join(f"{e:7.1%}" for e in found.values())
    ]
    lines += ["", f"layers of {' '.join(LAYERS)}, over the first, by the second they began in"]
    lines += ["from " + "".join(f"{s:8.2f}" for s in SPANS)]
    for day in ("models", "first_run/models"):
        path = record / day
        if path.exists():
            lines.append("     " + "".join(f"{one:8.3f}" for one in course(path)) + f"  {day}")
    return "\n".join(lines)


def _words(name: str) -> str:
    return name.partition(", batch=")[0].replace("Matmul(", "").replace("=", " ").replace(",", "")
