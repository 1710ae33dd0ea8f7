"""Traces of a user's are samples of the card, and say which CUDA its torch was built for."""

from __future__ import annotations

import gzip
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import calib
from calib.compare.clock import events as events_of
from calib.compare.clock.events import read_events
from calib.errors import CalibError
from calib.hardware.datasheet import hardware_names, load_hardware
from calib.hardware.versions import FIRST
from calib.samples.sample import TRACE
from calib.samples.store import SampleStore
from calib.steps.card.traces import recorded, with_traces
from calib.steps.fitting import fit_samples
from calib.steps.target import Target, of_cuda
from model import ops

BF16 = "c10::BFloat16"
PRODUCT = ops.Matmul(788, 768, 768, bias=True)
MS = 1e3
"""[us]"""


def target(card: str, folder: Path) -> Target:
    return Target(load_hardware(card), False, "", SampleStore(folder, card, ""))


def operator(
    name: str, at: float, dims: Any, kernel_us: float, types: Any = None, **about: Any
) -> list[dict[str, Any]]:
    """An operator, its launch and its kernel [us]. ``kernel_us``: 0: it launches none."""
    args = {"Input Dims": dims, "Input type": types or [BF16] * len(dims), **about}
    number = round(at)
    events = [("cpu_op", name, at, 20.0, 1, {**args, "External id": number})]
    if kernel_us:
        ids = {"External id": number, "correlation": number}
        events.append(("cuda_runtime", "cudaLaunchKernel", at + 5, 2.0, 1, ids))
        ran = {**ids, "device": 0, "stream": 7}
        events.append(("kernel", f"kernel of {name}", at + 100, kernel_us, 7, ran))
    return [
        {"ph": "X", "cat": cat, "name": n, "ts": ts, "dur": dur, "pid": 1, "tid": tid, "args": a}
        for cat, n, ts, dur, tid, a in events
    ]


def product(at: float, kernel_us: float) -> list[dict[str, Any]]:
    types = [BF16, BF16, BF16, "Scalar", "Scalar"]
    dims = [[768], [788, 768], [768, 768], [], []]
    strides = [[1], [768, 1], [1, 768], [], []]
    about = {"Input Strides": strides, "Concrete Inputs": ["", "", "", "1", "1"]}
    return operator("aten::addmm", at, dims, kernel_us, types, **about)


def write(path: Path, events: Any, card: str = "h100", **about: Any) -> Path:
    properties = [{"id": 0, "name": load_hardware(card).device_names[0]}]
    text = json.dumps({"deviceProperties": properties, "traceEvents": events, **about})
    path.write_text(text, "utf-8")
    return path


def test_operators_of_a_trace_are_samples(tmp_path: Path) -> None:
    """Repeats of one are one sample; the operators within another are its own."""
    within = operator("aten::mm", 8004.0, [[788, 768], [768, 768]], 1.0)
    events = [
        *(e for i in range(3) for e in product(1 + i * 1000.0, 8.0 + i)),
        *operator("aten::mm", 5000.0, [[64, 64], [64, 64]], 3.0),
        *operator("aten::t", 6000.0, [[64, 64]], 0.0),
        *operator("mine::fused", 7000.0, [[64, 64]], 4.0),
        *(product(8000.0, 0.0)[:1]),
        *within,
    ]
    found = with_traces(target("h100", tmp_path), [write(tmp_path / "trace.json", events)])
    by_op = {s.op: s for s in found.samples}
    assert set(by_op) == {PRODUCT, ops.Matmul(64, 64, 64)}
    assert [round(s * 1e6, 3) for s in by_op[PRODUCT].seconds] == [8.0, 9.0, 10.0, 1.0]
    assert {s.origin for s in found.samples} == {TRACE}
    (note,) = found.notes
    assert "2 operators" in note and f"{31 / 35:.0%}" in note  # and not what mine::fused took


