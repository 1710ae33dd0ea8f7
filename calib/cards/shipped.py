"""The files that ship, and how calibrations are asked in turn: own samples, the card, nothing."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from calib.cards.card import TORCH, Card, Figures, Taught
from calib.cards.stored import StoredError, read_record
from calib.fit.calibration import ROOFLINE
from calib.fit.likeness import distance
from calib.hardware.datasheet import Hardware, load_hardware
from model.ops import Operator

if TYPE_CHECKING:
    import pandas as pd

    from calib.estimates.tables import Estimator

FOLDER = Path(__file__).parent / "data"
"""A card's fitted figures ``<card>.npz`` and its data card ``<card>.json``."""


def shipped_cards(folder: Path = FOLDER) -> list[str]:
    """Names of the cards that have a calibration here."""
    return sorted(path.stem for path in folder.glob("*.npz"))


def load_card(hardware: Hardware, folder: Path = FOLDER, taught: bool = True) -> Card | None:
    """The shipped calibration of ``hardware``, by its name; ``None`` where none ships.

    ``taught``: with what torch's own samples tell; else by the engine's tables alone.

    Raises ``StoredError`` for a file that is broken, of another version, or of another card.
    """
    if hardware.name not in shipped_cards(folder):
        return None
    path = folder / f"{hardware.name}.npz"
    figures = read_record(path, Figures)
    if figures.hardware != hardware.name:
        raise StoredError(f"{path} is of {figures.hardware!r}: expected {hardware.name!r}")
    about = read_about(path.with_suffix(".json"))
    return Card(hardware, figures, about, load_taught(hardware, folder) if taught else None)


def load_taught(hardware: Hardware, folder: Path = FOLDER) -> Taught | None:
    """What torch's samples tell of ``hardware``: its own, else those of the likest card."""
    names = shipped_cards(folder / TORCH)
    if not names:
        return None

    def unlike(name: str) -> float:
        return distance(hardware, load_hardware(name), "bfloat16")

    nearest = hardware.name if hardware.name in names else min(names, key=unlike)
    return read_record(folder / TORCH / f"{nearest}.npz", Taught)


def about_card(name: str, folder: Path = FOLDER) -> dict[str, Any] | None:
    """The data card of a card that ships, else ``None``. Raises as :func:`read_about` does."""
    return read_about(folder / f"{name}.json") if name in shipped_cards(folder) else None


def read_about(path: Path) -> dict[str, Any]:
    """A data card. Raises ``StoredError`` where it is missing or no JSON object."""
    try:
        about = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise StoredError(f"{path} is no data card ({error})") from None
    if not isinstance(about, dict) or "summary" not in about:
        raise StoredError(f"{path} is no data card: expected a JSON object with a summary")
    return about


@dataclass(frozen=True)
class Layered:
    """Calibrations asked in turn: what one knows nothing of goes to the next."""

    layers: tuple[Estimator, ...]

    @property
    def hardware(self) -> Hardware:
        return self.layers[0].hardware

    @property
    def held_out(self) -> pd.DataFrame:
        import pandas as pd

        tables = [layer.held_out for layer in self.layers]
        return pd.concat([t for t in tables if len(t)] or tables[:1], ignore_index=True)

    def estimate(
        self,
        ops: Sequence[Operator] | Operator,
        implementation: str = "torch",
        hot: Sequence[bool] | np.ndarray | bool | None = None,
    ) -> pd.DataFrame:
        """As ``Calibration.estimate``, each row from the first layer that knows it."""
        table = self.layers[0].estimate(ops, implementation, hot)
        for layer in self.layers[1:]:
            unknown = (table["provenance"] == ROOFLINE).to_numpy()
            if not unknown.any():
                break
            table.loc[unknown] = layer.estimate(ops, implementation, hot)[unknown]
        return table
