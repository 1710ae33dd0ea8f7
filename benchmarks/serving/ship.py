"""What ships of the engines' servers: their numbers, fitted to all development runs."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.serving.intervals import factor_of, misfits, spread_of
from benchmarks.serving.overheads import beside_of, fit
from calib.cards.engines.overheads import FILE
from calib.samples.public import PACKAGE


def ship(known: pd.DataFrame) -> None:
    """``known``: development runs, each as foretold by numbers fitted to the other split."""
    engines = {str(name): of_engine(some) for name, some in known.groupby("engine")}
    about = {
        "created": datetime.now(UTC).date().isoformat(),
        "command": "python -m benchmarks.serving --ship",
        "source": {
            "package": PACKAGE,
            "version": version(PACKAGE),
            "licence": "Apache-2.0",
            "file": "systems/silicon_sample.csv, crc32 of the id modulo 3 not 0",
        },
        "engines": engines,
    }
    FILE.write_text(json.dumps(about, indent=1) + "\n", "utf-8")
    print(f"{FILE}: " + ", ".join(f"{n} by {e['runs']} runs" for n, e in engines.items()))


def of_engine(rows: pd.DataFrame) -> dict[str, Any]:
    """Its numbers, and how far TPOT is off where they were fitted to the other split."""
    spread = spread_of(rows)
    found = replace(beside_of(fit(rows)), spread=spread, factor=factor_of(rows, spread))
    numbers = {name: float(f"{value:.4g}") for name, value in asdict(found).items()}
    error = float(np.expm1(np.median(misfits(rows))))
    return {**numbers, "runs": len(rows), "tpot_median_error": round(error, 4)}
