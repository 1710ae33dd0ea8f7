"""An NVIDIA card as an instrument (:mod:`calib.measure.instrument`)."""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Protocol

import torch
from triton.errors import TritonError

from calib.errors import DeviceLost
from calib.hardware.datasheet import Hardware
from calib.measure.cases.arena import Arena, Unsupported
from calib.measure.cases.check import error_of
from calib.measure.cases.torch_cases import torch_cases
from calib.measure.cases.triton_cases import triton_cases
from calib.measure.clock import StopRule
from calib.measure.cuda.ahead import TRITON, Ahead, processes, variant
from calib.measure.cuda.costs import SPEED_REPEATS, open_costs, operators_a_second
from calib.measure.cuda.kernels import Calls, Job, busy, witness
from calib.measure.cuda.stream import Run, Stream, TorchStream, wait
from calib.measure.cuda.telemetry import Sensor, around, open_sensor, settled, unfit
from calib.measure.cuda.timer import LaunchesNothing, Timed, Timer, measure_spin, time_operator
from calib.measure.instrument import (
    LOST,
    OUT_OF_MEMORY,
    THROTTLED,
    UNSUPPORTED,
    WRONG,
    Reading,
    Taken,
)
from calib.measure.probes import Speed
from kernels.launch import described
from model import ops
from model.ops import Operator

log = logging.getLogger(__name__)

ATTEMPTS = 3
"""Of one sample under the discard rule, with rests of 1 and 2 seconds between them."""
NOISE = 0.005
"""The most relative noise of a median; a sweep may ask for less."""
_LEAST_REPEATS, _LEAST_S = 10, 0.02
_WARM_S, _MOST_WARM_S, _WORK_S = 0.5, 5.0, 0.05
PROBE_PRODUCT = ops.Matmul(4096, 4096, 4096)
PROBE_COPY = ops.Elementwise(2**27)
PROBE_HOST = ops.Elementwise(64)


class Bench(Protocol):
    """Builds operators as calls on the card, and knows whether they are right."""

    def cases(self, op: Operator, implementation: str, copies: int) -> Sequence[Run]:
        """Calls of ``op``, each on inputs of its own. Raises ``Unsupported``."""

    def error(self, op: Operator, implementation: str) -> str:
        """What is wrong with its output, compared with a wider reference; empty: nothing."""

    def variant(self, op: Operator, implementation: str) -> Hashable:
        """What has to be right but once: the same for operators that take the same kernels."""


