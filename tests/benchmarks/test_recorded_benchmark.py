"""The benchmark on recorded data, on a record whose true times are known by a formula."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from benchmarks.recorded import __main__ as benchmark
from benchmarks.recorded.disturbed import undisturbed
from benchmarks.recorded.estimates import Way, compared, first_time, walls
from benchmarks.recorded.record import Recorded, read_record, slower
from benchmarks.recorded.rows import TracedLayer, recorded_phase, rows_of
from benchmarks.recorded.text import new_length_table, wall_table
from benchmarks.recorded.ways import OVER
from benchmarks.recorded.workloads import phases_of, workload_of
from calib.estimates.replay.first_time import Extra
from calib.estimates.tables import operator_table
from calib.fit.calibration import uncalibrated
from calib.hardware.datasheet import load_hardware
from calib.samples.faults import DIRTY_FLUSH, MARKS, NO_KERNEL, cleaned
from calib.samples.files import read_samples, write_samples
from calib.samples.host_costs import (
    ATTENTION_PLAN,
    EAGER_OPERATOR,
    MODULE_CODE,
    host_costs,
)
from calib.samples.sample import Sample
from model.layer import Call
from model.ops import Attention, Conv2d, Copy, Elementwise, GroupedMatmul, Matmul, Norm
from model.workload import Phase

H200, RTX = load_hardware("h200"), load_hardware("rtx5090")
ROWS = [
    ("embed", "embedding", "gather", "[1000,64] [2,7]", "BFloat16 long_int"),
    ("a", "native_layer_norm", "norm", "[2,7,64] [64] [64]", "BFloat16 BFloat16 BFloat16"),
    ("a", "mm", "matmul", "[14,64] [64,96]", "BFloat16 BFloat16"),
    ("a", "add.Tensor", "elementwise", "[2,7,96] [2,7,96]", "BFloat16 BFloat16"),
    ("a", "cat", "copy", "", ""),
    ("a", "_to_copy", "copy", "[2,7,192]", "BFloat16"),
    ("a", "topk", "other", "[14,8]", "float"),
    ("a", "_grouped_mm", "matmul", "[28,64] [8,64,32] [8]", "BFloat16 BFloat16 int"),
    ("head", "mm", "matmul", "[2,64] [64,1000]", "BFloat16 BFloat16"),
]


def operators(rows: list[tuple[str, ...]], seconds: float = 2e-6) -> pd.DataFrame:
    table = pd.DataFrame(rows, columns=["path", "aten", "kind", "shapes", "dtypes"])
    return table.assign(order=range(len(rows)), seconds=seconds)


def phase(rows: list[tuple[str, ...]], name: str = "prefill") -> Recorded:
    return Recorded("nobodys", "text_b2", name, 1, operators(rows), 1e-3)


def product(n: int, method: str, surcharge: float) -> Sample:
    """A product of one row: its bytes at 4 TB/s, 3 microseconds, and a flush's dirty lines."""
    op = Matmul(m=1, n=n, k=4096 + 8 * (n % 5))
    taken = 3e-6 + float(op.bytes) / 4e12 + surcharge * (method == "events")
    return Sample(op, [taken] * 3, "h200", "torch", method=method)


def products(surcharge: float) -> list[Sample]:
    short = [product(n, "graph", surcharge) for n in range(512, 5000, 300)]
    return short + [product(n, "events", surcharge) for n in range(5003, 14000, 600)]


@pytest.fixture
def record(tmp_path: Path) -> Path:
    """A pool of products, and a model that nobody knows, of one phase."""
    write_samples(tmp_path / "pool.parquet", products(7e-6))
    folder = tmp_path / "models"
    folder.mkdir()
    entry = {
        **{"model": "nobodys", "workload": "text_b2", "phase": "prefill", "repeat": 1},
        **{"seconds": [2e-3, 1e-3, 3e-3], "graph_s": None},
    }
    (folder / "models.json").write_text(json.dumps([entry]))
    operators(ROWS).to_parquet(folder / "nobodys.text_b2.prefill.parquet")
    return tmp_path


