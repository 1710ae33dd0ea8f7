"""The table of samples: its columns, their types, and its history."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from calib.errors import CalibError
from calib.samples.parts.shapes import op_to_json
from calib.samples.sample import Sample

SCHEMA_VERSION = "3"
"""Version of the table below. History: 1, the first; 2, with ``method`` and ``discarded``; 3, with
``probe_host``, ``fault``, ``backend``, ``kernels``, the axes of maps and copies, and seconds that
are a device's busy time."""

SINCE_3 = ("probe_host", "fault", "backend", "kernels")
READABLE = {"1": ("method", "discarded", *SINCE_3), "2": SINCE_3, "3": ()}
"""Versions that can be read, and the columns they lack: such samples get the defaults, and the
faults that how they were timed tells."""
VERSION, REPLACES = b"calib_schema", b"calib_replaces"
"""Keys of a file's metadata: the version above; what a merged part stands for
(:mod:`calib.samples.parts.folder`)."""

PLAIN = [f.name for f in fields(Sample) if f.name not in ("op", "seconds", "kernels", "versions")]


def schema() -> Any:
    import pyarrow as pa

    text, number = pa.string(), pa.float64()
    types = dict.fromkeys(PLAIN, text)
    types |= {n: number for n in PLAIN if n.startswith(("probe_", "sm_", "memory_", "power_"))}
    types |= {"temperature_c": number, "threads": pa.int64(), "discarded": pa.int64()}
    three = pa.list_(pa.int64())
    kernel = [("name", text), ("grid", three), ("block", three), ("share", number)]
    columns = {"kind": text, "shape": text, "seconds": pa.list_(number), **types}
    columns |= {"kernels": pa.list_(pa.struct(kernel)), "versions": text}
    return pa.schema(list(columns.items()), metadata={VERSION: SCHEMA_VERSION})


def table_of(samples: Sequence[Sample], path: Path) -> Any:
    """``samples`` as they are written to ``path``. Raises ``CalibError`` for a value of another
    type than its column's."""
    import pyarrow as pa

    columns = schema()
    try:
        return pa.Table.from_pylist([_row(s) for s in samples], schema=columns)
    except (pa.ArrowException, TypeError, ValueError, OverflowError, AttributeError):
        for place, sample in enumerate(samples):
            try:
                pa.Table.from_pylist([_row(sample)], schema=columns)
            except Exception as error:  # whatever the first attempt met, once more
                raise CalibError(f"samples: cannot write {path}: row {place}: {error}")
        raise


def _row(sample: Sample) -> dict[str, Any]:
    return {
        "kind": sample.op.operator,
        "shape": op_to_json(sample.op),
        "seconds": [float(s) for s in sample.seconds],
        "kernels": [asdict(kernel) for kernel in sample.kernels],
        "versions": json.dumps(sample.versions),
        **{name: getattr(sample, name) for name in PLAIN},
    }


def version_of(found: Any, path: Path) -> str:
    """The version of a file's schema, which has every column of it in its type.

    Raises ``CalibError`` that names the column. Columns of other names are not read.
    """
    version = (found.metadata or {}).get(VERSION, b"none").decode("utf-8", "replace")
    if version not in READABLE:
        raise CalibError(
            f"samples: {path} has schema version {version}: expected {SCHEMA_VERSION}; "
            "measure again or use the version of calib that wrote it"
        )
    newer = READABLE[version]
    if newer and set(newer) <= set(found.names):
        raise CalibError(
            f"samples: {path} has schema version {version} and columns that came later "
            f"({', '.join(newer)}): expected a file as calib wrote it; measure again"
        )
    for field in schema():
        here = [found.field(place).type for place in found.get_all_field_indices(field.name)]
        if field.name not in newer and here != [field.type]:
            types = ", ".join(str(each) for each in here) or "no such column"
            raise CalibError(
                f"samples: {path}: column {field.name} = {types}: expected {field.type}"
            )
    return version
