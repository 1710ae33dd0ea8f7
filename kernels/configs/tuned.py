"""Choices that were timed on a card, by kernel, card and class of shapes; never timed when asked.

A class is a shape with every size raised to a power of two, so that a sweep over shapes asks for a
few choices and only reads. Timing is asked for (``kernels.configs.timing``):

    python -m benchmarks.kernels --tune

An answer comes from the first of these that knows the class:

1. the user's file, one a card and version of triton, ``<folder>/<card>-triton-<version>.json``, in
   the folder that ``CALIB_TILES`` names, else under the user's cache;
2. the table that ships for the architecture, ``kernels/configs/tiles/<architecture>.json``, where
   one was measured; it says on which card, with which triton and by which command;
3. the model of ``kernels.configs.pick``.
"""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import triton

from kernels.configs.candidates import Tile
from kernels.configs.footprint import power_of_two

log = logging.getLogger(__name__)
SHIPPED = Path(__file__).with_name("tiles")


@dataclass(frozen=True)
class Question:
    """What a pick asks: the kernel, the sizes of its shape, and the tiles that come into question.

    ``card`` is the device's own name, empty where there is no device; ``architecture`` that of its
    row, empty where nothing that ships may answer.
    """

    card: str
    kernel: str
    sizes: tuple[int, ...]
    tiles: tuple[Tile, ...]
    architecture: str = ""
    model: Callable[[], Tile] | None = None
    """What :func:`answer` takes where nothing was timed; it adds this for those who listen."""

    @property
    def key(self) -> str:
        return shape_class(self.kernel, self.sizes)

    @property
    def untuned(self) -> Tile:
        return self.model() if self.model else self.tiles[0]


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


@cache
def shipped(architecture: str) -> dict[str, Tile]:
    """What ships for an architecture; none where nothing was measured on one."""
    return read(SHIPPED / f"{architecture}.json") if architecture else {}


def read(path: Path) -> dict[str, Tile]:
    """The tiles of a file by class. Raises ``ValueError`` naming a file, and the entry, that does
    not hold tiles."""
    if not path.exists():
        return {}
    try:
        table = json.loads(path.read_text("utf-8"))
        table = table.get("tiles", table)  # beside them, where they were measured
        tiles = {key: Tile(**record) for key, record in table.items()}
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"{path}: {error}: expected tiles by shape class, or no file") from error
    for key, tile in tiles.items():
        sizes = [value for name, value in asdict(tile).items() if name != "way"]
        if not all(isinstance(size, int) and size >= 0 for size in sizes):
            raise ValueError(f"{path}: {key}: {tile}: expected whole numbers")
        if not isinstance(tile.way, str):
            raise ValueError(f"{path}: {key}: way = {tile.way!r}: expected a name")
    log.info("%d tuned tiles from %s", len(tiles), path)
    return tiles


def answer(question: Question, model: Callable[[], Tile]) -> Tile:
    """The tile that is being timed, or the tuned one, or the model's."""
    for listener in _LISTENERS:
        listener.append(replace(question, model=model))
    if question.key in _FORCED:
        return _FORCED[question.key]
    for table in (choices(question.card), shipped(question.architecture)):
        if question.key in table:
            return table[question.key]
    return model()


_LISTENERS: list[list[Question]] = []
_FORCED: dict[str, Tile] = {}


@contextmanager
def overheard() -> Iterator[list[Question]]:
    """The questions asked within."""
    heard: list[Question] = []
    _LISTENERS.append(heard)
    try:
        yield heard
    finally:
        _LISTENERS.remove(heard)


@contextmanager
def forced(key: str, tile: Tile) -> Iterator[None]:
    """Within, questions of a class are answered by this tile."""
    _FORCED[key] = tile
    try:
        yield
    finally:
        del _FORCED[key]


def keep(card: str, table: Mapping[str, Tile]) -> None:
    """In the user's file; what another process has added stays."""
    path = file_of(card)
    store(path, {"tiles": read(path) | dict(table)})


def store(path: Path, record: Mapping[str, Any]) -> None:
    """Written beside its place, then renamed. ``record["tiles"]``: tiles by class."""
    tiles = {key: asdict(tile) for key, tile in record["tiles"].items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".part")
    partial.write_text(json.dumps({**record, "tiles": tiles}, indent=1), "utf-8")
    os.replace(partial, path)
