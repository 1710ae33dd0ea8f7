"""How much one device tells of another, and what a transfer between devices learns from.

Two cards with the same matrix instructions, bytes a clock and cache behave alike at the same shape;
two that share neither share physics only. Likeness is a Gaussian of the distance between four
figures, as logarithms: per multiprocessor the FLOP a clock (which names the generation of its
matrix unit), the bytes a clock from main memory and its share of the L2; and how many there are.
Cards that multiply by different instructions have different kernels, whatever their figures: that
counts as a distance of its own. It and the one length, a factor of e in any figure, were chosen
on development groups (docs/calibration.md).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from calib.fit.plan import Plan
from calib.hardware.datasheet import Hardware
from calib.hardware.rates import instruction

_APART, _POWER = 0.28, 0.46
"""Half-width, in log, of 90% of a card's samples about what another card at distance one foretells,
and how it grows with the distance (``python -m benchmarks.lone_donor``)."""
_FARTHEST = 3.2
"""Distance up to which pairs of cards were compared; taken where one of the devices is no GPU."""
_LENGTH = 1.0
_OTHER_INSTRUCTION = 2.5
"""Distance of cards that multiply by different instructions, beside that of their figures."""
_LEARNED = 6000
_LEARNED_BLIND = 2500
"""Samples of a device, on average over devices: that a transfer, and its test, learn from."""
_LEAST = 100
_ASKED = 1500
"""Samples of a device that is held out, that a test asks for."""


def likeness(target: Hardware, donors: Sequence[Hardware], dtype: str) -> np.ndarray:
    """[len(donors)] shares that sum to one; even ones where one of the devices is no GPU."""
    if any(device.compute_capability is None for device in (target, *donors)):
        return np.full(len(donors), 1 / len(donors))
    apart = np.array([_squared(target, donor, dtype) for donor in donors])
    alike = np.exp(-(apart - apart.min()) / (2 * _LENGTH**2))
    return np.asarray(alike / alike.sum())


def _squared(one: Hardware, other: Hardware, dtype: str) -> float:
    """The square of the distance, that of the instruction included."""
    kinds = [instruction(h.compute_capability) for h in (one, other)]
    return distance(one, other, dtype) ** 2 + _OTHER_INSTRUCTION**2 * (kinds[0] != kinds[1])


def card_to_card(target: Hardware, donors: Sequence[Hardware], dtype: str) -> float:
    """Half-width, in log, of 90% of ``target``'s samples about what the likest of ``donors`` alone
    foretells."""
    if any(device.compute_capability is None for device in (target, *donors)):
        return _APART * _FARTHEST**_POWER
    nearest = min(distance(target, donor, dtype) for donor in donors)
    return float(_APART * np.clip(nearest, _NEAREST, _FARTHEST) ** _POWER)


_NEAREST = 0.36
"""Distance from which on pairs of cards were compared: nothing is known of likelier ones."""


def distance(one: Hardware, other: Hardware, dtype: str) -> float:
    """Between the figures of two GPUs, in log."""
    return float(np.linalg.norm(_figures(one, dtype) - _figures(other, dtype)))


def has_relatives(hardware: Hardware) -> bool:
    """Whether some card with tables multiplies as this one does."""
    return int((hardware.compute_capability or "0").split(".")[0]) >= _RELATIVES_FROM


_RELATIVES_FROM = 8
"""The major compute capability from which on cards have the matrix instructions that came with
Ampere."""


def _figures(hardware: Hardware, dtype: str) -> np.ndarray:
    """[4] logarithms; of a dtype without a matrix peak the rate is that of the CUDA cores."""
    flops, sms = hardware.peak_flops.get(dtype, hardware.cuda_core_flops), hardware.sm_count
    a_clock = [flops / hardware.clock_hz / sms, hardware.bandwidth / hardware.clock_hz / sms]
    return np.log(np.array([*a_clock, hardware.l2_bytes / sms, sms], dtype=float))


def plan_over_devices(
    target: Hardware, devices: Sequence[Hardware], counts: Sequence[int], dtype: str
) -> Plan:
    """What a fit for ``target`` learns from samples of other ``devices``: [sum of counts] in order.

    Of each device the more the more it is like the target. Each device in turn is held out, and
    foretold from the others in the same way, likeness to it and all.
    """
    starts = np.cumsum([0, *counts])
    orders = [
        starts[i] + np.random.default_rng(0).permutation(count) for i, count in enumerate(counts)
    ]

    def learned(asked: Hardware, donors: list[int], each: int) -> np.ndarray:
        shares = likeness(asked, [devices[i] for i in donors], dtype)
        wanted = np.maximum(each * len(donors) * shares, _LEAST).astype(int)
        parts = [orders[i][:most] for i, most in zip(donors, wanted, strict=True)]
        return np.sort(np.concatenate(parts))

    everyone = range(len(devices))
    pairs = [
        (orders[i][-_ASKED:], learned(devices[i], [d for d in everyone if d != i], _LEARNED_BLIND))
        for i in everyone
    ]
    return Plan(learned(target, list(everyone), _LEARNED), tuple(pairs), over_devices=True)
