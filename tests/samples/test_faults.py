"""What was measured under a fault says so, and no fit takes it as it is."""

from __future__ import annotations

from dataclasses import replace

import pyarrow.parquet as pq
import pytest

from benchmarks.dirty_flush import by_events
from calib.fit.fitting import fit, measured_shapes
from calib.hardware.datasheet import load_hardware
from calib.samples.faults import (
    BY_EVENTS_ON,
    CLEAN_FLUSH,
    CLEARED,
    CLEARED_ON,
    CORRECTED,
    DIRTY_FLUSH,
    MARKS,
    NO_KERNEL,
    NODE_GAP,
    NODE_GAP_ON,
    SHORT_GAP,
    SHORT_GAP_ON,
    clean,
    kernels_of,
)
from calib.samples.files import read_samples, write_samples
from calib.samples.parts.schema import SINCE_3
from calib.samples.sample import Kernel, Sample
from model import ops

H200 = load_hardware("h200")
COLD = Sample(ops.Matmul(1, 4096, 4096), [30e-6] * 3, "h200", "torch", method="events")
RMSNORM = replace(COLD, op=ops.Norm(8, 1280, kind="rmsnorm"), cache="hot")
H200_S = BY_EVENTS_ON["h200"]
PROMPT = ops.Attention(batch=1, q_len=64, kv_len=64, heads=8, kv_heads=8, head_dim=64)
MANY = replace(COLD, op=PROMPT, cache="hot", method="graph")
ONE = replace(MANY, op=replace(PROMPT, q_len=1, kv_len=900))
TWO_GAPS_S = 2 * NODE_GAP_ON["h200"]


def stored_as_version_2(path, samples):
    write_samples(path, samples)
    table = pq.read_table(path).drop_columns(list(SINCE_3))
    pq.write_table(table.replace_schema_metadata({"calib_schema": "2"}), path)
    return read_samples(path)


@pytest.mark.parametrize(
    ("sample", "fault"),
    [
        (COLD, f"{DIRTY_FLUSH}, {MARKS}"),
        (replace(COLD, method="unheld"), f"{DIRTY_FLUSH}, {MARKS}"),
        (replace(COLD, method="graph"), NODE_GAP),
        (replace(COLD, method="graph", cache="hot"), ""),
        (replace(COLD, method="graph", seconds=[5e-9] * 3), NO_KERNEL),
        (replace(COLD, cache="hot"), MARKS),
        (replace(COLD, hardware="cpu", method="wall"), ""),
        (replace(COLD, method="", origin="public"), ""),
        (RMSNORM, MARKS),
        (replace(RMSNORM, implementation="triton"), MARKS),
        (MANY, f"{NODE_GAP}, {CLEARED}"),
        (replace(MANY, method="events"), f"{MARKS}, {CLEARED}"),
        (replace(MANY, hardware="rtx5090"), ""),
        (ONE, NODE_GAP),
        (replace(ONE, op=replace(PROMPT, q_len=1)), ""),
    ],
)
def test_samples_of_version_2_carry_their_faults(tmp_path, sample, fault):
    assert stored_as_version_2(tmp_path / "s.parquet", [sample]) == [replace(sample, fault=fault)]


def test_version_3_says_itself_what_is_wrong_and_what_ran(tmp_path):
    kernel = Kernel("void cudnn<(int)4>", (132, 1, 1), (128, 1, 1), 0.9)
    ran = replace(COLD, backend="cudnn", kernels=(kernel, Kernel("Memset", (), (), 0.1)))
    written = [ran, replace(COLD, fault=DIRTY_FLUSH), COLD]
    assert read_samples(write_samples(tmp_path / "s.parquet", written)) == written


BOTH = f"{DIRTY_FLUSH}, {MARKS}"


