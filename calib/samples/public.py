"""Public measured tables as samples: other people's timings of GEMM, attention, MoE and pointwise
kernels.

The package ``aiconfigurator-core`` (Apache-2.0, the extra ``public``) ships Parquet tables measured
on nine of our cards by three inference engines. A row is one shape and one latency in milliseconds:
a CUDA graph replayed, 3 warm-ups, the mean of 6. What that means here:

- ``cache: hot``: inputs are replayed from a few copies and the L2 is not flushed;
- ``inputs: uninitialised`` for vLLM, whose weights are whatever memory held; else ``unknown``;
- ``implementation``: engine, version and, where an engine has several kernels for one kind, the
  kernel: ``vllm-0.24.0`` (its linear layer is cuBLAS), ``vllm-0.24.0/flash_attn_3``. One fit an
  implementation, so kernels never mix. ``pooled`` leaves the version out, so that cards which were
  measured with different versions can be fitted together;
- an engine is pinned to one version a card: two versions differ by 10% on the same shape.

The meaning of the columns was checked against the datasheet: generation attention reads
``step + isl`` keys (then the largest tables reach 93% of an H200's bandwidth and none exceeds it);
a MoE split over ``moe_tp_size`` ranks has ``inter_size / moe_tp_size`` columns an expert. Routing
differs: ``balanced`` touches min(experts, tokens x top_k) experts, the power laws fewer than
uniform routing would.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import logging
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from calib.errors import CalibError
from calib.samples.public_tables import CARDS, ENGINES, KERNELS, LINEAR, TABLES, Table
from calib.samples.sample import Sample

log = logging.getLogger(__name__)

PACKAGE = "aiconfigurator-core"


def package_data() -> Path:
    """The folder with a folder a card; the package itself is not imported.

    Raises ``CalibError`` where it is not installed.
    """
    found = importlib.util.find_spec("aiconfigurator_core")
    if found is None or found.origin is None:
        raise CalibError(
            f"public tables: the package {PACKAGE} is not installed: "
            "expected `make public` or `pip install 'calib[public]'`"
        )
    return Path(found.origin).parent / "systems" / "data"


def engine_version(card: str, engine: str) -> str:
    """The version of ``engine`` that is read on ``card``. Raises ``CalibError`` for other names."""
    for name, value, known in (("hw", card, CARDS), ("engine", engine, ENGINES)):
        if value not in known:
            raise CalibError(f"public tables: {name} = {value!r}: expected one of {list(known)}")
    version, exceptions = ENGINES[engine]
    return exceptions.get(card, version)


def read_table(
    card: str,
    table: str,
    *,
    engine: str = "vllm",
    pooled: bool = False,
    dtypes: Sequence[str] = ("bfloat16",),
    root: Path | None = None,
) -> pd.DataFrame:
    """One table as columns: the operator's fields, seconds, and the circumstances of a sample.

    ``dtypes``: ours, of the rows wanted. ``root``: the tables' folder, by default the package's.
    Bad rows and rows that the operator cannot express are dropped; the log says how many and why.

    Raises ``CalibError`` for a card, table or engine that is not known, or a file that is missing.
    """
    path = _path(card, table, engine)
    spec = TABLES[table]
    rows = _usable(_read(root or package_data(), path), spec, dtypes, str(path))
    shapes = pd.DataFrame(spec.fields(rows), index=rows.index)
    shapes["dtype"] = spec.dtypes(rows)
    shapes["seconds"] = rows["latency"] * 1e-3
    shapes["hardware"] = card
    shapes["group"] = _group(shapes, spec.group)
    name = engine if pooled else f"{engine}-{engine_version(card, engine)}"
    shapes["implementation"] = [f"{name}{_kernel(k, engine)}" for k in rows["kernel_source"]]
    shapes["inputs"] = "uninitialised" if engine == "vllm" else "unknown"
    shapes["device"] = rows["device"]
    keys = [c for c in shapes if c != "seconds"]
    repeated = shapes.duplicated(keys).to_numpy()
    if repeated.any():
        log.info("%s: dropped %d rows: a shape measured before", path, repeated.sum())
    return shapes[~repeated].reset_index(drop=True)


def _path(card: str, table: str, engine: str) -> Path:
    if table not in TABLES:
        raise CalibError(f"public tables: table = {table!r}: expected one of {list(TABLES)}")
    version = engine_version(card, engine)
    return Path(CARDS[card], TABLES[table].folder, engine, version, f"{table}_perf.parquet")


def has_table(card: str, table: str, engine: str = "vllm", root: Path | None = None) -> bool:
    """Whether the package has ``table`` for ``card``. Raises as :func:`read_table` does."""
    return (root or package_data()).joinpath(_path(card, table, engine)).exists()


def _group(shapes: pd.DataFrame, names: tuple[str, ...]) -> pd.Series:
    """The part of a shape that is held out whole, as text."""
    columns = zip(*(shapes[name] for name in names), strict=True)
    return pd.Series(["/".join(map(str, values)) for values in columns], shapes.index, dtype=str)


def _read(root: Path, path: Path) -> pd.DataFrame:
    try:
        return pd.read_parquet(root / path)
    except FileNotFoundError:
        raise CalibError(f"public tables: {root / path} does not exist")


def _usable(rows: pd.DataFrame, spec: Table, dtypes: Sequence[str], where: str) -> pd.DataFrame:
    """The rows wanted, without the bad ones; each reason to drop a row is counted in the log."""
    missing = {"latency", "kernel_source", spec.dtype, *spec.sizes} - set(rows)
    if missing:
        raise CalibError(f"public tables: {where} has no column {', '.join(sorted(missing))}")
    rows = rows[spec.dtypes(rows).isin(dtypes)]
    reasons: dict[str, Callable[[pd.DataFrame], Any]] = {
        "a size of zero": lambda r: ~(r[list(spec.sizes)] > 0).all(axis=1),
        "a latency of zero": lambda r: ~(r["latency"] > 0),
        **spec.unfit,
    }
    for reason, is_bad in reasons.items():
        bad = np.asarray(is_bad(rows), dtype=bool)
        if bad.any():
            log.info("%s: dropped %d rows: %s", where, bad.sum(), reason)
            rows = rows[~bad]
    return rows


def _kernel(source: str, engine: str) -> str:
    """A kernel source as the end of an implementation's name: ``/flash_attn_3``, or nothing."""
    if source in LINEAR:
        return ""
    if source in KERNELS:
        return f"/{KERNELS[source]}"
    name = source.removeprefix(f"{engine}_").removeprefix("vit_")
    return "/" + re.sub(r"^(flash_attn_)?fa(\d)$", r"flash_attn_\2", name)


