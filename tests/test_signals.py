"""SIGTERM and a lost terminal end a run as Ctrl-C does."""

import signal
import subprocess
import sys

import pytest

from calib.checkout import ROOT

SWEEP = """
import sys, time
from simulated_machine import Machine, given, products, sweep
from calib import run
from calib.samples.store import SampleStore

class Real(Machine):
    def measure(self, op, *some):
        time.sleep(0.01)
        if op.m == 7:
            print("measuring", flush=True)
            time.sleep(60)
        return super().measure(op, *some)

run.end_on_signals()
sweep(Real(), SampleStore(sys.argv[1], "card", "a card")).run([], given(products(9)))
"""
COMMAND_LINE = """
import time
from calib import run

def main():
    print("running", flush=True)
    time.sleep(60)

run.main = main
run.cli()
"""


def ended_by(number, code, *arguments, ignored=()):
    """Exit status and last words of a process that got a signal once it spoke."""
    path = f"import sys; sys.path[:0] = [{str(ROOT)!r}, {str(ROOT / 'tests')!r}]\n"
    path += "import signal\n"  # the suite itself may run where one is ignored, as nohup has it
    path += f"signal.signal({number:d}, signal.SIG_DFL)\n" if number != signal.SIGINT else ""
    path += "".join(f"signal.signal({n:d}, signal.SIG_IGN)\n" for n in ignored)
    command = [sys.executable, "-c", path + code, *arguments]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, cwd=ROOT, **pipes) as process:
        assert process.stdout.readline()
        process.send_signal(number)
        try:
            process.wait(5 if ignored else 30)
        except subprocess.TimeoutExpired:
            process.kill()
        return process.wait(), process.stderr.read()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_run_ends_by_any_of_them_in_the_same_way(number):
    assert ended_by(number, COMMAND_LINE) == (130, "interrupted\n")


def test_a_lost_terminal_that_is_ignored_stays_ignored():
    """As ``nohup`` has it."""
    status, _ = ended_by(signal.SIGHUP, COMMAND_LINE, ignored=[signal.SIGHUP])
    assert status == -signal.SIGKILL


@pytest.mark.slow
def test_a_sweep_that_is_terminated_twice_at_one_shape_was_not_killed_over_it(tmp_path):
    from simulated_machine import Machine, given, products, sweep

    from calib.samples.store import SampleStore

    for _ in range(2):
        ended_by(signal.SIGTERM, SWEEP, str(tmp_path))
        assert not list(tmp_path.glob("measuring*"))
    store = SampleStore(tmp_path, "card", "a card")
    assert [s.op.m for s in store.samples()] == [1, 2, 3, 4, 5, 6]
    sweep(Machine(), store).run([], given(products(9)))
    assert {s.status for s in store.samples()} == {"ok"} and len(store.samples()) == 9
