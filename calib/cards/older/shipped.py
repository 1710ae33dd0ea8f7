"""torch built for an older CUDA: other kernels on the same card, which public traces of one timed.

A CUDA 12 brings a cuBLAS that takes Ampere's kernels for small products, and a cuDNN that torch
asks last: attention is FlashAttention 2's. Products and the rest start from what ships for today's
CUDA, each kind with what its older kernels take longer however small they are; attention from the
tables of the likest card on which an engine takes FlashAttention 2. The traces' operators correct
both (:mod:`calib.cards.corrected`). Other cards of the same compute capability borrow the
corrections. Attention of float32 is the same kernel's by both CUDAs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from calib.cards.card import Card
from calib.cards.corrected import NORMAL, Away, Blend, Corrected
from calib.cards.older import products
from calib.cards.older.products import OlderProducts, Products, nearest_in, products_teacher
from calib.cards.shipped import FOLDER, load_card, read_about, shipped_cards
from calib.cards.stored import read_record
from calib.cards.tables.figures import TORCH, Figures
from calib.fit.calibration import (
    ROOFLINE,
    TRANSFERRED,
    Calibration,
    Estimates,
    Estimator,
    Key,
    KindFit,
    Over,
    Tabled,
    dtype_of,
    kind_of,
    listed,
)
from calib.fit.likeness import card_to_card, distance
from calib.fit.physics.blocks.attention.flash import FLASH
from calib.hardware.datasheet import Hardware, load_hardware
from calib.hardware.versions import is_older
from model.ops import Attention, Operator, TensorCoreOperator, grid_points, is_grid

if TYPE_CHECKING:
    import pandas as pd

OLDER = "older"
"""The folder of them, and what the build calls one: older:h100."""
ATTENTION = "attention"


@dataclass(frozen=True)
class Older:
    """``attention``: fits that stand for torch's, ``apart`` how far they may be off on this card
    (half-width, log); ``starts``: kind -> what each call takes longer [s]; ``blends``: what the
    traces' operators correct. They are too few for a fit of their own: by one, four rows times
    4096 x 128,256 took twice the time in which the weights are read."""

    hardware: str
    attention: dict[Key, KindFit]
    apart: float
    starts: dict[str, float]
    blends: dict[tuple[str, str], Blend]


def load_torch(hardware: Hardware, folder: Path = FOLDER) -> Estimator | None:
    """What ships of torch on ``hardware``, by the CUDA that it names; None where nothing does."""
    card = load_card(hardware, folder)
    if card is None:
        return None
    of_products = products_teacher(hardware, folder / OLDER)
    if of_products:
        place = folder / OLDER / products.FOLDER / f"{of_products.name}.npz"
        return OlderProducts(card, read_record(place, Products))
    told = teacher_of(hardware, folder)
    if told is None:
        return card
    record = read_record(folder / OLDER / f"{told.name}.npz", Older)
    return taught_by(card, record, told)


def teacher_of(hardware: Hardware, folder: Path = FOLDER) -> Hardware | None:
    """The card whose traces tell of an older CUDA: itself, else one of the same capability; None
    where no older one is meant, or none such ships."""
    return nearest_in(folder / OLDER, hardware) if is_older(hardware.cuda) else None


def about_older(hardware: Hardware, folder: Path = FOLDER) -> dict[str, object] | None:
    """The data card of what ships of an older CUDA on ``hardware``; None as of ``load_torch``,
    where it says the same as without."""
    if hardware.name not in shipped_cards(folder):
        return None
    place = folder / OLDER
    if of_products := products_teacher(hardware, place):
        return read_about(place / products.FOLDER / f"{of_products.name}.json")
    told = teacher_of(hardware, folder)
    return read_about(place / f"{told.name}.json") if told else None


@dataclass(frozen=True)
class Beneath(Over):
    """``whole`` as today's torch runs on it: by an older CUDA all of that is other kernels' times.
    ``starts``: kind -> what those take longer [s]."""

    whole: Card
    starts: dict[str, float] = field(default_factory=dict)

    def estimates(
        self,
        ops: Sequence[Operator] | Operator,
        implementation: str = TORCH,
        hot: Sequence[bool] | np.ndarray | bool | None = None,
    ) -> Estimates:
        found = self.whole.estimates(ops, implementation, hot)
        known_as = np.where(found.known_as == ROOFLINE, ROOFLINE, TRANSFERRED).astype(object)
        kinds = [kind_of(op) for op in listed(ops)]
        later = np.array([self.starts.get(kind, 0.0) for kind in kinds])
        seconds, low, high = (end + later for end in (found.seconds, found.low, found.high))
        return Estimates(found.floor, seconds, low, high, known_as)


def beneath(card: Card, record: Older) -> Beneath:
    """What the traces correct: ``card`` with the other attention, of which torch's own samples by
    today's CUDA say nothing."""
    figures, taught = card.figures, card.taught
    kinds = {key: fit for key, fit in figures.kinds.items() if key[1] != ATTENTION}
    carried = figures.carried | {ATTENTION: record.apart}
    lent = replace(figures, kinds=kinds | record.attention, carried=carried)
    others = taught and replace(
        taught,
        kinds={key: fit for key, fit in taught.kinds.items() if key[1] != ATTENTION},
        blends={key: b for key, b in taught.blends.items() if not key[1].startswith(ATTENTION)},
    )
    return Beneath(Card(card.hardware, lent, card.about, others), record.starts)


