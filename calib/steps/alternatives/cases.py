"""What a run lies beside: other ways to run it, batches, weights and cards."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from calib.errors import CalibError
from calib.estimates.alternatives import Case, case_calls
from calib.estimates.fusion import fuse, with_fused_norms
from calib.estimates.memory import weights_of, working_bytes
from calib.samples.host_costs import COMPILED, EAGER, GRAPH, HostCosts, host_costs
from calib.steps.alternatives.asked import Asked
from calib.steps.alternatives.cards import Work, neighbours, relinked
from calib.steps.alternatives.overlap import together
from calib.steps.settings.layout import ParallelRequest
from calib.steps.subject import build_model, spread
from model.layer import Call
from model.parallel import LayoutError
from model.workload import Phase

if TYPE_CHECKING:
    from calib.cards.energy.fitted import Energy
    from calib.fit.calibration import Estimator
    from calib.steps.request import Request
    from calib.steps.target import Target

BATCHES = (2, 8, 32, 128)
SPLIT = (2, 4, 8)
"""Cards that a model is split over."""
STORED = {"float8_e4m3fn": "fp8 weights", "int4": "int4 weights"}
"""Types that weights may be stored in, and be multiplied in another."""
NAMES = {EAGER: "eager", GRAPH: "CUDA graph", COMPILED: "compiled"}


@dataclass(frozen=True)
class Run:
    """The run that cases lie beside."""

    request: Request
    target: Target
    model: Any
    phases: Mapping[str, Phase]
    estimator: Estimator
    costs: HostCosts | None
    module_code_s: float
    energy: Energy | None = None

    @property
    def is_traced(self) -> bool:
        """Of such a model no other batch is looked at: each would take a pass of seconds."""
        return hasattr(getattr(self.model, "whole", self.model), "working")

    @property
    def memory_bytes(self) -> float:
        return float(self.target.hardware.memory_bytes)

    @property
    def passes(self) -> dict[str, int]:
        return {name: phase.repeat for name, phase in self.phases.items()}

    @cached_property
    def weight_bytes(self) -> float:
        return weights_of(self.model, self.request.workload)

    @cached_property
    def working_bytes(self) -> float:
        return working_bytes(self.model, self.request.workload)

    def case(self, calls: Mapping[str, list[Call]], **other: Any) -> Case:
        """This run, with other ``calls`` and whatever else differs."""
        own = Case(
            calls,
            self.passes,
            self.request.workload,
            self.request.execution,
            self.estimator,
            self.costs,
            self.module_code_s,
            self.energy,
        )
        return replace(own, **other)

    def as_executed(self, calls: Mapping[str, list[Call]]) -> Mapping[str, list[Call]]:
        """What this run's way of execution launches of ``calls``."""
        return self.compiled(calls) if self.request.execution == COMPILED else calls

    def compiled(self, calls: Mapping[str, list[Call]]) -> dict[str, list[Call]]:
        return {phase: fuse(some).calls for phase, some in calls.items()}


@dataclass(frozen=True)
class Row:
    """A row of the table; ``case`` None: its time is not known, for the reason ``why``."""

    group: str
    name: str
    case: Case | None
    needed_bytes: float
    memory_bytes: float
    why: str = ""

    @property
    def fits(self) -> bool:
        return self.needed_bytes <= self.memory_bytes


def rows_of(run: Run) -> Iterator[Row]:
    calls, has = case_calls(run.phases), run.memory_bytes
    needs = run.weight_bytes + run.working_bytes
    base = run.as_executed(calls)
    yield Row("asked", "as asked", run.case(base), needs, has)
    if needs > has:
        yield from weight_rows(run)
        yield from layout_rows(run)
        yield from card_rows(run, base, needs)
        return
    for execution in (EAGER, GRAPH, COMPILED):
        if execution != run.request.execution and (run.costs or execution != GRAPH):
            launched = run.compiled(calls) if execution == COMPILED else calls
            case = run.case(launched, execution=execution)
            yield Row("execution", NAMES[execution], case, needs, has)
    if run.request.execution != COMPILED:
        fused = {phase: with_fused_norms(some) for phase, some in calls.items()}
        if fused != calls:
            yield Row("norms", "fused norms", run.case(fused), needs, has)
    yield from batch_rows(run)
    yield from weight_rows(run)
    yield from card_rows(run, base, needs)


