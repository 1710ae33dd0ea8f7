"""A measurement in a folder: JSON for figures, Parquet for tables; read whole or not at all."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from calib.errors import CalibError
from calib.measure.reference.measurement import Measurement

if TYPE_CHECKING:
    pass


SCHEMA_VERSION = 2
"""Version of the stored measurement. History: 1, the first; 2, with ``lengths``."""
_READABLE = (1, 2)
"""What an older version lacks gets its default."""

_TABLES = ("modules", "operators")


def save_measurement(measurement: Measurement, folder: str | Path) -> Path:
    """Write ``measurement.json``, ``modules.parquet`` and ``operators.parquet``, each whole.

    Raises ``CalibError`` where the folder cannot be written.
    """
    folder = Path(folder)
    plain = {
        f.name: getattr(measurement, f.name) for f in fields(measurement) if f.name not in _TABLES
    }
    text = json.dumps({"schema_version": SCHEMA_VERSION, **plain}, indent=1)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name in _TABLES:
            _write(folder / f"{name}.parquet", getattr(measurement, name).to_parquet)
        _write(folder / "measurement.json", lambda path: path.write_text(text))
    except OSError as error:
        raise CalibError(
            f"measurement: cannot write {folder}: {error.strerror or error}"
        ) from error
    return folder


def _write(path: Path, write: Callable[[Path], Any]) -> None:
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=".part-", suffix=".tmp")
    os.close(handle)
    try:
        write(Path(name))
        os.replace(name, path)
    finally:
        Path(name).unlink(missing_ok=True)


def load_measurement(folder: str | Path) -> Measurement:
    """Read what :func:`save_measurement` wrote.

    Raises ``CalibError`` for a folder that lacks a file, holds a broken one or another version.
    """
    import pandas as pd

    folder = Path(folder)
    try:
        plain: dict[str, Any] = json.loads((folder / "measurement.json").read_text())
        tables: dict[str, Any] = {
            name: pd.read_parquet(folder / f"{name}.parquet") for name in _TABLES
        }
    except (OSError, ValueError) as error:
        raise CalibError(f"measurement: {folder} does not hold a whole one: {error}") from error
    version = plain.pop("schema_version", None)
    if version not in _READABLE:
        raise CalibError(
            f"measurement: {folder} has schema version {version}: expected {SCHEMA_VERSION}; "
            "measure again"
        )
    workload = plain["workload"]
    if workload.get("tiles") is not None:
        workload["tiles"] = tuple(workload["tiles"])
    return Measurement(**{**plain, **tables})