_CIRCUMSTANCES = ("hardware", "implementation", "inputs", "group", "device")


def samples_of(rows: pd.DataFrame, table: str) -> list[Sample]:
    """The rows of :func:`read_table` as samples, in order."""
    operator = TABLES[table].operator
    shape = [f.name for f in fields(operator) if f.name in set(rows) - set(_CIRCUMSTANCES)]
    versions = {PACKAGE: _package_version()}
    shapes = zip(*(rows[name].tolist() for name in shape), strict=True)
    others = zip(*(rows[name].tolist() for name in _CIRCUMSTANCES), strict=True)
    return [
        Sample(
            op=operator(**dict(zip(shape, values, strict=True))),
            seconds=(seconds,),
            cache="hot",
            origin="public",
            versions=versions,
            **dict(zip(_CIRCUMSTANCES, other, strict=True)),
        )
        for values, seconds, other in zip(shapes, rows["seconds"].tolist(), others, strict=True)
    ]


def _package_version() -> str:
    try:
        return importlib.metadata.version(PACKAGE)
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


def public_samples(
    card: str, tables: Iterable[str] = tuple(TABLES), **options: Any
) -> list[Sample]:
    """The samples of ``tables`` on ``card``; the options are those of :func:`read_table`.

    A table that the package does not have for a card is left out, and the log says so. Raises
    ``CalibError`` as :func:`read_table` does.
    """
    samples: list[Sample] = []
    for table in tables:
        if has_table(card, table, options.get("engine", "vllm"), options.get("root")):
            samples += samples_of(read_table(card, table, **options), table)
        else:
            log.info("public tables: no %s for %s", table, card)
    return samples
