"""A sample: one operator on one device, executed by one implementation, as it was measured.

It holds the raw repeats in seconds and the circumstances. Statistics are derived, never stored.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from model.ops import Operator

CACHES = COLD, HOT = "cold", "hot"
TRACE = "trace"
ORIGINS = ("design", "model", "public", "host", "ceiling", TRACE)
STATUSES = ("ok", "unsupported", "out of memory", "wrong", "throttled", "lost")
TIMED = ("ok", "throttled")
"""Those of ``STATUSES`` under which there are seconds."""


@dataclass(frozen=True)
class Kernel:
    """One kernel that an operator launched: its name, blocks of the grid and threads of a block in
    three dimensions (none of a copy or a fill by the driver), its share of the operator's time."""

    name: str
    grid: tuple[int, ...]
    block: tuple[int, ...]
    share: float


@dataclass(frozen=True)
class Sample:
    """One operator, measured; where a device's speed wanders, one visit of several.

    ``seconds``: raw repeats. ``hardware``: the card's name as in ``conf/hw``. ``cache``: ``cold``
    (weights, or all inputs where there are none, come from main memory) or ``hot``. ``origin``:
    ``design`` (a shape of the sweep's own design), ``model`` (a shape of a model under study, which
    a fit can leave out), ``public`` or ``trace`` (by the kernels of somebody's model). ``group``:
    samples that are held out together; empty means
    the operator's own grouping. ``probe_flops`` and ``probe_bandwidth``: what a fixed matmul and a
    fixed copy reached around this sample's block, for the drift of the machine; ``probe_host``: how
    many tiny operators a card's host then issued in a second. ``status``:
    ``ok``, ``unsupported`` or ``out of memory`` (then ``seconds`` is empty), ``wrong`` (not the
    reference's output), ``throttled`` or ``lost`` (the process lost the device over it).
    ``method``: how it was timed (``wall``, ``events``, ``unheld``, ``graph``, ``profiler``; empty
    where no one says); ``discarded``: repeats thrown away. ``fault``: what is known to be wrong
    with the seconds (:mod:`calib.samples.faults`), by comma; empty: nothing. ``kernels``: what it
    launched, in order, on a card that was asked; ``backend``: the attention that torch chose.
    """

    op: Operator
    seconds: Sequence[float]
    hardware: str
    implementation: str
    cache: str = "cold"
    inputs: str = "random"
    origin: str = "design"
    group: str = ""
    status: str = "ok"
    device: str = ""
    threads: int | None = None
    probe_flops: float | None = None
    probe_bandwidth: float | None = None
    probe_host: float | None = None
    sm_clock_hz: float | None = None
    memory_clock_hz: float | None = None
    power_w: float | None = None
    temperature_c: float | None = None
    throttle: str = ""
    method: str = ""
    discarded: int = 0
    fault: str = ""
    backend: str = ""
    kernels: tuple[Kernel, ...] = ()
    started: str = ""
    versions: dict[str, str] = field(default_factory=dict)

    @property
    def median(self) -> float:
        """Median of the raw repeats, in seconds."""
        return statistics.median(self.seconds)

    @property
    def expected(self) -> float:
        """Mean of the raw repeats [s], those beyond the upper far fence (Tukey) pulled in to it.

        A model's time is a sum over operators, and what sums up is the expectation: medians leave
        out every small delay that a model meets too. Of an interruption only its bound counts.
        """
        if len(self.seconds) < 4:
            return self.median
        first, _, third = statistics.quantiles(self.seconds, n=4, method="inclusive")
        fence = third + 3 * (third - first)
        return statistics.fmean(min(s, fence) for s in self.seconds)

    @property
    def key(self) -> tuple[Any, ...]:
        """What makes two samples repeats of one another."""
        return (self.op, self.hardware, self.implementation, self.cache, self.inputs)
