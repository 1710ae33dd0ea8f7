"""The parts in a folder, read while others write to it: every sample once.

Names are never used twice: the moment of writing, and a token. Nothing but a compaction takes parts
away. It puts a merged part in place that says for which parts it stands, by name and content, and
removes those after; whoever reads both leaves them out. So it may be killed anywhere.
"""

from __future__ import annotations

import json
import re
import secrets
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from hashlib import blake2b
from pathlib import Path
from typing import Any

from calib.errors import CalibError
from calib.samples.parts.claims import abandoned, sync_folder
from calib.samples.parts.parquet import TEMPORARY, load, read_bytes
from calib.samples.parts.schema import REPLACES

Part = tuple[Path, bytes]
"""A part's path and its content."""
MERGED = "-merged"
LOCK = ".compacting"
_OWN = re.compile(r"(\d{6,})(-[0-9a-f]{16})?(-merged)?\.parquet")
"""Names that a store gives its parts; in older versions they had a number only."""
_PATIENCE_S = 60.0


def new_name(newest: Path | None = None) -> str:
    """Of the next part, or of one that is merged of others up to the ``newest``."""
    if newest is None:
        return f"{time.time_ns() // 10**6:013d}-{secrets.token_hex(8)}.parquet"
    stamp = newest.name.split("-")[0].removesuffix(".parquet")
    return f"{stamp}-{secrets.token_hex(8)}{MERGED}.parquet"


def own_parts(folder: Path) -> list[Path]:
    """The parts that a store wrote, oldest first: those that a compaction may merge."""
    return [path for path in sorted(folder.glob("*.parquet")) if _OWN.fullmatch(path.name)]


def snapshot(folder: Path) -> list[Part]:
    """All parts as they lay in ``folder`` at one moment, oldest first; no lock is needed.

    What is listed and then read is one moment's unless a compaction came between: then a part is
    gone afterwards, or a merged one is new. Raises ``CalibError`` where that does not end.
    """
    deadline = time.monotonic() + _PATIENCE_S
    while time.monotonic() < deadline:
        listed = sorted(folder.glob("*.parquet"))
        with suppress(FileNotFoundError):
            parts = [(path, read_bytes(path)) for path in listed]
            now = set(folder.glob("*.parquet"))
            new = now.difference(listed)
            if now.issuperset(listed) and not any(p.stem.endswith(MERGED) for p in new):
                return parts
    raise CalibError(f"samples: {folder} changes faster than it can be read: stop other runs")


def standing(parts: Sequence[Part]) -> list[tuple[Path, Any]]:
    """Tables of the ``parts``, without those for which a merged one stands."""
    tables = [(path, raw, load(raw, path)) for path, raw in parts]
    gone = {item for path, _, table in tables for item in _replaced(table.schema, path).items()}
    names = {name for name, _ in gone}
    return [
        (path, table)
        for path, raw, table in tables
        if path.name not in names or (path.name, digest(raw)) not in gone
    ]


def digest(raw: bytes) -> str:
    """By which a part is known from another one of its name."""
    return blake2b(raw, digest_size=16).hexdigest()


def replacing(table: Any, parts: Iterable[Part]) -> Any:
    """``table`` with the word that it stands for ``parts``."""
    named = json.dumps({path.name: digest(raw) for path, raw in parts})
    return table.replace_schema_metadata({**table.schema.metadata, REPLACES: named})


def _replaced(schema: Any, path: Path) -> dict[str, str]:
    """For which parts a part stands: name and digest."""
    try:
        found = json.loads((schema.metadata or {}).get(REPLACES, b"{}"))
        return {str(name): str(content) for name, content in found.items()}
    except (ValueError, AttributeError, RecursionError):
        raise CalibError(
            f"samples: {path} is not a whole Parquet file (its list of merged parts cannot be "
            "read); move it away and run again"
        )


def clear_replaced(folder: Path) -> None:
    """Remove the parts that a killed compaction left. Only who holds ``LOCK`` may."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    for merged in folder.glob(f"*{MERGED}.parquet"):
        with suppress(OSError, pa.ArrowException, CalibError):  # reading names what is broken
            for name, content in _replaced(pq.read_schema(merged), merged).items():
                path = folder / Path(name).name
                if path != merged and path.exists() and digest(path.read_bytes()) == content:
                    path.unlink()
    sync_folder(folder)


def clear_abandoned(folder: Path) -> None:
    """Remove what killed processes were writing."""
    prefix, suffix = TEMPORARY
    for path in [*folder.glob(f"{prefix}*{suffix}"), *folder.glob(LOCK)]:
        if (file := abandoned(path)) is not None:
            with file:
                path.unlink(missing_ok=True)