@pytest.mark.parametrize(
    ("sample", "seconds"),
    [
        (COLD, 30e-6),
        (replace(COLD, cache="hot", fault=MARKS), 30e-6 - H200_S.marks_s),
        (replace(RMSNORM, fault=MARKS), 30e-6 - 8 * H200_S.marks_s),
        (replace(RMSNORM, fault=MARKS, implementation="triton"), 30e-6 - H200_S.marks_s),
        (replace(COLD, fault=BOTH, seconds=[1.5 * H200_S.surcharge_s]), None),
        (replace(COLD, fault=BOTH, hardware="b200"), None),
        (replace(COLD, fault=MARKS, hardware="b200"), 30e-6),
        (replace(COLD, fault=NO_KERNEL), None),
        (replace(COLD, fault=SHORT_GAP), None),  # long
        (replace(COLD, fault=SHORT_GAP, seconds=[2e-6]), 2e-6 + SHORT_GAP_ON["h200"]),
        (replace(COLD, fault=SHORT_GAP, seconds=[2e-6], hardware="h100"), None),
        (replace(COLD, fault=CLEAN_FLUSH, op=ops.Matmul(4096, 4096, 64)), None),
        (replace(COLD, fault=CLEAN_FLUSH, op=ops.Matmul(1, 64, 4096)), 30e-6),
        (replace(COLD, fault=CLEAN_FLUSH, hardware="h100"), None),
        (replace(COLD, fault=NODE_GAP), 30e-6 - NODE_GAP_ON["h200"]),
        (replace(COLD, fault=NODE_GAP, hardware="h100"), 30e-6),
        (replace(MANY, fault=f"{NODE_GAP}, {CLEARED}"), 30e-6 - TWO_GAPS_S - CLEARED_ON["h200"]),
        (replace(MANY, fault=CLEARED), 30e-6 - CLEARED_ON["h200"]),
        (
            replace(MANY, fault=f"{MARKS}, {CLEARED}"),
            30e-6 - 2 * H200_S.marks_s - CLEARED_ON["h200"],
        ),
        (replace(ONE, fault=NODE_GAP), 30e-6 - TWO_GAPS_S),
        (replace(COLD, fault="kernels unknown"), 30e-6),
    ],
)
def test_clean_corrects_what_is_known_and_leaves_out_the_rest(sample, seconds):
    found = list(clean([sample]))
    if seconds is None:
        assert not found
    else:
        assert found[0].median == pytest.approx(seconds)
        assert not CORRECTED.intersection(found[0].fault.split(", "))
        assert list(clean(found)) == found


def memory_bound(extra_s=0.0, **changes):
    """Products that read their weights and do little else, as ``BY_EVENTS_ON`` has them."""
    shapes = [ops.Matmul(1, n, 8192) for n in range(2048, 12288, 512)]
    true = [H200_S.start_s + float(op.bytes) / H200_S.bandwidth for op in shapes]
    pairs = zip(shapes, true, strict=True)
    return [replace(COLD, op=op, seconds=[s + extra_s] * 3, **changes) for op, s in pairs], true


def test_a_dirty_flush_is_taken_off_as_far_as_memory_is_waited_for():
    dirty, true = memory_bound(H200_S.surcharge_s, fault=BOTH)
    assert [s.median for s in clean(dirty)] == pytest.approx(true, rel=1e-6)
    busy = replace(COLD, op=ops.Matmul(4096, 2304, 768), fault=BOTH, seconds=[40e-6] * 3)
    off = 40e-6 - next(clean([busy])).median
    assert H200_S.marks_s < off < H200_S.surcharge_s / 2


def test_a_fit_does_not_take_faulty_samples_for_clean():
    good, true = memory_bound()
    dirty, _ = memory_bound(H200_S.surcharge_s, fault=BOTH)
    shapes = [s.op for s in good]
    expected = fit(good, H200).estimate(shapes)["estimate_s"].to_numpy()
    assert fit(dirty, H200).estimate(shapes)["estimate_s"].to_numpy() == pytest.approx(
        expected, rel=0.01
    )
    known = measured_shapes(dirty, H200)
    assert known["torch", shapes[-1], "cold"][0] == pytest.approx(true[-1], rel=1e-3)


def test_what_a_flush_adds_is_read_off_products_timed_both_ways():
    by_graph = [replace(s, method="graph") for s in memory_bound()[0][::2]]
    found = by_events([*by_graph, *memory_bound(8e-6)[0][1::2]], H200)
    assert found.surcharge_s == pytest.approx(8e-6, rel=1e-3)
    assert (found.start_s, found.bandwidth) == pytest.approx(
        (H200_S.start_s, H200_S.bandwidth), rel=1e-3
    )
    assert by_events(by_graph, H200) is None


def test_kernels_are_those_that_torch_launches():
    planar = ops.Conv2d(1, 64, 64, 14, 14, kernel=3, padding=1, planar=True, bias=True)
    grouped = ops.GroupedMatmul(tokens=1, experts=64, top_k=6, n=1792, k=1280)
    some = (grouped, ops.Matmul(8, 8, 8), planar, ops.Norm(1, 1280), ops.Norm(1, 64, "layernorm"))
    samples = [replace(COLD, op=op) for op in (*some, PROMPT, ONE.op, replace(PROMPT, q_len=1))]
    assert [kernels_of(s) for s in samples] == [2, 1, 5, 8, 1, 2, 2, 1]
    assert {kernels_of(replace(s, implementation="triton")) for s in samples} == {1}
