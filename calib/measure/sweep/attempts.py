"""What a sweep is measuring just now, kept in a file beside its samples.

A process that the driver or the system kills outright says no last word. The file outlives it, so
the next sweep knows over which shape it died. Twice over the same one is no accident. Each process
has a file of its own, locked while it lives: what a live one measures is no death.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from calib.errors import CalibError
from calib.samples.files import op_from_json, op_to_json
from calib.samples.parts.claims import abandoned, create
from model.ops import Operator

FATAL = 2
"""So many processes killed over one shape, one after the other, and it is not tried again."""
_NAME = ("measuring-", ".json")
_ALL = "measuring*.json"
"""Of older versions too, which had one file for all."""

Key = tuple[Operator, str, str]
"""Operator, implementation, cache."""


@dataclass(frozen=True)
class Attempt:
    """A measurement that was begun. ``times``: by how many processes in a row."""

    op: Operator
    implementation: str
    cache: str
    origin: str
    times: int = 1

    @property
    def key(self) -> Key:
        return self.op, self.implementation, self.cache


class Attempts:
    """The measurements of one process. ``before``: those that earlier processes died over."""

    def __init__(self, folder: Path):
        self._folder = folder
        self._own: tuple[Path, BinaryIO] | None = None
        self.before = _by_key(_left_behind(folder))

    def begin(self, op: Operator, implementation: str, cache: str, origin: str) -> None:
        """Note what is measured from now on. Raises ``CalibError`` where that cannot be written."""
        before = self.before.get((op, implementation, cache))
        times = before.times + 1 if before else 1
        row = [op.operator, op_to_json(op), implementation, cache, origin, times]
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._own = self._own or create(self._folder, *_NAME)
            file = self._own[1]
            file.seek(0)
            file.write(json.dumps(row).encode())
            file.truncate()
            file.flush()
        except OSError as error:
            self.end()
            raise CalibError(
                f"samples: cannot write {self._folder}: {error.strerror or error}; earlier samples "
                "are intact"
            )

    def end(self) -> None:
        """This process is at an end that it chose itself."""
        if self._own:
            path, file = self._own
            path.unlink(missing_ok=True)
            with suppress(OSError):  # a full disk once more, for what was not written
                file.close()
        self._own = None


def _left_behind(folder: Path) -> Iterable[Attempt]:
    """What dead processes measured last; their files are taken away."""
    for path in folder.glob(_ALL):
        if (file := abandoned(path)) is not None:
            with file:
                attempt = _read(file.read())
                path.unlink(missing_ok=True)
            if attempt:
                yield attempt


def _read(content: bytes) -> Attempt | None:
    """None where what a process left cannot be read."""
    try:
        kind, shape, implementation, cache, origin, times = json.loads(content)
        return Attempt(op_from_json(kind, shape), implementation, cache, origin, int(times))
    except (ValueError, TypeError, CalibError, RecursionError):
        return None


def _by_key(attempts: Iterable[Attempt]) -> Mapping[Key, Attempt]:
    """Of several processes that died over one shape at the same time, one counts."""
    found: dict[Key, Attempt] = {}
    for attempt in sorted(attempts, key=lambda a: a.times):
        found[attempt.key] = attempt
    return found
