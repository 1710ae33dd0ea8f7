"""The checklist of a card without a card: order, budget, limits, resuming, results, wheels."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import zipfile
from dataclasses import replace

import pytest
from simulated_gpu import KernelBench, SimulatedCard, Trace

from benchmarks.card import agree, checklist, summary, tables, wheels
from benchmarks.card import repeat as again
from benchmarks.card.checklist import DONE, FAILED, LEFT, LOST, TIMED_OUT, Outcome, Step
from calib.checkout import ROOT
from calib.hardware.datasheet import load_hardware
from calib.measure.cuda import timer
from calib.measure.cuda.instrument import CudaInstrument
from calib.measure.cuda.launches import Launch
from calib.samples.host_costs import LAUNCH
from calib.samples.sample import Sample
from calib.samples.store import SampleStore
from model import ops

H200 = load_hardware("h200")


class Clock:
    """Steps take what they are told to, and nothing else takes time."""

    def __init__(self, seconds, statuses=None):
        self.now, self.seconds, self.statuses = 0.0, seconds, statuses or {}
        self.limits, self.stored = {}, []

    def execute(self, step, limit_s):
        taken = min(self.seconds[step.name], limit_s)
        self.limits[step.name] = limit_s
        self.now += taken
        late = self.seconds[step.name] > limit_s
        return Outcome(step.name, TIMED_OUT if late else self.statuses.get(step.name, DONE), taken)

    def run(self, plan, budget_s, before=None):
        store = lambda outcomes: self.stored.append(dict(outcomes))  # noqa: E731
        return checklist.run(plan, budget_s, before or {}, self.execute, store, lambda: self.now)


PLAN = [Step(name, name, (name,), 100.0) for name in "abc"]


def test_a_failure_is_reported_and_stops_nothing():
    clock = Clock({"a": 10, "b": 10, "c": 10}, {"b": FAILED})
    found = clock.run(PLAN, 100)
    assert [o.status for o in found.values()] == [DONE, FAILED, DONE]
    assert [len(s) for s in clock.stored] == [1, 2, 3, 3]


def test_limits_shrink_with_the_budget_and_what_finds_none_is_left():
    clock = Clock({"a": 90, "b": 500, "c": 1})
    found = clock.run(PLAN, 150)
    assert clock.limits == {"a": 100, "b": 60}
    assert [o.status for o in found.values()] == [DONE, TIMED_OUT, LEFT]


def test_what_is_done_stays_done_and_the_rest_is_tried_again():
    first = Clock({"a": 90, "b": 500, "c": 1}).run(PLAN, 150)
    clock = Clock({"b": 20, "c": 1})
    assert all(o.status == DONE for o in clock.run(PLAN, 150, first).values())
    assert set(clock.limits) == {"b", "c"}


def test_no_step_takes_longer_than_nine_minutes():
    long = Step("a", "a", ("a",), 1e6)
    clock = Clock({"a": 1.0})
    clock.run([long], 1e6)
    assert clock.limits["a"] < 540
    assert all(s.limit_s < 540 for s in checklist.steps(ROOT))


def test_the_order_of_worth():
    names = [s.name for s in checklist.steps(ROOT)]
    assert names[:5] == ["model", "models", "pool", "graph", "agree"]
    assert names[5:] == ["tests", "kernels", "tune", "energy", "tables", "repeat"]


ON_AN_H200 = {
    **{
        "model": 150,
        "models": 75,
        "pool": 60,
        "graph": 25,
        "agree": 20,
        "tests": 45,
        "kernels": 70,
    },
    **{"tune": 170, "energy": 65, "tables": 60, "repeat": 60},
}
"""Seconds: models, pool and tests as an H200 took them (65, 46 and 39 s) with a start; the rest is
assumed, each below its limit."""


@pytest.mark.parametrize(("budget_s", "done"), [(400, 6), (150, 1), (900, 11)])
def test_a_short_loan_leaves_out_the_end_and_not_the_middle(budget_s, done):
    plan = checklist.steps(ROOT)
    found = Clock(ON_AN_H200).run(plan, budget_s)
    statuses = [found[s.name].status for s in plan]
    assert statuses[:done] == [DONE] * done
    assert DONE not in statuses[done:] and set(statuses[done + 1 :]) <= {LEFT}


def test_after_a_step_without_time_none_is_begun():
    plan = [Step("a", "a", ("a",), 100.0, 60.0), Step("b", "b", ("b",), 100.0, 5.0)]
    found = Clock({"a": 10, "b": 10}).run(plan, 30)
    assert [o.status for o in found.values()] == [LEFT, LEFT]


def test_kernel_tests_run_in_parallel_where_pytest_can(monkeypatch):
    monkeypatch.setattr(checklist, "find_spec", lambda name: None)
    assert "-n" not in checklist.tests("python")
    monkeypatch.setattr(checklist, "find_spec", lambda name: name)
    monkeypatch.setattr("os.cpu_count", lambda: 16)
    command = checklist.tests("python")
    assert command[command.index("-n") + 1] == "12"
    marked = [
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "tests").rglob("test_*.py")
        if re.search(r"^(full = |@)pytest\.mark\.gpu", path.read_text("utf-8"), re.M)
    ]
    assert len(marked) > 4
    assert all(name.startswith(command[command.index("-n") + 2 :]) for name in marked)


def test_results_are_kept_after_every_step(tmp_path, monkeypatch):
    """The command is ended in the middle: what the first step left is in the folder of results."""
    from benchmarks.card import __main__ as card

    work, out = tmp_path / "work", tmp_path / "out"
    monkeypatch.setattr(card, "detect_device", lambda: "a card")
    monkeypatch.setattr(card, "device_hardware", lambda found: H200)
    code = f"open({str(work / 'graph.json')!r}, 'w').write('{{}}')"
    plan = [
        Step("models", "m", (sys.executable, "-c", code), 20.0, 0.0),
        Step("pool", "p", ("nothing",), 20.0, 0.0),
    ]
    monkeypatch.setattr(checklist, "steps", lambda work: plan)
    monkeypatch.setattr(summary, "page", lambda every, outcomes, *_: repr(outcomes))
    honest = checklist.execute_in

    def ended(folder, environment):
        run = honest(folder, environment)

        def execute(step, limit_s):
            if step.name == "pool":
                raise KeyboardInterrupt
            return run(step, limit_s)

        return execute

    monkeypatch.setattr(checklist, "execute_in", ended)
    with pytest.raises(KeyboardInterrupt):
        card.main(["--work", str(work), "--out", str(out), "--wheels", str(tmp_path / "none")])
    assert "'models', status='done'" in (out / "summary.md").read_text()
    with zipfile.ZipFile(out / summary.PACK) as archive:
        assert archive.namelist() == ["graph.json"]


@pytest.mark.parametrize(("losses", "status", "seconds"), [(2, DONE, 90), (9, LOST, 90)])
def test_a_step_that_loses_the_card_goes_on_in_a_new_process(losses, status, seconds):
    limits = []

    def execute(step, limit_s):
        limits.append(limit_s)
        return Outcome(step.name, LOST if len(limits) <= losses else DONE, 30.0)

    found = checklist.run(PLAN[:1], 500, {}, execute, lambda outcomes: None, lambda: 0.0)
    assert found["a"] == Outcome("a", status, seconds)
    assert limits == [100, 70, 40]  # with 10 s left none is begun


@pytest.mark.parametrize(
    ("code", "status", "detail"),
    [
        ("print('fine')", DONE, ""),
        ("print('a'); raise SystemExit('broken')", FAILED, "a\nbroken"),
        ("print('a'); raise SystemExit(75)", LOST, "a"),
        ("import os; print('a', flush=True); os.kill(os.getpid(), 9)", LOST, "a"),
        ("import time; print('begun', flush=True); time.sleep(60)", TIMED_OUT, "begun"),
    ],
)
def test_steps_are_processes_with_a_limit(tmp_path, code, status, detail):
    execute = checklist.execute_in(tmp_path, {})
    outcome = execute(Step("s", "s", (sys.executable, "-c", code), 3.0), 3.0)
    assert outcome.status == status and outcome.detail.startswith(detail)
    assert outcome.seconds < 12


def test_outcomes_survive_a_process(tmp_path):
    outcomes = {"a": Outcome("a", FAILED, 3.0, "why")}
    checklist.store_in(tmp_path / "o.json")(outcomes)
    assert checklist.load(tmp_path / "o.json") == outcomes
    assert checklist.load(tmp_path / "none.json") == {}


def test_without_a_card_it_says_so_at_once():
    if pytest.importorskip("torch").cuda.is_available():
        pytest.skip("this machine has a card")
    command = [sys.executable, "-m", "benchmarks.card"]
    kept = {"cwd": ROOT, "capture_output": True, "text": True, "timeout": 60}
    done = subprocess.run(command, check=False, **kept)
    assert done.returncode == 2 and "no CUDA device" in done.stderr


def sample(m=64, seconds=1e-3, **more):
    known = {"probe_flops": 1e12, "probe_bandwidth": 1e11, "device": "NVIDIA H200"}
    return Sample(ops.Matmul(m, 64, 64), [seconds] * 3, "h200", "torch", **(known | more))


def test_the_page_tells_steps_samples_ceilings_and_failures(tmp_path):
    plan = checklist.steps(tmp_path)
    outcomes = {s.name: Outcome(s.name, DONE, 5.0) for s in plan}
    outcomes["kernels"] = Outcome("kernels", FAILED, 5.0, "no kernel image")
    decode = {"eager_median_s": 8e-3, "graph_median_s": 2e-3, "context": 292, "speedup": 4.0}
    (tmp_path / "graph.json").write_text(json.dumps({**decode, "eager_s": [1.0]}))
    timeline = [{"phase": "prefill"}, {"phase": "decode", "wall_s": 8.4e-3, "graph_s": 1.9e-3}]
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "report.json").write_text(json.dumps({"timeline": timeline}))
    large = ops.Matmul(8192, 8192, 8192)
    ceiling = replace(sample(), op=large, seconds=[large.flops / 700e12], origin="ceiling")
    samples = [
        sample(sm_clock_hz=1.5e9, method="graph", versions={"driver": "1.2"}, discarded=12),
        sample(status="throttled", throttle="hardware slowdown"),
        replace(ceiling, sm_clock_hz=1.5e9),
        replace(sample(), op=LAUNCH, seconds=[2e-6], origin="host"),
    ]
    (tmp_path / "models").mkdir()
    phase = {"model": "llama", "workload": "text", "phase": "decode", "operators": 1301}
    phase |= {"seconds": [0.089] * 3, "host": [0.088] * 3, "seconds_again": [0.041] * 3}
    phase |= {"kernel_s": 0.00636, "graph_s": None}
    (tmp_path / "models" / "models.json").write_text(json.dumps([phase]))
    text = summary.page(plan, outcomes, tmp_path, samples, H200, ["a note"])
    for expected in (
        "| kernels | our kernels beside the vendor's | failed | 5 s |",
        "- a note",
        "| discarded | 12 repeats of 1 samples |",
        "| throttled by | hardware slowdown 1 |",
        "| product of bfloat16 | 700 TFLOP/s | 989 TFLOP/s | 71% | 1500 MHz | 86% |",
        "| launch | 2.00 µs | - | - | - | - |",
        "## A decode step at a context of 292 tokens",
        "| eager | 8.000 ms | 8.400 ms | +5.0% |",
        "| graph | 2.000 ms | 1.900 ms | -5.0% |",
        "| llama, text, decode | 89.000 ms | 88.000 ms | 41.000 ms | 6.360 ms | - | 1301 |",
        "## Why kernels failed",
    ):
        assert expected in text
    assert "eager_s" not in text
    (tmp_path / "model" / "report.json").unlink()  # the model step failed: no estimate
    text = summary.page(plan, outcomes, tmp_path, samples, H200)
    assert "| graph | 2.000 ms | - | - |" in text


def test_results_are_few_and_small(tmp_path, monkeypatch):
    work, out = tmp_path / "work", tmp_path / "out"
    for name in summary.RESULTS:
        (work / name).parent.mkdir(parents=True, exist_ok=True)
        (work / name).write_bytes(b"x" * 10)
    monkeypatch.setattr(summary, "MOST_BYTES", 20)
    (work / summary.RESULTS[0]).write_bytes(b"x" * 21)
    notes = summary.collect(work, out)
    assert len(list(out.iterdir())) == len(summary.RESULTS) - 1 + 1
    assert len(summary.RESULTS) + 4 <= summary.MOST_FILES  # samples, outcomes, page and pack
    assert len(notes) == 1 and "modules.parquet" in notes[0]


def test_the_pack_holds_what_has_room_as_it_lay(tmp_path, monkeypatch):
    work, out = tmp_path / "work", tmp_path / "out"
    for name, size in (
        ("models/a.text.decode.parquet", 8),
        ("graph.json", 15),
        ("tables.parquet", 9),
    ):
        (work / name).parent.mkdir(parents=True, exist_ok=True)
        (work / name).write_bytes(b"x" * size)
    monkeypatch.setattr(summary, "MOST_BYTES", 20)
    notes = summary.collect(work, out)
    with zipfile.ZipFile(out / summary.PACK) as archive:
        assert archive.namelist() == ["models/a.text.decode.parquet", "tables.parquet"]
    assert len(notes) == 1 and "graph.json finds no room" in notes[0]


def simulated(seconds=5e-3, noise=1.0):
    card = SimulatedCard(noise=lambda: noise)
    return CudaInstrument(H200, card, Trace(card), KernelBench(card, seconds, seconds))


def test_repeating_on_a_slower_machine_is_normalised(tmp_path):
    first = [sample(m, 5e-3) for m in range(64, 104)]
    probes = simulated().speed()
    first = [replace(s, probe_flops=probes.flops, probe_bandwidth=probes.bandwidth) for s in first]
    store = SampleStore(tmp_path, "h200", "NVIDIA H200")
    second = again.measured_again(again.chosen(first, 20), simulated(noise=1.25), store)
    assert {s.implementation for s in second} == {"torch", "triton"}
    found = again.figures(again.compare(again.chosen(first, 20), second, H200))
    assert found["shapes"] == found["over_1_ms"] == 20
    assert found["all_raw_median"] == pytest.approx(0.25, rel=0.01)
    assert found["over_1_ms_normalised_p90"] < 0.01


def test_tables_are_measured_hot_and_compared_by_kind():
    table = [sample(m, 4e-3, origin="public", cache="hot") for m in range(64, 74)]
    found = tables.figures(tables.measured(table, simulated()))
    assert found["matmul"]["shapes"] == 10
    assert found["matmul"]["median_ratio"] == pytest.approx(1.25, rel=0.01)


def test_the_ways_to_time_agree_on_a_card_whose_l2_is_flushed_clean():
    found = agree.compared(simulated(50e-6))
    assert found["agree"] and found["worst"] < 0.01 and len(found["shapes"]) == 12
    for row in found["shapes"]:
        for way in ("events_s", "graph_s", "profiler_s"):
            assert row[way] == pytest.approx(50e-6, rel=0.01)
    assert found["launch_after_s"] == pytest.approx(found["launch_before_s"], rel=0.01)


def test_a_flush_by_writing_is_told(monkeypatch):
    monkeypatch.setattr(timer, "flush", lambda card: card.write(2 * card.l2_bytes))
    found = agree.compared(simulated(50e-6))
    assert not found["agree"]
    assert found["worst"] == pytest.approx(1 - 50.2125 / 58.5, rel=0.01)


def test_carried_tables_are_read_before_the_package(tmp_path):
    from calib.samples.files import write_samples

    write_samples(tmp_path / "public_h200.parquet", [sample(origin="public")])
    assert [s.origin for s in tables.public("h200", tmp_path)] == ["public"]


def test_a_decode_step_is_timed_eagerly_and_replayed():
    import torch

    from benchmarks.card.graph_decode import measure, open_passes
    from calib.measure.reference.miniature import MINIATURE
    from model.workload import Workload

    replays = []

    def profiled(run):
        run()
        return [Launch("k", (1,), (1,), 2e-6)] * 3

    def capture(runs):
        lengths = []

        def replay():
            replays.append(1)
            lengths.append([run().cache for run in runs])

        return replay

    with torch.no_grad():
        passes, state = open_passes(MINIATURE, Workload("small", side=64, decode_steps=2), "cpu")
        before = state.cache.layers[0].keys.shape[-2]
        found = measure(passes, state, capture, profiled, repeats=3)
    assert len(found["eager_s"]) == len(found["graph_s"]) == len(replays) == 3
    assert found["kernels_median_s"] == pytest.approx(6e-6) and found["kernels"] == 3
    assert state.cache.layers[0].keys.shape[-2] == before and found["context"] == before + 1


def wheel(folder, name, version, requires=()):
    path = folder / f"{name}-{version}-py3-none-any.whl"
    lines = [f"Name: {name}", f"Version: {version}", *(f"Requires-Dist: {r}" for r in requires)]
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{name}-{version}.dist-info/METADATA", "\n".join(lines))
    return wheels.read_wheel(path)


def test_only_what_is_missing_or_too_old_is_installed(tmp_path):
    offered = [
        wheel(tmp_path, "hydra_core", "1.3.8", ["omegaconf>=2.2", "packaging"]),
        wheel(tmp_path, "omegaconf", "2.3.1", ["PyYAML>=5", "x; sys_platform == 'win32'"]),
        wheel(tmp_path, "transformers", "5.23.0", ["numpy>=1.17", "tokenizers<=0.23.3,>=0.23"]),
        wheel(tmp_path, "tokenizers", "0.23.3"),
        wheel(tmp_path, "packaging", "26.3"),
    ]
    has = {"packaging": "25.0", "PyYAML": "6.0", "numpy": "2.4", "transformers": "5.17.0"}
    has |= {"tokenizers": "0.22.1"}
    roots = ("hydra-core>=1.3.2,<1.4", "transformers>=5.23", "nowhere>=1")
    chosen, unmet = wheels.missing(offered, roots, has.get)
    assert {w.name for w in chosen} == {"hydra-core", "omegaconf", "transformers", "tokenizers"}
    assert unmet == ["nowhere>=1"]


def test_the_closure_holds_what_a_card_s_machine_lacks_and_nothing_large():
    found = wheels.closure()
    assert {"hydra-core", "omegaconf", "antlr4-python3-runtime", "transformers"} <= found
    assert not found & set(wheels.LARGE)
    assert found <= set(wheels.pins())


def test_every_dependency_is_expected_there_brought_along_or_left_out_by_name() -> None:
    import tomllib

    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    project = tomllib.loads((wheels.ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    names = {canonicalize_name(Requirement(text).name) for text in project["dependencies"]}
    assert names <= wheels.closure() | {*wheels.LARGE, *wheels.LEFT_OUT}
    (model,) = (s for s in checklist.steps(ROOT) if s.name == "model")
    assert "report.html=false" in model.command
