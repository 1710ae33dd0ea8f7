"""What a sweep is measuring just now, kept in a file beside its samples.

A process that the driver or the system kills outright says no last word. The file outlives it, so
the next sweep knows over which shape it died. Twice over the same one is no accident.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

from calib.errors import CalibError
from calib.samples.files import op_from_json, op_to_json
from model.ops import Operator

FATAL = 2
"""So many processes killed over one shape, one after the other, and it is not tried again."""
_NAME = "measuring.json"


@dataclass(frozen=True)
class Attempt:
    """A measurement that was begun. ``times``: by how many processes in a row."""

    op: Operator
    implementation: str
    cache: str
    origin: str
    times: int = 1

    @property
    def key(self) -> tuple[Operator, str, str]:
        return self.op, self.implementation, self.cache


class Attempts:
    """The measurements of one process. ``before``: the one that an earlier process died over."""

    def __init__(self, folder: Path):
        self._path = folder / _NAME
        self.before = _read(self._path)

    def begin(self, op: Operator, implementation: str, cache: str, origin: str) -> None:
        """Note what is measured from now on."""
        before, key = self.before, (op, implementation, cache)
        times = before.times + 1 if before and before.key == key else 1
        row = [op.operator, op_to_json(op), implementation, cache, origin, times]
        self._path.parent.mkdir(parents=True, exist_ok=True)
        temporary = self._path.with_suffix(f".{os.getpid()}")
        temporary.write_text(json.dumps(row), "utf-8")
        os.replace(temporary, self._path)

    def end(self) -> None:
        """This process is at an end that it chose itself."""
        self._path.unlink(missing_ok=True)


def _read(path: Path) -> Attempt | None:
    """None where no process died, or where what it left cannot be read."""
    try:
        kind, shape, implementation, cache, origin, times = json.loads(path.read_text("utf-8"))
        return Attempt(op_from_json(kind, shape), implementation, cache, origin, int(times))
    except (OSError, ValueError, TypeError, CalibError):
        return None
