"""Stores that several processes write, compact and read; kills; a disk that is full."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from benchmarks.hardening import store_processes as processes
from benchmarks.hardening.outcome import Outcome
from calib.errors import CalibError

WRITERS, READERS = 8, 2
MOST_SAMPLES, MOST_KILLS = 10_000, 100
HANG_S = 120.0
_A_STORE = 20
"""Kills of one store, before the next begins empty."""


@dataclass
class Child:
    """A process, the pipe to it, and what it said."""

    process: BaseProcess
    pipe: Connection
    said: list[int] = field(default_factory=list)

    def listen(self, wait_s: float = 0.0) -> list[int]:
        new = list(processes.told(self.pipe, wait_s))
        self.said += new
        return new

    def kill(self) -> None:
        """By SIGKILL, which no process notices."""
        if self.process.pid and self.process.is_alive():
            os.kill(self.process.pid, signal.SIGKILL)
        self.process.join()
        self.listen()


def start(work: Callable[..., None], *arguments: Any) -> Child:
    """``work`` in a process of its own; its imports were made by a process that only forks."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["benchmarks.hardening.store_processes", "pyarrow.parquet"])
    ours, theirs = context.Pipe()
    process = context.Process(target=work, args=(*arguments, theirs), daemon=True)
    process.start()
    theirs.close()
    return Child(process, ours)


def run(seconds: float, seed: int) -> list[Outcome]:
    """Writers, kills and full disks: as many as the ``seconds`` allow, at least a few of each."""
    end = time.monotonic() + seconds
    count = int(min(MOST_SAMPLES, max(WRITERS * 10, 85 * seconds)))
    with tempfile.TemporaryDirectory() as folder:
        return [
            writers(Path(folder) / "writers", count, seed),
            full_disks(Path(folder) / "full", max(3, int(seconds / 10)), seed),
            kills(Path(folder), end, seed),
        ]


def writers(folder: Path, count: int, seed: int = 0) -> Outcome:
    """Eight writers, a loop of compactions and two readers meet in one store."""
    share, began = count // WRITERS, time.monotonic()
    writing = [start(processes.write, folder, n * share, share, seed + n) for n in range(WRITERS)]
    others = [start(processes.compact, folder)]
    others += [start(processes.read, folder) for _ in range(READERS)]
    limit_s = max(HANG_S, count / 10)
    while any(w.process.is_alive() for w in writing) and time.monotonic() - began < limit_s:
        for child in writing:
            child.listen(0.01)
    hung = sum(child.process.is_alive() for child in writing)
    for child in others:
        if child.process.is_alive():
            child.pipe.send_bytes(b"enough")
        child.process.join(HANG_S)
        hung += child.process.is_alive()
    for child in (*writing, *others):
        child.kill()
    failed = sum(child.process.exitcode != 0 for child in (*writing, *others))
    promised = [n for child in writing for n in child.said]
    found = _check(folder, promised, set(promised))
    return Outcome(
        kind="store: 8 writers, a compaction loop, 2 readers (samples)",
        tried=share * WRITERS,
        clear=0,
        right=share * WRITERS - found.wrong,
        traceback=failed,
        silently_wrong=found.wrong,
        hang=hung,
        examples=found.examples,
    )


@dataclass(frozen=True)
class Check:
    """Samples of a store that are not as promised: lost, there twice, or of nobody."""

    wrong: int
    examples: tuple[str, ...] = ()


def _check(folder: Path, promised: Iterable[int], possible: set[int]) -> Check:
    """Every ``promised`` sample is there once, the other ``possible`` ones at most once; and
    nothing that a killed process was at is left."""
    try:
        found = Counter(processes.numbers(processes.store_at(folder).samples()))
    except CalibError as error:
        return Check(1, (str(error),))
    lost = [n for n in promised if not found[n]]
    doubled = [n for n, times in found.items() if times > 1]
    unknown = [n for n in found if n not in possible]
    left = [p.name for p in folder.iterdir() if p.suffix == ".tmp" or p.name == ".compacting"]
    said = [("lost", lost), ("doubled", doubled), ("unknown", unknown), ("left behind", left)]
    examples = tuple(f"{len(some)} {what}: {some[:5]}" for what, some in said if some)
    return Check(len(lost) + len(doubled) + len(unknown) + len(left), examples)


def kills(folder: Path, end: float, seed: int = 0, most: int = MOST_KILLS) -> Outcome:
    """Processes that append and compact are killed at random moments, every other one inside a
    compaction; the store is checked after each."""
    rng, wrong, examples = random.Random(seed), 0, []
    tried = inside = 0
    promised: list[int] = []
    begun: set[int] = set()
    while tried < most and (tried < 4 or time.monotonic() < end):
        if tried % _A_STORE == 0:
            promised, begun, store = [], set(), folder / f"killed-{tried}"
        first = max(promised, default=-1) + 100  # beyond what the last one had begun
        child = start(processes.write_and_compact, store, first, rng.randrange(2**31))
        while not child.listen(HANG_S):
            pass
        within = tried % 2 == 1
        while within and child.said[-1] != processes.COMPACTING:
            child.listen(1.0)
        time.sleep(rng.uniform(0.0, 0.04 if within else 0.4))
        child.kill()
        inside += child.said[-1] == processes.COMPACTING
        promised += [n for n in child.said if n >= 0]
        begun.update(max(promised) + n for n in (1, 2))  # it may have died before it could say
        found = _check(store, promised, begun.union(promised))
        wrong, examples = wrong + bool(found.wrong), examples + list(found.examples)
        tried += 1
    return Outcome(
        kind=f"store: kills, {inside} of them inside a compaction",
        tried=tried,
        clear=0,
        right=tried - wrong,
        traceback=0,
        silently_wrong=wrong,
        hang=0,
        examples=tuple(examples[:5]),
    )


def full_disks(folder: Path, count: int, seed: int = 0) -> Outcome:
    """A write that fails half way: the path is named, nothing half written is left, what was there
    stays."""
    rng, wrong, hung, examples = random.Random(seed), 0, 0, []
    for number in range(count):
        place = folder / str(number)
        store = processes.store_at(place)
        for n in range(0, 60, 20):
            store.append([processes.sample(n + i) for i in range(20)])
        child = start(processes.fill, place, rng.choice([0, 1, 4096, rng.randrange(15_000)]))
        said = child.pipe.recv_bytes().decode() if child.pipe.poll(HANG_S) else ""
        child.kill()
        found = _check(place, range(60), {*range(60), *range(10_000, 10_400)})
        hung += not said
        if said != "ok" or found.wrong:
            wrong += 1
            examples += [said, *found.examples]
    return Outcome(
        kind="store: full disks",
        tried=count,
        clear=count - wrong,
        right=0,
        traceback=wrong,
        silently_wrong=0,
        hang=hung,
        examples=tuple(examples[:5]),
    )
