"""Tables on disk: whole or not at all, with a checksum on every page."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from calib.errors import CalibError
from calib.samples.parts.claims import create, sync_folder

TEMPORARY = (".part-", ".tmp")


def save(path: Path, table: Any) -> None:
    """When this returns, ``table`` lies at ``path`` and stays there if the machine goes down.

    Raises ``CalibError`` where the folder cannot be written or the disk is full.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    temporary, whole = None, pa.BufferOutputStream()
    try:
        pq.write_table(table, whole, write_page_checksum=True)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary, file = create(path.parent, *TEMPORARY)
        with file:
            file.write(whole.getvalue())
            file.flush()
            os.fsync(file.fileno())
            os.replace(temporary, path)
        sync_folder(path.parent)
    except OSError as error:
        if temporary:
            temporary.unlink(missing_ok=True)
        reason = error.strerror or error
        raise CalibError(f"samples: cannot write {path}: {reason}; earlier samples are intact")
    except BaseException:  # a signal: nothing half written stays
        if temporary:
            temporary.unlink(missing_ok=True)
        raise


def read_bytes(path: Path) -> bytes:
    """Raises ``CalibError`` for a file that may not be read, ``FileNotFoundError`` for none."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise
    except OSError as error:
        raise CalibError(f"samples: cannot read {path}: {error.strerror or error}")


def load(raw: bytes, path: Path) -> Any:
    """The table that was read from ``path``. Raises ``CalibError`` where it is not whole."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.ParquetFile(pa.BufferReader(raw), page_checksum_verification=True).read()
        table.validate(full=True)
        return table
    except Exception as error:  # a parser of bytes that may be anything: what it raises differs
        said = " ".join(str(error).split())[:300]
        raise CalibError(
            f"samples: {path} is not a whole Parquet file ({said}); move it away and run again"
        )
