"""What a sweep needs of a device, whichever it is: time one operator, and say how fast it is now.

An :class:`Instrument` hides tensors, streams and clocks. ``calib.measure.cpu`` has the one for this
machine's CPU, ``calib.measure.cuda`` the one for an NVIDIA card; tests bring simulated ones. What
cannot be measured is an answer (``Reading.status``), not an exception.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from calib.measure.clock import StopRule
from calib.measure.probes import Speed
from calib.samples.sample import STATUSES, Kernel
from model.ops import Operator

OK, UNSUPPORTED, OUT_OF_MEMORY, WRONG, THROTTLED, LOST = STATUSES
"""``wrong``: the output is not that of the float32 reference; ``throttled``: the card stayed under
a thermal or hardware slowdown after all attempts (the seconds are kept, a fit leaves them out);
``lost``: the process lost the device over it, and can measure nothing more."""


@dataclass(frozen=True)
class Telemetry:
    """The device around a sample; None where it does not say. ``throttle``: names, by comma."""

    sm_clock_hz: float | None = None
    memory_clock_hz: float | None = None
    power_w: float | None = None
    temperature_c: float | None = None
    throttle: str = ""


@dataclass(frozen=True)
class Reading:
    """One operator timed, or why not. Its fields are those of a ``Sample``.

    ``seconds``: raw, one a repeat; ``method``: ``wall`` (the host's clock), ``events`` (device
    events in a stream that was held until all was enqueued), ``unheld`` (device events where the
    operator itself waits for the device), ``graph`` (replays of a CUDA graph, a repeat is the
    mean of its copies) or ``profiler`` (the sum of its kernels); ``discarded``: repeats thrown away
    under the discard rule; ``reason``: in words, where ``status`` is not ``ok``. ``gap_s``: what is
    still in the seconds for each kernel beyond the first, until ``Instrument.finish``, which tells
    ``kernels``, ``backend`` and ``fault``.
    """

    seconds: tuple[float, ...] = ()
    status: str = OK
    reason: str = ""
    method: str = ""
    discarded: int = 0
    telemetry: Telemetry = field(default_factory=Telemetry)
    gap_s: float = 0.0
    fault: str = ""
    backend: str = ""
    kernels: tuple[Kernel, ...] = ()

    def told(self) -> dict[str, Any]:
        """The fields of a sample that finishing a reading may change."""
        same = ("method", "fault", "backend", "kernels")
        return {"seconds": list(self.seconds), **{name: getattr(self, name) for name in same}}


@dataclass(frozen=True)
class Taken:
    """A reading, and of what it is: the arguments of ``Instrument.measure``."""

    op: Operator
    implementation: str
    cache: str
    reading: Reading


class Instrument(Protocol):
    """A device that can be measured."""

    implementations: tuple[str, ...]
    """Those that it can execute: ``torch``, ``triton``."""
    threads: int | None
    """Threads of the CPU that work, None for a card."""
    visits: int
    """Into how many visits, apart in time, a sweep splits the repeats of a shape."""

    def warm_up(self) -> None:
        """Work until clocks have settled; once, before the first sample."""

    def rule(self, shape: StopRule) -> StopRule:
        """The stop rule of one visit, for a sweep's rule of a whole ``shape``."""

    def measure(self, op: Operator, implementation: str, cache: str, rule: StopRule) -> Reading:
        """Build ``op`` on random data, time it ``cold`` or ``hot`` until ``rule`` is content."""

    def finish(self, taken: Sequence[Taken]) -> list[Reading]:
        """The readings of ``taken``, completed by what is cheaper to ask for many at once: the
        kernels that ran, and with them the busy time of what launched several. Raises
        ``DeviceLost``."""

    def speed(self) -> Speed:
        """What probes reach just now. Raises ``DeviceLost``."""

    def costs(self) -> dict[Operator, list[float]]:
        """Raw seconds of what the host and the queue cost (``calib.samples.host_costs``); empty
        where the samples of operators hold them already."""
