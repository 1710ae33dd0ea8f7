"""A folder of a run belongs to one process at a time: two would mix their files."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from calib.errors import CalibError

LOCK = ".lock"


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Hold ``folder`` until the block ends. Raises ``CalibError`` where another process does."""
    from filelock import FileLock, Timeout

    lock = FileLock(folder / LOCK)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        raise CalibError(
            f"{folder}: another run is writing there: expected a folder of its own, "
            "hydra.run.dir=<folder>"
        ) from None
    except (OSError, NotImplementedError):  # no locks on this file system; a folder that cannot be
        yield  # written is told of where the report is
        return
    try:
        yield
    finally:
        lock.release()
