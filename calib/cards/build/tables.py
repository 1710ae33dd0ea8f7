"""The public tables of a card as a build takes them, and what they tell beside their times."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
import pandas as pd

from calib.cards.build.published import published_attention
from calib.cards.tables.cold import Caches, fit_caches
from calib.fit.physics.blocks.attention.flash import FLASH, parts
from calib.fit.physics.features import stack
from calib.hardware.attention_backend import backend_of
from calib.hardware.datasheet import Hardware, hardware_names, load_hardware
from calib.samples import public, public_tables
from calib.samples.public_tables import LENDERS
from calib.samples.sample import Sample
from model.ops import Attention

ENGINE = "vllm"
RESIDENT_SHARE = {"matmul": 1 / 6}
"""Of the L2, what one operator keeps there between replays; 1 for kinds not named. Products are
replayed over several copies of their weights: on the cards whose L2 is faster than their memory
the rate of one-row products falls between a sixth and a ninth of the L2, that of attention and
pointwise kernels at the whole of it."""


WIDE = "bfloat16"
NARROW = {"gemm": ("float8_e4m3fn",)}
"""Table -> dtypes that are fitted beside bfloat16. Of expert layers none: the kernel that vLLM
takes for one scale a tensor needs three times bfloat16's time on a Hopper card, and files scale by
block, which no operator here says."""


class _Heard(logging.Handler):
    """Keeps what the reader of the tables says that it dropped."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


def read_tables(card: str) -> tuple[dict[str, list[Sample]], list[str]]:
    """Table -> samples of ``card``, and what was dropped on the way."""
    heard, level = _Heard(), public.log.level
    public.log.addHandler(heard)
    public.log.setLevel(logging.INFO)
    try:
        tables = {
            t: public.public_samples(card, [t], pooled=True, dtypes=(WIDE, *NARROW.get(t, ())))
            for t in public_tables.TABLES
        }
    finally:
        public.log.removeHandler(heard)
        public.log.setLevel(level)
    return {t: samples for t, samples in tables.items() if samples}, heard.lines


def caches_of(samples: Iterable[Sample], hardware: Hardware) -> dict[str, Caches]:
    """Kind -> rates of hot and cold reads, where the samples show them."""
    by_kind: dict[str, list[Sample]] = {}
    for sample in (s for s in samples if vars(s.op)["dtype"] == WIDE):
        by_kind.setdefault(sample.op.operator, []).append(sample)
    found = {}
    for kind, same in by_kind.items():
        seconds = np.array([s.median for s in same])
        largest = max(stack([s.op for s in same]), key=lambda grid: len(grid[1]))
        caches = fit_caches(
            largest[0], seconds[largest[1]], hardware, RESIDENT_SHARE.get(kind, 1.0)
        )
        if caches:
            found[kind] = caches
    return found


def borrowed_caches(
    hardware: Hardware, known: Mapping[str, dict[str, Caches]]
) -> dict[str, Caches]:
    """Of the cards of the same compute capability, else the median of all."""
    same = [c for c in known if load_hardware(c).compute_capability == hardware.compute_capability]
    donors = [known[c] for c in same or known]
    kinds = sorted({kind for donor in donors for kind in donor})
    return {kind: _median([d[kind] for d in donors if kind in d]) for kind in kinds}


def _median(caches: Sequence[Caches]) -> Caches:
    return Caches(*(float(v) for v in np.median([list(vars(c).values()) for c in caches], axis=0)))


def disagreements(card: str) -> list[dict[str, Any]]:
    """How far another engine's times of the same shapes lie from this one's: a row a kind, engine.

    ``p90``: the half-width in log seconds that holds 90% of the shapes.
    """
    return [
        {"kind": kind, "engine": other, "shapes": len(all_), **_spread(all_)}
        for other in public_tables.ENGINES
        if other != ENGINE
        for dtype in (WIDE, *NARROW["gemm"])
        for kind, all_ in _ratios(card, other, dtype).items()
    ]


def dense_attention(card: str, encoder: Iterable[Sample]) -> list[Sample]:
    """The engine's attention without pages, where it is the kernel that torch takes on ``card``,
    cut as torch cuts it: an engine's never splits keys."""
    hardware = load_hardware(card)
    return [
        replace(s, implementation=FLASH)
        for s in encoder
        if isinstance(s.op, Attention)
        and s.implementation.endswith("/flash_attn_2")
        and backend_of(s.op, hardware.compute_capability) == FLASH
        and float(parts(s.op, hardware)) == 1
    ]


def widths(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Kind -> the ``p90`` of the engine that agrees best: torch runs the same vendor's products
    and the same family of attention kernels, and not the slowest engine's."""
    kinds = sorted({row["kind"] for row in rows})
    return {kind: min(row["p90"] for row in rows if row["kind"] == kind) for kind in kinds}


def _spread(ratios: np.ndarray) -> dict[str, float]:
    return {"median": float(np.median(ratios)), "p90": float(np.quantile(ratios, 0.9))}


def _ratios(card: str, other: str, dtype: str) -> dict[str, np.ndarray]:
    """Kind, and the dtype if it is narrow -> [n] absolute log ratios of the other engine's seconds
    to this one's."""
    named = "" if dtype == WIDE else f" {dtype}"
    found = log_ratios(card, other, dtype).items()
    return {f"{kind}{named}": np.abs(r.to_numpy()) for kind, r in found}


def log_ratios(card: str, other: str, dtype: str = WIDE) -> dict[str, pd.Series]:
    """Kind -> by table and shape, log ratios of the other engine's seconds to this one's."""
    found: dict[str, list[pd.Series]] = {}
    for table, spec in public_tables.TABLES.items():
        has_it = dtype == WIDE or dtype in NARROW.get(table, ())
        both = all(public.has_table(card, table, engine) for engine in (ENGINE, other))
        if has_it and both:
            pairs = [_by_shape(card, table, engine, dtype) for engine in (ENGINE, other)]
            mine, theirs = pairs[0].align(pairs[1], join="inner")
            where = pd.Index([(table, *shape) for shape in mine.index.to_flat_index()])
            ratio = pd.Series(np.log(theirs.to_numpy() / mine.to_numpy()), index=where)
            found.setdefault(spec.operator.operator, []).append(ratio)
    return {kind: pd.concat(parts) for kind, parts in found.items() if sum(map(len, parts))}


def _by_shape(card: str, table: str, engine: str, dtype: str) -> pd.Series:
    """Seconds by shape; the least where an engine has several kernels for one."""
    rows = public.read_table(card, table, engine=engine, dtypes=(dtype,))
    circumstances = {"seconds", "hardware", "group", "implementation", "inputs", "device"}
    shape = [c for c in rows if c not in circumstances]
    return rows.groupby(shape, dropna=False)["seconds"].min()


@dataclass(frozen=True)
class Tables:
    """One card's tables: samples by table, what was dropped, how engines disagree, its caches."""

    samples: dict[str, list[Sample]]
    dropped: list[str]
    disagreements: list[dict[str, Any]]
    caches: dict[str, Caches]


@cache
def tables_of(card: str) -> Tables:
    samples, dropped = read_tables(card)
    everything = [s for table in samples.values() for s in table]
    return Tables(samples, dropped, disagreements(card), caches_of(everything, load_hardware(card)))


@cache
def dense_samples() -> tuple[Sample, ...]:
    """Attention by FlashAttention 2 without pages, of all cards on which torch takes it."""
    found = []
    for card in LENDERS:
        found += dense_attention(card, tables_of(card).samples.get("encoder_attention", []))
    return (*found, *(s for card in hardware_names() for s in published_attention(card, FLASH)))