def test_copies_with_the_host_are_none_of_the_cards(tmp_path: Path) -> None:
    """Nor are products in float32 that tensor cores made, nor is what no card can do."""
    form = [[1000, 4096], [1000, 4096], []]
    about = {"Concrete Inputs": ["", "", "False"]}
    upload, within = (
        operator("aten::copy_", at, form, 5.0, [BF16, BF16, "Scalar"], **about)
        for at in (1.0, 1000.0)
    )
    upload[-1] |= {"cat": "gpu_memcpy", "name": "Memcpy HtoD (Pageable -> Device)"}
    within[-1] |= {"cat": "gpu_memcpy", "name": "Memcpy DtoD (Device -> Device)"}
    square = [[2048, 2048], [2048, 2048]]
    plain, narrowed = (
        operator("aten::mm", at, square, 450.0, ["float", "float"]) for at in (2000.0, 3000.0)
    )
    narrowed[-1]["name"] = "sm90_xmma_gemm_f32f32_tf32f32_f32_tn"
    narrowed[-1]["dur"] = 60.0
    impossible = operator("aten::mm", 4000.0, [[4096, 4096]] * 2, 1.0)
    events = [*upload, *within, *plain, *narrowed, *impossible]
    found = with_traces(target("h100", tmp_path), [write(tmp_path / "trace.json", events)])
    product = ops.Matmul(2048, 2048, 2048, dtype="float32")
    times = {s.op: s.median for s in found.samples}
    assert times.pop(product) == pytest.approx(450e-6)
    assert times.pop(replace(product, dtype="tf32")) == pytest.approx(60e-6)
    ((copied, taken),) = times.items()
    assert isinstance(copied, ops.Copy) and taken == pytest.approx(5e-6)
    assert "Left out: 1 operator in less time than this card can." in found.notes[0]


def test_threads_that_interleave_are_read_apart(tmp_path: Path) -> None:
    """A norm that is written out stays one, whatever another thread calls meanwhile."""
    x, one = [16, 64], [16, 1]
    steps = [
        ("aten::pow", [x, []], ["float", "Scalar"], ["", "2"]),
        (
            "aten::mean",
            [x, [], [], []],
            ["float", "ScalarList", "Scalar", ""],
            ["", "[-1]", "True", ""],
        ),
        ("aten::add", [one, [], []], ["float", "double", "Scalar"], ["", "", "1"]),
        ("aten::rsqrt", [one], ["float"], [""]),
        ("aten::mul", [x, one], ["float", "float"], ["", ""]),
    ]
    alone, other = [], []
    for i, (name, dims, types, inputs) in enumerate(steps):
        at = 1 + 1000.0 * i
        alone += operator(name, at, dims, 2.0, types, **{"Concrete Inputs": inputs})
        other += operator("aten::mm", at + 500, [[64, 64], [64, 64]], 3.0)
    for event in other:
        if event["cat"] != "kernel":
            event["tid"] = 2

    def learned(events: Any) -> set[ops.Operator]:
        path = write(tmp_path / "trace.json", events)
        return {s.op for s in with_traces(target("h100", tmp_path), [path]).samples}

    whole = learned(alone)
    assert {type(op) for op in whole} == {ops.Norm}
    assert learned([*alone, *other]) == whole | {ops.Matmul(64, 64, 64)}


def test_what_was_learned_corrects_what_ships(tmp_path: Path) -> None:
    asked = ops.Matmul(800, 768, 800, bias=True)
    bare = target("h100", tmp_path)
    slow = float(fit_samples(bare)[0].estimate([asked], "torch")["estimate_s"].iloc[0]) * 2
    shapes = [(788 + 40 * i, 768) for i in range(12)]
    events = [
        e
        for i, (m, k) in enumerate(shapes)
        for e in operator("aten::mm", 1 + i * 1000.0, [[m, k], [k, 768]], slow * 1e6)
    ]
    taught = with_traces(bare, [write(tmp_path / "trace.json", events)])
    both, blind = fit_samples(taught, [PRODUCT])
    assert blind is not None
    for estimator in (both, blind):
        found = float(estimator.estimate([asked], "torch")["estimate_s"].iloc[0])
        assert found > slow * 0.75


def test_of_the_models_own_shapes_one_fit_learns_nothing(tmp_path: Path) -> None:
    path = write(tmp_path / "trace.json", product(1.0, 80.0))
    taught = with_traces(target("h100", tmp_path), [path])
    both, blind = fit_samples(taught, [PRODUCT])
    assert blind is not None
    known, unseen = (
        e.estimate([PRODUCT], "torch", [False])["estimate_s"].iloc[0] for e in (both, blind)
    )
    assert known == pytest.approx(80e-6)
    assert unseen < 20e-6