def test_what_a_fault_changes_is_counted() -> None:
    dirty = [
        replace(s, fault=f"{DIRTY_FLUSH}, {MARKS}") for s in products(8e-6) if s.method == "events"
    ]
    empty = Sample(Copy(128, "float32"), [5e-9], "h200", "torch", method="graph", fault=NO_KERNEL)
    found = cleaned([*dirty, empty, products(8e-6)[0]])
    assert (found.corrected, found.left_out, len(found.samples)) == (15, 1, 16)


def test_rows_become_the_operators_that_their_shapes_say() -> None:
    calls = recorded_phase(phase(ROWS)).layer.calls()
    ops = [call.op for call in calls]
    assert [call.path for call in calls] == [row[0] for row in ROWS]
    assert ops[1] == Norm(14, 64, "layernorm")
    assert ops[2] == Matmul(14, 96, 64)
    assert ops[3] == Elementwise(1344, inputs=2)
    assert ops[4].bytes == 2 * 2 * 7 * 192 * 2  # what the next operator reads: in, and out
    assert ops[5] == Copy(2688, out_dtype="float32")
    assert ops[7] == GroupedMatmul(14, 8, 2, n=32, k=64)
    assert ops[8] == Matmul(2, 1000, 64)


@pytest.mark.parametrize(("window", "side", "stride"), [(7, 112, 2), (16, 14, 16), (3, 224, 1)])
def test_a_convolution_has_the_stride_that_leads_to_its_reader(
    window: int, side: int, stride: int
) -> None:
    rows = [
        ("c", "convolution", "conv2d", f"[2,3,224,224] [8,3,{window},{window}]", "float float"),
        ("c", "relu", "elementwise", f"[2,8,{side},{side}]", "float"),
    ]
    op: Any = recorded_phase(phase(rows)).layer.calls()[0].op
    assert isinstance(op, Conv2d)
    assert (op.stride, op.out_height) == (stride, side)


def test_an_operator_that_nobody_knows_still_moves_its_bytes() -> None:
    rows = [
        ("x", "index_put_", "other", "[7,9] [3,9]", "float float"),
        ("x", "new_one", "other", "[5]", "int"),
    ]
    assert len(list(rows_of(phase(rows)))) == 2
    calls = recorded_phase(phase(rows)).layer.calls()
    assert all(call.op.bytes > 0 for call in calls)


def test_no_missing_shape_stops_a_record() -> None:
    """Whatever a profile lacks, each recorded operator is one call at its path."""
    one = next(o for o in read_record(benchmark.DATA).phases if o.workload == "ocr_tiny")
    short = one.operators.copy()
    short["shapes"] = [text.partition(" ")[0] for text in short["shapes"]]
    for table in (short, one.operators.assign(shapes="", dtypes="")):
        calls = recorded_phase(replace(one, operators=table)).layer.calls()
        assert sum(call.launches for call in calls) == len(table)


def test_a_workload_is_read_off_the_shapes() -> None:
    found: Any = workload_of("text_b2", [phase(ROWS)])
    assert (found.batch, found.prompt_tokens, found.logits) == (2, 7, "last")
    image = [("c", "convolution", "conv2d", "[4,3,96,96] [8,3,16,16] [8]", "float float float")]
    found = workload_of("image_b4", [phase(image, "vision")])
    assert (found.batch, found.side) == (4, 96)


def test_the_landed_record_is_whole_and_its_models_are_known() -> None:
    found = read_record(benchmark.DATA)
    assert (len(found.pool), len(found.sweep), len(found.phases)) == (1628, 1478, 24)
    assert sum(one.graph_s is not None for one in found.phases) == 15
    some = replace(found, phases=[one for one in found.phases if one.model == "vit_l"])
    for (_, workload), passes in phases_of(some).items():
        calls = passes["vision"].layer.calls()
        batch = 32 if workload.endswith("b32") else 1
        assert next(c.op for c in calls if isinstance(c.op, Matmul)).m == 197 * batch
    again = read_samples(benchmark.DATA / "first_run" / "pool_again.parquet")
    assert {s.key for s in again} <= {s.key for s in found.pool}
    assert len({(s.op, s.cache) for s in found.pool}) == len(found.pool), "a shape counts once"
    assert sum(s.origin == "host" for s in found.sweep) == 15, "of the later host alone"


STEP = Attention(batch=1, q_len=1, kv_len=20, heads=4, kv_heads=2, head_dim=64)


