"""What a run is asked: the configuration, read once, checked, and typed from here on.

Below the entry nobody sees a dictionary or a dotted key. Every key has a type and a range here
(:mod:`calib.steps.settings` has those of paths, of dimensions, and the words); figures of a card
are read as its file is, by :mod:`calib.hardware.datasheet`. What is wrong is one sentence that
names the key, its value and what is accepted.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, PrivateAttr, field_validator, model_validator

from calib.errors import CalibError, one_of, wrong
from calib.hardware.datasheet import Hardware, HardwareError, hardware_from_config
from calib.hardware.versions import ACCEPTED
from calib.steps.settings.dimensions import dimensions_of
from calib.steps.settings.layout import ParallelRequest
from calib.steps.settings.limits import LimitRequest, PriceRequest, ServeRequest
from calib.steps.settings.paths import AnyPath, File, Folder, described, listed
from calib.steps.settings.versions import Cuda
from calib.steps.settings.words import Part, checked
from model.architectures import ARCHITECTURES
from model.parallel.layout import Layout, LayoutError
from model.workload import Workload

Name = Annotated[
    str,
    Field(
        strict=True,
        pattern=r"^[^\x00-\x1f\x7f]{1,100}$",
        description="a text of at most 100 characters on one line",
    ),
]
Flag = Annotated[bool, Field(strict=True)]
Side = Annotated[int, Field(strict=True, ge=1, le=2**16)]
Tiles = Annotated[int, Field(strict=True, ge=1, le=1024)]
Count = Annotated[int, Field(strict=True, ge=1, le=100_000)]
Budget = Annotated[float, Field(strict=True, gt=0, le=7 * 86400)]
Cap = Annotated[float, Field(strict=True, gt=0, le=3600)]
MISSING = "???"
"""What Hydra puts where a key has no value: of ``hw`` it means the device found."""
SERVE = "serve"
SERVERS = ("torch", "vllm", "sglang", "trtllm")
HF, OWN = "hf", "module"
"""The architectures that are traced: a configuration of ``transformers``, a module of one's own."""


class Subject(Part):
    """The model: an architecture by name and its dimensions, as ``conf/model`` has them."""

    architecture: str
    name: Name | None = None
    dimensions: dict[str, Any] = Field(default_factory=dict)


class Traced(Part):
    """Of an architecture that is a configuration of ``transformers``: its file and a dtype."""

    config: AnyPath | None = described("the path of a config.json of transformers")
    dtype: Literal["bfloat16", "float16", "float32"] | None = None


class WorkloadRequest(Part):
    """What is asked of the model (``model.workload.Workload``): beyond these ranges nothing is a
    forecast any more."""

    name: Name
    side: Side | None = None
    tiles: tuple[Tiles, Tiles] | None = Field(
        default=None, description="[rows, columns], each a whole number from 1 to 1,024, or null"
    )
    tile_side: Side = 640
    prompt_tokens: Annotated[int, Field(strict=True, ge=0, le=2**24)] = 10
    batch: Annotated[int, Field(strict=True, ge=1, le=2**20)] = 1
    decode_steps: Annotated[int, Field(strict=True, ge=1, le=2**24)] = 16
    logits: Literal["all", "last"] = "all"
    task: Literal["encode", "decode", "generate"] | None = None


class OwnRequest(Part):
    """Of an architecture that is a module of one's own: a file and a function in it."""

    path: str | None = Field(default=None, description="my_file.py:make_model")


class TrainingRequest(Part):
    """Of ``pass=train``: the types of what AdamW keeps (``model.training.AdamW``)."""

    state_dtype: Literal["float32", "bfloat16", "float16"] | None = None
    master_dtype: Literal["float32", "bfloat16", "float16"] | None = None


class SweepRequest(Part):
    """How long operators are measured, and when one is done (``calib.measure.clock.StopRule``);
    ``card_``: in place of the same on a card."""

    name: Name | None = None
    budget_s: Budget
    card_budget_s: Budget
    spread: Annotated[float, Field(strict=True, gt=0, le=1)]
    cap_s: Cap
    card_cap_s: Cap
    least: Count
    most: Count

    @model_validator(mode="after")
    def _ordered(self) -> SweepRequest:
        if self.least > self.most:
            accepted = f"at most sweep.most = {self.most:,}"
            raise CalibError(wrong("sweep.least", self.least, accepted))
        return self