@pytest.mark.parametrize(
    ("card", "events", "of", "said"),
    [
        ("cpu", product(1.0, 8.0), "h100", "expected a card"),
        ("h200", product(1.0, 8.0), "h100", "was recorded on NVIDIA H100"),
        ("h100", [*operator("mine::mm", 1.0, [[4, 4]], 3.0)], "h100", "record_shapes"),
        ("h100", product(1.0, 0.0), "h100", "holds no kernels"),
        ("h100", [], "h100", "holds no operators"),
    ],
)
def test_traces_that_tell_nothing_are_refused(
    tmp_path: Path, card: str, events: Any, of: str, said: str
) -> None:
    path = write(tmp_path / "trace.json", events, of)
    with pytest.raises(CalibError, match=said) as refused:
        with_traces(target(card, tmp_path), [path])
    assert "samples.traces" in str(refused.value) and "trace.json" in str(refused.value)


@pytest.mark.parametrize(
    ("number", "said"),
    [(12040, "12.4"), (13000, "13.0"), (7, None), (None, None), ("12.8.93", None)],
)
def test_a_trace_names_its_cuda(tmp_path: Path, number: Any, said: str | None) -> None:
    path = write(tmp_path / "a.json", product(1.0, 8.0), cuda_runtime_version=number)
    packed = tmp_path / "b.json.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    assert read_events(path).cuda == read_events(packed).cuda == said


def test_a_file_is_read_once_and_again_when_it_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever keys name it, and errors name the key that did."""
    read: list[Path] = []
    unpacked = events_of._unpacked
    monkeypatch.setattr(events_of, "_unpacked", lambda path: read.append(path) or unpacked(path))
    path = write(tmp_path / "trace.json", product(1.0, 8.0))
    first, again = recorded(path, [path])
    assert first.events is again.events and len(read) == 1
    assert (first.named, again.named) == (f"measured = '{path}'", f"samples.traces = '{path}'")
    with_traces(target("h100", tmp_path), [path])
    assert len(read) == 1
    write(path, [*product(1.0, 8.0), *product(1001.0, 8.0)])
    assert len(read_events(path).events) == 6 and len(read) == 2
    path.write_text("[]", "utf-8")
    for key in ("measured", "samples.traces"):
        with pytest.raises(CalibError, match=f"^{key} = .*trace.json': "):
            read_events(path, key)


def test_the_cuda_that_is_meant(tmp_path: Path) -> None:
    """What is asked for before what a trace says; a CPU has none."""
    path = write(tmp_path / "a.json", product(1.0, 8.0), cuda_runtime_version=12040)
    other = write(tmp_path / "b.json", product(1.0, 8.0))
    card, traces = target("h100", tmp_path), recorded(other, [path])
    assert of_cuda(card, None, []).hardware.cuda is None
    assert of_cuda(card, None, traces).hardware.cuda == "12.4"
    assert of_cuda(card, "13.0", traces).hardware.cuda == "13.0"
    assert of_cuda(target("cpu", tmp_path), None, traces).hardware.cuda is None
    with pytest.raises(CalibError, match=r"^cuda = '12\.4': expected null with \+hw=cpu"):
        of_cuda(target("cpu", tmp_path), "12.4", [])
    (note,) = of_cuda(card, "13.0", traces).notes
    assert "for CUDA 13.0" in note and "a.json by CUDA 12.4" in note
    (silent,) = of_cuda(card, None, traces).notes
    assert silent.startswith("b.json does not say by which CUDA") and "12.4 is taken" in silent
    assert of_cuda(card, None, traces[1:]).notes == ()
    own = replace(card, hardware=replace(card.hardware, cuda="12.6"))
    assert of_cuda(own, None, recorded(other, [])).hardware.cuda == "12.6"


@pytest.mark.parametrize(
    ("card", "cuda", "first"),
    [("h100", "11.7", "11.8"), ("rtx5090", "12.4", "12.8"), ("v100_16gb", "8.0", "9.0")],
)
def test_no_cuda_is_older_than_its_card(tmp_path: Path, card: str, cuda: str, first: str) -> None:
    """Whether it is asked for or stands in the card's file."""
    bare = target(card, tmp_path)
    assert of_cuda(bare, first, []).hardware.cuda == first
    with pytest.raises(CalibError, match=f"^cuda = '{cuda}': expected {first} or later"):
        of_cuda(bare, cuda, [])
    own = replace(bare, hardware=replace(bare.hardware, cuda=cuda))
    with pytest.raises(CalibError, match=f"^hw.cuda = '{cuda}': expected {first} or later"):
        of_cuda(own, None, [])


