"""A folder of sample files that only grows, whoever else writes to it at the time.

What :meth:`SampleStore.append` returned from is on disk and stays. A sweep that is killed loses at
most the block it was measuring; what it left half done is cleared away by the next who opens the
store. Files of ours and not a database: any number of processes add to it without waiting for one
another, on a network's file system too, and users read the very files (docs/measuring.md).
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path

from calib.errors import CalibError
from calib.samples.files import checked_table, read_samples, samples_of, write_samples
from calib.samples.parts.claims import claim, sync_folder
from calib.samples.parts.folder import (
    LOCK,
    MERGED,
    clear_abandoned,
    clear_replaced,
    new_name,
    own_parts,
    replacing,
    snapshot,
    standing,
)
from calib.samples.parts.parquet import save
from calib.samples.sample import Sample


class SampleStore:
    """A folder of sample parts that only grows: ``append`` adds one part, ``samples`` reads all."""

    def __init__(self, folder: str | Path, hardware: str, device: str):
        self.folder = Path(folder)
        self.hardware = hardware
        self.device = device

    def samples(self) -> list[Sample]:
        """Every sample once, after what killed processes left is cleared away."""
        if not self.folder.exists():
            return []
        self._heal()
        return merge(read_samples(self.folder, self.hardware, self.device))

    def check_writable(self) -> None:
        """Make the folder and a file in it. Raises ``CalibError`` where that is not allowed."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.folder, prefix=".part-"):
                pass
        except OSError as error:
            raise CalibError(
                f"samples: cannot write {self.folder}: {error.strerror or error}; give a "
                "samples.dir that can be written to"
            ) from None

    def append(self, samples: Sequence[Sample]) -> Path:
        """Write ``samples`` as the next part, on disk on return. Refuses samples of another device,
        and those that could not be read again."""
        for sample in samples:
            if (sample.hardware, sample.device) != (self.hardware, self.device):
                raise CalibError(
                    f"samples: device = {sample.device!r} on {sample.hardware!r}: "
                    f"{self.folder} holds {self.device!r} on {self.hardware!r} only"
                )
        return write_samples(self.folder / new_name(), samples)

    def compact(self) -> None:
        """Merge all parts into one file, unless another process is at it.

        May be interrupted anywhere, and others may read and append meanwhile. Raises
        ``CalibError`` where the folder cannot be written.
        """
        if len(own_parts(self.folder)) < 2:
            return
        try:
            self._alone(self._merge_parts)
        except OSError as error:
            raise CalibError(
                f"samples: cannot write {self.folder}: {error.strerror or error}; earlier samples "
                "are intact"
            )

    def _heal(self) -> None:
        """Clear away what killed processes left; what can only be read is left as it is."""
        with suppress(OSError):
            clear_abandoned(self.folder)
            own = own_parts(self.folder)
            if len(own) > 1 and any(part.stem.endswith(MERGED) for part in own):
                self._alone(lambda: None)

    def _alone(self, work: Callable[[], None]) -> None:
        """Do ``work`` on whole parts, unless another process is at such work."""
        lock = claim(self.folder / LOCK)
        if lock is None:
            return
        with lock:
            try:
                clear_replaced(self.folder)
                work()
            finally:
                (self.folder / LOCK).unlink(missing_ok=True)

    def _merge_parts(self) -> None:
        own = own_parts(self.folder)
        parts = [(path, raw) for path, raw in snapshot(self.folder) if path in own]
        if len(parts) < 2:
            return
        path = self.folder / new_name(parts[-1][0])
        table = checked_table(merge(samples_of(standing(parts))), path)
        save(path, replacing(table, parts))
        for old, _ in parts:
            old.unlink(missing_ok=True)
        sync_folder(self.folder)


def merge(samples: Iterable[Sample]) -> list[Sample]:
    """Drop what is there twice: the same operator and circumstances, begun at the same moment, with
    the same seconds. What does not say when it was begun is kept."""
    unique = {
        (*s.key, s.group, s.origin, s.started, tuple(s.seconds)) if s.started else i: s
        for i, s in enumerate(samples)
    }
    return list(unique.values())
