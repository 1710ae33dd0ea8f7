"""Samples at one machine speed: each by the probes around it, the visits to one shape together.

A machine that others share changes its speed within seconds. Probes say by how much; what they do
not see is left in a sample, and averages out over visits to the same shape that lie apart in time.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import inf
from typing import Any

import numpy as np

from calib.hardware.datasheet import Hardware, peak
from calib.samples.sample import HOT, Sample

_K = 1.345
"""Huber's: deviations beyond so many standard deviations count by their bound."""
_STEPS = 10


def drift_corrected(samples: Sequence[Sample], hardware: Hardware) -> np.ndarray:
    """[n] expected seconds at the store's typical machine state.

    A block whose probes ran slower than the median of all blocks had a slower machine: its times
    are divided by that factor, the compute probe's and the bandwidth probe's blended by the share
    of each floor. A hot sample found its inputs in a cache, so it goes by the compute probe alone:
    the other reads main memory. Samples without probes, or whose probes cannot be, are taken as
    they are.
    """
    expected = np.array([s.expected for s in samples])
    probed = np.array([_is_speed(s.probe_flops) and _is_speed(s.probe_bandwidth) for s in samples])
    if not probed.any():
        return expected
    some = [s for s, known in zip(samples, probed, strict=True) if known]
    flops = np.array([s.probe_flops for s in some], dtype=float)
    bandwidth = np.array([s.probe_bandwidth for s in some], dtype=float)
    compute = np.array([float(s.op.min_flops) / peak(s.op, hardware) for s in some])
    memory = np.array([float(s.op.bytes) / hardware.bandwidth for s in some])
    hot = np.array([s.cache == HOT for s in some])
    share = np.where(hot, 1.0, compute / np.maximum(compute + memory, 1e-30))
    speed = np.ones(len(samples))
    speed[probed] = share * flops / np.median(flops) + (1 - share) * bandwidth / np.median(
        bandwidth
    )
    return np.asarray(expected * speed)


def _is_speed(probe: float | None) -> bool:
    """Not so of a sample by hand, which passed no gate."""
    return probe is not None and 0 < probe < inf


def visits(samples: Sequence[Sample]) -> list[list[int]]:
    """For each shape (``Sample.key``), in order of the first: the places of its samples."""
    places: dict[Any, list[int]] = {}
    for i, sample in enumerate(samples):
        places.setdefault(sample.key, []).append(i)
    return list(places.values())


def typical(seconds: np.ndarray, places: Sequence[list[int]]) -> np.ndarray:
    """[shapes] of the ``seconds`` [n] of visits at one machine speed, those of a shape together.

    The mean of their logarithms by Huber's weights, because a machine stalls now and then for a
    whole visit; what is far is told by the deviations within all shapes of three visits and more.
    (P. J. Huber, Robust estimation of a location parameter, Ann. Math. Statist. 35, 1964.)
    """
    counts = np.array([len(rows) for rows in places], dtype=int)
    if not len(counts):
        return np.zeros(0)
    together = np.log(seconds[np.concatenate(places)])
    starts = np.cumsum(counts) - counts
    centre = np.add.reduceat(together, starts) / counts
    many = np.flatnonzero(counts > 2)
    if not len(many):
        return np.asarray(np.exp(centre))
    logs = {i: together[starts[i] : starts[i] + counts[i]] for i in many}
    for i in many:
        centre[i] = np.median(logs[i])
    apart = np.abs(np.concatenate([logs[i] - centre[i] for i in many]))
    limit = _K * 1.4826 * float(np.median(apart[apart > 0])) if np.any(apart > 0) else np.inf
    for i in many:
        for _ in range(_STEPS):
            weights = 1 / np.maximum(np.abs(logs[i] - centre[i]) / limit, 1.0)
            centre[i] = np.average(logs[i], weights=weights)
    return np.asarray(np.exp(centre))
