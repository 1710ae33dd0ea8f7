"""What tables of products by CUDA 12.9 tell beside those by today's, of half of their groups."""

from __future__ import annotations

from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import pandas as pd

from calib.cards.build.older_samples import RECORDS
from calib.cards.build.own_samples import as_text
from calib.cards.build.writing import write_text
from calib.cards.older.products import FOLDER as PRODUCTS
from calib.cards.older.products import Products
from calib.cards.older.shipped import OLDER
from calib.cards.shipped import FOLDER
from calib.cards.stored import SCHEMA_VERSION, write_record
from calib.fit.plan import CONFIDENCE
from calib.hardware.versions import PRODUCTS as CUDA

TABLES = RECORDS / "older_products.parquet"
"""What it is and whence: ``older_products.md`` beside it."""
NEWER = "13"
"""The CUDA beside it there, and of what ships; which minor version is not said."""
_STEP, _MOST = 1e-8, 5e-6
"""Starts that are tried [s]."""


def read_products(path: Path = TABLES) -> pd.DataFrame:
    """Columns card, m, n, k; ``older``, ``newer``: seconds by either CUDA; ``is_learned``: what
    ships is told by the row, which belongs to one half of the groups of n and k."""
    table = pd.read_parquet(path)
    names = [f"{n}x{k}".encode() for n, k in zip(table["n"], table["k"], strict=True)]
    return table.assign(
        card=table["card"].astype(str),
        older=table["older_us"] / 1e6,
        newer=table["newer_us"] / 1e6,
        is_learned=np.array([crc32(name) % 2 == 0 for name in names]),
    )


def products_cards() -> list[str]:
    return sorted(read_products()["card"].unique())


def fit_products(card: str, rows: pd.DataFrame) -> Products:
    """The start that leaves the least mean log error, and what holds most of what it leaves."""
    older, newer = (rows[name].to_numpy() for name in ("older", "newer"))
    starts = np.arange(0.0, _MOST, _STEP)
    errors = [np.abs(np.log((newer + start) / older)).mean() for start in starts]
    start = float(starts[int(np.argmin(errors))])
    spread = np.quantile(np.abs(np.log((newer + start) / older)), CONFIDENCE)
    return Products(card, CUDA, start, float(spread))


def about(record: Products, rows: pd.DataFrame) -> dict[str, Any]:
    """The data card; the summary is what a run says of its times."""
    judged = rows[~rows["is_learned"]]
    log = np.log((judged["newer"] + record.start) / judged["older"])
    longer = record.start * 1e6
    takes = f"{longer:.1f} microseconds longer each than" if longer >= 0.1 else "as long as"
    return {
        "card": record.hardware,
        "summary": f"Products by CUDA {CUDA} take {takes} by {NEWER}, by public tables of "
        f"{record.hardware} by both (90% within {np.expm1(record.spread):.0%}); of other kernels "
        "nothing is known, and they are as without it.",
        "created": datetime.now(UTC).date().isoformat(),
        "command": f"python -m calib.cards.build {PRODUCTS}:{record.hardware}",
        "schema": SCHEMA_VERSION,
        "calib": version("calib"),
        "source": f"benchmarks/data/{TABLES.name}",
        "start_s": record.start,
        "spread": record.spread,
        "rows": {"learned": int(rows["is_learned"].sum()), "judged": len(judged)},
        "judged_median_error": float(np.expm1(np.median(np.abs(log)))),
        "judged_within_spread": float(np.mean(np.abs(log) <= record.spread)),
    }


def build_products(card: str, folder: Path = FOLDER) -> str:
    """Fit and store what tables of ``card`` tell; the data card's summary."""
    table = read_products()
    rows = table[table["card"] == card]
    record = fit_products(card, rows[rows["is_learned"]])
    place = folder / OLDER / PRODUCTS
    place.mkdir(parents=True, exist_ok=True)
    data_card = about(record, rows)
    write_text(place / f"{card}.json", as_text(data_card))
    write_record(place / f"{card}.npz", record)
    return str(data_card["summary"])
