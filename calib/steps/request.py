"""What a run is asked: the configuration, read once, checked, and typed from here on.

Below the entry nobody sees a dictionary or a dotted key. Types and ranges are the fields' own; what
is wrong is one sentence that names the key, its value and what is accepted. Dimensions of a model
and figures of a card are checked by the classes that they belong to.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt
from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, ValidationError, field_validator
from pydantic.fields import FieldInfo

from calib.errors import CalibError, one_of
from calib.hardware.datasheet import Hardware, hardware_from_config
from model.workload import Workload

AtLeastOne = Annotated[int, Field(strict=True, ge=1)]
Positive = Annotated[float, Field(strict=True, gt=0, allow_inf_nan=False)]
Flag = Annotated[bool, Field(strict=True)]
MISSING = "???"
"""What Hydra puts where a key has no value: of ``hw`` it means the device found."""
MOST = {
    "batch": 2**20,
    "side": 2**16,
    "tile_side": 2**16,
    "prompt_tokens": 2**24,
    "decode_steps": 2**24,
}
"""The largest that a workload may ask for: beyond it nothing is a forecast any more."""
MOST_TILES = 1024


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True)


class Subject(_Part):
    """The model: an architecture by name and its dimensions, as ``conf/model`` has them."""

    architecture: Any = None
    name: str | None = None
    dimensions: dict[str, Any] = {}


class Traced(_Part):
    """Of an architecture that is a configuration of ``transformers``: its file and a dtype."""

    config: str | None = None
    dtype: str | None = None


class OwnRequest(_Part):
    """Of an architecture that is a module of one's own: a file and a function in it."""

    path: str | None = Field(default=None, description="my_file.py:make_model")


class TrainingRequest(_Part):
    """Of ``pass=train``: the types of what AdamW keeps (``model.training.AdamW``)."""

    state_dtype: Literal["float32", "bfloat16", "float16"] | None = None
    master_dtype: Literal["float32", "bfloat16", "float16"] | None = None


class SweepRequest(_Part):
    """How long operators are measured, and when one is done (``calib.measure.clock.StopRule``);
    ``card_``: in place of the same on a card."""

    name: str | None = None
    budget_s: Positive
    card_budget_s: Positive
    spread: Positive
    cap_s: Positive
    card_cap_s: Positive
    least: AtLeastOne
    most: AtLeastOne


class SamplesRequest(_Part):
    dir: Path | None = Field(default=None, description="a folder")


class ReportRequest(_Part):
    """``layers`` None: with pictures, and where nothing is measured."""

    pictures: Flag = True
    trace: Flag = True
    layers: Flag | None = None


class Request(_Part):
    """``hw`` None: the device found."""

    hw: Hardware | None = Field(default=None, description="a card, as conf/hw has them")
    model: Subject = Field(description="an architecture and its dimensions")
    workload: Workload = Field(description="what conf/workload has")
    sweep: SweepRequest
    hf: Traced = Traced()
    module: OwnRequest = OwnRequest()
    pass_: Literal["inference", "train"] = Field(default="inference", alias="pass")
    training: TrainingRequest = TrainingRequest()
    mode: Literal["run", "analytic", "calibrate"] = "run"
    implementation: Literal["torch", "triton", "vllm"] = "torch"
    execution: Literal["eager", "graph", "compiled"] = "eager"
    repeats: AtLeastOne = 5
    seed: Annotated[int, Field(strict=True, ge=0)] = 0
    measured: str | None = Field(default=None, description="a trace of torch.profiler")
    samples: SamplesRequest = SamplesRequest()
    report: ReportRequest = ReportRequest()
    _given: dict[str, Any] = PrivateAttr(default_factory=dict)

    @property
    def trains(self) -> bool:
        return self.pass_ == "train"

    @property
    def given(self) -> dict[str, Any]:
        """The configuration as it was composed, for the record of a run."""
        return self._given

    @field_validator("model", mode="before")
    @classmethod
    def _subject(cls, value: Any) -> Any:
        if not isinstance(value, Mapping):
            return value
        own = {key: value[key] for key in ("architecture", "name") if key in value}
        return own | {"dimensions": {k: v for k, v in value.items() if k not in own}}

    @field_validator("workload", mode="before")
    @classmethod
    def _workload(cls, value: Any) -> Any:
        return workload_of(value) if isinstance(value, Mapping) else value

    @field_validator("hw", mode="before")
    @classmethod
    def _hardware(cls, value: Any) -> Any:
        if isinstance(value, Mapping):
            return hardware_from_config(value)
        return None if value == MISSING else value

    @field_validator("measured")
    @classmethod
    def _is_file(cls, path: str | None) -> str | None:
        if path and not Path(path).is_file():
            raise ValueError(f"measured = {path!r}: expected a trace of torch.profiler")
        return path or None


