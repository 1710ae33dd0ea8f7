"""The files that ship."""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path
from typing import Any

from calib.cards.card import Card
from calib.cards.corrected import Taught
from calib.cards.stored import StoredError, read_record
from calib.cards.tables.figures import TORCH, Figures
from calib.fit.likeness import distance, has_relatives
from calib.hardware.datasheet import Hardware, load_hardware

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
    name = teacher_of(hardware, folder)
    if name is None:
        return None
    path = folder / TORCH / f"{name}.npz"
    return _read_taught(path, path.stat().st_mtime_ns)


@lru_cache(maxsize=4)
def _read_taught(path: Path, changed: int) -> Taught:
    """``changed``: when the file was. Cards that learn from one another share what it holds, and
    what is found from it once."""
    return read_record(path, Taught)


def teacher_of(hardware: Hardware, folder: Path = FOLDER) -> str | None:
    """The card whose torch samples ship that is likest, itself first; none of a card that is
    like none."""
    names = shipped_cards(folder / TORCH)
    if hardware.name in names:
        return hardware.name

    if not has_relatives(hardware):
        return None

    def unlike(name: str) -> float:
        return distance(hardware, load_hardware(name), "bfloat16")

    return min(names, key=unlike, default=None)


def about_card(name: str, folder: Path = FOLDER) -> dict[str, Any] | None:
    """The data card of a card that ships, else ``None``. Raises as :func:`read_about` does."""
    return read_about(folder / f"{name}.json") if name in shipped_cards(folder) else None


def about_taught(hardware: Hardware, folder: Path = FOLDER) -> dict[str, Any] | None:
    """The data card of torch's samples that a card is told by, if any."""
    name = teacher_of(hardware, folder)
    return read_about(folder / TORCH / f"{name}.json") if name else None


def read_about(path: Path) -> dict[str, Any]:
    """A data card. Raises ``StoredError`` where it is missing or no JSON object."""
    try:
        about = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise StoredError(f"{path} is no data card ({error})") from None
    if not isinstance(about, dict) or "summary" not in about:
        raise StoredError(f"{path} is no data card: expected a JSON object with a summary")
    return about
