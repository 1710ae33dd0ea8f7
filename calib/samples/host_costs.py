"""What lies between kernels, as operators: what they are called, and what their samples hold.

A sweep measures them like any other operator (``origin`` "host", seconds raw, one number a repeat)
and :mod:`calib.estimates.timeline` reads them. None of them computes or moves anything, so a fit
has nothing to learn from them. Where a card has no such samples, the published range of
``conf/host_costs.yaml`` is the interval and its geometric middle the estimate: what is known of a
host is a factor.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields, replace
from functools import cache
from math import sqrt
from typing import Any

import numpy as np
import yaml

from calib.checkout import CONF
from calib.errors import CalibError
from calib.samples.sample import Sample
from model.ops import Other

ORIGIN = "host"
"""The ``origin`` of these samples."""
MODULE_CODE = Other("module code", dtype="int64")
"""Seconds that eager module code (``nn.Module.__call__``, views, a cache) adds to each launch."""
EAGER_OPERATOR = Other("eager_operator", dtype="int64")
"""Seconds of the host for one eager operator on a tiny tensor, while the device keeps up: Python,
the dispatcher, the allocation of the result and the launch."""
LAUNCH = Other("launch", dtype="int64")
"""The part of it that is the driver's: seconds of the host to enqueue one kernel and no more."""
DEPENDENT_GAP = Other("dependent_gap", dtype="int64")
"""Seconds of the device from one kernel of a queue to the next, where both do nothing and all of
them were enqueued before the first began: the shortest distance at which kernels can follow one
another in a stream. The time of any kernel in a queue is at least this."""
SYNC = Other("sync", dtype="int64")
"""Seconds of the host to read one number of an idle device (``Tensor.item``): a copy, and the wait
for it. What is still queued is waited for besides."""
GRAPH_NODE = Other("graph_node", dtype="int64")
"""As DEPENDENT_GAP, for the nodes of a CUDA graph that is replayed."""
GRAPH_LAUNCH = Other("graph_launch", dtype="int64")
"""Seconds of the host to launch a CUDA graph once, whatever it holds."""
STREAM_GAP = Other("stream_gap", dtype="int64")
"""Seconds of the device from the end of one kernel of a queue to the start of the next that depends
on it, where both fill the device and the queue is full. No sample of an operator holds it."""
NODE_GAP = Other("node_gap", dtype="int64")
"""As STREAM_GAP, for the nodes of a CUDA graph that is replayed."""

_ALL = (
    *(MODULE_CODE, EAGER_OPERATOR, LAUNCH, DEPENDENT_GAP, SYNC, GRAPH_NODE, GRAPH_LAUNCH),
    *(STREAM_GAP, NODE_GAP),
)
HOST_COSTS: dict[str, Other] = {op.name: op for op in _ALL}
"""Every one of them by the name under which it is stored."""
MEASURED, PUBLISHED = "measured", "published"
EAGER, GRAPH, COMPILED = "eager", "graph", "compiled"
EXECUTIONS = (EAGER, GRAPH, COMPILED)
"""How launches follow one another: each on its own; all of a pass as one graph; after a compiler
has fused what it can (:mod:`calib.estimates.fusion`), each on its own."""


@dataclass(frozen=True)
class Cost:
    """One cost in seconds: estimate and interval, how it is known and from where."""

    estimate_s: float
    low_s: float
    high_s: float
    known_by: str
    source: str


@dataclass(frozen=True)
class HostCosts:
    """What a replay needs of one card and its host, each as defined above.

    ``eager_operator`` has the module code around it too: a published figure contains it, and to
    measured ones it is added.
    """

    eager_operator: Cost
    launch: Cost
    dependent_gap: Cost
    sync: Cost
    graph_node: Cost
    graph_launch: Cost
    stream_gap: Cost
    node_gap: Cost

    def __iter__(self) -> Iterator[tuple[str, Cost]]:
        return ((f.name, getattr(self, f.name)) for f in fields(self))

    @property
    def published(self) -> tuple[str, ...]:
        """Names of the costs that were not measured on this card's host."""
        return tuple(name for name, cost in self if cost.known_by == PUBLISHED)


REPLAYED = tuple(f.name for f in fields(HostCosts))


def host_costs(samples: Iterable[Sample], hardware: str) -> HostCosts:
    """The costs of ``hardware``: measured where ``samples`` hold them, else published."""
    seconds: dict[str, list[float]] = {}
    for sample in samples:
        if sample.hardware == hardware and sample.op in _ALL and sample.status == "ok":
            seconds.setdefault(vars(sample.op)["name"], []).extend(sample.seconds)
    known = {n: _measured(some, hardware) for n, some in seconds.items() if some}
    if EAGER_OPERATOR.name in known and MODULE_CODE.name in known:
        bare, code = known[EAGER_OPERATOR.name], known[MODULE_CODE.name]
        known[EAGER_OPERATOR.name] = replace(
            bare,
            estimate_s=bare.estimate_s + code.estimate_s,
            low_s=bare.low_s + code.low_s,
            high_s=bare.high_s + code.high_s,
        )
    return HostCosts(**{name: known.get(name, published()[name]) for name in REPLAYED})


def _measured(seconds: list[float], hardware: str) -> Cost:
    """Median, 5th and 95th percentile of the raw repeats."""
    low, middle, high = np.quantile(seconds, (0.05, 0.5, 0.95))
    return Cost(float(middle), float(low), float(high), MEASURED, f"samples of {hardware}")


@cache
def published() -> dict[str, Cost]:
    """The published ranges.

    Raises ``CalibError`` where the file lacks a cost, or a range is none.
    """
    path = CONF / "host_costs.yaml"
    found: dict[str, dict[str, Any]] = yaml.safe_load(path.read_text("utf-8"))
    if set(found) != set(REPLAYED):
        raise CalibError(f"{path}: {', '.join(found)}: expected exactly {', '.join(REPLAYED)}")
    return {name: _published(f"{path}: {name}", entry) for name, entry in found.items()}


def _published(key: str, entry: dict[str, Any]) -> Cost:
    low, high = (float(entry.get(name, "nan")) for name in ("low", "high"))
    source = entry.get("source")
    if not 0 < low <= high or not source:
        raise CalibError(f"{key} = {entry!r}: expected low <= high [s] and a source")
    return Cost(sqrt(low * high), low, high, PUBLISHED, str(source))
