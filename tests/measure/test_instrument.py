"""The CPU as an instrument: a reading, or the reason why there is none."""

import pytest
import torch

from calib.measure.cases.arena import Arena
from calib.measure.clock import StopRule
from calib.measure.cpu import CpuInstrument
from calib.measure.instrument import STATUSES, Reading, Telemetry
from calib.samples.sample import Sample
from model import ops

FAST = StopRule(0.5, 0.01, 2, 3)
PRODUCT = ops.Matmul(7, 64, 64)


@pytest.fixture(scope="module")
def cpu():
    return CpuInstrument(Arena(2**25))


def test_a_product_is_timed_by_the_wall_clock(cpu):
    reading = cpu.measure(PRODUCT, "torch", "cold", FAST)
    assert (reading.status, reading.method) == ("ok", "wall")
    assert 2 <= len(reading.seconds) <= 3 and all(s > 0 for s in reading.seconds)
    assert cpu.threads == torch.get_num_threads()


def test_what_cannot_run_is_an_answer_with_a_reason(cpu):
    window = ops.Attention(1, 8, 8, 2, 2, 64, causal=True, window=4)
    for reading in (
        cpu.measure(window, "torch", "hot", FAST),
        cpu.measure(PRODUCT, "triton", "cold", FAST),
        cpu.measure(ops.Other("unheard of"), "torch", "hot", FAST),
    ):
        assert (reading.status, reading.seconds) == ("unsupported", ()) and reading.reason


def test_memory_that_runs_out_is_recorded(cpu, monkeypatch):
    def full(*_):
        raise torch.OutOfMemoryError("no 3 bytes left\nand a long report")

    monkeypatch.setattr("calib.measure.cpu.build", full)
    reading = cpu.measure(PRODUCT, "torch", "cold", FAST)
    assert (reading.status, reading.reason) == ("out of memory", "no 3 bytes left")


def test_limits_of_a_sweep_become_the_rule(cpu):
    shape = StopRule(0.01, 0.25, 7, 100)
    assert cpu.rule(shape) == shape.split(2 * cpu.visits)


def test_a_reading_fits_a_sample():
    reading = Reading((1.0,), method="graph", telemetry=Telemetry(throttle="software power cap"))
    named = {"seconds", "status", "method", "discarded", *vars(reading.telemetry)}
    assert named <= set(Sample.__dataclass_fields__) and reading.status in STATUSES
