"""Which device a run is for: the one named, the one found, and whether it can be measured."""

from __future__ import annotations

from concurrent.futures import Executor, Future
from dataclasses import replace

import pytest

from calib.errors import CalibError
from calib.hardware.datasheet import load_hardware
from calib.hardware.device import DeviceProperties
from calib.measure.cpu import CpuInstrument
from calib.samples.files import write_samples
from calib.samples.sample import Sample
from calib.steps import target as module
from calib.steps.target import find_target, open_instrument
from model import ops

H200 = DeviceProperties(
    name="NVIDIA H200",
    compute_capability="9.0",
    sm_count=132,
    clock_hz=1.98e9,
    memory_clock_hz=3.2e9,
    bus_width_bits=6144,
    memory_bytes=2**37,
    l2_bytes=50 * 2**20,
    shared_memory_per_block=232_448,
    threads_per_sm=2048,
)
UNKNOWN = replace(H200, name="NVIDIA H999")


@pytest.fixture
def machine(monkeypatch):
    """Say which card this machine has."""

    def has(card):
        monkeypatch.setattr(module, "detect_device", lambda: card)

    return has


def found_in(folder, hw=None, mode="run"):
    return find_target(load_hardware(hw) if hw else None, folder, mode)


def test_a_card_that_is_here_is_measured(machine, tmp_path):
    machine(H200)
    found = found_in(tmp_path)
    assert (found.hardware.name, found.here, found.device) == ("h200", True, "NVIDIA H200")
    assert (found.on_card, found.torch_device) == (True, "cuda:0")
    assert (found.store.hardware, found.store.folder) == ("h200", tmp_path / "h200")


def test_a_card_without_a_file_is_measured_too(machine, tmp_path):
    machine(UNKNOWN)
    found = found_in(tmp_path, mode="calibrate")
    assert found.here and found.hardware.provenance == "derived"


def test_a_card_that_is_named_and_not_here_is_predicted(machine, tmp_path):
    sample = Sample(ops.Copy(4), [1.0], "rtx5090", "torch", device="NVIDIA GeForce RTX 5090")
    write_samples(tmp_path / "rtx5090" / "000001.parquet", [sample])
    for card in (H200, None):
        machine(card)
        found = found_in(tmp_path, "rtx5090")
        assert not found.here and found.samples == [sample]


def test_analytic_never_measures(machine, tmp_path):
    machine(H200)
    assert not found_in(tmp_path, mode="analytic").here


def test_a_card_that_is_not_here_cannot_be_calibrated(machine, tmp_path):
    machine(H200)
    with pytest.raises(CalibError, match=r"on rtx5090: .* this machine, NVIDIA H200"):
        found_in(tmp_path, "rtx5090", "calibrate")
    machine(None)
    with pytest.raises(CalibError, match="no CUDA card"):
        found_in(tmp_path, "rtx5090", "calibrate")


def test_without_a_card_the_cpu_is_measured(machine, tmp_path):
    machine(None)
    found = found_in(tmp_path)
    assert (found.hardware.name, found.here, found.torch_device) == ("cpu", True, "cpu")
    assert isinstance(open_instrument(found), CpuInstrument)


def test_a_torch_without_cuda_is_told_and_nothing_hangs(machine, tmp_path):
    import torch

    if torch.cuda.is_available():
        pytest.skip("this torch has CUDA")
    machine(H200)
    with pytest.raises(CalibError, match="cannot use it: expected a build of torch"):
        open_instrument(found_in(tmp_path))


class Nothing:
    """Nothing is compiled ahead."""

    def begin(self, op, implementation):
        pass

    def ready(self, op, implementation):
        return True

    def close(self):
        pass


class AtOnce(Executor):
    def submit(self, function, /, *arguments, **more):
        future = Future()
        future.set_result(function(*arguments, **more))
        return future


def test_a_card_is_swept_with_both_implementations(machine, tmp_path, monkeypatch):
    """From the configuration to stored samples, on a simulated card."""
    from simulated_gpu import KernelBench, SimulatedCard, Trace

    from calib.measure.cuda.instrument import CudaInstrument
    from calib.measure.sweep.plan import Point
    from calib.samples import ceilings
    from calib.samples.host_costs import EAGER_OPERATOR, LAUNCH, MODULE_CODE
    from calib.steps import measuring as steps
    from calib.steps.request import SweepRequest
    from model.architectures import build
    from model.workload import Workload

    costs = (EAGER_OPERATOR, LAUNCH, MODULE_CODE)

    def simulated(target, seed=0):
        card = SimulatedCard()
        instrument = CudaInstrument(target.hardware, card, Trace(card), KernelBench(card))
        instrument.costs = lambda: {op: [7e-6] for op in costs}
        instrument.ahead = Nothing
        return instrument

    machine(H200)
    monkeypatch.setattr(steps, "open_instrument", simulated)
    monkeypatch.setattr("calib.steps.card.sweep.one_process", AtOnce)
    monkeypatch.setattr(steps, "versions", lambda target: {"driver": "made up"})
    few = [Point(ops.Matmul(m, 64, 64), "cold") for m in (1, 2, 3)]
    monkeypatch.setattr("calib.measure.sweep.design.adaptive", lambda *_: lambda state: iter(few))
    each = {"spread": 0.01, "cap_s": 0.1, "card_cap_s": 0.1, "least": 5, "most": 20}
    limits = SweepRequest(budget_s=600, card_budget_s=600, **each)
    model = build("vit")
    phases = model.phases(Workload("tiny", side=224))
    done = steps.measure_operators(found_in(tmp_path, mode="calibrate"), phases, limits, 0)
    swept = [s for s in done.samples if s.origin != "host"]
    assert {s.implementation for s in swept} == {"torch", "triton"}
    assert {s.origin for s in swept} >= {"ceiling", "model", "design"}
    assert all(s.sm_clock_hz and s.probe_flops and s.power_w is None for s in swept)
    host = [s for s in done.samples if s.origin == "host"]
    assert {s.op for s in host} == set(costs)
    assert all(s.probe_host == pytest.approx(1 / 5e-6) for s in (*swept, *host))
    figures = {c.name: c for c in ceilings.ceilings(done.samples, done.hardware)}
    assert figures["product of bfloat16"].clock_share and figures["eager operator"].measured == 7e-6
    again = steps.measure_operators(found_in(tmp_path, mode="calibrate"), phases, limits, 0)
    assert again.samples == done.samples, "what is stored is not measured again"
