"""What a build writes, and how it is sure of it."""

from __future__ import annotations

import os
from pathlib import Path

from calib.errors import CalibError

MOST_CHANGED = 1e-3
"""By how much storing may change an estimate."""


def check(name: str, changed: float) -> None:
    if changed > MOST_CHANGED:
        raise CalibError(f"{name}: storing changed an estimate by {changed:.2%}: expected <= 0.1%")


def write_text(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}-{os.getpid()}")
    temporary.write_text(text, "utf-8")
    os.replace(temporary, path)
