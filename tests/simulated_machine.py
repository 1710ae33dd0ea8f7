"""A made-up device for a sweep, with a clock of its own."""

from calib.measure.clock import StopRule
from calib.measure.instrument import OUT_OF_MEMORY, UNSUPPORTED, Reading, Telemetry
from calib.measure.probes import Speed
from calib.measure.sweep.plan import Point
from calib.measure.sweep.sweep import Sweep
from model import ops

RULE = StopRule(0.5, 0.01, 2, 3)
SAMPLE_S, PROBE_S = 0.2, 0.05


class Machine:
    """A device and its clock [s]. ``kill_at``: the measurement that is broken off;
    ``speeds``: what the probes say, one after another, the last for good."""

    implementations: tuple[str, ...] = ("torch",)
    threads = None

    def __init__(self, now=1e9, kill_at=None, speeds=(1.0,), visits=1):
        self.now, self.kill_at, self.speeds, self.visits = now, kill_at, list(speeds), visits
        self.measured, self.warm = [], 0

    def clock(self):
        return self.now

    def warm_up(self):
        self.warm += 1

    def rule(self, limits):
        return RULE

    def finish(self, taken):
        return [one.reading for one in taken]

    def measure(self, op, implementation, cache, rule):
        if self.kill_at == len(self.measured):
            raise KeyboardInterrupt
        self.now += SAMPLE_S
        self.measured.append((op, implementation, cache))
        if op.bytes > 2**34:
            return Reading(status=OUT_OF_MEMORY, reason="too large")
        if implementation == "triton" and isinstance(op, ops.Other):
            return Reading(status=UNSUPPORTED, reason="no such kernel")
        return Reading((1e-3, 1.1e-3), method="events", telemetry=Telemetry(power_w=300.0))

    def speed(self):
        self.now += PROBE_S
        factor = self.speeds.pop(0) if len(self.speeds) > 1 else self.speeds[0]
        return Speed(1e12 * factor, 1e11)


def sweep(machine, store, budget_s=60.0, **some):
    return Sweep(machine, store, budget_s, RULE, clock=machine.clock, **some)


def products(count, origin="design"):
    return [Point(ops.Matmul(m, 64, 64), "cold", origin) for m in range(1, count + 1)]


def given(points):
    """A plan that is a list."""
    return lambda state: iter(points)
