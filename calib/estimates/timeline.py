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
from typing import TYPE_CHECKING

import numpy as np

from calib.estimates.fusion import POINTWISE
from calib.estimates.sums import WALL, WALL_OF, WEAK_SHARE, Ends, Sums
from calib.samples.host_costs import COMPILED, GRAPH, HostCosts, host_class

if TYPE_CHECKING:
    import pandas as pd


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

    def eager(self, classes: np.ndarray) -> np.ndarray:
        """[n] what the host spends on a launch of each of ``classes``."""
        names, places = np.unique(classes, return_inverse=True)
        each = [self.classes.get(str(name), self.eager_operator) for name in names]
        return np.array(each)[places]


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
    classes: np.ndarray | None = None,
) -> Launches:
    """Launches of [n] kernels under one way to execute them.

    ``classes``: [n] names by ``calib.samples.host_costs.host_class``; None: all alike.
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


_ENDS = {"estimate_s": "estimate_s", "low_s": "low_s", "high_s": "high_s"}
"""Column of the kernels' time -> the end of the host costs that is replayed with it."""


def with_wall(
    operators: pd.DataFrame,
    repeats: Mapping[str, int],
    costs: HostCosts | None,
    execution: str,
    module_code_s: float = 0.0,
) -> pd.DataFrame:
    """``operators`` with the columns ``calib.estimates.sums.WALL``. ``repeats``: passes of each
    phase.

    ``costs`` None: a CPU, which computes itself what it issues. Wall time is the operators' time,
    and ``module_code_s`` [s] beside each launch for the Python around it.
    An end of the interval is null where kernels without one are over a twentieth of the time;
    below that they are taken at their estimate.
    """
    table = operators.copy()
    if costs is None:
        passes = table["phase"].map(dict(repeats))
        code_s = module_code_s * table["launches"] * table["count"] * passes
        for _, rows in table.groupby("phase", sort=False):
            for kernels, column in WALL_OF.items():
                seconds = filled(narrowed(rows), kernels)
                table.loc[rows.index, column] = seconds + code_s[rows.index]
        return table.assign(graph_s=float("nan"), idle_s=code_s, issue_s=code_s)
    parts = [
        _phase_columns(rows, int(repeats[str(phase)]), costs, execution)
        for phase, rows in operators.groupby("phase", sort=False)
    ]
    for column in WALL:
        table[column] = np.concatenate([part[column] for part in parts])
    return table


def _phase_columns(
    rows: pd.DataFrame, repeat: int, costs: HostCosts, execution: str
) -> dict[str, np.ndarray]:
    """[rows] each of ``WALL``."""
    rows = narrowed(rows)
    lay = Layout(rows, repeat)
    found = {
        column: lay.wall(kernels, execution, rates(costs, _ENDS.get(kernels, "estimate_s")))
        for kernels, column in WALL_OF.items()
    }
    graph = found["wall_s"]
    if execution != GRAPH:
        graph = lay.wall("estimate_s", GRAPH, rates(costs))
    idle = np.maximum(found["wall_s"] - rows["estimate_s"].to_numpy(dtype=float), 0.0)
    issue_s = lay.shares(np.zeros(len(lay.row)), execution, rates(costs))
    return {**found, "graph_s": graph, "idle_s": idle, "issue_s": issue_s}


