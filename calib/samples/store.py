"""A folder of sample files that only grows.

Each part is written to a temporary name and then renamed, so a sweep that is killed loses at most
the block it was measuring, and what is on disk is always whole.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

from calib.errors import CalibError
from calib.samples.files import read_samples, write_samples
from calib.samples.sample import Sample


class SampleStore:
    """A folder of sample parts that only grows: ``append`` adds one part, ``samples`` reads all."""

    def __init__(self, folder: str | Path, hardware: str, device: str):
        self.folder = Path(folder)
        self.hardware = hardware
        self.device = device

    def samples(self) -> list[Sample]:
        if not self.folder.exists():
            return []
        return read_samples(self.folder, self.hardware, self.device)

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
        """Write ``samples`` as the next part. Refuses samples of another device."""
        for sample in samples:
            if (sample.hardware, sample.device) != (self.hardware, self.device):
                raise CalibError(
                    f"samples: device = {sample.device!r} on {sample.hardware!r}: "
                    f"{self.folder} holds {self.device!r} on {self.hardware!r} only"
                )
        last = max((int(p.stem) for p in self.folder.glob("[0-9]*.parquet")), default=0)
        return write_samples(self.folder / f"{last + 1:06d}.parquet", samples)

    def compact(self) -> None:
        """Merge all parts into one file; what was stored stays stored if this is interrupted.

        The merged part takes the number of the newest, and the older ones go after it is in place:
        a crash between the two leaves duplicates, which :func:`merge` drops.
        """
        parts = sorted(self.folder.glob("[0-9]*.parquet"))
        if len(parts) > 1:
            write_samples(parts[-1], merge(self.samples()))
            for part in parts[:-1]:
                part.unlink()


def merge(samples: Iterable[Sample]) -> list[Sample]:
    """Drop exact duplicates (same operator, circumstances and start)."""
    unique = {(*s.key, s.started, tuple(s.seconds)): s for s in samples}
    return list(unique.values())