@dataclass(frozen=True)
class OlderTorch(Tabled):
    """``older``: what the traces tell; ``today``: of the kernels that both CUDAs take. Products of
    float16 are those of bfloat16, of which the traces are: the same kernels at the same rate."""

    older: Corrected
    today: Card

    @property
    def hardware(self) -> Hardware:
        return self.today.hardware

    @property
    def held_out(self) -> pd.DataFrame:
        return self.today.held_out

    def estimates(
        self,
        ops: Sequence[Operator] | Operator,
        implementation: str = TORCH,
        hot: Sequence[bool] | np.ndarray | bool | None = None,
    ) -> Estimates:
        if isinstance(ops, Operator):
            if _is_between(ops):
                each = list(grid_points(ops)) if is_grid(ops) else [ops]
                return self.estimates(each, implementation, hot)
            ((_, known, some),) = self.parts([ops])
            return known.estimates(some[0], implementation, hot)
        found = self._said(ops, implementation, hot)
        padded = np.array([_next_smaller(op) is not None for op in ops], dtype=bool)
        rows = np.flatnonzero(padded)
        if len(rows):
            smaller = [_next_smaller(ops[int(i)]) for i in rows]
            at = (
                hot if hot is None else np.broadcast_to(np.asarray(hot, dtype=bool), len(ops))[rows]
            )
            least = self._said([op for op in smaller if op], implementation, at)
            for mine, theirs in zip(
                *((e.seconds, e.low, e.high) for e in (found, least)), strict=True
            ):
                mine[rows] = np.maximum(mine[rows], theirs)
        return found

    def _said(
        self,
        ops: Sequence[Operator],
        implementation: str,
        hot: Sequence[bool] | np.ndarray | bool | None,
    ) -> Estimates:
        flags = None if hot is None else np.broadcast_to(np.asarray(hot, dtype=bool), len(ops))
        found = Estimates.nothing_of(len(ops))
        for where, known, some in self.parts(ops):
            at = None if flags is None else flags[where]
            found.put(where, known.estimates(some, implementation, at))
        return found

    def parts(
        self, ops: Sequence[Operator]
    ) -> Iterator[tuple[np.ndarray, Estimator, list[Operator]]]:
        """Who tells which of ``ops``: their places, and the operators that it is asked for."""
        todays = np.array([_is_todays(op) for op in ops], dtype=bool)
        for rows, known in ((todays, self.today), (~todays, self.older)):
            where = np.flatnonzero(rows)
            if len(where):
                yield where, known, [_traced(ops[int(i)]) for i in where]


_HEADS = (32, 64, 96, 128, 192, 256)


def _is_between(op: Operator) -> bool:
    """Whether it, or some of a grid, may have heads without a kernel of their own."""
    return isinstance(op, Attention) and not bool(np.all(np.isin(op.head_dim, _HEADS)))


def _next_smaller(op: Operator) -> Operator | None:
    """``op`` at the largest head below its own that has a kernel (``_HEADS``): FlashAttention 2
    runs one between two of them by the larger one's kernel, so never faster than the smaller. None
    where its own has one, or keys and values differ."""
    if not isinstance(op, Attention) or is_grid(op) or op.v_head_dim not in (None, op.head_dim):
        return None
    below = [size for size in _HEADS if size <= op.head_dim]
    if not below or op.head_dim in _HEADS or below[-1] == _HEADS[-1]:
        return None
    values = None if op.v_head_dim is None else below[-1]
    return replace(op, head_dim=below[-1], v_head_dim=values)


def _is_todays(op: Operator) -> bool:
    return isinstance(op, Attention) and op.dtype == "float32"


def _traced(op: Operator) -> Operator:
    is_half = isinstance(op, TensorCoreOperator) and vars(op)["dtype"] == "float16"
    return replace(op, **{"dtype": "bfloat16"}) if is_half else op


def taught_by(card: Card, record: Older, told: Hardware) -> OlderTorch:
    hardware = card.hardware

    def away(ops: Sequence[Operator] | Operator) -> Away:
        first = ops if isinstance(ops, Operator) else ops[0]
        apart = card_to_card(hardware, [told], dtype_of(first)) / NORMAL
        return Away(apart, 1.0, apart)

    is_own = hardware.name == told.name
    nothing = Calibration(hardware, {}, card.held_out)
    older = Corrected(beneath(card, record), nothing, record.blends, None if is_own else away)
    return OlderTorch(older, card)


def lent_attention(hardware: Hardware, folder: Path = FOLDER) -> tuple[dict[Key, KindFit], str]:
    """FlashAttention 2 as an engine's tables have it, of the likest card; and which that is."""
    found = {}
    for name in shipped_cards(folder):
        figures = read_record(folder / f"{name}.npz", Figures)
        fits = {k: f for k, f in figures.kinds.items() if k[0].endswith(("/flash_attn_2", FLASH))}
        if fits and ATTENTION not in figures.carried:
            found[name] = fits
    likest = min(found, key=lambda name: distance(hardware, load_hardware(name), "bfloat16"))
    return found[likest], likest
