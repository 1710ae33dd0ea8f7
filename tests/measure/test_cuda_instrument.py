"""The card as an instrument, on a simulated one: throttling, power caps, drift, refusals."""

from __future__ import annotations

import logging
import statistics
from dataclasses import replace

import pytest
from simulated_gpu import RATED_HZ, KernelBench, SimulatedCard, Trace, out_of_memory, unsupported

from calib.errors import DeviceLost
from calib.hardware.datasheet import load_hardware
from calib.hardware.device import DeviceProperties, derive_hardware
from calib.measure.clock import StopRule
from calib.measure.cuda.instrument import ATTEMPTS, CudaInstrument
from calib.measure.cuda.telemetry import POWER_CAP, NoSensor, Nvml, around, reasons, settled, unfit
from calib.measure.instrument import Telemetry
from calib.measure.sweep.plan import Point
from calib.measure.sweep.sweep import Sweep
from calib.samples.store import SampleStore
from model import ops

HARDWARE = derive_hardware(
    DeviceProperties(
        name="Simulated",
        compute_capability="9.0",
        sm_count=132,
        clock_hz=RATED_HZ,
        memory_clock_hz=1e9,
        bus_width_bits=4096,
        memory_bytes=2**34,
        l2_bytes=50 * 2**20,
        shared_memory_per_block=232_448,
        threads_per_sm=2048,
    )
)
OP = ops.Matmul(64, 64, 64)
RULE = StopRule(0.005, 0.5, 10, 400)


def open_simulated(card=None, throttle=lambda t: "", **bench):
    card = card or SimulatedCard()
    return CudaInstrument(HARDWARE, card, Trace(card, throttle), KernelBench(card, **bench))


def test_a_sample_carries_its_telemetry():
    card = SimulatedCard(clock=lambda t: 1.9e9)
    reading = open_simulated(card).measure(OP, "torch", "cold", RULE)
    assert (reading.status, reading.method, reading.discarded) == ("ok", "graph", 0)
    telemetry = reading.telemetry
    assert telemetry.sm_clock_hz == pytest.approx(1.9e9, rel=0.01)
    assert (telemetry.memory_clock_hz, telemetry.power_w, telemetry.temperature_c) == (
        1e9,
        None,
        55,
    )


def test_cold_and_hot():
    instrument = open_simulated(cold_s=80e-6, hot_s=40e-6)
    cold, hot = (instrument.measure(OP, "triton", cache, RULE) for cache in ("cold", "hot"))
    assert statistics.median(cold.seconds) / statistics.median(hot.seconds) == pytest.approx(2)


def test_a_thermal_slowdown_that_passes_is_discarded_and_repeated(caplog):
    def hot_until_one_second(t):
        return "hardware thermal slowdown" if t < 1.0 else ""

    with caplog.at_level(logging.WARNING):
        instrument = open_simulated(throttle=hot_until_one_second)
        reading = instrument.measure(OP, "torch", "cold", RULE)
    assert reading.status == "ok" and reading.telemetry.throttle == ""
    assert reading.discarded >= 10
    assert instrument.stream.rests == [1]
    assert f"{reading.discarded} repeats discarded: hardware thermal slowdown" in caplog.text


def test_a_thermal_slowdown_that_stays_is_bounded_and_said():
    instrument = open_simulated(throttle=lambda t: "software thermal slowdown")
    reading = instrument.measure(OP, "torch", "cold", RULE)
    assert (reading.status, reading.reason) == ("throttled", "software thermal slowdown")
    assert len(instrument.stream.rests) == ATTEMPTS - 1 and len(reading.seconds) >= 10
    assert reading.discarded == 2 * len(reading.seconds)


def test_a_software_power_cap_is_recorded_and_kept():
    card = SimulatedCard(clock=lambda t: 0.6 * RATED_HZ)
    reading = open_simulated(card, lambda t: POWER_CAP).measure(OP, "torch", "cold", RULE)
    assert (reading.status, reading.discarded) == ("ok", 0)
    assert reading.telemetry.throttle == POWER_CAP
    assert reading.telemetry.sm_clock_hz == pytest.approx(0.6 * RATED_HZ, rel=0.01)


def test_a_low_clock_without_a_reason_is_discarded():
    card = SimulatedCard(clock=lambda t: (0.6 if t < 0.5 else 1.0) * RATED_HZ)
    reading = open_simulated(card).measure(OP, "torch", "cold", RULE)
    assert reading.status == "ok" and reading.discarded >= 10
    assert reading.telemetry.sm_clock_hz == pytest.approx(RATED_HZ, rel=0.01)


