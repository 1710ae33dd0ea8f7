"""Operators that were counted, each by a fit that saw none of its group; and by two baselines."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import ModuleType

import numpy as np

from calib.cards.energy import fitted as formula
from calib.cards.energy.counted import Counted, CountedCard
from calib.cards.energy.fitting import group_of, held_out
from calib.hardware.datasheet import Hardware

EXPONENTS = (0.6, 0.7, 0.8, 0.9, 1.0)
Predicts = Callable[[Sequence[Counted], Sequence[Counted]], np.ndarray]
"""(rows to learn from, rows asked for) -> joules [asked]."""


@dataclass(frozen=True)
class Errors:
    """Relative errors of joules, signed."""

    name: str
    errors: np.ndarray

    @property
    def row(self) -> tuple[float, float, float]:
        """Mean, median and largest, without sign."""
        off = np.abs(self.errors)
        return float(off.mean()), float(np.median(off)), float(off.max())


def ways(card: CountedCard, hardware: Hardware) -> list[Errors]:
    """Ours and the baselines, the same groups held out of each."""
    groups = groups_of(card)
    ours = np.expm1(held_out(card.operators, groups, hardware, card.idle_w))
    return [
        Errors("calib", ours),
        Errors("mean watts", _by_groups(card, groups, mean_watts)),
        Errors("idle + a FLOP/s + b bytes/s", _by_groups(card, groups, plane(card.idle_w))),
    ]


def by_exponent(card: CountedCard, hardware: Hardware) -> list[Errors]:
    found = []
    for exponent in EXPONENTS:
        with constant(formula, "EXPONENT", exponent):
            errors = held_out(card.operators, groups_of(card), hardware, card.idle_w)
        found.append(Errors(f"{exponent:g}", np.expm1(errors)))
    return found


@contextmanager
def constant(formula: ModuleType, name: str, value: float) -> Iterator[None]:
    """Within it ``name`` of a formula's module is ``value``."""
    kept = getattr(formula, name)
    setattr(formula, name, value)
    try:
        yield
    finally:
        setattr(formula, name, kept)


def groups_of(card: CountedCard) -> list[str]:
    return [group_of(row) for row in card.operators]


def _by_groups(card: CountedCard, groups: Sequence[str], predicts: Predicts) -> np.ndarray:
    found = np.empty(len(groups))
    of = np.array(groups)
    for group in sorted(set(groups)):
        inside = of == group
        rest = [r for r, held in zip(card.operators, inside, strict=True) if not held]
        some = [r for r, held in zip(card.operators, inside, strict=True) if held]
        found[inside] = predicts(rest, some) / np.array([r.joules for r in some]) - 1
    return found


def mean_watts(rows: Sequence[Counted], asked: Sequence[Counted]) -> np.ndarray:
    watts = float(np.mean([row.joules / row.seconds for row in rows]))
    return np.array([watts * row.seconds for row in asked])


def plane(idle_w: float) -> Predicts:
    """watts = idle + a FLOP/s + b bytes/s, by least squares."""

    def predicts(rows: Sequence[Counted], asked: Sequence[Counted]) -> np.ndarray:
        seconds = np.array([row.seconds for row in asked])
        return np.asarray((idle_w + rates(asked) @ slopes(rows, idle_w)) * seconds)

    return predicts


def slopes(rows: Sequence[Counted], idle_w: float) -> np.ndarray:
    """Joules a FLOP and a byte."""
    above = np.array([row.joules / row.seconds - idle_w for row in rows])
    scale = rates(rows).max(axis=0)
    found, *_ = np.linalg.lstsq(rates(rows) / scale, above, rcond=None)
    return np.asarray(found / scale)


def rates(rows: Sequence[Counted]) -> np.ndarray:
    """[n, 2] FLOP/s and bytes/s."""
    return np.array([[float(r.op.flops), float(r.op.bytes)] for r in rows]) / np.array(
        [[r.seconds] for r in rows]
    )


def repeated(card: CountedCard, earlier: CountedCard) -> np.ndarray:
    """Joules above idle of one execution, this count over an earlier one, minus 1."""
    before = {(r.op, r.cache): r.joules - earlier.idle_w * r.seconds for r in earlier.operators}
    pairs = [
        (r.joules - card.idle_w * r.seconds, before[r.op, r.cache])
        for r in card.operators
        if (r.op, r.cache) in before
    ]
    return np.array([now / then - 1 for now, then in pairs])
