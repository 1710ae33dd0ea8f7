"""The tables of :mod:`calib.samples.engines.tables` as samples."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterable
from dataclasses import fields
from math import isnan
from pathlib import Path

import numpy as np
import pandas as pd

from calib.samples.engines.tables import LIBRARY_TABLES, NCCL, TABLES, EngineTable
from calib.samples.public import PACKAGE, engine_version, package_data
from calib.samples.public_tables import CARDS
from calib.samples.sample import Sample

MOST = 6000
"""Rows that are kept of one kernel, dtype and table, drawn at random: a sixth of a product's."""
_LIBRARY_FIRST = ("2.29.2", "2.28.9", "2.27.5", "2.27.3", "2.27", "2.26.2")
"""Versions of the vendor's library, the one that is read where a card has several first."""
_CIRCUMSTANCES = ("kernel", "latency", "group")


def engine_samples(
    card: str,
    engine: str,
    root: Path | None = None,
    most: int = MOST,
    tables: Iterable[str] = tuple(TABLES),
) -> list[Sample]:
    """What the ``tables`` tell of the kernels of ``engine`` on ``card``.

    A table that the package lacks for the card is left out. Raises ``CalibError`` for a card or an
    engine that is not known, or where the package is not installed.
    """
    version, samples = engine_version(card, engine), []
    for name in tables:
        table = TABLES[name]
        path = _folder(card, root) / table.folder / engine / version / f"{name}_perf.parquet"
        if path.exists():
            samples += _samples(pd.read_parquet(path), table, card, engine, most)
    return samples


def library_samples(card: str, root: Path | None = None) -> list[Sample]:
    """What the vendor's library takes for collectives on ``card``; none where no table is."""
    folder = _folder(card, root) / "comm" / NCCL
    versions = [v for v in _LIBRARY_FIRST if (folder / v / "nccl_perf.parquet").exists()]
    if not versions:
        return []
    rows = pd.read_parquet(folder / versions[0] / "nccl_perf.parquet")
    tables = LIBRARY_TABLES.values()
    return [s for table in tables for s in _samples(rows, table, card, NCCL, MOST)]


def _folder(card: str, root: Path | None) -> Path:
    return (root or package_data()) / CARDS.get(card, card)


def _samples(
    rows: pd.DataFrame, table: EngineTable, card: str, name: str, most: int
) -> list[Sample]:
    """A shape once, by its fastest kernel: an engine takes the best that it has."""
    found = table.columns(rows[rows["latency"] > 0])
    shape = [f.name for f in fields(table.operator) if f.name in set(found) - {*_CIRCUMSTANCES}]
    best = found.sort_values("latency", kind="stable").drop_duplicates([*shape, "kernel"])
    return [
        sample
        for _, same in best.groupby(["kernel", "dtype"], sort=True)
        for sample in _made(_thinned(same.sort_index(), most), shape, table, card, name)
    ]


def _thinned(rows: pd.DataFrame, most: int) -> pd.DataFrame:
    if len(rows) <= most:
        return rows
    some = np.random.default_rng(0).permutation(len(rows))[:most]
    return rows.iloc[np.sort(some)]


def _made(
    rows: pd.DataFrame, shape: list[str], table: EngineTable, card: str, name: str
) -> list[Sample]:
    columns = [[_plain(v) for v in rows[n].tolist()] for n in shape]
    others = zip(rows["kernel"], rows["latency"], rows["group"], strict=True)
    versions = {PACKAGE: importlib.metadata.version(PACKAGE)}
    return [
        Sample(
            op=table.operator(**dict(zip(shape, values, strict=True))),
            seconds=(latency * 1e-3,),
            hardware=card,
            implementation=f"{name}{kernel}",
            cache="hot",
            inputs="unknown",
            origin="public",
            group=str(group),
            versions=versions,
        )
        for values, (kernel, latency, group) in zip(zip(*columns, strict=True), others, strict=True)
    ]


def _plain(value: object) -> object:
    """Gaps make a column of whole numbers one of floats: a gap is none, a number whole again."""
    if not isinstance(value, float):
        return value
    return None if isnan(value) else int(value)
