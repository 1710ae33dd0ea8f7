"""When each kernel starts and ends: launches replayed on a host and a device.

    enqueued[i] = host time after issuing launch i
    start[i]    = max(enqueued[i], end[i - 1])
    end[i]      = start[i] + device_s[i]       the kernel, and the gap behind it
    after a sync: host time = max(host time, end[i]) + sync

One pass is replayed twice: the second begins as every later one does, with the device as far behind
the host as the first left it. ``repeat`` passes therefore take the first and repeat - 1 times the
second, exactly.

Wall time is divided among launches by the moment the device is done: a launch has the time from the
end of the last kernel to its own end. It is the kernel and the idle time of the device before it;
its sum over launches is the wall time.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields

import numpy as np

from calib.samples.host_costs import COMPILED, GRAPH, HostCosts


@dataclass(frozen=True)
class Launches:
    """One pass as it is issued, [n] a launch, in order; ``sync_s`` is 0 where nobody waits.

    ``host_s``: what the host spends to issue it. ``device_s``: how long the device is taken, the
    kernel and the gap to the next.
    """

    host_s: np.ndarray
    device_s: np.ndarray
    sync_s: np.ndarray

    def __len__(self) -> int:
        return len(self.device_s)


@dataclass(frozen=True)
class Schedule:
    """Seconds since the pass began, [n] a launch; ``host_end``: when the host has issued all."""

    enqueued: np.ndarray
    start: np.ndarray
    end: np.ndarray
    host_end: float

    @property
    def wall_s(self) -> float:
        """Until host and device are both done."""
        return max(float(self.end[-1]), self.host_end) if len(self.end) else self.host_end

    def shares(self) -> np.ndarray:
        """[n] the wall time of each launch; the last has what the host does after it besides."""
        shares = np.diff(self.end, prepend=0.0)
        if len(shares):
            shares[-1] += self.wall_s - self.end[-1]
        return shares


def replay(launches: Launches) -> Schedule:
    """The schedule of launches that begins with host and device idle."""
    enqueued, start, end = (np.empty(len(launches)) for _ in range(3))
    host = device = 0.0
    stops = [*(np.flatnonzero(launches.sync_s) + 1).tolist(), len(launches)]
    begin = 0
    for stop in dict.fromkeys(stops):
        part = slice(begin, stop)
        if stop > begin:
            enqueued[part], end[part] = _segment(launches, part, host, device)
            start[part] = end[part] - launches.device_s[part]
            host, device = enqueued[stop - 1], end[stop - 1]
            if launches.sync_s[stop - 1]:
                host = max(host, device) + launches.sync_s[stop - 1]
        begin = stop
    return Schedule(enqueued, start, end, float(host))


def _segment(
    launches: Launches, part: slice, host: float, device: float
) -> tuple[np.ndarray, np.ndarray]:
    """[n] enqueued and end of launches without a sync between them.

    With K the running sum of device times: end[i] = K[i] + max(device, enqueued[j] - K[j - 1]) over
    all j <= i, which is the recurrence above written out.
    """
    enqueued = host + np.cumsum(launches.host_s[part])
    taken = np.cumsum(launches.device_s[part])
    latest = np.maximum.accumulate(enqueued - (taken - launches.device_s[part]))
    return enqueued, taken + np.maximum(latest, device)


def replay_passes(launches: Launches, repeat: int) -> np.ndarray:
    """[n] the wall time of each launch, all ``repeat`` passes together."""
    n = len(launches)
    first = replay(launches)
    if repeat == 1 or n == 0:
        return first.shares()
    twice = replay(Launches(*(np.tile(getattr(launches, f.name), 2) for f in fields(launches))))
    later = np.diff(twice.end)[n - 1 :]
    # What the host did after the first pass's last kernel belongs to that pass.
    later[0] -= first.wall_s - first.end[-1]
    later[-1] += twice.wall_s - twice.end[-1]
    return np.asarray(first.shares() + (repeat - 1) * later)


@dataclass(frozen=True)
class Classes:
    """Of launches: ``names`` by ``calib.samples.host_costs.host_class``, ``of`` [n] which it is."""

    names: tuple[str, ...]
    of: np.ndarray


@dataclass(frozen=True)
class Rates:
    """The host costs as one replay takes them [s]."""

    eager_operator: float
    launch: float
    dependent_gap: float
    sync: float
    graph_node: float
    graph_launch: float
    stream_gap: float
    node_gap: float
    classes: Mapping[str, float] = field(default_factory=dict)

    def eager(self, classes: Classes) -> np.ndarray:
        """[n] what the host spends on a launch of each of ``classes``."""
        each = [self.classes.get(name, self.eager_operator) for name in classes.names]
        return np.array(each, dtype=float)[classes.of]


def rates(costs: HostCosts, end: str = "estimate_s") -> Rates:
    """``end``: estimate_s, low_s or high_s of every cost."""
    classes = {name: getattr(cost, end) for name, cost in costs.classes.items()}
    return Rates(**{name: getattr(cost, end) for name, cost in costs}, classes=classes)


def issue(
    kernel_s: np.ndarray,
    sync: np.ndarray,
    generated: np.ndarray,
    execution: str,
    cost: Rates,
    classes: Classes | None = None,
) -> Launches:
    """Launches of [n] kernels under one way to execute them; ``classes`` None: all alike.

    ``sync``: the host waits after it. ``generated``: compiled code launches it, so that only the
    driver's part is paid. A kernel takes the device for its busy time and the gap to the next one,
    in a stream or in a graph, and at least as long as kernels that do nothing can follow one
    another. A graph cannot hold a sync: it ends there, and another is launched after it.
    """
    waits = np.where(sync, cost.sync, 0.0)
    if execution == GRAPH:
        first = np.concatenate([[True], sync[:-1]]) if len(sync) else sync
        host = np.where(first, cost.graph_launch, 0.0)
        return Launches(host, np.maximum(kernel_s + cost.node_gap, cost.graph_node), waits)
    host = np.full(len(kernel_s), cost.eager_operator) if classes is None else cost.eager(classes)
    if execution == COMPILED:
        host = np.where(generated, cost.launch, host)
    return Launches(host, np.maximum(kernel_s + cost.stream_gap, cost.dependent_gap), waits)
