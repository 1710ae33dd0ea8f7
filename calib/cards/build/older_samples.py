"""What traces of a card by an older CUDA tell: fitted over what ships beneath them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from calib.cards.build.own_samples import as_text
from calib.cards.build.writing import check, write_text
from calib.cards.card import Card
from calib.cards.correcting import correct
from calib.cards.older.shipped import (
    ATTENTION,
    OLDER,
    Beneath,
    Older,
    beneath,
    lent_attention,
    load_torch,
    taught_by,
)
from calib.cards.shipped import FOLDER, load_card
from calib.cards.stored import SCHEMA_VERSION, write_record
from calib.cards.tables.figures import TORCH
from calib.checkout import ROOT
from calib.errors import CalibError
from calib.fit.calibration import uncalibrated
from calib.fit.likeness import card_to_card
from calib.hardware.datasheet import Hardware, load_hardware
from calib.hardware.versions import OLDER as CUDA
from calib.samples.files import read_samples
from calib.samples.sample import HOT, Sample

RECORDS = ROOT / "benchmarks" / "data"
FILE = "samples.parquet"
LEAST_FOR_START = 4
"""Samples of a kind that a start is told from."""


def traced_cards() -> list[str]:
    """Cards of which traces by an older CUDA are kept."""
    return sorted(
        path.parent.name.removesuffix("_traces") for path in RECORDS.glob(f"*_traces/{FILE}")
    )


def samples_of(card: str) -> list[Sample]:
    return list(read_samples(RECORDS / f"{card}_traces" / FILE, card))


def fit_older(hardware: Hardware, samples: Sequence[Sample], folder: Path) -> tuple[Older, str]:
    """``folder``: where the cards' own figures lie; and the card that lends attention."""
    base = load_card(hardware, folder)
    if base is None:
        raise CalibError(f"{hardware.name}: expected its figures in {folder} before its traces")
    attention, lender = lent_attention(hardware, folder)
    apart = card_to_card(hardware, [load_hardware(lender)], "bfloat16")
    blank = Older(hardware.name, attention, apart, {}, {})
    blank = replace(blank, starts=_starts(beneath(base, blank), samples))
    over = correct(beneath(base, blank), uncalibrated(hardware), samples)
    return replace(blank, blends=over.blends), lender


def _starts(base: Beneath, samples: Sequence[Sample]) -> dict[str, float]:
    """Kind -> what calls take longer by the older kernels, however small [s]: what leaves the least
    mean log error. A factor that small calls showed would be carried to large ones."""
    by_kind: dict[str, list[Sample]] = {}
    for sample in samples:
        by_kind.setdefault(sample.op.operator, []).append(sample)
    found = {}
    for kind, some in by_kind.items():
        if kind == ATTENTION or len(some) < LEAST_FOR_START:
            continue  # another kernel stands for attention already
        hot = np.array([s.cache == HOT for s in some])
        known = base.estimates([s.op for s in some], TORCH, hot).seconds
        taken = np.array([s.expected for s in some])
        later = np.concatenate([[0.0], np.maximum(taken - known, 0.0)])
        errors = np.abs(np.log((known + later[:, None]) / taken)).sum(axis=1)
        found[kind] = float(later[int(np.argmin(errors))])
    return found


def about(
    card: str, base: Card, record: Older, lender: str, samples: list[Sample]
) -> dict[str, Any]:
    """The data card."""
    return {
        "card": card,
        "summary": f"{len(samples)} operators of public traces of {card} by CUDA {CUDA} correct "
        f"what ships, and attention is {lender}'s FlashAttention 2.",
        "created": datetime.now(UTC).date().isoformat(),
        "command": f"python -m calib.cards.build older:{card}",
        "schema": SCHEMA_VERSION,
        "calib": version("calib"),
        "source": f"benchmarks/data/{card}_traces",
        "over": base.about["summary"],
        "samples": dict(Counter(s.op.operator for s in samples)),
        "starts_s": record.starts,
        "models": sorted({s.group for s in samples}),
        "blends": {
            kind: {"halfwidth_over_spread": blend.quantile}
            for (_, kind), blend in record.blends.items()
        },
    }


def build_older(card: str, folder: Path = FOLDER) -> str:
    """Fit, store, read back and compare what traces of ``card`` tell; the data card's summary."""
    hardware, samples, place = load_hardware(card), samples_of(card), folder / OLDER
    base = load_card(hardware, folder)
    record, lender = fit_older(hardware, samples, folder)
    assert base is not None
    place.mkdir(parents=True, exist_ok=True)
    data_card = about(card, base, record, lender, samples)
    write_text(place / f"{card}.json", as_text(data_card))
    write_record(place / f"{card}.npz", record)
    ops, hot = [s.op for s in samples], [s.cache == HOT for s in samples]
    fitted = taught_by(base, record, hardware)
    stored = load_torch(replace(hardware, cuda=CUDA), folder)
    assert stored is not None
    before, after = (e.estimate(ops, TORCH, hot)["estimate_s"] for e in (fitted, stored))
    check(f"{OLDER}:{card}", float(abs(after / before - 1).max()))
    return str(data_card["summary"])
