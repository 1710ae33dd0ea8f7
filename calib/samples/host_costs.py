"""What lies between kernels, as operators: what they are called, and what their samples hold.

A sweep measures them like any other operator (``origin`` "host", seconds raw, one number a repeat)
and :mod:`calib.estimates.timeline` reads them. None of them computes or moves anything, so a fit
has nothing to learn from them. Where a card has no such samples, the published range of
``conf/host_costs.yaml`` is the interval; the estimate is its ``middle``, the median of several
hosts, and where there are none its geometric middle: what is known of a host is a factor.

Operators do not cost the host alike: a product costs more than a pointwise operator, attention more
than a product. A few classes stand for all (:func:`host_class`), each measured on the spot; where
only the pointwise one was, the ratios of ``conf/host_costs.yaml`` say what the others cost.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cache
from math import sqrt
from pathlib import Path
from typing import Any

import numpy as np

from calib.checkout import CONF, read_yaml
from calib.errors import CalibError
from calib.samples.sample import Sample
from model.ops import Other

ORIGIN = "host"
"""The ``origin`` of these samples."""
MODULE_CODE = Other("module_code", dtype="int64")
"""Seconds that eager module code (``nn.Module.__call__``, views, a cache) adds to each launch, at
shapes that the process has seen. (Samples by the name of "module code" hold attention's plans too
and are read no more.)"""
ATTENTION_PLAN = Other("attention_plan", dtype="int64")
"""Seconds of the host for the first time of one attention shape
(:mod:`calib.hardware.attention_backend` says where there are any)."""
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

POINTWISE, MOVE, PRODUCT, NORM = "pointwise", "move", "product", "norm"
ATTENTION, CONVOLUTION = "attention", "convolution"
CLASS_OPERATORS: dict[str, Other] = {
    POINTWISE: EAGER_OPERATOR,
    **{
        name: Other(f"{name}_operator", dtype="int64")
        for name in (MOVE, PRODUCT, NORM, ATTENTION, CONVOLUTION)
    },
}
"""Class of operator -> the cost under which seconds of the host for one of it are stored."""
_CLASS_OF = {
    **dict.fromkeys(("copy", "gather", "reduction", "softmax"), MOVE),
    **dict.fromkeys(("matmul", "grouped_matmul", "moe_mlp", "counted"), PRODUCT),
    **dict.fromkeys(("norm", "channel_norm"), NORM),
    **dict.fromkeys(("attention", "latent_attention"), ATTENTION),
    **dict.fromkeys(("conv2d", "convolution"), CONVOLUTION),
}

_ALL = (
    *(MODULE_CODE, LAUNCH, DEPENDENT_GAP, SYNC, GRAPH_NODE, GRAPH_LAUNCH, ATTENTION_PLAN),
    *CLASS_OPERATORS.values(),
    *(STREAM_GAP, NODE_GAP),
)
OF_CARD = {op.name for op in (DEPENDENT_GAP, GRAPH_NODE, STREAM_GAP, NODE_GAP)}
"""Names of those that the host has no part in."""
HOST_COSTS: dict[str, Other] = {op.name: op for op in _ALL}
"""Every one of them by the name under which it is stored."""
MEASURED, PUBLISHED = "measured", "published"
EAGER, GRAPH, COMPILED = "eager", "graph", "compiled"
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


def host_class(kind: str, launches: int = 1) -> str:
    """The class of an operator. What takes several launches is a chain of pointwise ones."""
    return _CLASS_OF.get(kind, POINTWISE) if launches <= 1 else POINTWISE


@dataclass(frozen=True)
class HostCosts:
    """What a replay needs of one card and its host, each as defined above.

    ``eager_operator`` has the module code around it too: a published figure contains it, and to
    measured ones it is added. Measured it is that of a pointwise operator, published the mean over
    a decode step. ``classes``: the same by class; one that is missing costs ``eager_operator``.
    ``attention_plan``: once for each shape that is new; no replay holds it.
    """

    eager_operator: Cost
    launch: Cost
    dependent_gap: Cost
    sync: Cost
    graph_node: Cost
    graph_launch: Cost
    stream_gap: Cost
    node_gap: Cost
    attention_plan: Cost | None = None
    classes: Mapping[str, Cost] = field(default_factory=dict)

    def __iter__(self) -> Iterator[tuple[str, Cost]]:
        return ((name, getattr(self, name)) for name in REPLAYED)

    @property
    def published(self) -> tuple[str, ...]:
        """Names of the costs that were not measured on this card's host."""
        return tuple(name for name, cost in self if cost.known_by == PUBLISHED)


REPLAYED = tuple(f.name for f in fields(HostCosts) if f.name not in ("attention_plan", "classes"))


