"""Samples that waited for a core: what the scheduler counts, and how often one is repeated."""

import itertools
import os
import subprocess
import sys
import time

import pytest

from calib.measure.contention import TOLERATED, undisturbed, waited_s


def attempts(*shares):
    """Results of ``undisturbed`` on runs of one second that waited so much of it."""
    clock, wait, calls = [0.0], [0.0], itertools.count()

    def run():
        number = next(calls)
        clock[0] += 1.0
        wait[0] += shares[number]
        return number

    return undisturbed(run, 3, lambda: wait[0], lambda: clock[0])


def test_a_calm_run_is_not_repeated():
    assert attempts(TOLERATED) == [0]


def test_a_disturbed_run_is_repeated_until_it_is_calm():
    assert attempts(0.7, 0.01) == [1, 0]


def test_attempts_are_bounded_and_the_calmest_stands():
    assert attempts(0.7, 0.2, 0.4, 0.0) == [1, 2, 0]


def test_threads_that_end_or_say_nothing_are_passed_over(tmp_path):
    for name, text in (("1", "5 2000000000 1"), ("2", "5 500000000 1"), ("3", "")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "schedstat").write_text(text, "ascii")
    assert waited_s(tmp_path) == pytest.approx(2.5)
    assert waited_s(tmp_path / "none") == 0.0


@pytest.mark.skipif(not os.path.exists("/proc/self/schedstat"), reason="the system does not count")
def test_a_neighbour_on_the_same_core_is_seen():
    core = {min(os.sched_getaffinity(0))}
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, core)
    neighbour = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        started, waited = time.perf_counter(), waited_s()
        while waited_s() - waited < 0.02 and time.perf_counter() - started < 10:
            pass
        assert waited_s() - waited >= 0.02
    finally:
        neighbour.kill()
        neighbour.wait()
        os.sched_setaffinity(0, before)