def narrowed(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of a phase with ends that add up to the ends of their sum (``Ends``).

    What a phase's kernels take together is known better than what each takes; one share for all
    rows, so that a part of a phase is taken to be known about as well as the whole.
    """
    low, high = Ends(rows).shares()
    seconds = rows["estimate_s"]
    return rows.assign(
        low_s=seconds - low * (seconds - rows["low_s"]),
        high_s=seconds + high * (rows["high_s"] - seconds),
    )


def filled(rows: pd.DataFrame, column: str) -> np.ndarray:
    """[rows] of a phase, seconds; what is not known is taken at its estimate where it is little."""
    seconds = rows[column].to_numpy(dtype=float)
    estimates = rows["estimate_s"].to_numpy(dtype=float)
    missing = np.isnan(seconds)
    if estimates[missing].sum() <= WEAK_SHARE * estimates.sum():
        seconds = np.where(missing, estimates, seconds)
    return seconds


class Layout:
    """The launches of a phase's rows, in order."""

    def __init__(self, rows: pd.DataFrame, repeat: int):
        self.rows, self.repeat = rows, repeat
        counts = rows["count"].to_numpy(dtype=int)
        # A wait for something that launches nothing still has its place in the sequence.
        self.each = np.maximum(rows["launches"].to_numpy(dtype=int), 1)
        self.row = np.repeat(np.arange(len(rows)), counts * self.each)
        last = _last_of_each(counts, self.each)
        self.sync = rows["sync"].to_numpy(dtype=bool)[self.row] & last
        self.generated = rows["kind"].isin(POINTWISE).to_numpy()[self.row]
        kinds = list(zip(rows["kind"].tolist(), self.each.tolist(), strict=True))
        classes = {one: host_class(*one) for one in set(kinds)}
        self.classes = np.array([classes[one] for one in kinds])[self.row]
        self.times = counts * self.each * repeat

    def kernel_s(self, column: str) -> np.ndarray:
        """[launches] seconds of one kernel; NaN where too much of the phase is not known."""
        return np.asarray((filled(self.rows, column) / np.maximum(self.times, 1))[self.row])

    def wall(self, column: str, execution: str, cost: Rates) -> np.ndarray:
        """[rows] wall time of all passes."""
        return self.shares(self.kernel_s(column), execution, cost)

    def shares(self, kernel_s: np.ndarray, execution: str, cost: Rates) -> np.ndarray:
        """[rows] the same for kernels [launches] of given times."""
        launches = issue(kernel_s, self.sync, self.generated, execution, cost, self.classes)
        shares = replay_passes(launches, self.repeat)
        return np.bincount(self.row, weights=shares, minlength=len(self.rows))


def _last_of_each(counts: np.ndarray, launches: np.ndarray) -> np.ndarray:
    """[sum of counts * launches] whether a launch is the last of its execution."""
    n = counts * launches
    each, begins = np.repeat(launches, n), np.repeat(np.cumsum(n) - n, n)
    return np.asarray((np.arange(n.sum()) - begins) % each == each - 1)


def timeline_table(operators: pd.DataFrame, repeats: Mapping[str, int]) -> pd.DataFrame:
    """One row a phase, seconds of one pass: what bounds it and what a graph would take.

    phase, passes, launches (of a pass), wall_s, low_s, high_s, kernel_s, idle_s, graph_s,
    limited_by.
    """
    import pandas as pd

    sums, rows = Sums(operators), []
    for phase in operators["phase"].unique():
        own = (operators["phase"] == phase).to_numpy()
        found, passes = sums.over(own), int(repeats[phase])
        seconds = {
            "wall_s": found["wall_s"],
            "low_s": found["wall_low_s"],
            "high_s": found["wall_high_s"],
            "kernel_s": found["estimate_s"],
            "idle_s": found["idle_s"],
            "graph_s": found["graph_s"],
        }
        rows.append(
            {
                "phase": phase,
                "passes": passes,
                "launches": int((operators["launches"] * operators["count"])[own].sum()),
                **{name: value / passes for name, value in seconds.items()},
                "limited_by": found["limited_by"],
            }
        )
    return pd.DataFrame(rows)


def launch_table(
    operators: pd.DataFrame, phase: str, repeat: int, costs: HostCosts | None, execution: str
) -> pd.DataFrame:
    """One row a launch of one pass of ``phase`` that begins idle, seconds since it began.

    path, kind, shape, bound, issue_s and issued_s (host), wait_s (until when the host then waits),
    start_s and end_s (device). Without ``costs`` the host computes: both stand for the same time.
    """
    import pandas as pd

    rows = operators[operators["phase"] == phase]
    lay = Layout(rows, repeat)
    what = rows[["path", "kind", "shape", "bound"]].iloc[lay.row].reset_index(drop=True)
    if costs is None:
        end = np.cumsum((rows["wall_s"].to_numpy(dtype=float) / lay.times)[lay.row])
        start = np.concatenate([[0.0], end[:-1]])
        times = {"issue_s": start, "issued_s": end, "wait_s": end, "start_s": start, "end_s": end}
        return pd.concat([what, pd.DataFrame(times)], axis=1)
    kernel_s, cost = lay.kernel_s("estimate_s"), rates(costs)
    launches = issue(kernel_s, lay.sync, lay.generated, execution, cost, lay.classes)
    done = replay(launches)
    waited = np.maximum(done.enqueued, done.end) + launches.sync_s
    times = {
        "issue_s": done.enqueued - launches.host_s,
        "issued_s": done.enqueued,
        "wait_s": np.where(launches.sync_s > 0, waited, done.enqueued),
        "start_s": done.start,
        "end_s": done.end,
    }
    return pd.concat([what, pd.DataFrame(times)], axis=1)
