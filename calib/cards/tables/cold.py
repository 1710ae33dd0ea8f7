"""From hot to cold: what a replayed kernel found in the L2, a model fetches from main memory.

Public tables are timed by replaying a graph. What is small enough to stay in the L2 between two
replays is read at the L2's rate, so that small weights look faster than main memory. In a model the
weights of all other layers pass in between. The time that is missing is

    resident bytes * (1 / cold rate - 1 / hot rate)                              [s]

of which the part that hides behind arithmetic is not seen: the missing time is weighted by
memory / (memory + compute), the two floors of the operator. Nothing hidden is the interval's upper
end, everything hidden its lower. Nothing is faster than main memory moves what was in the cache.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from calib.hardware.datasheet import Hardware, floors
from model.ops import Operator

LATENCY_BYTES = 2.0**19
"""Working sets below this many bytes take a kernel's latency and little of their own."""

_COLD = 2.0
"""Working sets over the L2 from which on nothing is found again."""


@dataclass(frozen=True)
class Caches:
    """At what rates one kind's kernels read, in a device's own units, so that they carry over.

    ``cold_share``: of the main memory's bandwidth. ``hot_per_clock``: bytes a clock and SM, from
    the L2. ``resident_share``: of the L2, the most that one operator keeps there between replays.
    """

    cold_share: float
    hot_per_clock: float
    resident_share: float

    def missing_seconds(self, op: Operator, hardware: Hardware) -> Any:
        """Seconds that a replayed ``op`` saved by what stayed in the L2; an array for a grid."""
        cold = self.cold_share * hardware.bandwidth
        hot = self.hot_per_clock * hardware.clock_hz * hardware.sm_count
        return resident_bytes(op, self.resident_share * hardware.l2_bytes) * max(
            0.0, 1 / cold - 1 / hot
        )


def resident_bytes(op: Operator, most: float) -> Any:
    """Bytes that stay in the cache between replays: all of what is read again, or nothing.

    What is read again are the weights, or the whole input where there are none. A working set that
    does not fit drives itself out before it is read again, so there is no middle.
    """
    weights = np.asarray(op.weight_bytes_read, dtype=float)
    again = np.where(weights > 0, weights, np.asarray(op.bytes_read, dtype=float))
    return np.where(working_set(op) <= most, again, 0.0)


def working_set(op: Operator) -> Any:
    """What has to fit for an operator to find it again: its weights, or all that it touches."""
    weights = np.asarray(op.weight_bytes_read, dtype=float)
    return np.where(weights > 0, weights, np.asarray(op.bytes, dtype=float))


def edge_seconds(op: Operator, hardware: Hardware, caches: Caches) -> Any:
    """What main memory takes for what is read again where the table kept part of it: between the
    sizes that tell the two rates (:func:`fit_caches`) a fit of replays slopes from one to the
    other, and no bytes are missing by the rule above. 0 elsewhere."""
    held = working_set(op)
    partly = (held > caches.resident_share * hardware.l2_bytes) & (
        held <= _COLD * hardware.l2_bytes
    )
    return np.where(partly, held / (caches.cold_share * hardware.bandwidth), 0.0)


def hot_to_cold(
    seconds: np.ndarray,
    low_s: np.ndarray,
    high_s: np.ndarray,
    op: Operator,
    hardware: Hardware,
    caches: Caches,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """[n] estimate and interval of ``op`` with its weights in main memory, from those with a cache.

    ``seconds``, ``low_s``, ``high_s``: [n] of a replayed kernel.
    """
    missing = caches.missing_seconds(op, hardware)
    compute, memory = floors(op, hardware)
    seen = memory / np.maximum(memory + compute, 1e-30)
    least = working_set(op) / hardware.bandwidth
    edge = np.maximum(edge_seconds(op, hardware, caches), least)
    cold, high_s = np.maximum(seconds + seen * missing, edge), high_s + missing
    low_s = np.maximum(low_s, least)
    return cold, low_s, high_s * np.maximum(cold / np.maximum(seconds + missing, 1e-30), 1.0)


def fit_caches(
    op: Operator, seconds: np.ndarray, hardware: Hardware, resident_share: float
) -> Caches | None:
    """The rates of a grid of replayed operators; ``None`` where it does not show them.

    Taken from operators that memory bounds (by ten times): the latency is the median of the
    smallest, each rate the median of bytes over the time beyond it. Hot are the sizes within a
    factor of four below what stays in the L2, cold those above twice the L2.
    """
    compute, memory = floors(op, hardware)
    bound = np.broadcast_to(compute < memory / 10, np.shape(seconds))
    moved = np.asarray(op.bytes, dtype=float)
    held = working_set(op)
    most = resident_share * hardware.l2_bytes
    small = bound & (held <= LATENCY_BYTES)
    hot = bound & (held > most / 4) & (held <= most)
    cold = bound & (held > _COLD * hardware.l2_bytes)
    if min(small.sum(), hot.sum(), cold.sum()) < 5:
        return None
    beyond = np.maximum(seconds - np.median(seconds[small]), 0.1 * seconds)
    clocks = hardware.clock_hz * hardware.sm_count
    hot_rate, cold_rate = (float(np.median((moved / beyond)[rows])) for rows in (hot, cold))
    return Caches(cold_rate / hardware.bandwidth, hot_rate / clocks, resident_share)
