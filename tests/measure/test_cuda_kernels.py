"""Which kernels ran, and that a sample is the time that they keep the device busy."""

from __future__ import annotations

import statistics

import pytest
from simulated_gpu import NODE_GAP_S, Kernel, KernelBench, SimulatedCard, Trace
from test_cuda_instrument import HARDWARE, RULE, BreakingBench, BrokenCard, open_simulated

from calib.errors import DeviceLost
from calib.measure.cuda.instrument import CudaInstrument
from calib.measure.cuda.kernels import Job, attention_backend, busy, witness
from calib.measure.cuda.launches import Launch, launches_of
from calib.measure.instrument import Reading, Taken
from calib.measure.sweep.plan import Point
from calib.measure.sweep.sweep import Sweep
from calib.samples.sample import Kernel as Ran
from calib.samples.store import SampleStore
from model import ops

OP = ops.Norm(8, 1280, kind="rmsnorm")


def finished(instrument, op=OP, cache="cold"):
    reading = instrument.measure(op, "torch", cache, RULE)
    return instrument.finish([Taken(op, "torch", cache, reading)])[0]


@pytest.mark.parametrize("cache", ["cold", "hot"])
@pytest.mark.parametrize("count", [1, 2, 8])
@pytest.mark.parametrize("busy_s", [8e-6, 16e-6, 40e-6, 400e-6])
def test_a_sample_is_the_busy_time_of_its_kernels(busy_s, count, cache):
    """By events, by a graph and by the profiler alike; cold and clean."""
    instrument = open_simulated(cold_s=busy_s, hot_s=0.6 * busy_s, kernels=count)
    found = finished(instrument, cache=cache)
    true_s = busy_s if cache == "cold" else 0.6 * busy_s
    assert statistics.median(found.seconds) == pytest.approx(true_s, rel=0.01)
    assert len(found.kernels) == count and found.gap_s == 0.0 and found.fault == ""
    assert sum(kernel.share for kernel in found.kernels) == pytest.approx(1)
    assert found.kernels[0].grid == (132, 1, 1) and found.kernels[0].block == (128, 1, 1)


def test_short_composites_are_taken_apart_by_the_profiler():
    methods = {
        busy_s: finished(open_simulated(cold_s=busy_s, kernels=8)).method
        for busy_s in (15e-6, 400e-6)
    }
    assert methods == {15e-6: "profiler", 400e-6: "graph"}


@pytest.mark.parametrize(("busy_s", "method"), [(2e-6, "profiler"), (15e-6, "graph")])
def test_a_short_kernel_is_what_the_profiler_says(busy_s, method):
    """Less the gap of kernels that fill the device it would be too short by what it lacks."""
    found = finished(open_simulated(hot_s=busy_s), op=ops.Elementwise(4096), cache="hot")
    assert found.method == method
    assert statistics.median(found.seconds) == pytest.approx(busy_s, rel=0.01)


@pytest.mark.parametrize(
    ("op", "method"), [(ops.Elementwise(2**25), "graph"), (ops.Matmul(1, 8192, 8192), "events")]
)
def test_what_streams_is_timed_in_a_row_however_long(op, method):
    assert finished(open_simulated(cold_s=60e-6), op=op).method == method


@pytest.mark.parametrize(("first", "method"), [("Memset (Device)", "profiler"), ("fill", "graph")])
def test_what_clears_memory_first_is_timed_by_the_profiler(first, method):
    """The gap around that is not the one between two kernels that fill the device."""
    call = (Launch(first, (), (), 1e-6), Launch("sdpa", (132, 1, 1), (384, 1, 1), 99e-6))
    timed = Reading(seconds=(101e-6,) * 3, method="graph", gap_s=0.4e-6)
    found = busy(Taken(OP, "torch", "hot", timed), (call,) * 3)
    assert found.method == method
    assert found.seconds == pytest.approx([100e-6 if method == "profiler" else 100.6e-6] * 3)


def test_the_time_of_an_operator_that_waits_is_that_of_its_kernels():
    found = finished(open_simulated(waits=True))
    assert found.method == "profiler"
    assert statistics.median(found.seconds) == pytest.approx(2 * 50e-6, rel=0.3)  # hot once


def test_without_a_profiler_a_sample_says_so():
    card = SimulatedCard(profiler=False)
    found = finished(open_simulated(card, kernels=8))
    assert (found.kernels, found.fault, found.method) == ((), "kernels unknown", "graph")


def test_an_error_among_them_leaves_the_samples():
    instrument = open_simulated()
    reading = instrument.measure(OP, "torch", "cold", RULE)
    instrument.bench.refusal = RuntimeError("no")
    found = instrument.finish([Taken(OP, "torch", "cold", reading)])[0]
    assert found.seconds == reading.seconds and found.fault == "kernels unknown"


