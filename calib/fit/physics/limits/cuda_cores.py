"""What products of float32 sustain on CUDA cores of which half are those of integers as well.

Where compute capability is 8.6, 8.9 or 12.0, a multiprocessor has twice the float32 lanes that it
can feed in a product, and more of them a watt than a board supplies. By published products of six
such cards (``conf/hw``, ``measured.products.float32``) they sustain 0.45 to 0.70 of the
datasheet's rate, at 7.5 to 8.4 pJ a FLOP by TSMC's processes, 14.1 and 10.7 by Samsung's. Boards
with few watts clock lower, at a lower voltage, and spend fewer joules on a FLOP: between two cards
of one compute capability

    joules ~ share of the datasheet's rate ** fall

with a fall of 0.55 (an A10 of 150 W beside an RTX 3090 of 350, an L40S beside an RTX 4090). So a
card that nobody measured sustains, with w the watts of its limit a FLOP/s of the datasheet's,

    share = min(highest of the known,
                share of the known card most like it * (w / w of that card) ** (1 / (1 + fall)))

Cards of other compute capabilities are fed (an A100, a V100: 0.8 to 1.0), or hold by other means
than power (an H100, an H200, a B200: 0.77 to 0.83), which is what a product of bfloat16 holds there
as well; they keep what stands in for them. Where a board's watts hold a product of bfloat16 below
that (an H100 PCIe: 0.52), cores that draw less are not held: they sustain the least that was
published of their compute capability. ``python -m benchmarks.public_products`` foretells each
card from the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from calib.fit.likeness import distance
from calib.hardware.datasheet import Hardware, hardware_names, load_hardware

SHARED = ("8.6", "8.9", "12.0")
"""Compute capabilities whose cores are shared so (CUDA C++ Programming Guide, architectures)."""
_FLOAT32 = "float32"


def published_rate(hardware: Hardware) -> float | None:
    """FLOP/s of large products of float32, the middle of what was published; None: nothing was."""
    return hardware.published(f"products.{_FLOAT32}")


def sustained_rate(hardware: Hardware) -> float | None:
    """FLOP/s of large products of float32; None where the cores are not shared.

    What was published of ``hardware``, else foretold from other cards of ``conf/hw``.
    """
    if hardware.compute_capability not in SHARED:
        return None
    if (own := published_rate(hardware)) is not None:
        return own
    return foretold_rate(hardware, [c for c in published_cards() if c.name != hardware.name])


def foretold_rate(hardware: Hardware, cards: Sequence[Hardware]) -> float | None:
    """The formula; None where nothing was published of any of ``cards``."""
    rates = {card.name: rate for card in cards if (rate := published_rate(card)) is not None}
    known = [card for card in cards if card.name in rates]
    if not known:
        return None
    rate = max(rates[card.name] / card.cuda_core_flops for card in known)
    rate *= hardware.cuda_core_flops
    priced = [card for card in known if card.power_w is not None]
    if hardware.power_w is None or not priced:
        return rate
    likest = min(priced, key=lambda card: distance(hardware, card, _FLOAT32))
    share = rates[likest.name] / likest.cuda_core_flops
    watts = [_watts(card) / card.cuda_core_flops for card in (hardware, likest)]
    return min(rate, share * (watts[0] / watts[1]) ** rise(known) * hardware.cuda_core_flops)


def rise(cards: Sequence[Hardware]) -> float:
    """By which power of its watts the rate of a card that its limit holds goes up, 1 / (1 + fall):
    by published products of float32 of ``cards``, each beside those of its compute capability."""
    moved: list[tuple[float, float]] = []
    for capability in dict.fromkeys(card.compute_capability for card in cards):
        same = [c for c in cards if c.compute_capability == capability and c.power_w is not None]
        shares = np.log([(published_rate(c) or np.nan) / c.cuda_core_flops for c in same])
        joules = np.log([_watts(c) / (published_rate(c) or np.nan) for c in same])
        if len(same) > 1:
            moved += zip(shares - shares.mean(), joules - joules.mean(), strict=True)
    across = sum(share**2 for share, _ in moved)
    fall = sum(share * joule for share, joule in moved) / across if across else 0.0
    return float(1 / (1 + max(fall, 0.0)))


def _watts(card: Hardware) -> float:
    return float("nan") if card.power_w is None else card.power_w


def published_cards() -> list[Hardware]:
    """Cards of ``conf/hw`` with shared cores of whose products of float32 something is known."""
    cards = [load_hardware(name) for name in hardware_names()]
    return [c for c in cards if c.compute_capability in SHARED and published_rate(c) is not None]


def multiplying(hardware: Hardware, rate: float) -> Hardware:
    """``hardware`` with products of float32 at ``rate`` FLOP/s."""
    return replace(hardware, peak_flops=hardware.peak_flops | {_FLOAT32: rate})


def as_taught(clocks: Hardware, card: Hardware, teacher: Hardware) -> Hardware:
    """``clocks``, ``card`` as it clocks, for a fit to samples of ``teacher``: what cores sustain
    is over their peak what the teacher's do."""
    rate, taught = sustained_rate(card), published_rate(teacher)
    if rate is None or taught is None or teacher.name == card.name:
        return clocks
    return multiplying(clocks, rate * teacher.cuda_core_flops / taught)


def as_lent(card: Hardware, share: float | None) -> Hardware:
    """For a product of bfloat16 that stands in for one of float32: the former sustains ``share`` of
    its rate, None where nobody knows."""
    if share is None:
        return card
    rate = sustained_rate(card) or unheld_rate(card, share)
    return card if rate is None else multiplying(card, rate / share)


def unheld_rate(card: Hardware, share: float) -> float | None:
    """FLOP/s of float32 where a product of bfloat16 sustains a ``share`` of its rate that is less
    than float32 does on each published card of the same compute capability; None elsewhere."""
    others = [load_hardware(name) for name in hardware_names() if name != card.name]
    shares = [
        rate / other.cuda_core_flops
        for other in others
        if other.compute_capability == card.compute_capability
        and (rate := published_rate(other)) is not None
    ]
    is_known = card.compute_capability in SHARED or published_rate(card) is not None
    if is_known or not shares or share >= min(shares):
        return None
    return min(shares) * card.cuda_core_flops
