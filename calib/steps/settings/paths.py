"""Paths that a user gives: a text that the system takes as one, with ``~`` read."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, Field
from pydantic_core import PydanticCustomError

from calib.errors import shown

NO_FILE = "no_file"
"""The type of a fault whose message is a reason to be said."""
_LONGEST = 4096
"""PATH_MAX of Linux [bytes]."""


def _path(value: Any) -> Path:
    """Raises ``ValueError`` for what no file can be called, what does not print on one line, or a
    user who does not exist."""
    text = str(value)
    if not isinstance(value, str | Path) or text.strip() in ("", "???"):
        raise ValueError
    if not text.isprintable() or len(text.encode("utf-8", "replace")) > _LONGEST:
        raise ValueError
    try:
        path = Path(value).expanduser()
        path.exists()  # a name that is too long for the file system
    except (OSError, RuntimeError):
        raise ValueError from None
    return path


def _file(value: Any) -> Path:
    path = _path(value)
    if not path.is_file():
        why = (
            "is a folder" if path.is_dir() else "is no file" if path.exists() else "does not exist"
        )
        raise PydanticCustomError(NO_FILE, "{why}", {"why": f"{shown(str(path))} {why}"})
    return path


def _folder(value: Any) -> Path:
    """One that is there, or can be made as far as what is there tells."""
    path = _path(value)
    there = next((p for p in (path, *path.absolute().parents) if p.exists()), path)
    if not there.is_dir():
        raise ValueError
    return path


def listed(value: Any) -> Any:
    """One path as a list of it."""
    return [value] if isinstance(value, str | Path) else value


AnyPath = Annotated[Path, BeforeValidator(_path)]
File = Annotated[Path, BeforeValidator(_file)]
Folder = Annotated[Path, BeforeValidator(_folder)]


def described(words: str) -> Any:
    """A path that may be left out."""
    return Field(default=None, description=f"{words}, or null")
