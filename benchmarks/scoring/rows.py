"""A public table as rows: its columns, its samples, and the arithmetic of its operators."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import lru_cache

import numpy as np
import pandas as pd

from calib.hardware.datasheet import load_hardware
from calib.samples.public import read_table, samples_of
from calib.samples.public_tables import TABLES
from calib.samples.sample import Sample
from model.ops import grid


@dataclass(frozen=True)
class Rows:
    """``n`` rows of one table of one card or several.

    ``frame``: the columns of :func:`calib.samples.public.read_table`, with ``flops`` (unmasked work
    only) and ``bytes`` [n].
    """

    table: str
    frame: pd.DataFrame

    def __len__(self) -> int:
        return len(self.frame)

    def take(self, index: np.ndarray) -> Rows:
        return Rows(self.table, self.frame.iloc[index])

    def samples(self) -> list[Sample]:
        return samples_of(self.frame, self.table)

    def column(self, name: str) -> np.ndarray:
        """[n] a column as an array; where there is no window, 0."""
        values = self.frame[name]
        if values.dtype == object and name not in ("distribution", "implementation"):
            values = values.where(values.notna(), 0).astype(float)
        return np.asarray(values)

    @property
    def seconds(self) -> np.ndarray:
        return np.asarray(self.frame["seconds"])

    @property
    def groups(self) -> np.ndarray:
        return np.asarray(self.frame["group"])

    def card(self, figure: str) -> np.ndarray:
        """[n] a figure of each row's card, from ``conf/hw``: ``bandwidth``, ``sm_count``, ..."""
        known = {name: _figure(name, figure) for name in self.frame["hardware"].unique()}
        return np.asarray(self.frame["hardware"].map(known), dtype=float)

    @property
    def compute_s(self) -> np.ndarray:
        return np.asarray(self.frame["flops"] / self.card("bfloat16"))

    @property
    def memory_s(self) -> np.ndarray:
        return np.asarray(self.frame["bytes"] / self.card("bandwidth"))

    @property
    def floor_s(self) -> np.ndarray:
        """[n] the roofline on datasheet peaks."""
        return np.maximum(self.compute_s, self.memory_s)


def _figure(card: str, figure: str) -> float:
    hardware = load_hardware(card)
    return float(hardware.peak_flops[figure] if figure == "bfloat16" else getattr(hardware, figure))


def join(parts: Sequence[Rows]) -> Rows:
    frame = pd.concat([p.frame for p in parts], ignore_index=True)
    return Rows(parts[0].table, frame)


@lru_cache(maxsize=32)
def load(card: str, table: str, engine: str = "vllm", pooled: bool = False) -> Rows:
    """The bfloat16 rows of one table."""
    frame = read_table(card, table, engine=engine, pooled=pooled)
    operator = TABLES[table].operator
    shape = [f.name for f in fields(operator) if f.name in frame and not f.name.endswith("_dtype")]
    labels = [name for name in ("window", "distribution") if name in shape]
    flops, moved = np.zeros(len(frame)), np.zeros(len(frame))
    for _, some in frame.fillna({"window": -1}).groupby(labels or ["dtype"]):
        columns = {name: some[name].to_numpy() for name in shape if name not in (*labels, "causal")}
        columns |= {name: some[name].iloc[0] for name in (*labels, "dtype")}
        if columns.get("window") is not None and columns["window"] < 0:
            columns["window"] = None
        if "causal" in shape:
            columns["causal"] = bool(some["causal"].iloc[0])
        op = grid(operator, **columns)
        flops[some.index], moved[some.index] = op.min_flops, op.bytes
    frame = frame.assign(flops=flops, bytes=moved)
    return Rows(table, frame)


def of_kernel(rows: Rows, implementation: str | None = None) -> Rows:
    """The rows of one implementation: by default the one with the most rows."""
    names = rows.frame["implementation"]
    wanted = implementation or names.value_counts().index[0]
    return rows.take(np.flatnonzero(names == wanted))