class SamplesRequest(Part):
    dir: Folder | None = described("a folder")
    traces: Annotated[tuple[File, ...], BeforeValidator(listed)] = Field(
        default=(), description="a trace of torch.profiler, or a list of them"
    )


class ReportRequest(Part):
    """``layers`` None: with pictures, and where nothing is measured."""

    pictures: Flag = True
    trace: Flag = True
    layers: Flag | None = None
    html: Flag = True


class Request(Part):
    """``hw`` None: the device found."""

    hw: Hardware | None = None
    model: Subject = Field(description="an architecture and its dimensions")
    workload: Workload = Field(description="what conf/workload has")
    sweep: SweepRequest
    hf: Traced = Traced()
    module: OwnRequest = OwnRequest()
    pass_: Literal["inference", "train"] = Field(default="inference", alias="pass")
    training: TrainingRequest = TrainingRequest()
    mode: Literal["run", "analytic", "calibrate", "serve"] = "run"
    implementation: Literal["torch", "triton", "vllm", "sglang", "trtllm"] = "torch"
    execution: Literal["eager", "graph", "compiled"] = "eager"
    repeats: Annotated[int, Field(strict=True, ge=1, le=1000)] = 5
    seed: Annotated[int, Field(strict=True, ge=0, le=2**32 - 1)] = 0
    cuda: Cuda | None = Field(default=None, description=ACCEPTED)
    measured: File | None = described("the path of a trace of torch.profiler")
    measured_step: Name | None = described("a phase of the model")
    energy: File | None = described("the path of what benchmarks.card.energy counted")
    samples: SamplesRequest = SamplesRequest()
    report: ReportRequest = ReportRequest()
    limit: LimitRequest = LimitRequest()
    price: PriceRequest = PriceRequest()
    serve: ServeRequest = ServeRequest()
    parallel: ParallelRequest = ParallelRequest()
    _given: dict[str, Any] = PrivateAttr(default_factory=dict)

    @property
    def spread(self) -> bool:
        """Whether several cards share the model."""
        return self.parallel.cards > 1

    @property
    def trains(self) -> bool:
        return self.pass_ == "train"

    @property
    def not_counted(self) -> str:
        """The setting whose kernels' joules nobody counted; empty where there is none."""
        found = {
            f"implementation={self.implementation}": self.implementation != "torch",
            f"execution={self.execution}": self.execution == "compiled",
            "pass=train": self.trains,
            f"{self.parallel.cards} cards": self.spread,
            f"mode={self.mode}": self.mode == SERVE,
        }
        return next((name for name, is_so in found.items() if is_so), "")

    @property
    def given(self) -> dict[str, Any]:
        """The configuration as it was composed, for the record of a run."""
        return self._given

    @field_validator("model", mode="before")
    @classmethod
    def _subject(cls, value: Any) -> Any:
        return subject_of(value) if isinstance(value, Mapping) else value

    @field_validator("workload", mode="before")
    @classmethod
    def _workload(cls, value: Any) -> Any:
        if isinstance(value, Workload):
            return value
        if not isinstance(value, Mapping):
            raise CalibError(wrong("workload", value, "what conf/workload has"))
        return Workload(**dict(checked(WorkloadRequest, value, "workload")))

    @field_validator("hw", mode="before")
    @classmethod
    def _hardware(cls, value: Any) -> Any:
        if isinstance(value, Mapping):
            try:
                return hardware_from_config(value)
            except HardwareError as error:  # which is a ValueError too, and would be wrapped
                raise CalibError(str(error)) from None
        if isinstance(value, Hardware):
            return value
        if value in (None, MISSING):
            return None
        raise CalibError(wrong("hw", value, "a card, as conf/hw has them"))

    @model_validator(mode="after")
    def _training_of_a_step(self) -> Request:
        for key, value in self.training:
            if value is not None and not self.trains:
                raise CalibError(wrong(f"training.{key}", value, "pass=train beside it"))
        return self

    @model_validator(mode="after")
    def _of_the_model_that_is_meant(self) -> Request:
        """No answer for one model where another was described."""
        for part, of in (("hf", HF), ("module", OWN)):
            given = next(((k, v) for k, v in getattr(self, part) if v is not None), None)
            if given and self.model.architecture != of:
                raise CalibError(wrong(f"{part}.{given[0]}", given[1], f"model={of} beside it"))
        return self

    @model_validator(mode="after")
    def _what_cards_share(self) -> Request:
        if set(self.parallel.sizes.values()) <= {1, None}:
            if self.parallel.overlap:
                accepted = "0, or several cards (parallel.tp=2)"
                raise CalibError(wrong("parallel.overlap", self.parallel.overlap, accepted))
            return self
        (key, value), of = self.parallel.first, self.model.architecture
        if self.trains or of == OWN:
            what = "with pass=train" if self.trains else "with model=module"
            raise CalibError(wrong(f"parallel.{key}", value, f"1 {what}"))
        if self.parallel.pp == 1 and self.parallel.microbatches is not None:
            asked = self.parallel.microbatches
            raise CalibError(wrong("parallel.microbatches", asked, "null with parallel.pp=1"))
        try:
            Layout(**self.parallel.sizes)
        except LayoutError as error:
            raise CalibError(str(error)) from None
        return self

    @model_validator(mode="after")
    def _what_is_served(self) -> Request:
        asked = {"limit.ttft": self.limit.ttft, "price.per_hour": self.price.per_hour}
        if self.mode != SERVE:
            for key, value in asked.items():
                if value is not None:
                    raise CalibError(wrong(key, value, "mode=serve beside it"))
            return self
        for key, shared in self.parallel.sizes.items():
            if shared not in (None, 1):
                accepted = "1 with mode=serve, which tries layouts"
                raise CalibError(wrong(f"parallel.{key}", shared, accepted))
        if self.trains:
            raise CalibError(wrong("pass", self.pass_, "inference with mode=serve"))
        if self.implementation not in SERVERS:
            accepted = f"one of {', '.join(SERVERS)} with mode=serve"
            raise CalibError(wrong("implementation", self.implementation, accepted))
        return self

    @model_validator(mode="after")
    def _what_was_counted(self) -> Request:
        """Said before anything is measured."""
        if self.energy is None:
            return self
        if self.not_counted:
            raise CalibError(wrong("energy", str(self.energy), f"null with {self.not_counted}"))
        from calib.cards.energy.counted import read_counted

        read_counted(self.energy, self.hw.name if self.hw else None)
        return self

    @model_validator(mode="after")
    def _whose_kernels(self) -> Request:
        """What is said of torch's kernels on a card is not ignored where others are asked for."""
        others = {
            "+hw=cpu": self.hw is not None and self.hw.name == "cpu",
            f"mode={self.mode}": self.mode in (SERVE, "calibrate"),
            f"implementation={self.implementation}": self.implementation != "torch",
        }
        without = next((name for name, is_so in others.items() if is_so), None)
        if without and self.cuda:
            raise CalibError(wrong("cuda", self.cuda, f"null with {without}"))
        if without and self.samples.traces:
            given = [str(path) for path in self.samples.traces]
            raise CalibError(wrong("samples.traces", given, f"[] with {without}"))
        return self

    @model_validator(mode="after")
    def _step_of_a_trace(self) -> Request:
        if self.measured and self.mode in (SERVE, "calibrate"):
            raise CalibError(wrong("measured", str(self.measured), f"null with mode={self.mode}"))
        if self.measured_step and not self.measured:
            accepted = "measured=<a trace> beside it"
            raise CalibError(wrong("measured_step", self.measured_step, accepted))
        return self


def subject_of(given: Mapping[str, Any]) -> Subject:
    """Raises ``CalibError`` that names the key, its value and what is accepted."""
    known = [*ARCHITECTURES, HF, OWN]
    architecture = given.get("architecture")
    if not isinstance(architecture, str) or architecture not in known:
        accepted = one_of(str(architecture), known)
        raise CalibError(wrong("model.architecture", architecture, accepted))
    own = {key: given[key] for key in ("architecture", "name") if key in given}
    dimensions = {key: value for key, value in given.items() if key not in own}
    if architecture in ARCHITECTURES:
        checked(dimensions_of(architecture), dimensions, "model")
    elif dimensions:
        key, value = next(iter(dimensions.items()))
        where = "hf.config has" if architecture == HF else "the module has"
        raise CalibError(wrong(f"model.{key}", value, f"no dimension: {where} them"))
    return checked(Subject, {**own, "dimensions": dimensions}, "model")


def read_request(config: Mapping[str, Any]) -> Request:
    """``config``: what Hydra composed, as plain dictionaries.

    Raises ``CalibError`` that names the key, its value and what is accepted.
    """
    request = checked(Request, config)
    request._given = dict(config)
    return request
