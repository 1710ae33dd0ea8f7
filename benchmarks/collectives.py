"""What several cards tell each other: the fits on sizes, and on cards, that they never saw.

    python -m benchmarks.collectives

Of each library and collective of the public tables: median, mean and 90th percentile of the error,
and how many lie in the 90% interval. *Sizes*: of each card's own fit on messages of a size that was
held out, by groups. *Cards*: of what the other cards lend (:mod:`calib.cards.engines.lent`), on all
rows of the card; ``apart``: the 90th percentile of the error in log. The last line is one JSON
object: means and medians over cards and kinds, and over all rows of the held-out cards alike.
"""

from __future__ import annotations

import argparse
import json
from typing import Any

import numpy as np
import pandas as pd

from calib.cards.engines.lent import lent
from calib.fit import fit
from calib.fit.calibration import Calibration, Key
from calib.hardware import load_hardware
from calib.samples import Sample
from calib.samples.engines.reading import engine_samples, library_samples
from calib.samples.engines.tables import EAGER
from calib.samples.public_tables import CARDS, ENGINES

BY = ["library", "kind"]


def samples_of(card: str) -> list[Sample]:
    """Collectives of the library and of the engines within a CUDA graph."""
    reduced = [s for e in ENGINES for s in engine_samples(card, e, tables=["custom_allreduce"])]
    return library_samples(card) + [s for s in reduced if not s.implementation.endswith(EAGER)]


def by_sizes(card: str, found: Calibration) -> pd.DataFrame:
    """One row a fit: its errors on sizes that it never saw."""
    return found.held_out.assign(card=card, library=found.held_out["implementation"])


def by_cards(card: str, samples: list[Sample], fits: dict[str, Calibration]) -> pd.DataFrame:
    """One row a sample of ``card`` that other cards can tell of: its error by them."""
    groups: dict[Key, list[Sample]] = {}
    for sample in samples:
        groups.setdefault((sample.implementation, sample.op.operator, "bfloat16"), []).append(
            sample
        )
    parts = []
    for key, same in groups.items():
        known = {c: f.kinds for c, f in fits.items() if c != card and key in f.kinds}
        lender = lent(load_hardware(card), known)
        if lender is None:
            continue
        found = lender.estimates([s.op for s in same], key[0])
        seconds = np.array([s.median for s in same])
        ratio = found.seconds / seconds
        told = {"ratio": ratio, "inside": (found.low <= seconds) & (seconds <= found.high)}
        parts.append(pd.DataFrame(told).assign(card=card, library=key[0], kind=key[1]))
    return pd.concat(parts)


def summed(rows: pd.DataFrame) -> pd.DataFrame:
    """A row a card, library and kind."""
    error, apart = np.abs(rows["ratio"] - 1), np.abs(np.log(rows["ratio"]))
    groups = rows.assign(error=error, apart=apart).groupby([*BY, "card"])
    return pd.DataFrame(
        {
            "median_error": groups["error"].median(),
            "mean_error": groups["error"].mean(),
            "p90_error": groups["error"].quantile(0.9),
            "coverage": groups["inside"].mean(),
            "apart": groups["apart"].quantile(0.9),
        }
    ).reset_index()


COLUMNS = ["median_error", "p90_error", "coverage"]
OF_CARDS = [*COLUMNS, "mean_error", "apart"]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--cards", nargs="*", default=list(CARDS), metavar="card")
    arguments = parser.parse_args()
    known = {card: samples_of(card) for card in arguments.cards}
    known = {card: some for card, some in known.items() if some}
    fits = {card: fit(some, load_hardware(card)) for card, some in known.items()}
    sizes = pd.concat([by_sizes(card, found) for card, found in fits.items()])
    asked = pd.concat([by_cards(card, some, fits) for card, some in known.items()])
    found: dict[str, Any] = {}
    for name, rows, columns in (
        ("sizes", sizes, COLUMNS),
        ("cards", summed(asked), OF_CARDS),
    ):
        print(f"held-out {name}, mean over cards")
        print(rows.groupby(BY)[columns].mean().round(3).to_string(), "\n")
        print(rows.groupby("card")[columns].mean().round(3).to_string(), "\n")
        found[name] = {column: float(rows[column].mean()) for column in columns}
        found[name]["median_of_medians"] = float(rows["median_error"].median())
    errors = np.abs(asked["ratio"] - 1)
    found["cards"]["all_rows"] = {"median": float(errors.median()), "mean": float(errors.mean())}
    both = np.concatenate([sizes["median_error"], summed(asked)["median_error"]])
    found["both"] = {"mean_of_medians": float(both.mean()), "median": float(np.median(both))}
    print(json.dumps(found))


if __name__ == "__main__":
    main()
