"""A JSON Schema from frozen dataclasses: types become types, ``Doc`` becomes the description."""

from __future__ import annotations

import types
from dataclasses import dataclass, fields, is_dataclass
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

DRAFT = "https://json-schema.org/draft/2020-12/schema"
PRIMITIVES: dict[Any, str] = {
    str: "string",
    int: "integer",
    float: "number",
    bool: "boolean",
    type(None): "null",
}


@dataclass(frozen=True)
class Doc:
    """What a field holds, unit in brackets, and the least and largest value it may have."""

    text: str
    minimum: float | None = None
    maximum: float | None = None

    def keywords(self) -> dict[str, Any]:
        limits = {"minimum": self.minimum, "maximum": self.maximum}
        return {"description": self.text, **{k: v for k, v in limits.items() if v is not None}}


def json_schema(record: type) -> dict[str, Any]:
    """The schema of one dataclass; those it is made of stand under ``$defs``.

    Raises ``TypeError`` for a type that JSON has no counterpart of.
    """
    definitions: dict[str, Any] = {}
    root = _object(record, definitions)
    return {"$schema": DRAFT, "title": record.__name__, **root, "$defs": definitions}


def _object(record: type, definitions: dict[str, Any]) -> dict[str, Any]:
    hints = get_type_hints(record, include_extras=True)
    names = [f.name for f in fields(record)]
    return {
        "type": "object",
        "description": " ".join((record.__doc__ or "").split()),
        "properties": {name: _schema(hints[name], definitions) for name in names},
        "required": names,
        "additionalProperties": False,
    }


def _schema(hint: Any, definitions: dict[str, Any]) -> dict[str, Any]:
    if hint is Any:
        return {}
    if hint in PRIMITIVES:
        return {"type": PRIMITIVES[hint]}
    if is_dataclass(hint) and isinstance(hint, type):
        return _reference(hint, definitions)
    return _composed(hint, get_args(hint), definitions)


def _reference(record: type, definitions: dict[str, Any]) -> dict[str, Any]:
    if record.__name__ not in definitions:
        definitions[record.__name__] = {}  # holds the place while its own fields are read
        definitions[record.__name__] = _object(record, definitions)
    return {"$ref": f"#/$defs/{record.__name__}"}


def _composed(hint: Any, of: tuple[Any, ...], definitions: dict[str, Any]) -> dict[str, Any]:
    origin = get_origin(hint)
    if origin is Annotated:
        return _annotated(of[0], of[1:], definitions)
    if origin in (Union, types.UnionType):
        return _union([_schema(a, definitions) for a in of])
    if origin is Literal:
        return {"enum": list(of)}
    if origin is list:
        return {"type": "array", "items": _schema(of[0], definitions)}
    if origin is dict:
        return {"type": "object", "additionalProperties": _schema(of[1], definitions)}
    raise TypeError(f"no JSON counterpart of {hint!r}")


def _annotated(hint: Any, notes: tuple[Any, ...], definitions: dict[str, Any]) -> dict[str, Any]:
    schema = _schema(hint, definitions)
    for note in notes:
        if isinstance(note, Doc):
            schema = {**schema, **note.keywords()}
    return schema


def _union(schemas: list[dict[str, Any]]) -> dict[str, Any]:
    """Plain types share one ``type`` list; anything else goes into ``anyOf``."""
    if all(set(s) == {"type"} for s in schemas):
        return {"type": [s["type"] for s in schemas]}
    return {"anyOf": schemas}
