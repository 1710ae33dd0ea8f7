"""The next card up and the next down, for one workload."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from calib.cards.shipped import shipped_cards
from calib.hardware.datasheet import Hardware, HardwareError, load_hardware, peak
from calib.hardware.links import between, nodes_of, within
from model.layer import Call
from model.ops import Collective, Operator, SendRecv

APART = 1.1
"""Ratio of two cards' times at their peaks above which one is faster than the other."""


class Work:
    """What a workload asks of a device: its operators, and how often each runs, on ``cards``."""

    def __init__(
        self, calls: Mapping[str, Sequence[Call]], passes: Mapping[str, int], cards: int = 1
    ):
        times: Counter[Operator] = Counter()
        for phase, some in calls.items():
            for call in some:
                times[call.op] += call.count * passes[phase]
        self.ops = list(times)
        self.times = np.array(list(times.values()), dtype=float)
        # Operators of a class and a dtype are executed by the same units.
        units = [(type(op), vars(op).get("dtype")) for op in self.ops]
        first = dict(zip(units, self.ops, strict=True))
        self.of_units = list(first.values())
        self.unit = np.array([list(first).index(unit) for unit in units])
        self.flops = np.array([float(op.min_flops) for op in self.ops])
        self.bytes = np.array([float(op.bytes) for op in self.ops])
        self.cards = cards

    def at_peaks(self, hardware: Hardware) -> float:
        """Seconds at the peaks of ``hardware``; infinite on a device that lacks one of them, or a
        link to as many others."""
        if self.cards > 1 and not joins(hardware, self.cards):
            return float("inf")
        try:
            peaks = np.array([peak(op, hardware) for op in self.of_units])[self.unit]
        except HardwareError:
            return float("inf")
        each = np.maximum(self.flops / peaks, self.bytes / hardware.bandwidth)
        return float(each @ self.times)


def joins(hardware: Hardware, cards: int) -> bool:
    """Whether its links join so many cards."""
    inner = within(hardware.links)
    if inner is None:
        return False
    return cards <= inner.cards or between(hardware.links) is not None


def relinked(
    calls: Mapping[str, Sequence[Call]], hardware: Hardware, cards: int
) -> dict[str, list[Call]]:
    """What ``cards`` tell each other, over as many nodes as cards like ``hardware`` take. Between
    stages a hop leaves a node where it did, unless all are on one."""
    apart = nodes_of(cards, hardware.links) > 1

    def there(call: Call) -> Call:
        op = call.op
        if not isinstance(op, Collective):
            return call
        if isinstance(op, SendRecv):
            return call if apart else replace(call, op=replace(op, nodes=1))
        return replace(call, op=replace(op, nodes=nodes_of(op.ranks, hardware.links)))

    return {phase: [there(call) for call in some] for phase, some in calls.items()}


def neighbours(hardware: Hardware, work: Work, needed_bytes: float) -> dict[str, Hardware]:
    """``up``: the slowest of the faster cards, of those that the workload fits where any is;
    ``down``: the fastest of the slower ones.

    By the time of the work at the datasheet's peaks, out of the cards whose calibration ships: of
    the others no more than that is known.
    """
    own = work.at_peaks(hardware)
    cards = [load_hardware(name) for name in shipped_cards() if name != hardware.name]
    timed = sorted(((work.at_peaks(card), card) for card in cards), key=lambda pair: pair[0])
    faster = [card for seconds, card in timed if seconds < own / APART]
    roomy = [card for card in faster if card.memory_bytes >= needed_bytes]
    slower = [card for seconds, card in timed if own * APART < seconds < float("inf")]
    found = {"up": (roomy or faster)[-1:], "down": slower[:1]}
    return {where: cards[0] for where, cards in found.items() if cards}
