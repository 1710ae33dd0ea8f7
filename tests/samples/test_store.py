"""The store when several processes write it, when they are killed, and when a bit flips."""

import os
import subprocess
import sys
import time
from dataclasses import replace

import pyarrow.parquet as pq
import pytest

from benchmarks.hardening import bit_flips, sample_mutants, stores
from calib.checkout import ROOT
from calib.errors import CalibError
from calib.samples import Sample, SampleStore, read_samples, write_samples
from calib.samples.parts import claims, folder
from model import ops

SAMPLE = Sample(ops.Matmul(3, 5, 7), [2e-3, 1e-3, 4e-3], "cpu", "torch", device="a CPU")


def rows(*sides):
    return [replace(SAMPLE, op=ops.Matmul(m, 5, 7)) for m in sides]


@pytest.fixture
def store(tmp_path):
    return SampleStore(tmp_path / "cpu", "cpu", "a CPU")


def names(store):
    return sorted(path.name for path in store.folder.iterdir())


@pytest.mark.slow
def test_writers_a_compaction_and_readers_meet(tmp_path):
    found = stores.writers(tmp_path / "store", 240)
    assert (found.right, found.traceback, found.silently_wrong, found.hang) == (240, 0, 0, 0), found


@pytest.mark.slow
def test_kills_lose_and_double_nothing(tmp_path):
    found = stores.kills(tmp_path, end=0.0)
    assert (found.right, found.silently_wrong) == (found.tried, 0) and found.tried == 4, found


@pytest.mark.slow
def test_a_full_disk_is_named_and_leaves_nothing(tmp_path):
    found = stores.full_disks(tmp_path, 2)
    assert found.clear == found.tried == 2, found


@pytest.mark.slow
def test_mutants_are_read_right_or_refused_clearly():
    for found in sample_mutants.run(2.0, seed=3):
        assert found.tried == found.clear + found.right and not found.examples, found


def test_two_writers_of_one_moment_take_two_names(store, monkeypatch):
    monkeypatch.setattr(time, "time_ns", lambda: 10**18)
    first, second = store.append(rows(1)), store.append(rows(2))
    assert first != second and {s.op.m for s in store.samples()} == {1, 2}


def test_what_is_written_is_on_disk_before_it_is_acknowledged(store, monkeypatch):
    done = []
    fsync, rename = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda fd: (done.append("fsync"), fsync(fd)))
    monkeypatch.setattr(os, "replace", lambda *some: (done.append("rename"), rename(*some)))
    store.append(rows(1))
    assert done == ["fsync", "rename", "fsync"]  # the file, its name


@pytest.mark.parametrize("stop", range(4))
def test_a_compaction_that_is_cut_short_anywhere_doubles_nothing(store, monkeypatch, stop):
    """After so many of the parts that it merged are gone."""
    for m in range(1, 4):
        store.append(rows(m, m))
    before, gone = store.samples(), []
    unlink = type(store.folder).unlink

    def some(path, missing_ok=False):
        if len(gone) == stop or path.name == folder.LOCK:
            raise KeyboardInterrupt
        gone.append(path)
        unlink(path, missing_ok)

    monkeypatch.setattr(type(store.folder), "unlink", some)
    with pytest.raises(KeyboardInterrupt):
        store.compact()
    monkeypatch.undo()
    assert len(names(store)) == 1 + 3 - stop + 1  # the merged part, those left, the lock
    assert read_samples(store.folder) == before
    assert store.samples() == before
    assert len(names(store)) == 1  # opening it cleared away the rest
    store.append(rows(9))
    store.compact()
    assert [s.op.m for s in store.samples()] == [1, 1, 2, 2, 3, 3, 9]


def test_a_file_of_a_merged_part_s_name_that_holds_something_else_is_read(store):
    path = write_samples(store.folder / "000001.parquet", rows(1))
    store.append(rows(2))
    store.compact()
    assert not path.exists()
    write_samples(path, rows(3))
    assert {s.op.m for s in store.samples()} == {1, 2, 3}
    store.compact()
    assert {s.op.m for s in store.samples()} == {1, 2, 3} and len(names(store)) == 1


def test_doubles_of_an_older_compaction_are_dropped_when_it_is_opened(store):
    """It left the merged part and those that were merged, and no word of it."""
    begun = [replace(s, started=f"2026-11-25T10:00:0{s.op.m}+00:00") for s in rows(1, 2)]
    write_samples(store.folder / "000001.parquet", begun[:1])
    write_samples(store.folder / "000002.parquet", begun)
    assert store.samples() == begun
    store.compact()
    assert read_samples(store.folder) == begun


def test_a_reader_beside_a_compaction_reads_every_sample_once(store, monkeypatch):
    for m in range(1, 5):
        store.append(rows(m))
    read, calls = folder.read_bytes, []

    def meanwhile(path):
        calls.append(path)
        if len(calls) == 3:
            store.compact()
        return read(path)

    monkeypatch.setattr(folder, "read_bytes", meanwhile)
    assert [s.op.m for s in read_samples(store.folder)] == [1, 2, 3, 4]


def test_one_compacts_at_a_time_and_others_do_not_wait(store):
    for m in (1, 2):
        store.append(rows(m))
    with claims.claim(store.folder / folder.LOCK):
        store.compact()
        store.append(rows(3))
        assert len(store.samples()) == 3 and len(names(store)) == 4
    store.compact()
    assert len(names(store)) == 1


def test_what_a_live_process_writes_is_left_and_what_a_dead_one_wrote_is_cleared(store):
    store.append(rows(1))
    code = (
        "import pathlib, sys; from calib.samples.parts.claims import create\n"
        "path, file = create(pathlib.Path(sys.argv[1]), '.part-', '.tmp')\n"
        "file.write(b'PAR1'); file.flush(); print(path.name, flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", code, str(store.folder)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, cwd=ROOT, text=True, **pipes) as process:
        name = process.stdout.readline().strip()
        assert len(store.samples()) == 1 and name in names(store)
        process.kill()
    assert len(store.samples()) == 1 and name not in names(store)


def test_a_folder_that_can_only_be_read_is_read(store, monkeypatch):
    store.append(rows(1))
    (store.folder / ".part-0.tmp").write_bytes(b"PAR1")

    def denied(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(type(store.folder), "unlink", denied)
    assert store.samples() == rows(1)


def test_every_bit_of_a_file_counts_or_does_not_matter():
    """One sample's file, in which a footer that no checksum covers is more than half."""
    found, bad = bit_flips.flips([SAMPLE], 150, seed=5)
    assert found.total() == found["clear"] + found["right"] == 150, bad


def test_pages_carry_checksums(store):
    path = store.append(rows(*range(1, 200)))
    raw = bytearray(path.read_bytes())
    column = pq.ParquetFile(path).metadata.row_group(0).column(1)  # of shapes
    raw[column.dictionary_page_offset + column.total_compressed_size // 2] ^= 1
    path.write_bytes(raw)
    with pytest.raises(CalibError, match="is not a whole Parquet file"):
        store.samples()