def test_every_card_has_a_first_cuda() -> None:
    """But the CPU: a card that is new here needs its row."""
    cards = [load_hardware(name) for name in hardware_names()]
    capabilities = {c.compute_capability for c in cards if c.compute_capability}
    assert capabilities <= set(FIRST)


@pytest.mark.parametrize(
    ("at", "shorter"), [(700.0, 5.0), (700.0, 500.0), (0.0, 0.0)], ids=["a bit", "much", "zero"]
)
def test_a_kernel_that_nobody_timed_is_no_sample(tmp_path: Path, at: float, shorter: float) -> None:
    """One that still runs when the next of its stream begins, or of length 0: what is left of it
    would pass for a measurement. Other calls of the same operator stay."""
    slow = product(1.0, at and at + shorter)
    slow += [] if at else [{**product(1.0, 1.0)[-1], "dur": 0.0}, *product(1.0, 1.0)[1:2]]
    good = product(1.0 + (at or 900.0), 8.0)
    found = with_traces(target("h100", tmp_path), [write(tmp_path / "a.json", [*slow, *good])])
    (sample,) = found.samples
    assert sample.op == PRODUCT and sample.seconds == pytest.approx([8e-6])
    assert "Left out: 1 call with a kernel of length 0, or over which the next" in found.notes[0]
    assert "1 operator of the trace" in found.notes[0]
    long = write(tmp_path / "b.json", [*product(1.0, 900.0), *product(1001.0, 8.0)])
    (sample,) = with_traces(target("h100", tmp_path), [long]).samples
    assert sample.seconds == pytest.approx([900e-6, 8e-6])


def test_what_a_trace_does_not_say_is_said(tmp_path: Path) -> None:
    path = write(tmp_path / "a.json", product(1.0, 8.0))
    path.write_text(json.dumps(json.loads(path.read_text())["traceEvents"]), "utf-8")
    card = of_cuda(target("h100", tmp_path), None, recorded(None, [path]))
    notes = " ".join(with_traces(card, [path]).notes)
    assert "a.json does not say by which CUDA it was recorded: 13.0 is taken" in notes
    assert "a.json: It does not say which card it was recorded on: h100 is taken" in notes
    still = [e | {"dur": 0.0} if e["cat"] == "kernel" else e for e in product(1.0, 8.0)]
    with pytest.raises(CalibError, match="dur = 0 of every kernel"):
        with_traces(card, [write(tmp_path / "b.json", still)])


def test_one_call_takes_a_cuda_and_traces(tmp_path: Path) -> None:
    """Of a product that a trace holds the time is the trace's, and the CUDA is what it names."""
    path = write(tmp_path / "trace.json", product(1.0, 17.0), cuda_runtime_version=12040)
    module = torch.nn.Sequential(torch.nn.Linear(768, 768), torch.nn.Linear(768, 768)).bfloat16()
    inputs = torch.zeros(788, 768, dtype=torch.bfloat16)
    given = {"hw": "h100", "samples_dir": tmp_path / "none"}
    today, older, taught = (
        calib.estimate(module, inputs, **given, **more)
        for more in ({}, {"cuda": "12.4"}, {"traces": str(path)})
    )
    assert older.kernel_s > 1.2 * today.kernel_s
    assert taught.provenance == "measured" and taught.kernel_s == pytest.approx(2 * 17e-6)
    said = [any("CUDA 12.4" in n for n in e.record.notes) for e in (today, older, taught)]
    assert said == [False, True, True]
    assert taught.report(tmp_path / "run", pictures=False)
    with pytest.raises(CalibError, match=r"^cuda = 12\.4: expected a version .* as a text"):
        calib.estimate(module, inputs, cuda=12.4, **given)
