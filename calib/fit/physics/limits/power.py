"""What a card's power limit makes of its large products, and how that carries to another card.

Large products draw what the board may draw: the clock falls until they do. What they sustain is

    plateau = median of (2 m n k / peak) / seconds of long products that arithmetic bounds
    joules  = power limit / (plateau * peak)                                        [J/FLOP]

Cards of one kind of matrix instruction spend about as many joules on a FLOP (an A100 1.43 pJ, an
L40S 1.55, an RTX PRO 6000 1.52; an H100 0.89, an H200 0.92), however their limits and peaks differ.
So a card that nobody measured sustains

    plateau = min(0.90, power limit / (joules of the card most like it * peak))

since no scheduler feeds a matrix unit better than an A100's. Joules go by the process, too:
Samsung's, of compute capability 8.6 (an RTX A6000), takes 2.43 pJ, so that a card whose published
products fell short of 0.90 tells those of its compute capability first. Where the fastest products
of a card were published (``conf/hw``, ``measured.products.bfloat16``), it sustains those, and no
shorter one is faster. A lent product was slowed by its own card's limit as far as it drew upon it:
wholly where it is such a long product, else by its rate over the plateau:

    seconds * (1 + (plateau of its card / plateau of the target - 1) * min(1, rate / plateau))

Foretold from the five others this way, products of an L40S are 11.4% off instead of 15.0%, of an
RTX PRO 6000 8.4% instead of 13.2%, of the others as before (docs/cards.md). Paged attention of
engines shows no such slowing, and keeps its times; of dense attention it is a bound of its own
(:mod:`calib.fit.physics.blocks.attention.flash`). Joules do not carry over to another kind of
matrix instruction: a B200, by an H200's, would sustain 0.49 of its peak, and sustains 0.70. There a
lent product stays as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from calib.fit.likeness import distance
from calib.fit.physics.features import Features
from calib.hardware.datasheet import Hardware, hardware_names, load_hardware
from calib.hardware.rates import instruction
from model.ops import Matmul, Operator

_DTYPE = "bfloat16"
_LONG_S = 1e-3
_BOUND = 4.0
"""A product counts for the plateau from so many seconds on, and where its arithmetic takes so many
times as long as its bytes."""
_LEAST = 20
_FREE = 0.90
"""The plateau of a card with watts to spare: the highest of any table, an A100's."""


@dataclass(frozen=True)
class Sustained:
    """What large products of ``hardware`` reach: ``plateau``, a share of the datasheet's rate.
    ``is_most``: no shorter one reaches more."""

    hardware: Hardware
    plateau: float
    is_most: bool = False

    @property
    def joules(self) -> float:
        """Joules a FLOP at the power limit; NaN where no one states the limit."""
        power = self.hardware.power_w
        rate = self.plateau * self.hardware.peak_flops[_DTYPE]
        return float("nan") if power is None else power / rate


def is_limited(op: Operator) -> bool:
    """Whether it is of the kind and dtype whose times a power limit is read off."""
    return isinstance(op, Matmul) and op.dtype == _DTYPE


def sustained(x: Features, seconds: np.ndarray, hardware: Hardware) -> Sustained | None:
    """The plateau by products that took ``seconds`` [n]; None where too few of them are large."""
    large = _are_large(x, seconds)
    if large.sum() < _LEAST:
        return None
    return Sustained(hardware, float(np.median((x.compute_s / seconds)[large])))


def _are_large(x: Features, seconds: np.ndarray) -> np.ndarray:
    """[n] bool: long enough for the clock to fall, and bound by arithmetic."""
    return np.asarray((seconds > _LONG_S) & (x.compute_s > _BOUND * x.memory_s))


def is_akin(one: Hardware, other: Hardware) -> bool:
    """Whether both multiply by the same kind of instruction, so that joules carry over."""
    kinds = [instruction(h.compute_capability) for h in (one, other)]
    return kinds[0] is not None and kinds[0] == kinds[1]


def published(hardware: Hardware) -> Sustained | None:
    """By the fastest of others' products, the middle of reports; None where none are known."""
    rate = hardware.published(f"products.{_DTYPE}")
    if rate is None:
        return None
    return Sustained(hardware, rate / hardware.peak_flops[_DTYPE], is_most=True)


def limited(target: Hardware) -> list[Sustained]:
    """Cards of the compute capability of ``target`` whose published products their limit held."""
    same = target.compute_capability
    cards = [load_hardware(name) for name in hardware_names()]
    found = [published(c) for c in cards if c.compute_capability == same and c.name != target.name]
    return [s for s in found if s is not None and s.plateau < _FREE]


def foretold(target: Hardware, known: Sequence[Sustained]) -> Sustained | None:
    """What ``target`` would sustain: by what was published of it, else by the joules of the card
    most like it; None where no card that is akin, or no power limit, is ``known``."""
    if (own := published(target)) is not None:
        return own
    known = limited(target) or known
    priced = [s for s in known if is_akin(s.hardware, target) and not np.isnan(s.joules)]
    if not priced or target.power_w is None:
        return None
    likest = min(priced, key=lambda s: distance(target, s.hardware, _DTYPE))
    limit = target.power_w / (likest.joules * target.peak_flops[_DTYPE])
    return Sustained(target, min(_FREE, limit))


def slowed(
    x: Features, seconds: np.ndarray, donor: Sustained | None, target: Sustained | None
) -> np.ndarray:
    """[n] ``seconds`` of products of ``donor`` as the limit of ``target`` would slow them; as they
    are where either's is not known, or their joules do not carry over."""
    if donor is None or target is None or not is_akin(donor.hardware, target.hardware):
        return seconds
    drawn = np.minimum(1.0, x.compute_s / seconds / donor.plateau)
    drawn = np.where(_are_large(x, seconds), 1.0, drawn)
    slower = seconds * (1 + (donor.plateau / target.plateau - 1) * drawn)
    least = x.compute_s / target.plateau if target.is_most else 0.0
    return np.asarray(np.maximum(slower, least))
