"""Fit every card that ships from the public tables: ``python -m calib.cards.build [card ...]``.

Needs the extra ``public``. A card with tables is fitted to its own; one without, and a kind that
its tables lack, to all other cards' (``transferred``). Beside each ``<card>.npz`` goes a data card
that says what went in and how well it does on what it never saw. ``torch:<card>`` fits torch's own
samples of a record (``benchmarks/data/<card>``) over that card's tables, for all cards;
``older:<card>`` what traces of it by an older CUDA tell (``benchmarks/data/<card>_traces``),
``products:<card>`` what tables of its products by one do (``benchmarks/data/older_products``).
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from calib.cards.build.older_products import build_products, products_cards
from calib.cards.build.older_samples import build_older, traced_cards
from calib.cards.build.own_samples import as_text, fit_taught, recorded_cards
from calib.cards.build.published import (
    NEUSIGHT,
    SOURCE,
    published_attention,
    published_products,
)
from calib.cards.build.published_streams import NOTES as OF_STREAMS
from calib.cards.build.published_streams import published_streams
from calib.cards.build.tables import (
    ENGINE,
    WIDE,
    Tables,
    borrowed_caches,
    dense_samples,
    tables_of,
    widths,
)
from calib.cards.build.writing import check, write_text
from calib.cards.card import Card
from calib.cards.older.products import FOLDER as PRODUCTS
from calib.cards.older.shipped import OLDER
from calib.cards.shipped import FOLDER, load_card
from calib.cards.stored import SCHEMA_VERSION, write_record
from calib.cards.tables.figures import CUDNN, TORCH, Figures, nearness
from calib.cards.tables.stand_ins import NOTES
from calib.errors import CalibError
from calib.fit.calibration import Calibration
from calib.fit.fitting import fit
from calib.fit.held_out import data_of
from calib.fit.likeness import has_relatives
from calib.fit.physics.blocks.attention.flash import FLASH
from calib.fit.physics.limits.power import Sustained, foretold, is_limited, sustained
from calib.hardware.attention_backend import FLASH as FLASH_2
from calib.hardware.attention_backend import order
from calib.hardware.datasheet import Hardware, load_hardware
from calib.hardware.device import clocked, published_clock_ratio
from calib.samples import public
from calib.samples.public_tables import CARDS as TABLED
from calib.samples.public_tables import LENDERS
from calib.samples.sample import HOT, Sample
from model.ops import Elementwise

CARDS = (
    *sorted(TABLED),
    *("a10", "a100_pcie_40gb", "a100_pcie_80gb", "a10g", "a30", "a40", "h100_nvl", "h100_pcie"),
    *("h20", "h800", "l4", "l40"),
    *("rtx3090", "rtx4080", "rtx4090", "rtx5090", "rtx_6000_ada", "rtx_a6000"),
    *("p100", "p4", "t4", "v100_16gb", "v100_32gb", "v100_pcie_32gb"),
)
"""Those with tables, those with a relative among them, and those of which products are known."""


def fit_card(card: str) -> tuple[Figures, dict[str, Any], list[Sample]]:
    """The figures of ``card``, its data card, and the samples that they were fitted to."""
    hardware = load_hardware(card)
    own = tables_of(card) if card in TABLED else Tables({}, [], [], {})
    mine = [s for table in own.samples.values() for s in table]
    lent = _lent(hardware, {s.op.operator for s in mine})
    float32, streams = published_products(hardware), published_streams(hardware, TORCH)
    # Where there is a record of torch itself, these are among its samples.
    timed = [] if card in recorded_cards() else published_attention(card, CUDNN)
    unseen = _error_on_unseen_cards(frozenset(k for s in lent.values() for k in _kinds(s)))
    ratio = 1.0 if mine else published_clock_ratio(hardware)
    limit = plateau_of(card)
    if lent and limit is None:
        limit = foretold(clocked(hardware, ratio), [s for c in LENDERS if (s := plateau_of(c))])
    dense = dense_samples() if order(hardware.compute_capability)[:1] == (FLASH_2,) else ()
    samples = [*mine, *(s for some in lent.values() for s in some), *float32, *streams]
    samples += [*timed, *dense]
    fits = fit(samples, clocked(hardware, ratio), lambda name: _say(f"{card}: fitting {name}"))
    others = [c for c in LENDERS if c != card]
    disagree = own.disagreements or [r for c in others for r in tables_of(c).disagreements]
    caches = borrowed_caches(hardware, {c: tables_of(c).caches for c in others}) | own.caches
    carried = {row["kind"]: float(np.log1p(row["p90_error"])) for row in unseen}
    by_torch = {kind for implementation, kind, _ in fits.kinds if implementation == TORCH}
    differ = {kind: width for kind, width in widths(disagree).items() if kind not in by_torch}
    figures = Figures(card, fits.kinds, caches, differ, carried, ratio)
    rows = [r for r in _rows(fits) if r["implementation"] != FLASH]
    seen = [r for r in rows if r["kind"] not in carried or r["implementation"] == NEUSIGHT]
    about = _about(card, own, lent, figures, seen + unseen, disagree)
    about["float32_products"] = dict(Counter(s.hardware for s in float32))
    if streams:
        about["float32_streams"] = dict(Counter(s.op.operator for s in streams))
        about["stand_ins"] = NOTES | OF_STREAMS
    about["attention_of_library"] = len(timed)
    about["dense_attention"] = [r for r in _rows(fits) if r["implementation"] == FLASH]
    about["share_of_peak_sustained"] = limit and limit.plateau
    return figures, about, samples


@cache
def plateau_of(card: str) -> Sustained | None:
    """What large products sustain on a card with tables; None for others."""
    if card not in TABLED:
        return None
    products = [s for s in tables_of(card).samples.get("gemm", []) if is_limited(s.op)]
    data = data_of(products, load_hardware(card))
    return sustained(data.x, data.seconds, load_hardware(card))


def _rows(fits: Calibration) -> list[dict[str, Any]]:
    return [{str(name): v for name, v in row.items()} for row in fits.held_out.to_dict("records")]


def _kinds(samples: Sequence[Sample]) -> set[str]:
    return {s.op.operator for s in samples}


def _lent(hardware: Hardware, known: Collection[str]) -> dict[str, list[Sample]]:
    """Card -> its samples of kinds other than ``known``.

    Cards of the same compute capability lend first: two Hopper cards predict each other's products
    better by a third than all five others do. What those lack comes from all.
    """
    if not has_relatives(hardware):
        return {}
    others = [c for c in LENDERS if c != hardware.name]
    alike = [
        c for c in others if load_hardware(c).compute_capability == hardware.compute_capability
    ]
    near = _one_kernel(alike, known)
    found = {kind for samples in near.values() for kind in _kinds(samples)}
    far = _one_kernel(others, {*known, *found})
    return {c: samples for c in others if (samples := near.get(c, []) + far[c])}


def _one_kernel(cards: Sequence[str], known: Collection[str]) -> dict[str, list[Sample]]:
    """Card -> its samples of kinds other than ``known``, of the kernel that most cards measured.

    One kernel a kind: a transferred fit cannot tell which kernel a shape would be run by. Narrow
    products are not lent.
    """
    lent = {
        card: [
            s
            for t in tables_of(card).samples.values()
            for s in t
            if s.op.operator not in known and vars(s.op)["dtype"] == WIDE
        ]
        for card in cards
    }
    spread: dict[str, dict[str, set[str]]] = {}
    for card, samples in lent.items():
        for s in samples:
            spread.setdefault(s.op.operator, {}).setdefault(s.implementation, set()).add(card)
    chosen = {
        kind: min(by, key=lambda name, by=by: (-len(by[name]), nearness(name)))  # type: ignore[misc]
        for kind, by in spread.items()
    }
    return {
        card: [s for s in samples if s.implementation == chosen[s.op.operator]]
        for card, samples in lent.items()
    }


@cache
def _error_on_unseen_cards(kinds: frozenset[str]) -> list[dict[str, Any]]:
    """Held-out rows of a fit to all cards that leaves out each card in turn, of those ``kinds``."""
    known = {s.op.operator for c in LENDERS for t in tables_of(c).samples.values() for s in t}
    samples = [s for some in _one_kernel(list(LENDERS), known - kinds).values() for s in some]
    # Whichever device the estimates are for: none of these samples is its own or its like's.
    stranger = replace(load_hardware("a10"), name="none of them")
    fits = fit(samples, stranger, lambda name: _say(f"unseen cards: fitting {name}"))
    return [{**row, "held_out": "cards"} for row in _rows(fits)]


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _about(
    card: str,
    own: Tables,
    lent: Mapping[str, Sequence[Sample]],
    figures: Figures,
    held_out: Sequence[Mapping[str, Any]],
    disagree: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    """The data card."""
    donors = {c: dict(Counter(s.op.operator for s in some)) for c, some in lent.items() if some}
    engines = ([card] if own.samples else []) + list(donors)
    return {
        "card": card,
        "summary": summary(card, own, donors, held_out),
        "created": datetime.now(UTC).date().isoformat(),
        "command": f"python -m calib.cards.build {card}",
        "schema": SCHEMA_VERSION,
        "calib": version("calib"),
        "source": {
            "package": public.PACKAGE,
            "version": version(public.PACKAGE),
            "licence": "Apache-2.0",
            "engines": {c: f"{ENGINE} {public.engine_version(c, ENGINE)}" for c in engines},
        },
        "rows": {table: len(samples) for table, samples in own.samples.items()},
        "dropped": own.dropped,
        "rows_of_other_cards": donors,
        "clock_ratio": figures.clock_ratio,
        "held_out": [{**row, "held_out": _held_out_by(row)} for row in held_out],
        "engines_disagree": list(disagree),
        "hot_to_cold": {kind: asdict(caches) for kind, caches in figures.caches.items()},
        "stand_ins": NOTES,
    }


def summary(
    card: str, own: Tables, donors: Mapping[str, Any], held_out: Sequence[Mapping[str, Any]]
) -> str:
    """One line for the notes of a report."""
    rows, parts = sum(map(len, own.samples.values())), []
    if rows:
        engine = f"{ENGINE} {public.engine_version(card, ENGINE)}"
        parts.append(f"fitted to {rows} public rows of {engine} on this card")
    for names, kinds in _lenders(donors).items():
        parts.append(f"{', '.join(kinds)} transferred from {', '.join(names)}")
    largest: dict[str, Mapping[str, Any]] = {}
    for row in held_out:  # of a kind's kernels, the one with most samples
        if row["implementation"] == NEUSIGHT and (rows or donors):
            continue
        if row["kind"] not in largest or row["samples"] > largest[row["kind"]]["samples"]:
            largest[row["kind"]] = row
    if any(row["implementation"] == NEUSIGHT for row in held_out):
        told = sorted({row["kind"] for row in held_out if row["implementation"] == TORCH})
        parts.append(f"{', '.join(['matmul', *told])} of float32 by published timings ({SOURCE})")
        parts += ["what else streams as elementwise"] * (Elementwise.operator in told)
    if not (rows or donors):
        parts.append("all else the roofline")
    source, errors = f"{public.PACKAGE} {version(public.PACKAGE)}", []
    for where in dict.fromkeys(_held_out_by(row) for row in largest.values()):
        same = [(kind, row) for kind, row in largest.items() if _held_out_by(row) == where]
        found = ", ".join(f"{kind} {row['median_error']:.1%}" for kind, row in same)
        errors.append(f"on held-out {where}: {found}")
    tables = f" ({source})" if rows or donors else ""
    return f"{card}: {'; '.join(parts)}{tables}. Median error {'; '.join(errors)}."


def _held_out_by(row: Mapping[str, Any]) -> str:
    """What was held out whole when the row's errors were made: "shapes", or "cards"."""
    return str(row.get("held_out", "shapes"))


