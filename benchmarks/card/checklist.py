"""The order of work on a card, under a budget of time: each step a process with a limit.

A step that fails or runs out of time is reported and stops nothing; one that was done is not done
again. Nothing here imports torch, so a process that takes the card down takes only itself down.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.util import find_spec
from pathlib import Path

from calib.errors import LOST_STATUS

DONE, FAILED, TIMED_OUT, LEFT = "done", "failed", "timed out", "no time left"
LOST = "lost the card"
_MOST_LOSSES = 5
"""Of the card by one step: each new process goes on past what the last one lost it over."""
LONGEST_S = 530.0
"""No step takes longer: where a command is ended after ten minutes, each one fits."""


@dataclass(frozen=True)
class Step:
    """One process. ``least_s``: with less time than this [s] left it is not begun."""

    name: str
    title: str
    command: tuple[str, ...]
    limit_s: float
    least_s: float = 20.0


@dataclass(frozen=True)
class Outcome:
    """What became of a step; ``detail``: the end of its log where it did not succeed."""

    name: str
    status: str
    seconds: float = 0.0
    detail: str = ""


Execute = Callable[[Step, float], Outcome]
"""Runs a step within a limit [s]."""


def steps(work: Path, python: str = sys.executable) -> list[Step]:
    """The checklist in order of worth: what the next step of the project needs most comes first,
    and each step takes a minute or two, so that a short loan of a card leaves out the end."""
    samples, out = f"samples.dir={work / 'samples'}", ("--out", str(work))
    run_model = (python, "-m", "calib.run", "sweep=quick", "workload=ocr_base", samples)
    run_model += ("report.html=false",)  # its figures need a package too large to bring along

    def bench(name: str, *more: str) -> tuple[str, ...]:
        return (python, "-m", f"benchmarks.{name}", *more)

    own = ("--samples", str(work / "samples"), *out)
    return [
        Step(
            "model",
            "operators for a minute, then DeepSeek-OCR beside its estimate",
            (*run_model, f"hydra.run.dir={work / 'model'}"),
            300.0,
            90.0,
        ),
        Step(
            "models",
            "other models at full size: clock, host, graph, kernels",
            bench("card.models", "--out", str(work / "models"), "--seconds", "80"),
            150.0,
        ),
        Step("pool", "1,000 random shapes", bench("card.pool", *out), 130.0),
        Step("graph", "a decode step under a CUDA graph", bench("card.graph_decode", *out), 120.0),
        Step("agree", "cold by events, graph and profiler agree", bench("card.agree", *out), 60.0),
        Step("tests", "every kernel against its float32 reference", tests(python), 200.0),
        Step(
            "kernels",
            "our kernels beside the vendor's",
            bench("kernels", "--rounds", "20", "--out", str(work / "kernels")),
            300.0,
        ),
        Step(
            "tune",
            "the same with tiles and ways timed on this card, and the table of them that ships",
            bench(
                *("kernels", "--tune", "--budget", "300"),
                *("--rounds", "20", "--out", str(work / "tuned")),
            ),
            400.0,
            60.0,
        ),
        Step("energy", "joules of 40 operators", bench("card.energy", *out), 150.0),
        Step(
            "tables",
            "our samples beside public tables of the same card",
            bench("card.tables", *own),
            180.0,
        ),
        Step("repeat", "the same shapes once more", bench("card.repeat", *own), 180.0),
    ]


def tests(python: str, most: int = 12) -> tuple[str, ...]:
    """The kernel tests, in several processes where pytest can: compiling is most of their time."""
    command = (python, "-m", "pytest", "-m", "gpu", "-p", "no:cacheprovider", "-p", "no:benchmark")
    if find_spec("xdist") is not None:
        command += ("-n", str(max(1, min(most, (os.cpu_count() or 1) - 1))))
    return (*command, *ON_A_CARD)


ON_A_CARD = ("tests/kernels", "tests/measure/test_cases.py", "tests/hardware/test_device.py")
"""Where the tests marked ``gpu`` lie; collecting the others takes longer than running these."""


def run(
    plan: Sequence[Step],
    budget_s: float,
    before: Mapping[str, Outcome],
    execute: Execute,
    store: Callable[[Mapping[str, Outcome]], None],
    clock: Callable[[], float] = time.monotonic,
) -> dict[str, Outcome]:
    """Outcomes by name, in order. ``before``: those of an earlier call, whose done steps stay
    done; ``store`` is told after every step. Where one step finds no time, none after it is begun,
    however short: what is left out is the end."""
    start, outcomes, ended = clock(), dict(before), False
    for step in plan:
        if step.name in before and before[step.name].status == DONE:
            continue
        left = budget_s - (clock() - start)
        if ended := ended or left < step.least_s:
            outcomes.setdefault(step.name, Outcome(step.name, LEFT))
            continue
        outcomes[step.name] = _until_kept(step, min(step.limit_s, left, LONGEST_S), execute)
        store(outcomes)
    store(outcomes)
    return {step.name: outcomes[step.name] for step in plan}


def _until_kept(step: Step, limit_s: float, execute: Execute) -> Outcome:
    """Its outcome; where its process loses the card, a new one goes on in the time that is left."""
    outcome = execute(step, limit_s)
    for _ in range(_MOST_LOSSES):
        if outcome.status != LOST or limit_s - outcome.seconds < step.least_s:
            break
        taken, again = outcome.seconds, execute(step, limit_s - outcome.seconds)
        outcome = replace(again, seconds=taken + again.seconds)
    return outcome


def execute_in(work: Path, environment: Mapping[str, str]) -> Execute:
    """Runs steps as processes of their own, their output in ``work/<name>.log``."""

    def execute(step: Step, limit_s: float) -> Outcome:
        log, start = work / f"{step.name}.log", time.monotonic()
        with log.open("w", encoding="utf-8") as stream:
            process = subprocess.Popen(
                step.command,
                stdout=stream,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                env={**os.environ, **environment},
                start_new_session=True,
            )
            try:
                code: int | None = process.wait(limit_s)
            except subprocess.TimeoutExpired:
                code = None
                end(process)
            except BaseException:
                end(process)
                raise
        seconds = time.monotonic() - start
        if code == 0:
            return Outcome(step.name, DONE, seconds)
        return Outcome(step.name, _status(code), seconds, last_lines(log))

    return execute


def _status(code: int | None) -> str:
    """Of a process that failed. One that a signal killed was not ended by us: a lost card too."""
    if code is None:
        return TIMED_OUT
    return LOST if code == LOST_STATUS or code < 0 else FAILED


def end(process: subprocess.Popen[bytes]) -> None:
    """End a process and all that it started: asked first, and after five seconds not asked."""
    for number in (signal.SIGINT, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
            process.wait(5.0)
            return
        except subprocess.TimeoutExpired:
            continue
        except ProcessLookupError:
            process.wait()
            return


def last_lines(log: Path, count: int = 12) -> str:
    """The last lines of a log that hold something, each cut to 200 characters."""
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    return "\n".join(line[:200] for line in [x for x in lines if x.strip()][-count:])


def load(path: Path) -> dict[str, Outcome]:
    """Outcomes of an earlier call; none where there was no earlier one."""
    if not path.exists():
        return {}
    return {name: Outcome(**o) for name, o in json.loads(path.read_text("utf-8")).items()}


def store_in(path: Path) -> Callable[[Mapping[str, Outcome]], None]:
    def store(outcomes: Mapping[str, Outcome]) -> None:
        part = path.with_suffix(".part")
        part.write_text(json.dumps({n: asdict(o) for n, o in outcomes.items()}, indent=1), "utf-8")
        os.replace(part, path)

    return store
