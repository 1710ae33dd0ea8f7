"""A frozen record as one ``.npz`` file and back, by the type annotations of its class.

The file holds the record's arrays and one JSON text for all the rest. What may stand where is
read off the annotations of the class that the caller names, so a file can neither name a class nor
bring one along: a record is its fields in order (later ones take their defaults), a union is the
position of the member meant, a dict a list of pairs. Understood are ``bool``, ``int``, ``float``,
``str``, ``None``, unions, ``tuple``, ``list``, ``dict``, ``numpy.ndarray`` and dataclasses made of
them.
"""

from __future__ import annotations

import json
import os
import types
import zipfile
import zlib
from dataclasses import fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

import numpy as np

from calib.errors import CalibError

SCHEMA_VERSION = 1
"""Version of the layout above. History: 1, the first."""
_TEXT = "record"
T = TypeVar("T")


class StoredError(CalibError, ValueError):
    """A file that does not hold the record that was asked for."""


def write_record(path: Path, record: Any) -> Path:
    """Write ``record``, a dataclass, whole or not at all. Arrays of float64 are kept as float32.

    Raises ``TypeError`` for a field whose type is not understood: that is a mistake in the class.
    """
    arrays: dict[str, np.ndarray] = {}
    tree = {"schema": SCHEMA_VERSION, "value": _pack(type(record), record, arrays)}
    text = np.frombuffer(json.dumps(tree, separators=(",", ":")).encode(), dtype=np.uint8)
    temporary = path.with_name(f".{path.stem}-{os.getpid()}.npz")
    try:
        np.savez_compressed(temporary, **{_TEXT: text, **arrays})  # type: ignore[arg-type]
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


def read_record(path: Path, record: type[T]) -> T:
    """The ``record`` that ``path`` holds; arrays in the precision that they were handed in.

    Raises ``StoredError`` where the file is missing, broken, or of another version or class.
    """
    broken = (OSError, EOFError, KeyError, zipfile.BadZipFile, zlib.error, ValueError)
    try:
        with np.load(path, allow_pickle=False) as stored:
            contents = {name: stored[name] for name in stored.files}
        tree = json.loads(contents[_TEXT].tobytes())
        version = tree["schema"]
    except (*broken, TypeError, AttributeError) as error:
        raise StoredError(f"{path} is not a whole record of calib ({error})") from None
    if version != SCHEMA_VERSION:
        raise StoredError(f"{path} has schema version {version}: expected {SCHEMA_VERSION}")
    try:
        return _unpack(record, tree["value"], contents)  # type: ignore[no-any-return]
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise StoredError(f"{path} does not hold a {record.__name__} ({error})") from None


@cache
def _hints(record: type) -> dict[str, Any]:
    hints = get_type_hints(record)
    return {f.name: hints[f.name] for f in fields(record)}


def _pack(hint: Any, value: Any, arrays: dict[str, np.ndarray]) -> Any:
    """What stands for ``value`` in the JSON text; its arrays are added to ``arrays``, numbered."""
    origin, of = get_origin(hint), get_args(hint)
    if hint is np.ndarray:
        kept = value.astype(np.float32) if value.dtype == np.float64 else value
        half = kept.ndim == 2 and len(kept) >= _LEAST_HALVED and np.array_equal(kept, kept.T)
        arrays[str(len(arrays))] = kept[np.triu_indices(len(kept))] if half else kept
        return [len(arrays) - 1, str(value.dtype), *[len(kept)] * half]
    if _is_record(hint):
        hints = _hints(hint)
        return [_pack(hints[n], getattr(value, n), arrays) for n in hints]
    if origin in (Union, types.UnionType):
        member = next(i for i, m in enumerate(of) if _is_a(m, value))
        return [member, _pack(of[member], value, arrays)]
    if origin in (tuple, list):
        members = _members(of, len(value), origin)
        return [_pack(m, v, arrays) for m, v in zip(members, value, strict=True)]
    if origin is dict:
        return [[_pack(of[0], k, arrays), _pack(of[1], v, arrays)] for k, v in value.items()]
    return _plain(hint, value)


_LEAST_HALVED = 16
"""Rows from which on of a symmetric matrix one half is kept."""


def _whole(half: np.ndarray, size: int) -> np.ndarray:
    """[size, size] the symmetric matrix of its upper half, row by row."""
    if half.shape != (size * (size + 1) // 2,):
        raise ValueError(f"half of a matrix of {size} rows has {half.shape} numbers")
    whole = np.zeros((size, size), dtype=half.dtype)
    whole[np.triu_indices(size)] = half
    return whole + np.triu(whole, 1).T


def _unpack(hint: Any, stored: Any, arrays: dict[str, np.ndarray]) -> Any:
    """The inverse of :func:`_pack`."""
    origin, of = get_origin(hint), get_args(hint)
    if hint is np.ndarray:
        number, dtype, *size = stored
        kept = _whole(arrays[str(number)], *size) if size else arrays[str(number)]
        return kept.astype(dtype, copy=False)
    if _is_record(hint):
        hints = list(_hints(hint).items())
        if len(stored) > len(hints):
            raise ValueError(f"{len(stored)} fields of a {hint.__name__}")
        pairs = zip(hints, stored, strict=False)  # fields that came later have defaults
        return hint(**{name: _unpack(h, s, arrays) for (name, h), s in pairs})
    if origin in (Union, types.UnionType):
        member, value = stored
        return _unpack(of[member], value, arrays)
    if origin in (tuple, list):
        members = _members(of, len(stored), origin)
        return origin(_unpack(m, s, arrays) for m, s in zip(members, stored, strict=True))
    if origin is dict:
        return {_unpack(of[0], k, arrays): _unpack(of[1], v, arrays) for k, v in stored}
    return _plain(hint, stored)


def _is_record(hint: Any) -> bool:
    return isinstance(hint, type) and is_dataclass(hint)


def _is_a(member: Any, value: Any) -> bool:
    """Whether ``value`` is of one member of a union."""
    plain = get_origin(member) or member
    return isinstance(value, int | float) if plain is float else isinstance(value, plain)


def _members(of: tuple[Any, ...], count: int, origin: Any) -> tuple[Any, ...]:
    """The types of ``count`` members of a tuple or list."""
    return (of[0],) * count if origin is list or of[-1] is Ellipsis else of


def _plain(hint: Any, value: Any) -> Any:
    """``value``, checked: a number may be a numpy one, an int may stand for a float."""
    if hint is type(None) or hint is None:
        accepted: Any = type(None)
    elif hint in (bool, int, float, str):
        value = value.item() if isinstance(value, np.generic) else value
        accepted = int | float if hint is float else hint
    else:
        raise TypeError(f"no stored form of {hint!r}")
    if not isinstance(value, accepted) or (isinstance(value, bool) and hint is not bool):
        raise TypeError(f"{value!r} is not a {getattr(hint, '__name__', hint)}")
    return float(value) if hint is float else value