def _lenders(donors: Mapping[str, Mapping[str, int]]) -> dict[tuple[str, ...], list[str]]:
    """Cards -> the kinds that they lend together."""
    kinds = sorted({kind for lent in donors.values() for kind in lent})
    together: dict[tuple[str, ...], list[str]] = {}
    for kind in kinds:
        lenders = tuple(card for card, lent in donors.items() if kind in lent)
        together.setdefault(lenders, []).append(kind)
    return together


def change_by_storing(before: Card, after: Card, samples: Sequence[Sample]) -> float:
    """The largest relative difference between two cards' estimates of the samples' shapes."""
    largest = 0.0
    for key in before.figures.kinds:
        ops = [s.op for s in samples if (s.implementation, s.op.operator) == key[:2]]
        some = ops[:: max(1, len(ops) // 500)]
        pair = [card.estimate(some, key[0]) for card in (before, after)]
        for column in ("estimate_s", "low_s", "high_s"):
            ratio = pair[1][column].to_numpy() / pair[0][column].to_numpy()
            largest = max(largest, float(abs(ratio - 1).max()))
    return largest


def build_taught(card: str, folder: Path = FOLDER) -> str:
    """Fit, store, read back and compare torch's samples of ``card``; the data card's summary."""
    taught, about, samples = fit_taught(card, folder)
    hardware, place = load_hardware(card), folder / TORCH
    place.mkdir(parents=True, exist_ok=True)
    write_text(place / f"{card}.json", as_text(about))
    write_record(place / f"{card}.npz", taught)
    stored = load_card(hardware, folder)
    assert stored is not None
    ops, hot = [s.op for s in samples], [s.cache == HOT for s in samples]
    before, after = (c.estimate(ops, TORCH, hot) for c in (replace(stored, taught=taught), stored))
    ratio = after["estimate_s"].to_numpy() / before["estimate_s"].to_numpy()
    check(f"{TORCH}:{card}", float(abs(ratio - 1).max()))
    return str(about["summary"])


def build(card: str, folder: Path = FOLDER) -> str:
    """Fit, store, read back and compare ``card``; the data card's summary.

    Raises ``CalibError`` where storing changed an estimate by more than a thousandth.
    """
    figures, about, samples = fit_card(card)
    hardware = load_hardware(card)
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / f"{card}.json", json.dumps(about, indent=1, default=float) + "\n")
    write_record(folder / f"{card}.npz", figures)
    stored = load_card(hardware, folder)
    assert stored is not None
    check(card, change_by_storing(Card(hardware, figures, about), stored, samples))
    return str(about["summary"])


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    every = [*CARDS, *(f"{TORCH}:{card}" for card in recorded_cards())]
    every += [f"{OLDER}:{card}" for card in traced_cards()]
    every += [f"{PRODUCTS}:{card}" for card in products_cards()]
    parser.add_argument("cards", nargs="*", metavar="card", help=f"default: {' '.join(every)}")
    parser.add_argument("--folder", type=Path, default=FOLDER)
    arguments = parser.parse_args()
    try:
        for name in arguments.cards or every:
            of, _, card = name.rpartition(":")
            made = {TORCH: build_taught, OLDER: build_older, PRODUCTS: build_products}
            make = made.get(of, build)
            print(make(card, arguments.folder), flush=True)
    except CalibError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