def passes() -> dict[str, Phase]:
    """Text whose attention grows, of two layers."""
    prompt = replace(STEP, q_len=16, kv_len=16, causal=True)
    calls = {name: [Call(p, op) for p in "ab"] for name, op in (("decode", STEP), ("p", prompt))}
    return {name: Phase(TracedLayer(name, tuple(some)), 4) for name, some in calls.items()}


def operators_of_decode(way: Way) -> pd.DataFrame:
    names = {"model": "nobodys", "workload": "text"}
    made = {"decode": passes()["decode"]}
    table = operator_table(made, way.calibration, None, "torch", names)
    return table.assign(low_s=table["estimate_s"], high_s=table["estimate_s"])


def test_a_wall_over_new_lengths_holds_their_planning_and_one_over_seen_ones_does_not() -> None:
    way = Way(OVER, uncalibrated(H200), host_costs([], "h200"))
    plan = way.costs.attention_plan
    decode = replace(phase(ROWS, "decode"), new_lengths=True, again_s=5e-4)
    extra = first_time(decode, passes(), way)
    assert plan and extra.estimate_s == plan.estimate_s, "one for all layers of a shape"
    assert first_time(replace(decode, new_lengths=False), passes(), way) == Extra()
    assert first_time(decode, passes(), replace(way, calibration=uncalibrated(RTX))) == Extra()
    table = operators_of_decode(way)
    found = walls(decode, table, passes(), way)
    assert found["wall_estimate_s"] == found["again_estimate_s"] + plan.estimate_s
    assert (found["again_s"], found["wall_s"]) == (5e-4, 1e-3)
    assert found["wall_high_s"] > plan.high_s and found["wall_low_s"] > plan.low_s


def test_a_wall_is_estimated_at_the_speed_that_its_host_had() -> None:
    """The host took twice as long in the first round as when its costs were measured; a host whose
    costs are not known has no speed."""
    samples = [
        Sample(op, [seconds] * 3, "h200", "torch", origin="host")
        for op, seconds in ((EAGER_OPERATOR, 1e-3), (MODULE_CODE, 1e-3), (ATTENTION_PLAN, 0.04))
    ]
    way = Way(OVER, uncalibrated(H200), host_costs(samples, "h200"))
    table = operators_of_decode(way)
    decode = replace(phase(ROWS, "decode"), new_lengths=True, slower=2.0)
    found = walls(decode, table, passes(), way)
    seen = found["again_estimate_s"]
    assert found["wall_estimate_s"] == pytest.approx(2 * (seen + 0.04), rel=1e-2)
    other = walls(replace(decode, known_host=False), table, passes(), way)
    assert other["wall_estimate_s"] == pytest.approx(seen + 0.04)
    assert slower(9e4, [4e4, 5e4]) == 2 and slower(None, [4e4]) == slower(9e4, []) == 1


def test_both_walls_and_the_host_are_read_and_shown_apart(record: Path) -> None:
    listed = record / "models" / "models.json"
    (entry,) = json.loads(listed.read_text())
    step = {**entry, "phase": "decode", "seconds_again": [1e-4, 3e-4, 2e-4]}
    step["eager_energy"] = [10, 0.5, 100.0]
    listed.write_text(json.dumps([entry, step]))
    operators(ROWS).to_parquet(record / "models" / "nobodys.text_b2.decode.parquet")
    prefill, decode = read_record(record).phases
    assert not prefill.new_lengths and prefill.again_s is prefill.while_s is None
    assert decode.new_lengths and (decode.again_s, decode.while_s) == (2e-4, 0.05)
    assert prefill.known_host, "one machine where nothing is said"
    (record / "hosts.json").write_text('{"sweep": "a", "models": "b"}')
    found = read_record(record)
    assert not any(one.known_host for one in found.phases)
    rows = compared(
        found, phases_of(found), [Way(OVER, uncalibrated(H200), host_costs([], "h200"))]
    ).phases
    table = wall_table(rows, {})
    assert "mean |error| of 2 phases" in table and " own " not in table.partition("---")[2][-200:]
    assert new_length_table(rows).splitlines()[-1].split()[-4:] == ["0.2", "50", "49.8", "0"]
    assert benchmark.own_hosts(rows) == {}
    assert set(benchmark.own_hosts(rows.assign(known_host=True))) == {
        ("nobodys", "text_b2", name) for name in ("prefill", "decode")
    }


