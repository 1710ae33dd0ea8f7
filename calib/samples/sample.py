"""Samples: what was measured, kept raw, in Parquet files that open in pandas.

A sample is one operator on one device, executed by one implementation: the list of raw repeats in
seconds, and the circumstances. Statistics are derived, never stored. A store is a folder of part
files; each part is written to a temporary name and then renamed, so a sweep that is killed loses at
most the block it was measuring, and what is on disk is always whole.
"""

from __future__ import annotations

import json
import os
import statistics
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from calib.errors import CalibError
from model.ops import OPERATORS, Operator

COLD, HOT = "cold", "hot"

SCHEMA_VERSION = 2
"""Version of the table below. History: 1, the first; 2, with ``method`` and ``discarded``."""
_READABLE = {"1": ("method", "discarded"), "2": ()}
"""Versions that can be read, and the columns they lack: such samples get the defaults."""


@dataclass(frozen=True)
class Sample:
    """One operator, measured; where a device's speed wanders, one visit of several.

    ``seconds``: raw repeats. ``hardware``: the card's name as in ``conf/hw``. ``cache``: ``cold``
    (weights, or all inputs where there are none, come from main memory) or ``hot``. ``origin``:
    ``design`` (a shape of the sweep's own design), ``model`` (a shape of a model under study, which
    a fit can leave out) or ``public``. ``group``: samples that are held out together; empty means
    the operator's own grouping. ``probe_flops`` and ``probe_bandwidth``: what a fixed matmul and a
    fixed copy reached around this sample's block, for the drift of the machine. ``status``:
    ``ok``, ``unsupported`` or ``out of memory`` (then ``seconds`` is empty), ``wrong`` (not the
    reference's output), ``throttled`` or ``lost`` (the process lost the device over it).
    ``method``: how it was timed (``wall``, ``events``, ``unheld``, ``graph``; empty where no one
    says); ``discarded``: repeats thrown away.
    """

    op: Operator
    seconds: Sequence[float]
    hardware: str
    implementation: str
    cache: str = "cold"
    inputs: str = "random"
    origin: str = "design"
    group: str = ""
    status: str = "ok"
    device: str = ""
    threads: int | None = None
    probe_flops: float | None = None
    probe_bandwidth: float | None = None
    sm_clock_hz: float | None = None
    memory_clock_hz: float | None = None
    power_w: float | None = None
    temperature_c: float | None = None
    throttle: str = ""
    method: str = ""
    discarded: int = 0
    started: str = ""
    versions: dict[str, str] = field(default_factory=dict)

    @property
    def median(self) -> float:
        """Median of the raw repeats, in seconds."""
        return statistics.median(self.seconds)

    @property
    def expected(self) -> float:
        """Mean of the raw repeats [s], those beyond the upper far fence (Tukey) pulled in to it.

        A model's time is a sum over operators, and what sums up is the expectation: medians leave
        out every small delay that a model meets too. Of an interruption only its bound counts.
        """
        if len(self.seconds) < 4:
            return self.median
        first, _, third = statistics.quantiles(self.seconds, n=4, method="inclusive")
        fence = third + 3 * (third - first)
        return statistics.fmean(min(s, fence) for s in self.seconds)

    @property
    def key(self) -> tuple[Any, ...]:
        """What makes two samples repeats of one another."""
        return (self.op, self.hardware, self.implementation, self.cache, self.inputs)


def op_to_json(op: Operator) -> str:
    """All fields of an operator as JSON, in a fixed order."""
    return json.dumps(asdict(op))


def op_from_json(kind: str, text: str) -> Operator:
    if kind not in OPERATORS:
        raise CalibError(f"samples: kind = {kind!r}: expected one of {', '.join(OPERATORS)}")
    return OPERATORS[kind](**json.loads(text))


_PLAIN = [f.name for f in fields(Sample) if f.name not in ("op", "seconds", "versions")]


def _schema() -> Any:
    import pyarrow as pa

    text, number = pa.string(), pa.float64()
    types = dict.fromkeys(_PLAIN, text)
    types |= {n: number for n in _PLAIN if n.startswith(("probe_", "sm_", "memory_", "power_"))}
    types |= {"temperature_c": number, "threads": pa.int64(), "discarded": pa.int64()}
    columns = {"kind": text, "shape": text, "seconds": pa.list_(number), **types, "versions": text}
    return pa.schema(list(columns.items()), metadata={"calib_schema": str(SCHEMA_VERSION)})


def _row(sample: Sample) -> dict[str, Any]:
    plain = {name: getattr(sample, name) for name in _PLAIN}
    return {
        "kind": sample.op.operator,
        "shape": op_to_json(sample.op),
        "seconds": [float(s) for s in sample.seconds],
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
    names = [name for name in _PLAIN if name not in _READABLE[version]]
    return [_sample(row, names) for row in table.to_pylist()]


def _sample(row: dict[str, Any], names: Sequence[str]) -> Sample:
    plain = {name: row[name] for name in names}
    op = op_from_json(row["kind"], row["shape"])
    return Sample(op=op, seconds=row["seconds"], versions=json.loads(row["versions"]), **plain)


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
