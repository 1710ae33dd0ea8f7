"""What ships of a card's counted energy: ``data/energy/<card>.json``, of no card but its own."""

from __future__ import annotations

import json
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from calib.cards.energy.fitted import RESOURCES, Energy
from calib.cards.stored import StoredError
from calib.hardware.datasheet import Hardware

FOLDER = Path(__file__).parent.parent / "data" / "energy"
SCHEMA_VERSION = 1
_WATTS = "watts"


def load_energy(hardware: Hardware, folder: Path = FOLDER) -> Energy | None:
    """What was counted on a card of this name; None where none was, and no sibling's stands in.

    Raises ``StoredError`` for a file that is broken, of another version, or of another card.
    """
    path = folder / f"{hardware.name}.json"
    if not path.exists():
        return None
    try:
        stored = json.loads(path.read_text("utf-8"))
        if stored["schema"] != SCHEMA_VERSION:
            raise StoredError(f"{path} has schema {stored['schema']}: expected {SCHEMA_VERSION}")
        watts = tuple(float(stored["energy"][_WATTS][name]) for name in RESOURCES)
        given = {f.name: stored["energy"][f.name] for f in fields(Energy)} | {_WATTS: watts}
        found = Energy(**given)
    except (OSError, ValueError, KeyError, TypeError) as error:
        if isinstance(error, StoredError):
            raise
        raise StoredError(f"{path} is no fit of counted energy ({error!r})") from None
    if found.hardware != hardware.name:
        raise StoredError(f"{path} is of {found.hardware!r}: expected {hardware.name!r}")
    return found


def write_energy(energy: Energy, about: dict[str, Any], folder: Path = FOLDER) -> Path:
    """``about``: summary, source, command, date, beside the figures."""
    figures = asdict(energy) | {_WATTS: dict(zip(RESOURCES, energy.watts, strict=True))}
    path = folder / f"{energy.hardware}.json"
    text = json.dumps({"schema": SCHEMA_VERSION, **about, "energy": figures}, indent=1)
    path.write_text(text + "\n", "utf-8")
    return path
