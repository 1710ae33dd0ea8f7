"""What was measured under a fault says so, and no fit takes it as it is."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest

from benchmarks.dirty_flush import extra_seconds
from calib.fit.fitting import fit, measured_shapes
from calib.hardware.datasheet import load_hardware
from calib.samples.faults import DIRTY_FLUSH, GAP_S, STREAM_GAPS, WRITE_BACK_S, clean
from calib.samples.files import _SINCE_3, read_samples, write_samples
from calib.samples.sample import Kernel, Sample
from model import ops

H200 = load_hardware("h200")
COLD = Sample(ops.Matmul(1, 4096, 4096), [30e-6] * 3, "h200", "torch", method="events")
RMSNORM = replace(COLD, op=ops.Norm(8, 1280, kind="rmsnorm"), cache="hot")
FLUSHED, GAPS = WRITE_BACK_S["h200"], 7 * GAP_S["h200"]


def stored_as_version_2(path, samples):
    write_samples(path, samples)
    table = pq.read_table(path).drop_columns(list(_SINCE_3))
    pq.write_table(table.replace_schema_metadata({"calib_schema": "2"}), path)
    return read_samples(path)


@pytest.mark.parametrize(
    ("sample", "fault"),
    [
        (COLD, DIRTY_FLUSH),
        (replace(COLD, method="unheld"), DIRTY_FLUSH),
        (replace(COLD, method="graph"), ""),
        (replace(COLD, cache="hot"), ""),
        (replace(COLD, hardware="cpu", method="wall"), ""),
        (replace(COLD, method="", origin="public"), ""),
        (RMSNORM, STREAM_GAPS),
        (replace(RMSNORM, cache="cold"), f"{DIRTY_FLUSH}, {STREAM_GAPS}"),
        (replace(RMSNORM, implementation="triton"), ""),
        (replace(RMSNORM, op=ops.Norm(8, 1280, kind="layernorm")), ""),
    ],
)
def test_samples_of_version_2_carry_their_faults(tmp_path, sample, fault):
    assert stored_as_version_2(tmp_path / "s.parquet", [sample]) == [replace(sample, fault=fault)]


def test_version_3_says_itself_what_is_wrong_and_what_ran(tmp_path):
    kernel = Kernel("void cudnn<(int)4>", (132, 1, 1), (128, 1, 1), 0.9)
    ran = replace(COLD, backend="cudnn", kernels=(kernel, Kernel("Memset", (), (), 0.1)))
    written = [ran, replace(COLD, fault=DIRTY_FLUSH), COLD]
    assert read_samples(write_samples(tmp_path / "s.parquet", written)) == written


@pytest.mark.parametrize(
    ("sample", "seconds"),
    [
        (COLD, 30e-6),
        (replace(COLD, fault=DIRTY_FLUSH), 30e-6 - FLUSHED),
        (replace(RMSNORM, fault=STREAM_GAPS), 30e-6 - GAPS),
        (replace(RMSNORM, fault=f"{DIRTY_FLUSH}, {STREAM_GAPS}"), None),
        (replace(COLD, fault=DIRTY_FLUSH, seconds=[1.5 * FLUSHED]), None),
        (replace(COLD, fault=DIRTY_FLUSH, hardware="b200"), None),
        (replace(COLD, fault="kernels unknown"), 30e-6),
        (replace(COLD, fault=DIRTY_FLUSH, seconds=[], status="out of memory"), []),
    ],
)
def test_clean_corrects_what_is_known_and_leaves_out_the_rest(sample, seconds):
    found = list(clean([sample]))
    if seconds is None:
        assert not found
    elif seconds == []:
        assert found[0].seconds == []
    else:
        assert found[0].median == pytest.approx(seconds)
        assert DIRTY_FLUSH not in found[0].fault and STREAM_GAPS not in found[0].fault
        assert list(clean(found)) == found


def test_a_fit_does_not_take_faulty_samples_for_clean():
    shapes = [ops.Matmul(1, n, 8192) for n in range(2048, 12288, 512)]
    true = np.array([float(op.bytes) / 4e12 for op in shapes])
    good = [replace(COLD, op=op, seconds=[s] * 3) for op, s in zip(shapes, true, strict=True)]
    dirty = [replace(s, seconds=[s.median + FLUSHED] * 3, fault=DIRTY_FLUSH) for s in good]
    expected = fit(good, H200).estimate(shapes)["estimate_s"].to_numpy()
    found = fit(dirty, H200).estimate(shapes)["estimate_s"].to_numpy()
    long = true > 2 * FLUSHED
    assert long.sum() > 10
    assert found[long] == pytest.approx(expected[long], rel=0.01)
    known = measured_shapes(dirty, H200)
    assert known["torch", shapes[-1], "cold"][0] == pytest.approx(true[-1], rel=1e-3)


def test_the_write_back_is_read_off_the_switch_of_method():
    def sample(n, method):
        op = ops.Matmul(1, n, 4096)
        extra = 8e-6 if method == "events" else 0.0
        return replace(COLD, op=op, method=method, seconds=[float(op.bytes) / 4e12 + extra])

    by_graph = [sample(n, "graph") for n in (4000, 4500, 5000)]
    by_events = [sample(n, "events") for n in (5500, 6000, 7000, 20_000)]
    extra, error, count = extra_seconds(by_graph + by_events)
    assert (extra, count) == (pytest.approx(8e-6), 6) and error < 1e-9