def read_request(config: Mapping[str, Any]) -> Request:
    """``config``: what Hydra composed, as plain dictionaries.

    Raises ``CalibError`` that names the key, its value and what is accepted.
    """
    try:
        request = Request(**config)
    except ValidationError as error:
        raise CalibError(_sentence(error.errors()[0])) from None
    request._given = dict(config)
    return request


def workload_of(given: Mapping[str, Any]) -> Workload:
    """Raises ``ValueError`` that names the key, its value and what is accepted."""
    known = [f.name for f in fields(Workload)]
    for key, value in given.items():
        if key not in known:
            raise ValueError(f"workload.{key} = {value!r}: expected {one_of(key, known)}")
        if isinstance(value, int) and value > MOST.get(key, value):
            raise ValueError(f"workload.{key} = {value}: expected at most {MOST[key]:,}")
    if not isinstance(given.get("name"), str):
        raise ValueError(f"workload.name = {given.get('name')!r}: expected a text")
    tiles = given.get("tiles")
    if isinstance(tiles, list) and any(isinstance(n, int) and n > MOST_TILES for n in tiles):
        raise ValueError(f"workload.tiles = {tiles}: expected at most {MOST_TILES} a side")
    try:
        return Workload(**{**given, "tiles": tuple(tiles) if isinstance(tiles, list) else tiles})
    except (TypeError, ValueError) as error:
        raise ValueError(f"workload: {error}") from None


# What is wrong, said in a sentence


def _sentence(fault: Mapping[str, Any]) -> str:
    if fault["type"] == "value_error":  # of a validator of ours, which says it all
        return str(fault["ctx"]["error"])
    names = [str(name) for name in fault["loc"]]
    key = ".".join(names)
    if fault["type"] == "extra_forbidden":
        part = _part(names[:-1])
        return f"{key} = {fault['input']!r}: expected {one_of(names[-1], list(keys_of(part)))}"
    field = keys_of(_part(names[:-1])).get(names[-1])
    accepted = _accepted(field) if field else "no such part"
    if fault["type"] == "missing":
        return f"{key} is missing: expected {accepted}"
    return f"{key} = {fault['input']!r}: expected {accepted}"


def _part(names: list[str]) -> type[BaseModel]:
    """The model that the keys ``names`` lead to."""
    part: type[BaseModel] = Request
    for name in names:
        part = keys_of(part)[name].annotation  # type: ignore[assignment]
    return part


def keys_of(part: type[BaseModel]) -> dict[str, FieldInfo]:
    """The fields by the keys that a configuration has for them: ``pass``, a word of Python's."""
    return {field.alias or name: field for name, field in part.model_fields.items()}


def _accepted(field: FieldInfo) -> str:
    """In words, read off the field: its description, else its bounds, else its type."""
    words = [field.description, *map(_bound, field.metadata), _by_type(field.annotation)]
    return next(word for word in words if word)


def _bound(bound: Any) -> str | None:
    if isinstance(bound, Ge):
        return f"an integer >= {bound.ge}"
    return f"a number above {bound.gt}" if isinstance(bound, Gt) else None


def _by_type(annotation: Any) -> str:
    kinds = get_args(annotation) if get_origin(annotation) in (Union, UnionType) else [annotation]
    kinds = [get_args(kind)[0] if get_origin(kind) is Annotated else kind for kind in kinds]
    if bool in kinds:
        return f"one of true, false{', null' * (type(None) in kinds)}"
    if get_origin(annotation) is Literal:
        return f"one of {', '.join(get_args(annotation))}"
    parts = [kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)]
    return f"keys out of {', '.join(parts[0].model_fields)}" if parts else "a text"
