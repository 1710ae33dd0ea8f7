"""Published timings of torch's maps, softmaxes and layernorms of float32 on four older cards.

Who timed them and how: ``benchmarks/data/neusight/README.md``. An event is recorded, the host
starts the kernel, another event is recorded. A short kernel is over before the host has come to the
second; a long one is waited for:

    seconds = max(ended, started + kernel)

``ended`` is the least of a kind of call. Long maps lie on a line, to 5%: what it leaves at no bytes
is ``started`` and the kernel's own start, which no timing here tells apart; an H200's is taken.
From ``started`` to ``ended`` a host does what it does after any call. But not all kinds of a card
were timed on one host, and hosts differ by their speed: of other kinds than maps ``started`` is a
share of ``ended``, the median over the cards of

    1 - (ended - started) of the card's maps / ended of the kind

What took less than a third longer than ``ended`` says more about the host, and is left out. To take
``ended`` off all (as is done with products) would leave a softmax of 28 MB on a P100 faster than
its memory.
"""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

import numpy as np

from calib.cards.build.published import FILE, of_card
from calib.hardware.datasheet import Hardware, floor, load_hardware
from calib.hardware.device import match_device
from calib.samples.sample import HOT, Sample
from model.linear import ACTIVATION_FLOPS, SIGMOID_FLOPS
from model.ops import Elementwise, Norm, Softmax

STREAMS = FILE.with_name("float32_streams.csv")
DTYPE = "float32"
START = 2500.0
"""Cycles that a map takes however few its bytes: 1.3 microseconds of an H200
(``benchmarks/data/h200``)."""
WAITED = 4 / 3
"""Times ``ended``, from which on a kernel was waited for."""
BINARY = ("add", "div", "pow")
FLOPS = {"gelu": ACTIVATION_FLOPS["gelu"], "tanh": SIGMOID_FLOPS, "relu": 1}
MAP = Elementwise.operator
NOTES = {
    "norm, softmax, elementwise, gather, copy": "torch's own map of float32 that moves as many "
    "bytes, where it was not timed itself; an rmsnorm is eight of them, as models write it"
}
"""What stands in for these kinds where maps were timed, in words for the data card."""
Stream = Elementwise | Softmax | Norm
Timed = tuple[Stream, float]


def published_streams(
    hardware: Hardware, implementation: str, path: Path = STREAMS
) -> list[Sample]:
    """Samples of ``hardware`` itself, else of cards of its compute capability, else none."""
    return of_card(hardware, _by_card(implementation, path))


def operator(name: str, rows: int, cols: int) -> Stream:
    """What a row timed, by torch's ``name`` of it."""
    if name == "softmax":
        return Softmax(rows, cols, dtype=DTYPE)
    if name == "layernorm":
        return Norm(rows, cols, kind="layernorm", dtype=DTYPE)
    inputs, flops = 1 + (name in BINARY), 1 if name in BINARY else FLOPS[name]
    return Elementwise(rows * cols, inputs, flops_per_element=flops, dtype=DTYPE)


@cache
def _by_card(implementation: str, path: Path) -> dict[str, list[Sample]]:
    """Our name of a card -> its samples; cards without a file in ``conf/hw`` are left out."""
    timed, devices = read(path)
    late = hosts_share(timed)
    return {
        card: [
            Sample(
                op=op,
                seconds=(seconds - late[card, kind],),
                hardware=card,
                implementation=implementation,
                cache=HOT,
                origin="public",
                group=str(op.elements) if isinstance(op, Elementwise) else f"{op.rows}/{op.cols}",
                device=devices[card],
                method="events",
            )
            for kind, rows in kinds.items()
            for op, seconds in _waited(rows)
        ]
        for card, kinds in timed.items()
    }


def read(path: Path = STREAMS) -> tuple[dict[str, dict[str, list[Timed]]], dict[str, str]]:
    """Card -> kind -> what was timed, and how its authors call the card."""
    timed: dict[str, dict[str, list[Timed]]] = defaultdict(lambda: defaultdict(list))
    devices: dict[str, str] = {}
    with path.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            op = operator(row["op"], int(row["rows"]), int(row["cols"]))
            if (card := match_device(row["device"])) is not None:
                timed[card][op.operator].append((op, float(row["seconds"])))
                devices[card] = row["device"]
    return timed, devices


def hosts_share(timed: Mapping[str, Mapping[str, Sequence[Timed]]]) -> dict[tuple[str, str], float]:
    """Card, kind -> seconds until the kernel starts."""
    maps = {card: started(kinds[MAP], load_hardware(card)) for card, kinds in timed.items()}
    shares: dict[str, list[float]] = defaultdict(list)
    for card, kinds in timed.items():
        after = ended(kinds[MAP]) - maps[card]
        for kind, rows in kinds.items():
            shares[kind].append(1 - after / ended(rows))
    return {
        (card, kind): maps[card] if kind == MAP else float(np.median(shares[kind])) * ended(rows)
        for card, kinds in timed.items()
        for kind, rows in kinds.items()
    }


def started(rows: Sequence[Timed], hardware: Hardware) -> float:
    """Seconds until the kernel of a map starts: of a line through those that were waited for, which
    all count by their relative error, what is left at no bytes, without the kernel's own start."""
    waited = _waited(rows)
    seconds = np.array([s for _, s in waited])
    floors = np.array([float(floor(op, hardware)) for op, _ in waited])
    lines = np.stack([np.ones(len(waited)), floors], axis=1) / seconds[:, None]
    least = float(np.linalg.lstsq(lines, np.ones(len(waited)), rcond=None)[0][0])
    return least - START / hardware.clock_hz


def ended(rows: Sequence[Timed]) -> float:
    return min(seconds for _, seconds in rows)


def _waited(rows: Sequence[Timed]) -> list[Timed]:
    return [(op, seconds) for op, seconds in rows if seconds > WAITED * ended(rows)]
