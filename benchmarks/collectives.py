"""What several cards tell each other: the fits on sizes, and on cards, that they never saw.

    python -m benchmarks.collectives

Of each library and collective of the public tables: median and 90th percentile of the error, and
how many lie in the 90% interval. *Sizes*: of each card's own fit on messages of a size that was
held out, by groups. *Cards*: of a fit to the other cards alone, on all rows of the card. The last
line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
from typing import Any

import numpy as np
import pandas as pd

from calib.fit import fit
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


def by_sizes(card: str, samples: list[Sample]) -> pd.DataFrame:
    """One row a fit: its errors on sizes that it never saw."""
    held = fit(samples, load_hardware(card)).held_out
    return held.assign(card=card, library=held["implementation"])


def by_cards(card: str, known: dict[str, list[Sample]]) -> pd.DataFrame:
    """One row a library and kind: errors on all rows of ``card`` by the other cards alone."""
    others = [s for name, some in known.items() if name != card for s in some]
    calibration = fit(others, load_hardware(card))
    rows = []
    for library, kind in {(s.implementation, s.op.operator) for s in known[card]}:
        same = [s for s in known[card] if (s.implementation, s.op.operator) == (library, kind)]
        found = calibration.estimate([s.op for s in same], library, True)
        seconds = np.array([s.median for s in same])
        error = np.abs(found["estimate_s"].to_numpy() / seconds - 1)
        inside = (found["low_s"].to_numpy() <= seconds) & (seconds <= found["high_s"].to_numpy())
        rows.append(
            {
                **{"library": library, "kind": kind, "card": card, "samples": len(same)},
                **{"median_error": np.median(error), "p90_error": np.quantile(error, 0.9)},
                "coverage": inside.mean(),
            }
        )
    return pd.DataFrame(rows)


COLUMNS = ["median_error", "p90_error", "coverage"]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--cards", nargs="*", default=list(CARDS), metavar="card")
    arguments = parser.parse_args()
    known = {card: samples_of(card) for card in arguments.cards}
    known = {card: some for card, some in known.items() if some}
    ways = {
        "sizes": pd.concat([by_sizes(card, some) for card, some in known.items()]),
        "cards": pd.concat([by_cards(card, known) for card in known]),
    }
    found: dict[str, Any] = {}
    for name, rows in ways.items():
        print(f"held-out {name}, mean over cards")
        print(rows.groupby(BY)[COLUMNS].mean().round(3).to_string(), "\n")
        print(rows.groupby("card")[COLUMNS].mean().round(3).to_string(), "\n")
        found[name] = {column: float(rows[column].mean()) for column in COLUMNS}
        found[name]["median_of_medians"] = float(rows["median_error"].median())
    print(json.dumps(found))


if __name__ == "__main__":
    main()