def test_the_last_line_is_one_json_object(
    record: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page, out = record / "page.md", record / "out"
    page.write_text(f"# Title\n{benchmark.BEGIN}\nstale\n{benchmark.END}\nend\n")
    given = ["--data", str(record), "--write", str(page), "--out", str(out), "--worst", "3"]
    monkeypatch.setattr("sys.argv", ["recorded", *given])
    benchmark.main()
    printed = capsys.readouterr().out
    found = json.loads(printed.splitlines()[-1])
    assert max(len(line) for line in printed.splitlines()[:-1]) <= 100
    (one,) = found["phases"]
    assert one["kernel_s"] == pytest.approx(len(ROWS) * 2e-6)
    assert one["wall_s"] == 2e-3
    assert one["graph_s"] is one["graph_estimate_s"] is None
    assert one["again_s"] is one["again_estimate_s"] is one["again_own_host_estimate_s"] is None
    assert one["wall_own_host_estimate_s"] > 0
    assert one["kernel_estimate_s"] > 0
    (products_,) = found["operators"]
    assert (products_["kind"], products_["n"]) == ("matmul", 30)
    assert products_["median"] < 0.05
    assert "stale" not in page.read_text()
    assert page.read_text().startswith("# Title\n") and page.read_text().endswith("\nend\n")
    assert (out / "recorded.png").stat().st_size > 10_000


def test_an_earlier_run_is_read_from_its_last_line(tmp_path: Path) -> None:
    row = {"model": "m", "workload": "w", "phase": "p", "kernel_estimate_s": 2.0}
    row |= {"graph_estimate_s": None, "wall_estimate_s": 3.0}
    path = tmp_path / "before.json"
    path.write_text("a table\n" + json.dumps({"phases": [row], "operators": []}) + "\n")
    found = benchmark.earlier(path)
    key = ("m", "w", "p")
    assert found == {"kernel": {key: 2.0}, "graph": {}, "wall": {key: 3.0}, "again": {}}
    assert np.isnan(found["graph"].get(("m", "w", "p"), np.nan))


def layers(strange: dict[int, float]) -> pd.DataFrame:
    """Twelve equal layers of two kernels of 3 and 200 microseconds; some of the first are not."""
    names = [f"model.layers.{i}.norm" for i in range(12)]
    rows = [(n, a, "elementwise", "[4,8]", "float32") for n in names for a in ("mul", "add")]
    seconds = [3e-6, 200e-6] * 12
    for at, taken in strange.items():
        seconds[2 * at] = taken
    return operators(rows).assign(seconds=seconds)


def test_a_kernel_that_the_first_session_disturbed_is_taken_at_its_equals() -> None:
    table, disturbed = undisturbed(layers({0: 97e-6, 7: 9e-6}))
    assert disturbed
    assert table["seconds"].tolist() == [3e-6, 200e-6] * 12


@pytest.mark.parametrize("taken", [4e-6, 9e-6, 52e-6])
def test_what_only_differs_is_left(taken: float) -> None:
    """A mixture's experts do from layer to layer."""
    plain = layers({0: taken})
    table, disturbed = undisturbed(plain)
    assert not disturbed
    pd.testing.assert_frame_equal(table, plain)


def test_a_kernel_without_equals_is_left() -> None:
    plain = layers({3: 1e-3}).iloc[:14]
    assert not undisturbed(plain)[1]


def test_one_phase_of_the_landed_record_was_disturbed_and_meets_the_other_day() -> None:
    """The same pass on another day, and the same pass as a graph, are the check."""
    folder = benchmark.DATA
    found = {one.name: one for one in read_record(folder).phases}
    assert [name for name, one in found.items() if one.disturbed] == ["llama_3_1_8b text prefill"]
    one = found["llama_3_1_8b text prefill"]
    path = folder / "first_run" / "models" / "llama_3_1_8b.text.prefill.parquet"
    assert one.kernel_s == pytest.approx(float(pd.read_parquet(path)["seconds"].sum()), rel=0.02)
    assert one.graph_s is not None
    assert one.kernel_s == pytest.approx(one.graph_s, rel=0.02)
