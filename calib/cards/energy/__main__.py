"""Fits what ships of a card's counted energy.

    python -m calib.cards.energy benchmarks/data/h200/energy/operators.parquet

Seconds. The card's name stands in the file; ``calib/cards/data/energy/<card>.json`` is written.
"""

from __future__ import annotations

import argparse
from datetime import UTC, datetime
from pathlib import Path

from calib.cards.energy.counted import read_counted
from calib.cards.energy.fitting import fit_energy
from calib.cards.energy.shipped import FOLDER, write_energy
from calib.hardware.datasheet import load_hardware


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m calib.cards.energy")
    parser.add_argument("counted", type=Path, help="what benchmarks.card.energy wrote")
    parser.add_argument("--out", type=Path, default=FOLDER)
    asked = parser.parse_args()
    card = read_counted(asked.counted)
    found = fit_energy(card, load_hardware(card.hardware))
    summary = (
        f"{found.hardware}: fitted to the joules of {found.operators} operators, counted on the "
        f"card; idle {found.idle_w:.1f} W. Median error on held-out groups of them "
        f"{found.median_error:.1%}; interval of a model's busy time +-{found.width:.0%}."
    )
    about = {
        "card": found.hardware,
        "summary": summary,
        "created": f"{datetime.now(UTC):%Y-%m-%d}",
        "command": f"python -m calib.cards.energy {asked.counted}",
        "source": str(asked.counted),
    }
    print(write_energy(found, about, asked.out), summary, sep="\n")


if __name__ == "__main__":
    main()