@pytest.mark.parametrize(
    ("throttle", "share", "why"),
    [
        ("", 0.76, ""),
        ("", 0.74, "below 75%"),
        (POWER_CAP, 0.5, ""),
        (f"{POWER_CAP}, hardware slowdown", 0.9, "hardware slowdown"),
        ("hardware power brake", 1.0, "hardware power brake"),
        ("application clocks", 1.0, ""),
    ],
)
def test_the_discard_rule(throttle, share, why):
    found = unfit(Telemetry(share * RATED_HZ, throttle=throttle), RATED_HZ)
    assert why in found and bool(found) == bool(why)


def test_a_card_that_reports_nothing_is_measured_without():
    card = SimulatedCard()
    instrument = CudaInstrument(HARDWARE, card, NoSensor(), KernelBench(card))
    reading = instrument.measure(OP, "torch", "cold", RULE)
    assert reading.status == "ok" and reading.telemetry.power_w is None
    assert reading.telemetry.sm_clock_hz == pytest.approx(RATED_HZ, rel=0.01)


def test_reasons_before_and_after_are_both_kept():
    before, after = Telemetry(1e9, throttle="a, b"), Telemetry(2e9, power_w=5.0, throttle="b, c")
    assert around(before, after) == Telemetry(2e9, throttle="a, b, c")  # and no watts
    assert around(before, after, 3e9).sm_clock_hz == 3e9


def test_reasons_are_read_off_nvml_s_bits():
    pynvml = pytest.importorskip("pynvml")
    bits = pynvml.nvmlClocksEventReasonSwPowerCap | pynvml.nvmlClocksEventReasonGpuIdle
    assert reasons(pynvml, bits) == [POWER_CAP]
    assert reasons(pynvml, pynvml.nvmlClocksEventReasonHwThermalSlowdown) == [
        "hardware thermal slowdown"
    ]


def test_warm_up_ends_when_the_clock_has_settled():
    card = SimulatedCard(clock=lambda t: min(0.3 + t, 1.0) * RATED_HZ)
    instrument = open_simulated(card)
    instrument.warm_up()
    assert 0.7 < card.host < 1.5
    assert instrument.timer.spin.clock_hz == pytest.approx(RATED_HZ, rel=1e-3)


def test_a_steady_clock_is_warmed_for_half_a_second():
    card = SimulatedCard()
    open_simulated(card).warm_up()
    assert 0.5 <= card.host < 0.7


def test_a_clock_that_never_settles_is_waited_for_five_seconds():
    card = SimulatedCard(clock=lambda t: (1.0 if int(t / 0.08) % 2 else 0.8) * RATED_HZ)
    open_simulated(card).warm_up()
    assert 4.9 < card.host < 5.5


def test_settled():
    assert not settled([2e9] * 3)
    assert settled([1e9, 2e9, 2e9, 2.01e9, 2e9])
    assert not settled([2e9, 2e9, 2.1e9, 2e9])


@pytest.mark.parametrize(
    ("refusal", "status", "reason"),
    [
        (out_of_memory(), "out of memory", "CUDA out of memory."),
        (unsupported(), "unsupported", "no such kernel"),
        (RuntimeError("no kernel image\nis there"), "unsupported", "no kernel image"),
        (ValueError("head_dim = 512: expected at most 256"), "unsupported", "head_dim = 512"),
    ],
)
def test_refusals_are_readings(refusal, status, reason):
    instrument = open_simulated(refusal=refusal)
    reading = instrument.measure(OP, "torch", "cold", RULE)
    assert (reading.status, reading.seconds) == (status, ())
    assert reason in reading.reason and "\n" not in reading.reason
    assert instrument.stream.recovered == (status == "out of memory" or reason != "no such kernel")


class BrokenCard(SimulatedCard):
    """One operator breaks its context: from then on every call that looks at the device fails."""

    def __init__(self, fatal):
        super().__init__()
        self.fatal, self.broken = fatal, False

    def reached(self, mark):
        if self.broken:
            raise RuntimeError("CUDA error: an illegal memory access was encountered")
        return super().reached(mark)

    def recover(self):
        super().recover()
        if self.broken:
            raise DeviceLost("the card is lost to this process")


class BreakingBench(KernelBench):
    def cases(self, op, implementation, copies):
        if (op, implementation) == self.card.fatal:
            self.card.broken = True  # the launch returns; who waits for it is told
        return super().cases(op, implementation, copies)


