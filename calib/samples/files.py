"""Samples in Parquet files that open in pandas, through one gate on both ways."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Any

from calib.errors import CalibError
from calib.samples.faults import recorded_faults
from calib.samples.parts.columns import Rows, decode
from calib.samples.parts.folder import snapshot, standing
from calib.samples.parts.parquet import read_bytes, save
from calib.samples.parts.schema import READABLE, SCHEMA_VERSION, schema, table_of, version_of
from calib.samples.parts.shapes import laid_out, op_from_json, op_to_json
from calib.samples.sample import Sample

__all__ = ["laid_out", "op_from_json", "op_to_json", "read_samples", "write_samples"]

RAISE, SKIP = "raise", "skip"

log = logging.getLogger(__name__)


class Read(list[Sample]):
    """Samples that were read, and how many rows were ``left_out``."""

    left_out: int = 0


def write_samples(path: str | Path, samples: Iterable[Sample]) -> Path:
    """Write ``samples`` as one Parquet file, whole or not at all; then it is on disk.

    Raises ``CalibError`` where the folder cannot be written or the disk is full, and for a sample
    that could not be read again.
    """
    path = Path(path)
    save(path, checked_table(samples, path))
    return path


def checked_table(samples: Iterable[Sample], path: Path) -> Any:
    """``samples`` as a table. Raises ``CalibError`` for one that could not be read again."""
    table = table_of(list(samples), path)
    refused = decode(table, SCHEMA_VERSION).refused
    if refused:
        raise CalibError(f"samples: cannot write {path}: {_first(refused)}")
    return table


def read_samples(
    path: str | Path,
    hardware: str | None = None,
    device: str | None = None,
    *,
    on_error: str = RAISE,
) -> Read:
    """The samples of a Parquet file, or of every part in a folder, oldest part first.

    A row that cannot be is refused by file, row (from 0), column, value and what is accepted;
    ``on_error="skip"`` leaves such rows out, says so in the log and counts them (``left_out`` of
    the result). Raises ``CalibError`` for that, for a file that is missing, truncated or of another
    schema version, and, where ``hardware`` or ``device`` is given, for samples of another one.
    """
    if on_error not in (RAISE, SKIP):
        raise CalibError(f"on_error = {on_error!r}: expected {RAISE} or {SKIP}")
    path = Path(path)
    try:
        parts = snapshot(path) if path.is_dir() else [(path, read_bytes(path))]
    except FileNotFoundError:
        raise CalibError(f"samples: {path} does not exist: expected a Parquet file or a folder")
    samples = samples_of(standing(parts), on_error == SKIP)
    for name, expected in (("hardware", hardware), ("device", device)):
        found = {getattr(s, name) for s in samples}
        if expected is not None and found - {expected}:
            raise CalibError(
                f"samples: {path} holds {name} = {', '.join(sorted(found - {expected}))}: "
                f"expected {expected}; use another samples.dir for another device"
            )
    return samples


def samples_of(tables: Sequence[tuple[Path, Any]], skip: bool = False) -> Read:
    """The rows of all ``tables``, in order; those of one version are checked together."""
    import pyarrow as pa

    read = Read()
    versions = [version_of(table.schema, path) for path, table in tables]
    pairs = zip(versions, tables, strict=True)
    for version, group in groupby(pairs, key=lambda pair: pair[0]):
        some = [pair[1] for pair in group]
        # columns that no version has are not carried on, nor is any metadata
        names = [n for n in schema().names if n not in READABLE[version]]
        bare = [table.select(names).replace_schema_metadata() for _, table in some]
        rows = decode(pa.concat_tables(bare), version)
        _answer_for(rows, some, skip)
        read.left_out += len(rows.refused)
        read += _built(rows, version)
    return read


def _answer_for(rows: Rows, tables: Sequence[tuple[Path, Any]], skip: bool) -> None:
    """Say which rows of ``tables`` are refused. Raises ``CalibError`` unless they are skipped."""
    start = 0
    for path, table in tables if rows.refused else ():
        mine = {r - start: why for r, why in rows.refused.items() if 0 <= r - start < len(table)}
        start += len(table)
        if mine and not skip:
            raise CalibError(f"samples: {path}: {_first(mine)}")
        if mine:
            log.warning("samples: %s: %d rows are left out: %s", path, len(mine), _first(mine))


def _first(refused: dict[int, str]) -> str:
    row = min(refused)
    more = f"and {len(refused) - 1} more rows; " if len(refused) > 1 else ""
    return f"row {row}: {refused[row]} ({more}rows count from 0)"


def _built(rows: Rows, version: str) -> list[Sample]:
    names = list(rows.values)
    columns = zip(*rows.values.values(), strict=True)
    samples = [
        Sample(**dict(zip(names, values, strict=True)))
        for row, values in enumerate(columns)
        if row not in rows.refused
    ]
    if "fault" not in READABLE[version]:
        return samples
    return [replace(s, fault=recorded_faults(s)) for s in samples]
