"""Samples in Parquet files that open in pandas: the table's schema, and its history."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

from calib.errors import CalibError
from calib.samples.faults import recorded_faults
from calib.samples.sample import Kernel, Sample
from model.ops import OPERATORS, Copy, Elementwise, Operator

SCHEMA_VERSION = 3
"""Version of the table below. History: 1, the first; 2, with ``method`` and ``discarded``; 3, with
``probe_host``, ``fault``, ``backend``, ``kernels``, the axes of maps and copies, and seconds that
are a device's busy time."""

_SINCE_3 = ("probe_host", "fault", "backend", "kernels")
_READABLE = {"1": ("method", "discarded", *_SINCE_3), "2": _SINCE_3, "3": ()}
"""Versions that can be read, and the columns they lack: such samples get the defaults, and the
faults that how they were timed tells."""


def op_to_json(op: Operator) -> str:
    """All fields of an operator as JSON, in a fixed order."""
    return json.dumps(asdict(op))


def op_from_json(kind: str, text: str) -> Operator:
    if kind not in OPERATORS:
        raise CalibError(f"samples: kind = {kind!r}: expected one of {', '.join(OPERATORS)}")
    return OPERATORS[kind](**json.loads(text))


_PLAIN = [f.name for f in fields(Sample) if f.name not in ("op", "seconds", "kernels", "versions")]


def _schema() -> Any:
    import pyarrow as pa

    text, number = pa.string(), pa.float64()
    types = dict.fromkeys(_PLAIN, text)
    types |= {n: number for n in _PLAIN if n.startswith(("probe_", "sm_", "memory_", "power_"))}
    types |= {"temperature_c": number, "threads": pa.int64(), "discarded": pa.int64()}
    three = pa.list_(pa.int64())
    kernel = [("name", text), ("grid", three), ("block", three), ("share", number)]
    columns = {"kind": text, "shape": text, "seconds": pa.list_(number), **types}
    columns |= {"kernels": pa.list_(pa.struct(kernel)), "versions": text}
    return pa.schema(list(columns.items()), metadata={"calib_schema": str(SCHEMA_VERSION)})


def _row(sample: Sample) -> dict[str, Any]:
    plain = {name: getattr(sample, name) for name in _PLAIN}
    return {
        "kind": sample.op.operator,
        "shape": op_to_json(sample.op),
        "seconds": [float(s) for s in sample.seconds],
        "kernels": [asdict(kernel) for kernel in sample.kernels],
        "versions": json.dumps(sample.versions),
        **plain,
    }


def write_samples(path: str | Path, samples: Iterable[Sample]) -> Path:
    """Write ``samples`` as one Parquet file, whole or not at all.

    Raises ``CalibError`` where the folder cannot be written or the disk is full.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = Path(path)
    table = pa.Table.from_pylist([_row(s) for s in samples], schema=_schema())
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".part-", suffix=".tmp")
        os.close(handle)
        pq.write_table(table, temporary)
        os.replace(temporary, path)
    except OSError as error:
        if temporary:
            Path(temporary).unlink(missing_ok=True)
        reason = error.strerror or error
        raise CalibError(f"samples: cannot write {path}: {reason}; earlier samples are intact")
    return path


def read_samples(
    path: str | Path, hardware: str | None = None, device: str | None = None
) -> list[Sample]:
    """The samples of a Parquet file, or of every part in a folder, oldest part first.

    Raises ``CalibError`` for a file that is missing, truncated or of another schema version, and,
    where ``hardware`` or ``device`` is given, for samples of another one.
    """
    path = Path(path)
    if not path.exists():
        raise CalibError(f"samples: {path} does not exist: expected a Parquet file or a folder")
    parts = sorted(path.glob("*.parquet")) if path.is_dir() else [path]
    samples = [sample for part in parts for sample in _read_part(part)]
    for name, expected in (("hardware", hardware), ("device", device)):
        found = {getattr(s, name) for s in samples}
        if expected is not None and found - {expected}:
            raise CalibError(
                f"samples: {path} holds {name} = {', '.join(sorted(found - {expected}))}: "
                f"expected {expected}; use another samples.dir for another device"
            )
    return samples


def _read_part(path: Path) -> list[Sample]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise CalibError(
            f"samples: {path} is not a whole Parquet file ({error}); move it away and run again"
        )
    version = (table.schema.metadata or {}).get(b"calib_schema", b"none").decode()
    if version not in _READABLE:
        raise CalibError(
            f"samples: {path} has schema version {version}: expected {SCHEMA_VERSION}; "
            "measure again or use the version of calib that wrote it"
        )
    lacks = _READABLE[version]
    names = [name for name in _PLAIN if name not in lacks]
    samples = [_sample(row, names) for row in table.to_pylist()]
    if "fault" not in lacks:
        return samples
    return [replace(s, op=laid_out(s.op), fault=recorded_faults(s)) for s in samples]


def laid_out(op: Operator) -> Operator:
    """``op`` of an older file with the axes that its tensors had when it was measured: an even copy
    put two halves side by side, of a multiple of 128 in rows of 64; a sum with fewer elements
    repeated rows; one of two short ones was an outer sum."""
    if isinstance(op, Copy) and op.out_dtype in (None, op.dtype):
        odd = op.elements % 2
        return replace(
            op, axes=1 if odd or op.elements == 2 else 3 if op.elements % 128 == 0 else 2
        )
    if not isinstance(op, Elementwise):
        return op
    if op.inputs == 0 and op.broadcast:
        return replace(op, axes=3)
    repeated = op.inputs == 1 and 0 < op.broadcast < op.elements
    return replace(op, axes=1 + op.transposed + repeated)


def _sample(row: dict[str, Any], names: Sequence[str]) -> Sample:
    plain = {name: row[name] for name in names}
    op = op_from_json(row["kind"], row["shape"])
    return Sample(
        op=op,
        seconds=row["seconds"],
        kernels=tuple(_kernel(k) for k in row.get("kernels") or ()),
        versions=json.loads(row["versions"]),
        **plain,
    )


def _kernel(row: dict[str, Any]) -> Kernel:
    return Kernel(row["name"], tuple(row["grid"]), tuple(row["block"]), row["share"])
