"""A part of the configuration, checked; what is wrong is a sentence, read off the field's type."""

from __future__ import annotations

from collections.abc import Mapping
from types import UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le
from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic.fields import FieldInfo

from calib.errors import CalibError, did_you_mean, one_of, wrong
from calib.steps.settings.paths import NO_FILE


class Part(BaseModel):
    """Keys that belong together; one that is not known is refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True)


P = TypeVar("P", bound=Part)


def checked(part: type[P], given: Any, at: str = "") -> P:
    """``given`` as ``part``, which stands at the dotted key ``at``.

    Raises ``CalibError`` that names the key, its value and what is accepted.
    """
    try:
        return part.model_validate(given)
    except ValidationError as error:
        raise CalibError(_sentence(part, given, error.errors()[0], at)) from None


def _sentence(part: type[BaseModel], given: Any, fault: Mapping[str, Any], at: str) -> str:
    """Of the field that is wrong: the innermost that has a name, with its whole value."""
    key, accepted = at, f"keys out of {', '.join(keys_of(part))}"
    for step in fault["loc"]:
        name, above = str(step), given
        key = f"{key}.{name}".lstrip(".")
        given = given.get(step) if isinstance(given, Mapping) else fault["input"]
        field = keys_of(part).get(name)
        if field is None:
            known = list(keys_of(part))
            return wrong(key, given, f"{one_of(name, known)}" if known else "no key here")
        if isinstance(above, Mapping) and step not in above:
            return f"{key} is missing: expected {accepted_by(field)}"
        accepted = accepted_by(field)
        accepted += did_you_mean(given, words_of(field)) if isinstance(given, str) else ""
        inner = _part_of(field)
        if inner is None:
            break
        part = inner
    accepted += f" ({fault['msg']})" * (fault["type"] == NO_FILE)
    return wrong(key or "the configuration", given, accepted)


def keys_of(part: type[BaseModel]) -> dict[str, FieldInfo]:
    """The fields by the keys that a configuration has for them: ``pass``, a word of Python's."""
    return {field.alias or name: field for name, field in part.model_fields.items()}


def accepted_by(field: FieldInfo) -> str:
    """In words: the field's description, else its bounds, else its type."""
    beside = _metadata(field.annotation)
    said = [field.description, *(getattr(entry, "description", None) for entry in beside)]
    bounds = [*field.metadata, *(b for e in beside for b in getattr(e, "metadata", [e]))]
    words = [*said, _range(bounds, _kind(field.annotation)), _by_type(field.annotation)]
    return next(word for word in words if word)


def _range(bounds: list[Any], kind: Any) -> str | None:
    """ "a whole number from 1 to 1,024"; None where nothing bounds it."""
    least = next((b.ge for b in bounds if isinstance(b, Ge)), None)
    above = next((b.gt for b in bounds if isinstance(b, Gt)), None)
    most = next((b.le for b in bounds if isinstance(b, Le)), None)
    if most is None or (least is None and above is None):
        return None
    if above is not None:
        return f"a number above {above}, at most {most:,}"
    return f"{'a whole number' if kind is int else 'a number'} from {least} to {most:,}"


def _options(annotation: Any) -> list[Any]:
    """The kinds of a union, else the one."""
    union = get_origin(annotation) in (Union, UnionType)
    return list(get_args(annotation)) if union else [annotation]


def _metadata(annotation: Any) -> list[Any]:
    """What stands beside the type, as a bound does, whether it may be null or not."""
    annotated = [kind for kind in _options(annotation) if get_origin(kind) is Annotated]
    return [entry for kind in annotated for entry in get_args(kind)[1:]]


def _kind(annotation: Any) -> Any:
    kind = _options(annotation)[0]
    return get_args(kind)[0] if get_origin(kind) is Annotated else kind


def _part_of(field: FieldInfo) -> type[BaseModel] | None:
    kind = _kind(field.annotation)
    return kind if isinstance(kind, type) and issubclass(kind, BaseModel) else None


def words_of(field: FieldInfo) -> list[str]:
    """That a value may be, where they are listed."""
    kind = _kind(field.annotation)
    return [str(one) for one in get_args(kind)] if get_origin(kind) is Literal else []


def _by_type(annotation: Any) -> str:
    null = ", null" * (type(None) in _options(annotation))
    kind = _kind(annotation)
    if kind is bool:
        return f"one of true, false{null}"
    if get_origin(kind) is Literal:
        return f"one of {', '.join(map(str, get_args(kind)))}{null}"
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return f"keys out of {', '.join(keys_of(kind))}"
    return "a text"
