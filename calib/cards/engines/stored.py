"""The files that ship: of each card and engine, fits to the tables of its kernels."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from calib.cards.shipped import FOLDER
from calib.cards.stored import read_record
from calib.fit.calibration import Key
from calib.fit.kind import KindFit

ENGINES = ("vllm", "sglang", "trtllm")
LIBRARY = "nccl"
"""The vendor's collectives, which ship as an engine does."""
ENGINE_FOLDER = FOLDER / "engines"


@dataclass(frozen=True)
class EngineFigures:
    """``kinds``: the fits to an engine's tables of one card, by (implementation, kind, dtype)."""

    hardware: str
    engine: str
    kinds: dict[Key, KindFit]


def file_of(card: str, engine: str, folder: Path = ENGINE_FOLDER) -> Path:
    return folder / card / f"{engine}.npz"


def engine_cards(folder: Path = ENGINE_FOLDER) -> list[str]:
    """Cards that any engine's figures ship for."""
    return sorted(path.name for path in folder.glob("*") if path.is_dir())


def load_engine(card: str, engine: str, folder: Path = ENGINE_FOLDER) -> EngineFigures | None:
    """What ships of ``engine`` on ``card``; None where nothing does."""
    path = file_of(card, engine, folder)
    return _read(path, path.stat().st_mtime_ns) if path.exists() else None


def held_out_of(card: str, engine: str, folder: Path = ENGINE_FOLDER) -> list[dict[str, Any]]:
    """A row a fit: its error on groups of shapes that it never saw; none where nothing ships."""
    path = file_of(card, engine, folder).with_suffix(".json")
    return list(json.loads(path.read_text("utf-8"))["held_out"]) if path.exists() else []


@lru_cache(maxsize=32)
def _read(path: Path, changed: int) -> EngineFigures:
    """``changed``: when the file was."""
    return read_record(path, EngineFigures)