def test_what_failed_is_not_asked_and_a_lost_card_is_left_alone():
    instrument = open_simulated()
    failed = Reading(status="out of memory")
    sessions = instrument.stream.sessions
    assert instrument.finish([Taken(OP, "torch", "cold", failed)]) == [failed]
    good = instrument.measure(OP, "torch", "cold", RULE)
    lost = Reading(status="lost")
    taken = [Taken(OP, "torch", "cold", r) for r in (good, lost)]
    assert instrument.finish(taken) == [good, lost]
    assert instrument.stream.sessions == sessions


def test_many_operators_are_one_session_and_a_flush_is_none_of_them():
    card = SimulatedCard()
    jobs = [Job(card.call(Kernel(f"k{n}", 1e-5, 1e-5, kernels=n)), n != 2) for n in (1, 2, 3)]
    found = witness(card, jobs, calls=2)
    assert card.sessions == 1
    assert [[[k.name for k in call] for call in calls] for calls in found] == [
        [["k1"]] * 2,
        [["k2", "k2 1"]] * 2,
        [["k3", "k3 1", "k3 2"]] * 2,
    ]


def test_a_block_of_a_sweep_is_one_session(tmp_path):
    card = SimulatedCard()
    bench = KernelBench(card, kernels=3)
    instrument = CudaInstrument(HARDWARE, card, Trace(card), bench)
    store = SampleStore(tmp_path, "h200", "a card")
    points = [Point(ops.Attention(1, 8, 8, 4, 4, 64 * n), "cold") for n in (1, 2, 3)]
    before = card.sessions
    Sweep(instrument, store, 60.0, RULE, clock=card.now).run([], lambda state: iter(points))
    samples = store.samples()
    blocks = len({s.probe_flops for s in samples})
    warmed = 1  # of the timer, once the clock has settled
    assert card.sessions - before <= blocks + warmed + 1 < len(samples)
    assert {len(s.kernels) for s in samples} == {3}
    assert {s.backend for s in samples if s.implementation == "torch"} == {"math"}
    assert {s.backend for s in samples if s.implementation == "triton"} == {""}
    for sample in samples:
        assert sample.median == pytest.approx(50e-6, rel=0.01)


def test_a_card_that_is_lost_while_kernels_are_asked_keeps_the_block(tmp_path):
    card = BrokenCard((OP, "never"))
    instrument = CudaInstrument(HARDWARE, card, Trace(card), BreakingBench(card))
    store = SampleStore(tmp_path, "h200", "a card")
    points = [Point(OP, "cold"), Point(OP, "hot")]
    ready, profiled = [], card.profiled

    def breaks(run):
        if not ready:  # of the timer
            ready.append(True)
            return profiled(run)
        card.broken = True
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    card.profiled = breaks
    sweep = Sweep(instrument, store, 60.0, RULE, clock=card.now)
    with pytest.raises(DeviceLost):
        sweep.run([], lambda state: iter(points))
    assert {(s.status, s.fault) for s in store.samples()} == {("ok", "kernels unknown")}


def test_launches_are_read_off_a_trace_in_the_order_of_the_device():
    copy = {"cat": "gpu_memcpy", "name": "Memcpy DtoD", "ts": 9.0, "dur": 0.8, "args": {}}
    kernel = {"cat": "kernel", "name": "k", "ts": 5.0, "dur": 2.5}
    kernel["args"] = {"grid": [3, 2, 1], "block": [64, 1, 1]}
    range_ = {"cat": "gpu_user_annotation", "name": "step", "ts": 1.0, "dur": 20.0, "args": {}}
    trace = {"traceEvents": [copy, range_, kernel, {"ph": "M", "name": "process_name"}]}
    assert launches_of(trace) == [
        Launch("k", (3, 2, 1), (64, 1, 1), 2.5e-6),
        Launch("Memcpy DtoD", (), (), pytest.approx(0.8e-6)),
    ]


@pytest.mark.parametrize(
    ("name", "backend"),
    [
        ("cudnn_generated_fort_native_sdpa_sm90_flash_fprop_wgmma_f16_knob_7_64x128x128", "cudnn"),
        ("void pytorch_flash::flash_fwd_kernel<pytorch_flash::Flash_fwd_kernel_traits>", "flash"),
        ("fmha_cutlassF_bf16_aligned_64x128_rf_sm80(PyTorchMemEffAttention)", "efficient"),
        ("void cutlass::Kernel2<cutlass_80_tensorop_bf16_s16816gemm_bf16_64x64>", "math"),
        (None, ""),
    ],
)
def test_the_attention_that_torch_chose_is_told_by_its_kernels(name, backend):
    kernels = [Ran(n, (), (), 0.5) for n in ("Memset (Device)", name) if name]
    assert attention_backend(kernels) == backend


def test_a_gap_in_a_composite_would_leak():
    """What finishing guards against: eight kernels in a graph, the gaps between them included."""
    instrument = open_simulated(cold_s=40e-6, kernels=8)
    raw = instrument.measure(OP, "torch", "cold", RULE)
    leaks = 40e-6 + 7 * NODE_GAP_S
    assert statistics.median(raw.seconds) == pytest.approx(leaks, rel=0.01)