def batch_rows(run: Run) -> Iterator[Row]:
    """Larger batches than the one that was asked, until one does not fit; of a model that is
    traced none."""
    if run.is_traced:
        return
    for batch in BATCHES:
        if batch > run.request.workload.batch:
            row = batch_row(run, batch)
            yield row
            if not row.fits:
                return


def batch_row(run: Run, batch: int, group: str = "batch", name: str = "") -> Row:
    workload = replace(run.request.workload, batch=batch)
    phases = run.model.phases(workload)
    calls = run.as_executed(case_calls(phases))
    needs = run.weight_bytes + working_bytes(run.model, workload)
    case = run.case(calls, workload=workload)
    return Row(group, name or f"batch {batch:,}", case, needs, run.memory_bytes)


def weight_rows(run: Run) -> Iterator[Row]:
    """Weights stored in fewer bytes: products by the kernels that read them so."""
    asked = run.request.model
    dimensions = asked.dimensions
    if "weight_dtype" not in dimensions or run.request.trains:
        return
    for dtype, name in STORED.items():
        if dimensions["weight_dtype"] == dtype:
            continue
        other = dimensions | {"weight_dtype": dtype}
        try:
            model = build_model(asked.model_copy(update={"dimensions": other}), run.request.hf)
        except CalibError:  # a model that knows no such type
            continue
        model = spread(model, run.request, run.target.hardware)
        phases = model.phases(run.request.workload)
        needs = weights_of(model, run.request.workload) + run.working_bytes
        case = run.case(run.as_executed(case_calls(phases)))
        yield Row("weights", name, case, needs, run.memory_bytes)


def layout_rows(run: Run) -> Iterator[Row]:
    """The fewest cards that the model fits on when they split it; of one that is traced none."""
    asked, estimator = run.request, run.estimator
    if run.is_traced or asked.spread or asked.trains:
        return
    if isinstance(estimator, Asked):  # apart: the run's own figures stay as they are, to the bit
        estimator = estimator.whole
    estimator = together(estimator)
    for tp in SPLIT:
        several = asked.model_copy(update={"parallel": ParallelRequest(tp=tp)})
        try:
            model = spread(run.model, several, run.target.hardware)
            phases = model.phases(asked.workload)
        except (CalibError, LayoutError):  # no links, heads that do not divide, no language model
            continue
        needs = weights_of(model, asked.workload) + working_bytes(model, asked.workload)
        if needs <= run.memory_bytes:
            calls = run.as_executed(case_calls(phases))
            case = run.case(calls, estimator=estimator, energy=None)
            yield Row("layout", f"{tp} cards (tp={tp})", case, needs, run.memory_bytes)
            return


def card_rows(run: Run, calls: Mapping[str, list[Call]], needs: float) -> Iterator[Row]:
    """By the calibrations that ship and the host costs that others published; none beside a CPU."""
    from calib.cards.energy.shipped import load_energy
    from calib.cards.older.shipped import load_torch

    if run.costs is None:
        return
    hardware, cards = run.target.hardware, run.request.parallel.cards
    for card in neighbours(hardware, Work(calls, run.passes, cards), needs).values():
        estimator = load_torch(replace(card, cuda=hardware.cuda))
        costs = host_costs([], card.name)
        if estimator and run.request.spread:
            estimator = together(estimator, run.request.parallel.overlap)
        there = relinked(calls, card, cards) if run.request.spread else calls
        other = {"costs": costs, "energy": load_energy(card) if run.energy else None}
        case = run.case(there, estimator=estimator, **other) if estimator else None
        yield Row("card", card.name, case, needs, float(card.memory_bytes))