def host_costs(samples: Iterable[Sample], hardware: str) -> HostCosts:
    """The costs of ``hardware``: measured where ``samples`` hold them, else published.

    An eager operator is measured where the module code around it is too. What is the host's has an
    interval that holds its other speeds beside these samples.
    """
    mine = [s for s in samples if s.hardware == hardware]
    seconds: dict[str, list[float]] = {}
    for sample in mine:
        if sample.op in _ALL and sample.status == "ok":
            seconds.setdefault(vars(sample.op)["name"], []).extend(sample.seconds)
    drift = speeds(mine)
    known = {
        n: _measured(some, hardware, (1.0, 1.0) if n in OF_CARD else drift)
        for n, some in seconds.items()
        if some
    }
    code, bare = known.pop(MODULE_CODE.name, None), known.pop(EAGER_OPERATOR.name, None)
    if code and bare:
        classes = {
            name: plus(known.get(op.name) or times(bare, ratios().of_class[name]), code)
            for name, op in CLASS_OPERATORS.items()
        }
        known[EAGER_OPERATOR.name] = plus(bare, code)
    else:
        mean = published()[EAGER_OPERATOR.name]
        classes = {name: times(mean, ratios().over_mean(name)) for name in CLASS_OPERATORS}
    named = (*REPLAYED, ATTENTION_PLAN.name)
    return HostCosts(**{n: known.get(n) or published()[n] for n in named}, classes=classes)


def plus(a: Cost, b: Cost) -> Cost:
    """Both, one after the other."""
    return replace(
        a,
        estimate_s=a.estimate_s + b.estimate_s,
        low_s=a.low_s + b.low_s,
        high_s=a.high_s + b.high_s,
    )


def times(cost: Cost, factor: float) -> Cost:
    return replace(
        cost,
        estimate_s=cost.estimate_s * factor,
        low_s=cost.low_s * factor,
        high_s=cost.high_s * factor,
    )


def slowed(costs: HostCosts, factor: float) -> HostCosts:
    """``costs`` on a host that takes ``factor`` times as long: of those that were measured, what is
    the host's. A published range is of no known speed."""
    host = {n: times(c, factor) for n, c in costs if n not in OF_CARD and c.known_by == MEASURED}
    plan = costs.attention_plan
    if plan and plan.known_by == MEASURED:
        host["attention_plan"] = times(plan, factor)
    measured = costs.eager_operator.known_by == MEASURED
    classes = {n: times(c, factor) for n, c in costs.classes.items()} if measured else costs.classes
    return replace(costs, **host, classes=classes)


@dataclass(frozen=True)
class Ratios:
    """What differs little from host to host, all over the seconds of one pointwise operator alone.

    ``of_class``: one operator of a class; ``module_code``: around each launch; ``mean``: the mean
    operator of a decode step.
    """

    of_class: Mapping[str, float]
    module_code: float
    mean: float

    def over_mean(self, name: str) -> float:
        """A launch of a class over the mean launch of a decode step, module code in both."""
        return (self.of_class[name] + self.module_code) / (self.mean + self.module_code)


def speeds(samples: Iterable[Sample]) -> tuple[float, float]:
    """How long the host takes at its fastest and slowest (5% of the blocks of ``samples`` are
    beyond each) over what it took when its costs were measured; 1 where no probe asked it.

    Repeats of a cost take milliseconds and see one speed; a pass of a model, or the next one,
    meets others. They are common to all launches, so that their number averages nothing out.
    """
    asked = [(s.origin == ORIGIN, s.probe_host) for s in samples if s.probe_host]
    then = [speed for of_costs, speed in asked if of_costs]
    if not then:
        return 1.0, 1.0
    blocks = sorted({speed for _, speed in asked})  # all samples of a block have its probe
    slow, fast = np.quantile(blocks, (0.05, 0.95))
    middle = float(np.median(then))
    return min(middle / float(fast), 1.0), max(middle / float(slow), 1.0)


def _measured(seconds: list[float], hardware: str, drift: tuple[float, float]) -> Cost:
    """Median, 5th and 95th percentile of the raw repeats, or of the host's speeds (``speeds``)
    where those reach further."""
    low, middle, high = (float(q) for q in np.quantile(seconds, (0.05, 0.5, 0.95)))
    low, high = min(low, middle * drift[0]), max(high, middle * drift[1])
    return Cost(middle, low, high, MEASURED, f"samples of {hardware}")


@cache
def published() -> dict[str, Cost]:
    """The published ranges.

    Raises ``CalibError`` where the file lacks a cost, or a range is none.
    """
    path, found = _file()
    wanted = {*REPLAYED, ATTENTION_PLAN.name}
    if set(found) != wanted | {"ratios"}:
        raise CalibError(f"{path}: {', '.join(found)}: expected {', '.join(wanted)} and ratios")
    return {name: _published(f"{path}: {name}", found[name]) for name in wanted}


@cache
def ratios() -> Ratios:
    """Those of the file. Raises ``CalibError`` where a class has none."""
    path, found = _file()
    entry = found.get("ratios", {})
    wanted = (*CLASS_OPERATORS, "module_code", "mean")
    given = {name: float(entry.get(name, "nan")) for name in wanted}
    if not all(value > 0 for value in given.values()):
        raise CalibError(f"{path}: ratios = {entry!r}: expected {', '.join(given)}")
    return Ratios({n: given[n] for n in CLASS_OPERATORS}, given["module_code"], given["mean"])


def _file() -> tuple[Path, dict[str, dict[str, Any]]]:
    path = CONF / "host_costs.yaml"
    return path, read_yaml(path)


def _published(key: str, entry: dict[str, Any]) -> Cost:
    low, high = (float(entry.get(name, "nan")) for name in ("low", "high"))
    middle, source = float(entry.get("middle", sqrt(max(low * high, 0.0)))), entry.get("source")
    if not 0 < low <= middle <= high or not source:
        raise CalibError(f"{key} = {entry!r}: expected low <= middle <= high [s] and a source")
    return Cost(middle, low, high, PUBLISHED, str(source))
