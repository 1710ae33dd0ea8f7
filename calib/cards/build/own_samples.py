"""What torch's samples of one card tell beyond its tables, and how far that carries."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from calib.cards.build.published import published_attention
from calib.cards.build.tables import ENGINE, log_ratios
from calib.cards.card import Card
from calib.cards.corrected import Carried, Taught
from calib.cards.correcting import correct
from calib.cards.shipped import load_card
from calib.cards.stored import SCHEMA_VERSION
from calib.cards.tables.figures import TORCH
from calib.checkout import ROOT
from calib.errors import CalibError
from calib.fit.calibration import Key, KindFit
from calib.fit.fitting import fit
from calib.hardware.attention_backend import backend_of
from calib.hardware.datasheet import Hardware, load_hardware
from calib.samples.faults import clean, cleaned
from calib.samples.files import read_samples
from calib.samples.host_costs import ORIGIN as HOST
from calib.samples.public_tables import CARDS as TABLED
from calib.samples.public_tables import ENGINES
from calib.samples.sample import Sample
from model.ops import Attention, Matmul

RECORDS = ROOT / "benchmarks" / "data"
FILES = ("pool.parquet", "sweep.parquet")
EARLIER = "first_run"
"""A folder of a record with such files of an earlier day."""
ANY = "8.0"
"""A compute capability that brings no rules of its own to the physics."""
LEAST_SHAPES = 100
"""Of a kind, on both cards and by both engines, that a carried ratio is told from."""


def recorded_cards() -> list[str]:
    return sorted(path.parent.name for path in RECORDS.glob(f"*/{FILES[0]}"))


def recorded(folder: Path, name: str, hardware: str | None = None) -> list[Sample]:
    """What the file ``name`` of a record holds, and what an earlier one of its kind holds of shapes
    of which no later sample can be used; what its host cost is another host's. Nothing where there
    is neither."""
    found: dict[object, Sample] = {}
    for path in (folder / name, folder / EARLIER / name):
        for s in read_samples(path, hardware=hardware) if path.exists() else ():
            key = (s.op, s.cache, s.implementation, s.origin == HOST)
            if path.parent != folder and s.origin == HOST:
                continue
            if key not in found or not any(clean([found[key]])):
                found[key] = s
    return list(found.values())


def samples_of(card: str) -> tuple[list[Sample], dict[str, Any]]:
    """torch's samples of the record without the recorded models' own shapes; what was left out."""
    read = [s for name in FILES for s in recorded(RECORDS / card, name, card)]
    clean = cleaned(read)
    usable = [s for s in clean.samples if s.status == "ok" and s.implementation == TORCH]
    usable = [s for s in usable if s.op.bytes]  # the rest are costs of the host
    kept = [s for s in usable if s.origin != "model"] + published_attention(card)
    about = {
        "of_models_left_out": sum(s.origin == "model" for s in usable),
        "corrected": clean.corrected,
        "faulty_left_out": clean.left_out,
    }
    return kept, about


def fit_taught(card: str, folder: Path) -> tuple[Taught, dict[str, Any], list[Sample]]:
    """``folder``: where the card's own figures lie. Raises ``CalibError`` where none do."""
    hardware = load_hardware(card)
    base = load_card(hardware, folder, taught=False)
    if base is None:
        raise CalibError(f"{card}: expected its figures in {folder} before torch's samples")
    samples, about = samples_of(card)
    own = fit(samples, hardware)
    over = correct(base, own, samples)
    told = carried_ratios(card)
    carried = {(row["to"], row["kind"]): Carried(row["share"], row["p90"]) for row in told}
    elsewhere, families = _elsewhere(samples, hardware), _families(samples, hardware)
    taught = Taught(card, own.kinds, over.blends, carried, elsewhere, families)
    return taught, _about(card, base, taught, samples, own.held_out, about), samples


def _families(samples: list[Sample], hardware: Hardware) -> tuple[str, ...]:
    """Those of the attentions' kernels, as torch wrote them down or would choose them."""
    some = [(s.backend, s.op) for s in samples if isinstance(s.op, Attention)]
    capability = hardware.compute_capability
    return tuple(sorted({written or backend_of(op, capability) for written, op in some}))


def _elsewhere(samples: list[Sample], hardware: Hardware) -> dict[Key, KindFit]:
    """Fits of the same samples as if the card had no kernels of its own kind: of products, whose
    tiles on Hopper no other card's library has."""
    plain = replace(hardware, compute_capability=ANY)
    return fit([s for s in samples if isinstance(s.op, Matmul)], plain).kinds


def _about(
    card: str,
    base: Card,
    taught: Taught,
    samples: list[Sample],
    held_out: pd.DataFrame,
    left: dict[str, Any],
) -> dict[str, Any]:
    """The data card."""
    public = sum(s.origin == "public" for s in samples)
    shares = {
        kind: {"own_fit": blend.share, "halfwidth_over_spread": blend.quantile}
        for (_, kind), blend in taught.blends.items()
    }
    return {
        "card": card,
        "summary": f"torch: {len(samples) - public} samples of {card}'s record"
        + f", and {public} that others published," * (public > 0)
        + " over its tables, without the recorded models' own shapes.",
        "created": datetime.now(UTC).date().isoformat(),
        "command": f"python -m calib.cards.build torch:{card}",
        "schema": SCHEMA_VERSION,
        "calib": version("calib"),
        "source": f"benchmarks/data/{card}: {', '.join(FILES)}",
        "over": base.about["summary"],
        "samples": dict(Counter(s.op.operator for s in samples)),
        **left,
        "held_out_by_samples_alone": held_out.to_dict("records"),
        "blends": shares,
        "carried_ratios": carried_ratios(card),
    }


@cache
def _ratios(card: str, other: str) -> dict[str, pd.Series]:
    return log_ratios(card, other)


def carried_ratios(card: str) -> list[dict[str, Any]]:
    """How far ratios between two engines on ``card`` tell those elsewhere: a row a card and kind.

    Of each other engine the log ratio of its seconds to this one's, the same shapes on ``card`` and
    on another. ``share``: the slope of the latter in the former, 0 to 1; ``p90``: of what that
    leaves; on that card, and (``to`` empty) on all. Of the engine whose ratios carry best, since
    torch runs the same vendor's products and the same family of attention kernels.
    """
    pairs: dict[tuple[str, str, str], np.ndarray] = {}
    for other in (e for e in ENGINES if e != ENGINE):
        here = _ratios(card, other)
        for away in (c for c in TABLED if c != card):
            for kind, ratio in _ratios(away, other).items():
                both = here.get(kind, ratio[:0]).align(ratio, join="inner")
                pairs[away, kind, other] = np.array([side.to_numpy() for side in both])
    for kind, other in dict.fromkeys((kind, other) for _, kind, other in pairs):
        every = [a for (_, k, o), a in pairs.items() if (k, o) == (kind, other)]
        pairs["", kind, other] = np.concatenate(every, axis=1)
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    for (away, kind, other), (mine, theirs) in pairs.items():
        if len(mine) >= LEAST_SHAPES:
            share = float(np.clip(mine @ theirs / (mine @ mine), 0.0, 1.0))
            middle, p90 = np.quantile(np.abs(theirs - share * mine), (0.5, 0.9)).tolist()
            if p90 < rows.get((away, kind), {"p90": np.inf})["p90"]:
                row = {"to": away, "kind": kind, "engine": other, "shapes": len(mine)}
                rows[away, kind] = {**row, "share": share, "median": middle, "p90": p90}
    return list(rows.values())


def as_text(about: dict[str, Any]) -> str:
    return json.dumps(about, indent=1, default=float) + "\n"
