"""What a card's power limit makes of its large products, and how that carries to another card.

Large products draw what the board may draw: the clock falls until they do. What they sustain is

    plateau = median of (2 m n k / peak) / seconds of long products that arithmetic bounds
    joules  = power limit / (plateau * peak)                                        [J/FLOP]

Cards of one kind of matrix instruction spend about as many joules on a FLOP (an A100 1.43 pJ, an
L40S 1.53, an RTX PRO 6000 1.51; an H100 0.89, an H200 0.92), however their limits and peaks differ.
So a card without a table sustains

    plateau = min(free, power limit / (joules of the card most like it * peak))

with ``free`` the highest plateau of any table, an A100's 0.90: no scheduler feeds a matrix unit
better. A lent sample was slowed by its own card's limit as far as it drew upon it: wholly where it
is such a long product, else by its rate over the plateau:

    seconds * (1 + (plateau of its card / plateau of the target - 1) * min(1, rate / plateau))

An RTX PRO 6000 foretold from an L40S alone this way: products of 0.3 ms and more that arithmetic
bounds 7% off instead of 33%, all products 8.6% instead of 15.7%; an L40S from an RTX PRO 6000 9%
instead of 30%, and 10.2% instead of 15.7%. Attention of these two shows no such slowing, and keeps
its times. Cards foretold from the five others: an L40S 13.9% instead of 16.6% (products of 0.3 ms
and more 9% instead of 21%), an H100 7.0% instead of 7.4%, an H200 6.8% instead of 6.6%, an A100
15.4% instead of 13.9%. Joules do not carry over to another kind of matrix instruction: a B200, by
an H200's, would sustain 0.49 of its peak, and sustains 0.70. There a lent product stays as it is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from calib.fit.likeness import distance
from calib.hardware.datasheet import Hardware, floors
from calib.samples.sample import Sample
from model.ops import Matmul

_DTYPE = "bfloat16"
_LONG_S = 1e-3
_BOUND = 4.0
"""A product counts for the plateau from so many seconds on, and where its arithmetic takes so many
times as long as its bytes."""
_LEAST = 20
_INSTRUCTIONS = {"8": "mma", "12": "mma", "9": "wgmma", "10": "tcgen05"}
"""Major compute capability -> by which instruction its matrix units multiply: a warp's own, a group
of four warps', or one that works on a memory of its own."""


@dataclass(frozen=True)
class Sustained:
    """What large products of ``hardware`` reach: ``plateau``, a share of the datasheet's rate."""

    hardware: Hardware
    plateau: float

    @property
    def joules(self) -> float:
        """Joules a FLOP at the power limit; NaN where no one states the limit."""
        power = self.hardware.power_w
        rate = self.plateau * self.hardware.peak_flops[_DTYPE]
        return float("nan") if power is None else power / rate


def sustained(samples: Sequence[Sample], hardware: Hardware) -> Sustained | None:
    """The plateau of a card's samples; None where they hold too few large products."""
    shares = [_share(s, hardware) for s in samples if _is_large(s, hardware)]
    return Sustained(hardware, float(np.median(shares))) if len(shares) >= _LEAST else None


def _is_product(sample: Sample) -> bool:
    return isinstance(sample.op, Matmul) and sample.op.dtype == _DTYPE


def _is_large(sample: Sample, hardware: Hardware) -> bool:
    """Whether it is a product long enough for the clock to fall, and bound by arithmetic."""
    if not _is_product(sample) or sample.median <= _LONG_S:
        return False
    compute, memory = floors(sample.op, hardware)
    return bool(compute > _BOUND * memory)


def _share(sample: Sample, hardware: Hardware) -> float:
    """Of the datasheet's rate."""
    return float(floors(sample.op, hardware)[0] / sample.median)


def is_akin(one: Hardware, other: Hardware) -> bool:
    """Whether both multiply by the same kind of instruction, so that joules carry over."""
    kinds = [_INSTRUCTIONS.get((h.compute_capability or "").split(".")[0]) for h in (one, other)]
    return kinds[0] is not None and kinds[0] == kinds[1]


def foretold(target: Hardware, known: Sequence[Sustained], free: float) -> Sustained | None:
    """What ``target`` would sustain by the joules of the card most like it, at most ``free``; None
    where no such card or no power limit is ``known``."""
    priced = [s for s in known if not np.isnan(s.joules)]
    if not priced or target.power_w is None:
        return None
    likest = min(priced, key=lambda s: distance(target, s.hardware, _DTYPE))
    limit = target.power_w / (likest.joules * target.peak_flops[_DTYPE])
    return Sustained(target, min(free, limit))


def at_limit_of(
    target: Sustained | None,
    lent: Mapping[str, Sequence[Sample]],
    known: Mapping[str, Sustained],
) -> dict[str, list[Sample]]:
    """Card -> its samples as if ``target``'s power limit had slowed them, not their card's own.

    Samples of cards whose plateau is not ``known`` stay as they are, and all without a ``target``.
    """
    if target is None:
        return {card: list(samples) for card, samples in lent.items()}
    return {
        card: [_slowed(s, known[card], target) for s in samples] if card in known else list(samples)
        for card, samples in lent.items()
    }


def _slowed(sample: Sample, donor: Sustained, target: Sustained) -> Sample:
    """``sample`` as the target's limit slows it, where it is a product."""
    if not _is_product(sample):
        return sample
    drawn = min(1.0, _share(sample, donor.hardware) / donor.plateau)
    if _is_large(sample, donor.hardware):
        drawn = 1.0
    factor = 1 + (donor.plateau / target.plateau - 1) * drawn
    return replace(sample, seconds=tuple(s * factor for s in sample.seconds))
