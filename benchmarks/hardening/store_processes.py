"""What processes do to one store while others do the same, or until they are killed.

Samples are told apart by a number, which is a side of their product. They say no start, so that
nothing drops one that is there twice. What a process has been promised it says through a pipe, a
number at a time, so that its death cannot tear a message.
"""

from __future__ import annotations

import random
import resource
import signal
import struct
import traceback
from collections.abc import Iterable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path

from calib.errors import CalibError
from calib.measure.sweep.attempts import Attempts
from calib.samples import Sample, SampleStore
from model.ops import Matmul

HARDWARE, DEVICE = "h200", "NVIDIA H200"
COMPACTING, COMPACTED = -1, -2
_NUMBER = struct.Struct("<q")


def store_at(folder: Path) -> SampleStore:
    return SampleStore(folder, HARDWARE, DEVICE)


def sample(number: int) -> Sample:
    return Sample(
        Matmul(number + 1, 64, 64),
        [1e-5 + number * 1e-9] * 5,
        HARDWARE,
        "torch",
        device=DEVICE,
        probe_flops=7e14,
        probe_bandwidth=4e12,
        versions={"torch": "2.13"},
    )


def numbers(samples: Iterable[Sample]) -> list[int]:
    """Of samples that were read, each as it was written; -1 for any other."""
    return [n if one == sample(n) else -1 for one in samples for n in (_number(one),)]


def _number(one: Sample) -> int:
    return one.op.m - 1 if isinstance(one.op, Matmul) else 0


def told(pipe: Connection, wait_s: float = 0.0) -> Iterator[int]:
    """What a process has said so far; waits for the first word."""
    try:
        while pipe.poll(wait_s):
            yield _NUMBER.unpack(pipe.recv_bytes())[0]
            wait_s = 0.0
    except (EOFError, ConnectionResetError):
        return


def _tell(pipe: Connection, number: int) -> None:
    pipe.send_bytes(_NUMBER.pack(number))


def write(folder: Path, first: int, count: int, seed: int, pipe: Connection) -> None:
    """Append so many samples, some at a time; say each once it is promised."""
    rng, store, number = random.Random(seed), store_at(folder), first
    while number < first + count:
        block = range(number, min(number + rng.randint(1, 9), first + count))
        store.append([sample(n) for n in block])
        for n in block:
            _tell(pipe, n)
        number = block.stop


def compact(folder: Path, pipe: Connection) -> None:
    """Compact in a loop, for as long as the other end lives and says nothing."""
    while not pipe.poll(0.01):
        if folder.exists():
            store_at(folder).compact()


def read(folder: Path, pipe: Connection) -> None:
    """Read in a loop: what was there once is there ever after, and once. Raises where not."""
    seen: set[int] = set()
    while not pipe.poll(0.01):
        found = numbers(store_at(folder).samples())
        if len(set(found)) < len(found) or seen.difference(found):
            raise AssertionError(f"{len(seen.difference(found))} lost, of {len(found)} read")
        seen = set(found)


def write_and_compact(folder: Path, first: int, seed: int, pipe: Connection) -> None:
    """Until killed."""
    rng, store, number = random.Random(seed), store_at(folder), first
    attempts = Attempts(folder)
    while True:
        for _ in range(rng.randint(1, 6)):
            attempts.begin(Matmul(number + 1, 64, 64), "torch", "cold", "design")
            store.append([sample(number), sample(number + 1)])
            _tell(pipe, number)
            _tell(pipe, number + 1)
            number += 2
        _tell(pipe, COMPACTING)
        store.compact()
        _tell(pipe, COMPACTED)


def fill(folder: Path, most_bytes: int, pipe: Connection) -> None:
    """Append and compact under a limit of a file's bytes: a write that fails half way through, as
    on a full disk. Says ``ok`` or what is wrong."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, most_bytes))
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    store, wrong = store_at(folder), []
    before = sorted(folder.iterdir())
    some = [sample(10_000 + n) for n in range(400)]

    def begin() -> None:
        attempts = Attempts(folder)
        attempts.begin(Matmul(1, 64, 64), "torch", "cold", "design")
        attempts.end()

    refused = 0
    for act in (lambda: store.append(some), store.compact, begin):
        try:
            act()
        except CalibError as error:
            refused += 1
            if str(folder) not in str(error):
                wrong.append(f"the path is not named: {error}")
        except BaseException:
            wrong.append(traceback.format_exc(limit=-3))
        left = [p.name for p in folder.iterdir() if p.suffix != ".parquet"]
        if left:
            wrong.append(f"left behind: {left}")
    if not refused:
        wrong.append("nothing was refused")
    if not set(before) <= set(folder.iterdir()) and refused == 3:
        wrong.append("parts are gone")
    pipe.send_bytes("\n".join(wrong or ["ok"]).encode())