def test_a_lost_card_is_a_reading_and_probes_say_so():
    card = BrokenCard((OP, "triton"))
    instrument = CudaInstrument(HARDWARE, card, Trace(card), BreakingBench(card))
    assert instrument.measure(OP, "torch", "cold", RULE).status == "ok"
    reading = instrument.measure(OP, "triton", "cold", RULE)
    assert (reading.status, reading.seconds) == ("lost", ())
    assert "lost to this process" in reading.reason
    with pytest.raises(DeviceLost):
        instrument.speed()


def test_a_sweep_goes_on_in_a_new_process_past_the_shape_that_cost_the_card(tmp_path):
    points = [Point(ops.Matmul(m, 64, 64), "cold") for m in (32, 64, 96)]
    points.insert(2, Point(OP, "hot"))
    store = SampleStore(tmp_path, "h200", "a card")

    def process():
        card = BrokenCard((OP, "triton"))
        instrument = CudaInstrument(HARDWARE, card, Trace(card), BreakingBench(card))
        return Sweep(instrument, store, 60.0, RULE, clock=card.now), card

    first, card = process()
    with pytest.raises(DeviceLost, match=r"Matmul.m=64.*triton.*not tried again"):
        first.run([], lambda state: iter(points))
    assert [s.status for s in store.samples()] == ["ok", "ok", "ok", "lost"]
    second, card = process()
    assert second.run([], lambda state: iter(points)) == 3  # hot: torch alone is tried
    assert not card.broken
    assert [s.status for s in store.samples()] == ["ok", "ok", "ok", "lost", "ok", "ok", "ok"]


def test_a_card_that_hangs_is_lost():
    card = SimulatedCard()
    instrument = open_simulated(card, cold_s=100.0)
    reading = instrument.measure(OP, "torch", "cold", RULE)
    assert reading.status == "lost" and "did not finish" in reading.reason


def test_an_unknown_implementation_is_unsupported():
    assert open_simulated().measure(OP, "cutlass", "cold", RULE).status == "unsupported"


def test_a_wrong_output_is_never_timed_and_a_right_one_compared_once():
    wrong = open_simulated(wrong="3 of 9 elements")
    reading = wrong.measure(OP, "triton", "cold", RULE)
    assert (reading.status, reading.reason, reading.seconds) == ("wrong", "3 of 9 elements", ())
    right = open_simulated()
    for cache in ("cold", "hot"):
        right.measure(OP, "triton", cache, RULE)
    assert right.bench.compared == 1
    right.measure(OP, "torch", "cold", RULE)
    assert right.bench.compared == 2


def test_the_rule_is_at_least_as_strict_as_half_a_percent():
    shape = StopRule(0.02, 0.25, 5, 100)
    assert open_simulated().rule(shape) == StopRule(0.005, 0.25, 10, 100, 0.02)
    strict = open_simulated().rule(replace(shape, spread=0.001, least=30))
    assert (strict.spread, strict.least) == (0.001, 30)


def test_probes_see_a_card_that_drifts():
    card = SimulatedCard(clock=lambda t: RATED_HZ * (1.0 if t < 0.5 else 0.8))
    instrument = open_simulated(card, hot_s=1e-3, cold_s=1e-3)
    before = instrument.speed()
    card.rest(1.0)
    after = instrument.speed()
    assert after.flops / before.flops == pytest.approx(0.8, rel=0.01)
    assert after.bandwidth / before.bandwidth == pytest.approx(0.8, rel=0.01)


def test_nominal_clocks_are_those_of_the_card_s_file():
    assert load_hardware("h200").clock_hz == 1.98e9


class FakeNvml:
    """NVML as far as the sensor asks it, of a card that has no energy counter or one of 42.5 J."""

    NVML_CLOCK_SM, NVML_CLOCK_MEM, NVML_TEMPERATURE_GPU = 1, 2, 0

    class NVMLError(Exception):
        pass

    def __init__(self, millijoules=None):
        self.millijoules = millijoules

    def nvmlDeviceGetTotalEnergyConsumption(self, handle):
        if self.millijoules is None:
            raise self.NVMLError
        return self.millijoules


def test_energy_is_read_off_the_card_s_counter():
    assert Nvml(FakeNvml(42_500), None).joules() == 42.5
    assert Nvml(FakeNvml(), None).joules() is None
    assert NoSensor().joules() is None
