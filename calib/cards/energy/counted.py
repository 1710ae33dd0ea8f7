"""Operators whose joules a card's energy counter counted (``python -m benchmarks.card.energy``).

A file is a Parquet table, a row an operator, as that command writes it:

    hardware, idle_w            the card, by its name in ``conf/hw``, and its watts doing nothing
    kind, shape, cache          the operator, its fields as JSON, ``hot`` or ``cold``
    repeats, seconds, joules    what was executed between two steps of the counter
    refused                     why the card could not; such rows are left out

``seconds`` is back to back: the card never waits in it. Other columns are not read.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Any

from calib.errors import CalibError, one_of, shown
from calib.hardware.datasheet import hardware_names, load_hardware
from calib.samples.files import op_from_json
from model.ops import OPERATORS, Operator

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = ("hardware", "idle_w", "kind", "shape", "cache", "repeats", "seconds", "joules")
CACHES = ("hot", "cold")
LEAST = 12
"""Operators that a fit of five numbers takes."""
LEAST_KINDS = 2
"""Each group is held out once, so there has to be another."""
_MOST_POWER, _LEAST_IDLE = 1.5, 0.9
"""Of a board's power and of the idle card's, as ends of what is believed."""
_WRITES = "what `python -m benchmarks.card.energy` writes"


@dataclass(frozen=True)
class Counted:
    """One execution of ``op``: its seconds and joules, those of the idle card in them."""

    op: Operator
    cache: str
    seconds: float
    joules: float


@dataclass(frozen=True)
class CountedCard:
    """What was counted on ``hardware``; ``idle_w``: watts of the card that does nothing."""

    hardware: str
    idle_w: float
    operators: tuple[Counted, ...]


def read_counted(path: Path, hardware: str | None = None) -> CountedCard:
    """Raises ``CalibError`` naming file, row (from 0), column, value and what is accepted.

    ``hardware``: the card that the file has to be of.
    """
    table = _table(path)
    missing = [name for name in COLUMNS if name not in table.columns]
    if missing:
        raise CalibError(f"energy: {path} has no column {', '.join(missing)}: expected {_WRITES}")
    if "refused" in table.columns:
        table = table[table["refused"].isna()]
    rows = [(int(str(at)), row) for at, row in zip(table.index, _rows(table), strict=True)]
    found = tuple(_counted(path, at, row) for at, row in rows)
    different = len({(one.op, one.cache) for one in found})
    if different < LEAST:
        raise CalibError(
            f"energy: {path} counts {different} different operators: expected {LEAST} or more"
        )
    kinds = {one.op.operator for one in found}
    if len(kinds) < LEAST_KINDS:
        raise CalibError(
            f"energy: {path} counts operators of one kind, {', '.join(kinds)}: expected "
            f"{LEAST_KINDS} kinds or more, products among them: {_WRITES}"
        )
    idle_w = [_positive(path, at, row, "idle_w") for at, row in rows]
    names = {at: str(row["hardware"]) for at, row in rows}
    of = hardware or names[rows[0][0]]
    for at, name in names.items():
        if name != of:
            raise _refused(path, at, "hardware", name, f"{of}, the card that is asked for")
    power_w = load_hardware(of).power_w if of in hardware_names() else None
    for (at, row), idle in zip(rows, idle_w, strict=True):
        _possible(path, at, row, idle, power_w)
    return CountedCard(of, idle_w[0], found)


def _possible(
    path: Path, at: int, row: Mapping[str, Any], idle_w: float, power_w: float | None
) -> None:
    """Refuse what no card draws. ``power_w``: what its board is built for, None where no datasheet
    is known; a counter in another unit is off by a thousand, and a card exceeds that power by a
    tenth for milliseconds."""
    most = math.inf if power_w is None else _MOST_POWER * power_w
    if idle_w >= most:
        raise _refused(path, at, "idle_w", idle_w, f"less than {most:g}")
    least_j, most_j = _LEAST_IDLE * idle_w * row["seconds"], most * row["seconds"]
    if not least_j <= row["joules"] <= most_j:
        accepted = (
            f"{least_j:.4g} to {most_j:.4g} J in {row['seconds']:.3g} s, what an idle card and its "
            "board can draw"
        )
        raise _refused(path, at, "joules", row["joules"], accepted)


def _table(path: Path) -> pd.DataFrame:
    import pandas as pd

    try:
        return pd.read_parquet(path)
    except (OSError, ValueError) as error:
        said = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CalibError(f"energy: {path} cannot be read ({said}): expected {_WRITES}") from None


def _rows(table: pd.DataFrame) -> list[dict[str, Any]]:
    return [{str(k): v for k, v in row.items()} for row in table.to_dict("records")]


def _counted(path: Path, at: int, row: Mapping[str, Any]) -> Counted:
    if row["cache"] not in CACHES:
        raise _refused(path, at, "cache", row["cache"], " or ".join(CACHES))
    if row["kind"] not in OPERATORS:
        raise _refused(path, at, "kind", row["kind"], one_of(str(row["kind"]), OPERATORS))
    try:
        op = op_from_json(row["kind"], row["shape"])
    except (CalibError, ValueError, TypeError, KeyError, AttributeError):
        raise _refused(path, at, "shape", row["shape"], f"the fields of {row['kind']}") from None
    repeats, seconds, joules = (
        _positive(path, at, row, name) for name in ("repeats", "seconds", "joules")
    )
    return Counted(op, str(row["cache"]), seconds / repeats, joules / repeats)


def _positive(path: Path, at: int, row: Mapping[str, Any], column: str) -> float:
    given = row[column]
    value = float(given) if isinstance(given, Real) and not isinstance(given, bool) else math.nan
    if not (math.isfinite(value) and value > 0):
        raise _refused(path, at, column, row[column], "a number above 0")
    return value


def _refused(path: Path, at: int, column: str, value: Any, accepted: str) -> CalibError:
    said = f"{column} = {shown(value)}: expected {accepted}"
    return CalibError(f"energy: {path}, row {at}: {said} (rows count from 0)")
