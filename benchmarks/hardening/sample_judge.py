"""What came of a mutant of a file of samples: read right, refused clearly, or against us."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from calib.errors import CalibError
from calib.samples import Sample, read_samples

HANG_S = 20.0


@dataclass(frozen=True)
class Base:
    """What is broken: the samples, the file's bytes, and the table in it."""

    samples: list[Sample]
    raw: bytes
    table: Any


@dataclass(frozen=True)
class Mutant:
    """A file's content. ``column``: which a refusal has to name. ``row``: the one that is broken;
    None: the file is. ``null``: the field that may be null, and is."""

    raw: bytes
    column: str = ""
    row: int | None = None
    null: str = ""


def judge(mutant: Mutant, base: Base, path: Path) -> tuple[str, str]:
    """``clear``, ``right``, ``traceback``, ``silently_wrong`` or ``hang``, and what was said."""
    began = time.monotonic()
    verdict = _read(mutant, base, path)
    return ("hang", verdict[1]) if time.monotonic() - began > HANG_S else verdict


def _read(mutant: Mutant, base: Base, path: Path) -> tuple[str, str]:
    try:
        found = read_samples(path)
    except CalibError as error:
        said = str(error)
        named = [path.name, mutant.column] + ["expected"] * (mutant.row is not None)
        if not all(word in said for word in named) or len(said) > 2000 or "\n" in said:
            return "traceback", f"unclear: {said[:300]}"
        if mutant.row is None:
            return "clear", said
        return _skip(mutant, base, path, said)
    except BaseException as error:
        return "traceback", f"{type(error).__name__}: {error}"[:300]
    return _compare(list(found), _expected(mutant, base), mutant)


def _skip(mutant: Mutant, base: Base, path: Path, said: str) -> tuple[str, str]:
    """The same file without the row that is broken."""
    others = [s for i, s in enumerate(base.samples) if i != mutant.row]
    try:
        found = read_samples(path, on_error="skip")
    except BaseException as error:
        return "traceback", f"skipping: {type(error).__name__}: {error}"[:300]
    if found.left_out != 1:
        return "silently_wrong", f"{found.left_out} rows left out"
    verdict = _compare(list(found), others, mutant)
    return ("clear", said) if verdict[0] == "right" else verdict


def _expected(mutant: Mutant, base: Base) -> list[Sample]:
    return [
        replace(s, **{mutant.null: None}) if mutant.null and i == mutant.row else s
        for i, s in enumerate(base.samples)
    ]


def _compare(found: list[Sample], expected: list[Sample], mutant: Mutant) -> tuple[str, str]:
    if found == expected:
        return "right", ""
    return "silently_wrong", next(_differences(found, expected), f"{mutant.column}: rows differ")


def _differences(found: list[Sample], expected: list[Sample]) -> Iterator[str]:
    for one, other in zip(found, expected, strict=False):
        for name, value in vars(other).items():
            if getattr(one, name) != value:
                yield f"{name} = {getattr(one, name)!r}, and not {value!r}"[:300]
