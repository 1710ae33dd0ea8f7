"""The store: whole or not at all, and a clear word where it cannot be."""

from dataclasses import replace

import pyarrow.parquet as pq
import pytest

from calib.errors import CalibError
from calib.samples import files as module
from calib.samples.files import read_samples, write_samples
from calib.samples.sample import Sample
from calib.samples.store import SampleStore
from model import ops

SAMPLE = Sample(ops.Matmul(3, 5, 7), [2e-3, 1e-3, 4e-3], "cpu", "torch", device="a CPU")
CAUSAL = ops.Attention(1, 9, 9, 4, 2, 64, causal=True, window=3)


def test_round_trip_keeps_every_field(tmp_path):
    written = [
        SAMPLE,
        replace(SAMPLE, op=CAUSAL, cache="hot", probe_flops=1.5, versions={"a": "1"}),
    ]
    path = write_samples(tmp_path / "s.parquet", written)
    assert read_samples(path) == written
    assert read_samples(path)[0].median == 2e-3


def test_store_appends_and_compacts_to_the_same_samples(tmp_path):
    store = SampleStore(tmp_path / "cpu", "cpu", "a CPU")
    assert store.samples() == []
    store.append([SAMPLE])
    store.append([replace(SAMPLE, op=CAUSAL)])
    before = store.samples()
    store.compact()
    assert store.samples() == before
    assert len(list((tmp_path / "cpu").iterdir())) == 1


def test_truncated_file_is_named_and_the_others_stay(tmp_path):
    store = SampleStore(tmp_path, "cpu", "a CPU")
    first, second = store.append([SAMPLE]), store.append([SAMPLE])
    second.write_bytes(second.read_bytes()[:100])
    with pytest.raises(CalibError, match=second.name):
        store.samples()
    assert read_samples(first) == [SAMPLE]


def test_other_schema_version_is_refused(tmp_path):
    path = write_samples(tmp_path / "s.parquet", [SAMPLE])
    table = pq.read_table(path).replace_schema_metadata({"calib_schema": "99"})
    pq.write_table(table, path)
    with pytest.raises(CalibError, match="schema version 99: expected 3"):
        read_samples(path)


def test_samples_of_the_first_version_are_read(tmp_path):
    path = write_samples(tmp_path / "s.parquet", [SAMPLE])
    table = pq.read_table(path).drop_columns(["method", "discarded", "fault", "backend", "kernels"])
    pq.write_table(table.replace_schema_metadata({"calib_schema": "1"}), path)
    assert read_samples(path) == [SAMPLE]


def test_another_device_is_refused_on_reading_and_on_writing(tmp_path):
    store = SampleStore(tmp_path, "cpu", "a CPU")
    store.append([SAMPLE])
    with pytest.raises(CalibError, match="expected another CPU"):
        read_samples(tmp_path, device="another CPU")
    with pytest.raises(CalibError, match="'another CPU'"):
        store.append([replace(SAMPLE, device="another CPU")])
    assert store.samples() == [SAMPLE]


def test_full_disk_leaves_earlier_samples_and_no_rubbish(tmp_path, monkeypatch):
    store = SampleStore(tmp_path, "cpu", "a CPU")
    first = store.append([SAMPLE])

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pq, "write_table", full)
    with pytest.raises(CalibError, match="No space left on device"):
        store.append([SAMPLE])
    assert [*tmp_path.iterdir()] == [first]
    assert store.samples() == [SAMPLE]


def test_folder_that_cannot_be_made_is_one_error(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(CalibError, match="cannot write"):
        write_samples(tmp_path / "file" / "s.parquet", [SAMPLE])


def test_unknown_kind_lists_what_exists():
    with pytest.raises(CalibError, match="matmul"):
        module.op_from_json("matmull", "{}")


def test_maps_and_copies_of_older_files_get_the_axes_that_they_had() -> None:
    from calib.samples.files import laid_out

    assert laid_out(ops.Copy(81)).axes == 1
    assert laid_out(ops.Copy(82)).axes == 2
    assert laid_out(ops.Copy(256)).axes == 3
    assert laid_out(ops.Copy(256, "float32", "bfloat16")).axes == 1
    assert laid_out(ops.Elementwise(4096, 0, broadcast=512)).axes == 3
    assert laid_out(ops.Elementwise(4096, broadcast=64)).axes == 2
    assert laid_out(ops.Elementwise(4096, 2, transposed=True)).axes == 2
    assert laid_out(ops.Elementwise(4096, 2)).axes == 1
    assert laid_out(ops.Norm(4, 8)) == ops.Norm(4, 8)
