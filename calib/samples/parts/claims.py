"""Files in progress: each is locked by the process that makes it, and its death unlocks it.

So whoever can lock a file that another process left knows that this process is dead. No process
numbers are compared, which are used again, and mean nothing in another container.
"""

from __future__ import annotations

import os
import secrets
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO


def create(folder: Path, prefix: str, suffix: str) -> tuple[Path, BinaryIO]:
    """A new file of a name that nobody has, locked until it is closed."""
    while True:
        path = folder / f"{prefix}{secrets.token_hex(8)}{suffix}"
        file = path.open("x+b")
        if _lock(file, otherwise=True) and os.fstat(file.fileno()).st_nlink:
            return path, file
        file.close()  # before it was locked, who clears away took it for abandoned


def claim(path: Path) -> BinaryIO | None:
    """The file at ``path``, which is made where it is missing, locked until it is closed.

    None where a live process has it, and where the file system knows no locks.
    """
    while True:
        file = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o666), "r+b")
        if not _lock(file, otherwise=False):
            file.close()
            return None
        if os.fstat(file.fileno()).st_nlink:
            return file
        file.close()  # its last owner removed it after we opened it


def abandoned(path: Path) -> BinaryIO | None:
    """The file at ``path``, locked, if the process that made it is dead."""
    with suppress(OSError):
        file = path.open("r+b")
        if _lock(file, otherwise=False) and os.fstat(file.fileno()).st_nlink:
            return file
        file.close()
    return None


def _lock(file: BinaryIO, otherwise: bool) -> bool:
    """Whether this process has the lock; ``otherwise`` where the file system knows no locks."""
    from filelock import lock_descriptor

    try:
        return lock_descriptor(file.fileno(), blocking=False)
    except OSError:
        return otherwise


def sync_folder(folder: Path) -> None:
    """Have the names in ``folder`` on disk, as fsync has the contents of a file."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