class CudaInstrument:
    """Times operators on ``stream``, watches ``sensor``, and throws away what it must."""

    implementations: tuple[str, ...] = ("torch", "triton")
    threads: int | None = None
    visits: int = 1

    def __init__(
        self,
        hardware: Hardware,
        stream: Stream,
        sensor: Sensor,
        bench: Bench,
        device: str = "cuda:0",
    ) -> None:
        self.device = device
        self.hardware, self.stream, self.sensor, self.bench = hardware, stream, sensor, bench
        self.timer = Timer(stream)
        self._errors: dict[tuple[str, Hashable], str] = {}

    def warm_up(self) -> None:
        """Products, for half a second at least, until the clock has settled, five at most."""
        run = self.bench.cases(PROBE_PRODUCT, "torch", 1)[0]
        start, clocks = self.stream.now(), [0.0]
        while (elapsed := self.stream.now() - start) < _MOST_WARM_S:
            if elapsed >= _WARM_S and settled(clocks):
                break
            self._work(run)
            clocks.append(measure_spin(self.stream, repeats=3).clock_hz)
        self.timer = Timer(self.stream)

    def _work(self, run: Run) -> None:
        start = self.stream.now()
        while self.stream.now() - start < _WORK_S:
            run()
            wait(self.stream, self.stream.mark())

    def rule(self, shape: StopRule) -> StopRule:
        """At most half a percent of noise, ten repeats and 20 ms, whatever a sweep allows."""
        return StopRule(
            min(shape.spread, NOISE),
            shape.cap_s,
            max(shape.least, _LEAST_REPEATS),
            max(shape.most, _LEAST_REPEATS),
            _LEAST_S,
        )

    def measure(self, op: Operator, implementation: str, cache: str, rule: StopRule) -> Reading:
        try:
            return self._refusable(op, implementation, cache, rule)
        except DeviceLost as error:
            return Reading(status=LOST, reason=str(error))

    def _refusable(self, op: Operator, implementation: str, cache: str, rule: StopRule) -> Reading:
        try:
            with torch.no_grad():
                return self._measure(op, implementation, cache == "cold", rule)
        except Unsupported as error:
            return Reading(status=UNSUPPORTED, reason=str(error))
        except LaunchesNothing:
            return Reading(status=UNSUPPORTED, reason="it launches nothing")
        except torch.OutOfMemoryError as error:
            self.stream.recover()
            return Reading(status=OUT_OF_MEMORY, reason=_first_line(error))
        except (RuntimeError, ValueError, TritonError) as error:
            # A kernel that refuses the shape. Where it broke the context, recover() raises.
            self.stream.recover()
            return Reading(status=UNSUPPORTED, reason=_first_line(error))

    def _measure(self, op: Operator, implementation: str, cold: bool, rule: StopRule) -> Reading:
        if implementation not in self.implementations:
            raise Unsupported(f"{implementation} is not one of {', '.join(self.implementations)}")
        if wrong := self._error(op, implementation):
            return Reading(status=WRONG, reason=wrong)
        reading, discarded = Reading(), 0
        for attempt in range(ATTEMPTS):
            if attempt:
                self.stream.rest(attempt)
                self.warm_up()
            reading = self._sample(op, implementation, cold, rule)
            why = unfit(reading.telemetry, self.hardware.clock_hz)
            if not why:
                return replace(reading, discarded=discarded)
            discarded += len(reading.seconds)
            log.warning("%s: %d repeats discarded: %s", op, len(reading.seconds), why)
        discarded -= len(reading.seconds)
        return replace(reading, status=THROTTLED, reason=why, discarded=discarded)

    def _error(self, op: Operator, implementation: str) -> str:
        """What is wrong with the first operator of its variant; an operator of a variant that was
        wrong once is compared itself."""
        key = (implementation, self.bench.variant(op, implementation))
        if self._errors.get(key, "not yet compared"):
            self._errors[key] = self.bench.error(op, implementation)
        return self._errors[key]

    def prove(self, some: Iterable[Operator]) -> int:
        """Compare torch's operators with a reference, the smallest of each variant; how many.

        Before a sweep, so that none of its samples waits for it. What cannot be built or run is
        left to the measurement, which says so.
        """
        least: dict[Hashable, Operator] = {}
        for op in some:
            known = least.setdefault(self.bench.variant(op, "torch"), op)
            if op.bytes + op.flops < known.bytes + known.flops:
                least[self.bench.variant(op, "torch")] = op
        for op in least.values():
            try:
                with torch.no_grad():
                    self._error(op, "torch")
            except (Unsupported, RuntimeError, ValueError):
                self.stream.recover()  # where the context is broken, this says so
        return len(least)

    def ahead(self) -> Ahead:
        """Compiles our kernels for this card in other processes."""
        return Ahead(described(torch.device(self.device)), processes())

    def _sample(self, op: Operator, implementation: str, cold: bool, rule: StopRule) -> Reading:
        before = self.sensor.read()
        timed = self._time(op, implementation, cold, rule)
        telemetry = around(before, self.sensor.read(), timed.clock_hz)
        return Reading(timed.seconds, method=timed.method, telemetry=telemetry, gap_s=timed.gap_s)

    def _time(self, op: Operator, implementation: str, cold: bool, rule: StopRule) -> Timed:
        return time_operator(
            self.timer,
            lambda copies: self.bench.cases(op, implementation, copies),
            cold,
            rule,
            nbytes=float(op.bytes),
            written=float(op.bytes_written),
            l2_bytes=self.hardware.l2_bytes,
        )

    def finish(self, taken: Sequence[Taken]) -> list[Reading]:
        asked = [i for i, one in enumerate(taken) if one.reading.seconds]
        finished = [one.reading for one in taken]
        if not asked or any(one.reading.status == LOST for one in taken):
            return finished
        seen = self._witnessed([taken[i] for i in asked])
        for i, calls in zip(asked, seen or [()] * len(asked), strict=True):
            finished[i] = busy(taken[i], calls)
        return finished

    def _witnessed(self, taken: Sequence[Taken]) -> list[Calls]:
        """What each operator launches, in one session of the profiler; nothing where that fails."""
        try:
            with torch.no_grad():
                jobs = [
                    Job(self.bench.cases(t.op, t.implementation, 1)[0], t.cache == "cold")
                    for t in taken
                ]
                return witness(self.stream, jobs)
        except (RuntimeError, ValueError, Unsupported) as error:
            log.warning("the kernels of %d samples are unknown: %s", len(taken), error)
            self.stream.recover()
            return []

    def speed(self) -> Speed:
        """A product of 4096 cubed, a scaled copy of 256 MiB, and a loop of tiny operators on the
        host, medians of three."""
        rule = StopRule(1.0, 1.0, SPEED_REPEATS, SPEED_REPEATS)
        try:
            with torch.no_grad():
                product, copy = (
                    sorted(self._time(op, "torch", False, rule).seconds)[SPEED_REPEATS // 2]
                    for op in (PROBE_PRODUCT, PROBE_COPY)
                )
                host = operators_a_second(self.stream, self.bench.cases(PROBE_HOST, "torch", 1)[0])
        except RuntimeError:
            self.stream.recover()  # where the context is broken, this says so
            raise
        return Speed(PROBE_PRODUCT.flops / product, PROBE_COPY.bytes / copy, host)

    def costs(self) -> dict[Operator, list[float]]:
        return open_costs(self.timer, self.device)


class TorchBench:
    """Torch's operators and our kernels on random data in an arena on the card."""

    makers: ClassVar[dict[str, Callable[..., Sequence[Run]]]] = {
        "torch": torch_cases,
        "triton": triton_cases,
    }

    def __init__(self, arena: Arena) -> None:
        self.arena = arena

    def cases(self, op: Operator, implementation: str, copies: int) -> Sequence[Run]:
        return self.makers[implementation](op, self.arena, copies)

    def variant(self, op: Operator, implementation: str) -> Hashable:
        """Of torch's operators the kind, the types and the flags; of ours the kernels."""
        if implementation == TRITON:
            return variant(op, described(torch.device(self.arena.device)))
        fields = vars(op).items()
        return (op.operator, *((k, v) for k, v in fields if isinstance(v, str | bool | None)))

    def error(self, op: Operator, implementation: str) -> str:
        case: Any = self.makers[implementation](op, self.arena, 1)[0]
        try:
            return error_of(case)
        except torch.OutOfMemoryError:
            log.warning("%s: not compared: not even a part of its reference fits the card", op)
            torch.cuda.empty_cache()
            return ""


def open_cuda(
    hardware: Hardware, device: str = "cuda:0", seed: int = 0, arena_bytes: int | None = None
) -> CudaInstrument:
    """The card that torch calls ``device``, ready to be warmed up.

    ``arena_bytes``: of bfloat16, and half of that for every other dtype that is asked for; None
    means a fifth of the free memory, at most 8 GiB.
    """
    torch.cuda.init()
    free, _ = torch.cuda.mem_get_info(device)
    arena = Arena(arena_bytes or min(free // 5, 2**33), seed, device)
    stream = TorchStream(device, hardware.l2_bytes)
    return CudaInstrument(hardware, stream, sensor_of(device), TorchBench(arena), device)


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0][:200] or type(error).__name__


def sensor_of(device: str) -> Sensor:
    """The telemetry of the card that torch calls ``device``, by its PCI address."""
    properties: Any = torch.cuda.get_device_properties(device)
    return open_sensor(
        f"{properties.pci_domain_id:08x}:{properties.pci_bus_id:02x}:"
        f"{properties.pci_device_id:02x}.0"
    )
