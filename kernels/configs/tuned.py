"""Choices that were timed on a card, kept on disk by kernel, card and class of shapes.

A class is a shape with every size raised to a power of two, so that a sweep over shapes asks for a
few choices and never times one itself: it only reads. Timing is asked for, by ``tune``:

    python -m benchmarks.kernels --tune

One file a card and version of triton, ``<folder>/<card>-triton-<version>.json``, in the folder that
``CALIB_TILES`` names, else under the user's cache. Without a file the model of
``kernels.configs.pick`` decides.
"""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from statistics import median
from typing import Any

import triton
from triton.runtime.errors import OutOfResources

from kernels.configs.candidates import Tile
from kernels.configs.footprint import power_of_two

Run = Callable[[], Any]
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Question:
    """What a pick asks: the kernel, the sizes of its shape, and the tiles that come into question.

    ``card`` is the device's own name; empty where there is no device, and nothing is tuned then.
    """

    card: str
    kernel: str
    sizes: tuple[int, ...]
    tiles: tuple[Tile, ...]
    architecture: str = ""

    @property
    def key(self) -> str:
        return shape_class(self.kernel, self.sizes)


@cache
def shape_class(kernel: str, sizes: tuple[int, ...]) -> str:
    """The kernel and its sizes, each raised to a power of two: "linear 2x1x512x2048x8192"."""
    return f"{kernel} {'x'.join(str(power_of_two(max(1, s))) for s in sizes)}"


def folder() -> Path:
    """Where choices are kept."""
    cached = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(os.environ.get("CALIB_TILES") or cached / "calib" / "tiles")


def file_of(card: str) -> Path:
    slug = re.sub(r"[^a-z0-9]+", "-", card.lower()).strip("-")
    return folder() / f"{slug}-triton-{triton.__version__}.json"


@cache
def choices(card: str) -> dict[str, Tile]:
    """The choices of a card, read once a process; none where there is no card."""
    return read(file_of(card)) if card else {}


def read(path: Path) -> dict[str, Tile]:
    """The tiles of a file by class. Raises ``ValueError`` naming a file, and the entry, that does
    not hold tiles."""
    if not path.exists():
        return {}
    try:
        table = json.loads(path.read_text("utf-8"))
        tiles = {key: Tile(**record) for key, record in table.items()}
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"{path}: {error}: expected tiles by shape class, or no file") from error
    for key, tile in tiles.items():
        if not all(isinstance(size, int) and size >= 0 for size in asdict(tile).values()):
            raise ValueError(f"{path}: {key}: {tile}: expected whole numbers")
    log.info("%d tuned tiles from %s", len(tiles), path)
    return tiles


def answer(question: Question, model: Callable[[], Tile]) -> Tile:
    """The tuned tile of a question, or the model's."""
    for listener in _LISTENERS:
        listener.append(question)
    tuned = choices(question.card).get(question.key)
    return tuned if tuned is not None else model()


_LISTENERS: list[list[Question]] = []


@contextmanager
def overheard() -> Iterator[list[Question]]:
    """The questions asked within."""
    heard: list[Question] = []
    _LISTENERS.append(heard)
    try:
        yield heard
    finally:
        _LISTENERS.remove(heard)


def tune(run: Run, clock: Callable[[Run], float], rounds: int = 7) -> dict[str, Tile]:
    """Time every tile of every question that ``run`` asks, keep the fastest, return them by class.

    ``clock`` gives seconds of one run. Tiles take turns, and the least median wins; each is run
    once before, to compile it. A class that has a choice already is left as it is.
    """
    with overheard() as heard:
        run()
    chosen = {}
    for question in dict.fromkeys(heard):
        table = choices(question.card)
        if question.card and question.key not in table:
            table[question.key] = chosen[question.key] = _race(question, run, clock, rounds)
            keep(question.card, table)
    return chosen


def _race(question: Question, run: Run, clock: Callable[[Run], float], rounds: int) -> Tile:
    table = choices(question.card)
    seconds: dict[Tile, list[float]] = {}

    def timed(tile: Tile) -> float:
        table[question.key] = tile
        try:
            return clock(run)
        finally:
            del table[question.key]

    for tile in question.tiles:  # once, to compile
        try:
            timed(tile)
            seconds[tile] = []
        except OutOfResources as error:
            log.warning("%s: %s: left out: %s", question.key, tile, error)
    for _ in range(rounds):
        for tile, taken in seconds.items():
            taken.append(timed(tile))
    return min(seconds, key=lambda tile: median(seconds[tile]))


def keep(card: str, table: dict[str, Tile]) -> None:
    """Written beside its place, then renamed; what another process has added stays."""
    path = file_of(card)
    path.parent.mkdir(parents=True, exist_ok=True)
    table = read(path) | table
    partial = path.with_name(path.name + ".part")
    partial.write_text(json.dumps({k: asdict(t) for k, t in table.items()}, indent=1), "utf-8")
    os.replace(partial, path)
