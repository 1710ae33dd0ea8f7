"""Collectives of a card that no table knows: by the fits of cards that are joined as it is.

    log seconds = mean over those cards of their fits, asked with this card's link and clock

A fit tells what is left of its physics by ranks and bytes: steps of protocol and algorithm, which
are the library's, and the same on the same link. So of cards joined by NVLink the one whose
bandwidth is nearest tells of another; of several that are as near, those whose link spans as many
cards, alike. Of cards joined by PCIe the servers' bridges differ more than the generations of the
link do (an all-gather of eight cards moves 37% of the line on one server, 4% on the other): all of
them count alike, and so does what the link alone tells.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from calib.cards.engines.stored import engine_cards, load_engine
from calib.fit.calibration import (
    HELD_OUT_COLUMNS,
    TRANSFERRED,
    Calibration,
    Estimates,
    Key,
    Tabled,
    linked,
)
from calib.fit.kind import KindFit
from calib.hardware.datasheet import Hardware, load_hardware
from calib.hardware.links import Link, within
from model.ops import AllGather, AllReduce, AllToAll, Operator, ReduceScatter

NVLINK_APART, PCIE_APART = (0.1, 0.6), 1.5
"""Half-width, in log, that lending adds. By NVLink: between cards of one bandwidth, and for each
factor of e between bandwidths; by PCIe. From the 90th percentiles of each card by its likest
(``python -m benchmarks.collectives``)."""
_KINDS = tuple(op.operator for op in (AllReduce, AllGather, ReduceScatter, AllToAll))


@dataclass(frozen=True)
class Lent(Tabled):
    """``lenders``: the fits of other cards, under this card's ``hardware``; ``apart``: half-width
    that lending adds, in log; ``by_link``: whether the link alone counts as one of them."""

    hardware: Hardware
    lenders: tuple[Calibration, ...]
    apart: float
    by_link: bool

    @property
    def kinds(self) -> set[Key]:
        """What every lender knows."""
        return set.intersection(*(set(lender.kinds) for lender in self.lenders))

    def estimates(
        self,
        ops: Sequence[Operator] | Operator,
        implementation: str = "",
        hot: Sequence[bool] | np.ndarray | bool | None = True,
    ) -> Estimates:
        """Of collectives in ``kinds``, whatever ``hot``."""
        told = [lender.estimates(ops, implementation, True) for lender in self.lenders]
        logs = [np.log(found.seconds) for found in told]
        halves = [np.log(found.high / found.low) / 2 for found in told]
        if self.by_link:
            logs.append(np.log(linked(ops, self.hardware)[0]))
        seconds = np.exp(np.mean(logs, axis=0))
        half = np.exp(np.hypot(np.mean(halves, axis=0), self.apart))
        known_as = np.full(len(seconds), TRANSFERRED, dtype=object)
        return Estimates(told[0].floor, seconds, seconds / half, seconds * half, known_as)


def lent(hardware: Hardware, known: Mapping[str, Mapping[Key, KindFit]]) -> Lent | None:
    """What ``known``, card -> its fits, lend to ``hardware``; None where no card is joined as it
    is."""
    cards = likest(hardware, known)
    if not cards:
        return None
    here, there = _link(hardware), _link(load_hardware(cards[0]))
    wired = here.kind == "pcie"
    same, further = NVLINK_APART
    apart = PCIE_APART if wired else same + further * _between(here, there)
    nothing = pd.DataFrame(columns=HELD_OUT_COLUMNS)
    kinds = [{k: fit for k, fit in known[card].items() if k[1] in _KINDS} for card in cards]
    return Lent(hardware, tuple(Calibration(hardware, k, nothing) for k in kinds), apart, wired)


def likest(hardware: Hardware, cards: Iterable[str]) -> list[str]:
    """Of ``cards`` those that lend to ``hardware``: never itself."""
    here = within(hardware.links)
    links = {card: within(load_hardware(card).links) for card in cards if card != hardware.name}
    alike = {c: link for c, link in links.items() if here and link and link.kind == here.kind}
    if here is None or here.kind == "pcie":
        return sorted(alike)
    far = {c: (_between(here, k), abs(np.log(k.cards / here.cards))) for c, k in alike.items()}
    return sorted(c for c in far if far[c] == min(far.values()))


def lent_engine(hardware: Hardware, engine: str) -> Lent | None:
    """What ships of ``engine`` (or NCCL) on other cards, lent to ``hardware``."""
    names = [card for card in engine_cards() if load_engine(card, engine)]
    found = {card: load_engine(card, engine) for card in likest(hardware, names)}
    return lent(hardware, {card: f.kinds for card, f in found.items() if f})


def _link(hardware: Hardware) -> Link:
    link = within(hardware.links)
    assert link is not None
    return link


def _between(one: Link, other: Link) -> float:
    """Between bandwidths, in log."""
    return round(abs(float(np.log(one.bandwidth / other.bandwidth))), 9)
