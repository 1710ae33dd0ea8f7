"""The answer of a run: formulas, calibration and clock joined into one record."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from calib.hardware.versions import is_older, versions
from calib.samples.host_costs import COMPILED, GRAPH, HostCosts, host_costs
from calib.steps.card.energy import energy_of, holding
from calib.steps.card.refits import with_pace
from calib.steps.notes import (
    host_drift_notes,
    image_notes,
    issue_notes,
    module_code_notes,
    overlap_notes,
    plan_notes,
    position_notes,
    source_notes,
    trace_notes,
)
from calib.steps.request import Request
from calib.steps.target import CPU, Target
from model.layer import Call
from model.workload import Phase, Workload

if TYPE_CHECKING:
    import pandas as pd

    from calib.cards.energy.fitted import Energy
    from calib.estimates.replay.first_time import Extra
    from calib.fit.calibration import Estimator
    from calib.hardware.datasheet import Hardware
    from calib.report.record import RunRecord
    from calib.steps.alternatives.cases import Run
    from calib.steps.alternatives.table import WhatIf
    from calib.steps.measuring import Observed
    from model.ops import Operator


@dataclass(frozen=True)
class Tables:
    """Rows of operators, modules and components; ``measurement``: what the clock says beside them,
    ``notes``: what a reader must know of it."""

    operators: pd.DataFrame
    modules: pd.DataFrame
    components: pd.DataFrame
    measurement: dict[str, Any] | None = None
    notes: tuple[str, ...] = ()


def answer(
    request: Request,
    target: Target,
    model: Any,
    phases: dict[str, Phase],
    calibrations: tuple[Estimator, Estimator | None],
    observed: Observed | None,
    host_s: float = 0.0,
) -> RunRecord:
    """Tables of operators, modules, components and figures, the measured columns beside them.

    ``calibrations``: of all that is known, and one that never saw the model's own shapes;
    ``host_s``: seconds that eager module code adds to a launch of a CPU.
    """
    from calib.estimates.fusion import fuse
    from calib.estimates.memory import memory
    from calib.estimates.sums import DENOISE, figure_table
    from calib.estimates.timeline import launch_table, timeline_table
    from calib.estimates.training import training_table
    from calib.report.record import RunRecord, as_it_runs
    from calib.steps.alternatives.cases import Run
    from calib.steps.alternatives.overlap import overlapped, together
    from calib.steps.alternatives.table import alternatives
    from calib.steps.engine.stack import stack_notes, stack_of

    architecture, execution = request.model.architecture, request.execution
    workload, costs = request.workload, issue_costs(target)
    name = getattr(model, "name", None) or request.model.name or architecture
    fused = {p: fuse(v.layer.calls()) for p, v in phases.items() if execution == COMPILED}
    names = {"model": name, "workload": workload.name}
    stack, hidden = stack_of(request, target.hardware, model, phases), request.parallel.overlap
    calibration, unseen = calibrations
    if stack is not None:  # which has collectives of its own
        calibration, unseen = overlapped(stack, hidden), None
    elif request.spread:
        calibration, unseen = together(calibration, hidden), unseen and together(unseen, hidden)
    held_by = holding(request, target)
    energy = energy_of(request, held_by)
    run = Run(request, target, model, phases, calibration, costs, host_s, held_by)
    beside = None if stack else cases_beside(run)
    said = beside.asked if beside else calibration
    reached = stack.own if stack else calibrations[0]
    made = stack.calls if stack else {p: fusion.calls for p, fusion in fused.items()}
    found = estimated(
        *(request, phases, (said, unseen), reached, names, made, costs, host_s),
        *(energy, held_by, stack.names if stack else None),
    )
    plain = [*source_notes(target, found.operators, request.implementation), *target.notes]
    of_times, found = list(found.notes), replace(found, notes=())
    notes = stack_notes(stack, request, found.operators, plain)
    notes += [*getattr(model, "notes", []), *position_notes(request, model)]
    if hasattr(model, "formulas"):
        found = beside_formulas(found, model, workload)
    repeats = {phase: p.repeat for phase, p in phases.items()}
    found, extra = (
        beside_clock(found, request, target, observed, repeats),
        new_length(request, target, phases, costs),
    )
    hiding = overlap_notes(request.parallel) if request.spread else []
    notes += [*found.notes, *module_code_notes(host_s, found.operators), *hiding]
    of_times += issue_notes(costs, {} if stack else fused, execution)
    about = found.measurement or {}
    notes += host_drift_notes(about.get("host_drift"))
    if execution != GRAPH and request.implementation == "torch":
        card, lengths = planning(target.hardware), about.get("lengths")
        of_times += plan_notes(costs, card, phases, found.components, lengths)
    sees = workload.side is not None and not phases.keys().isdisjoint(("vision", DENOISE))
    notes += [] if sees or request.trains else image_notes(name, workload, phases)
    figures = (
        training_table(found.components, phases, workload, target.hardware)
        if request.trains
        else figure_table(found.components, workload, sees, request.parallel.cards, extra)
    )
    traced, now = request.report.trace and not target.hardware.unprobed, datetime.now(UTC)
    return as_it_runs(
        RunRecord(
            run_id=f"{name}-{workload.name}-{target.hardware.name}-{now:%Y%m%dT%H%M%S}",
            created=now.isoformat(timespec="seconds"),
            model=name,
            architecture=architecture,
            model_config={"architecture": architecture}
            | request.model.dimensions
            | getattr(model, "dimensions", {}),
            workload=asdict(workload),
            hardware=asdict(target.hardware),
            implementation=request.implementation,
            execution=execution,
            mode=request.mode,
            operators=found.operators,
            modules=found.modules,
            components=found.components,
            figures=figures,
            fits=with_pace((unseen or calibration).held_out, target.store.folder),
            measurement=found.measurement,
            timeline=timeline_table(found.operators, repeats, extra),
            launches=launch_table(found.operators, repeats, costs, execution) if traced else None,
            memory=memory(model, workload, target.hardware.memory_bytes).as_dict()
            if target.hardware.memory_bytes
            else None,
            ceilings=ceiling_table(target),
            layout=model.layout.as_dict() if request.spread else None,
            energy=used(found.operators, energy, workload, sees) if energy else None,
            alternatives=alternatives(beside) if beside else None,
            notes=notes,
            environment={**versions(), "config": request.given, "device": target.device},
        ),
        of_times,
    )


def new_length(
    request: Request, target: Target, phases: Mapping[str, Phase], costs: HostCosts | None
) -> Extra:
    """What a decode step takes longer over a length that is new; nothing but where torch issues it
    operator by operator."""
    from calib.estimates.replay.first_time import Extra, of_new_length, plans_of

    if request.execution == GRAPH or request.implementation != "torch":
        return Extra()
    return of_new_length(plans_of(phases, planning(target.hardware)), costs)


def planning(hardware: Hardware) -> str | None:
    """The compute capability of a card on which torch asks cuDNN first, which makes plans."""
    return None if is_older(hardware.cuda) else hardware.compute_capability


def used(
    operators: pd.DataFrame, energy: Energy, workload: Workload, sees: bool
) -> dict[str, Any] | None:
    """Joules of all, a request and a token; None where a time is not known."""
    from calib.estimates.energy.joules import DECODE, energy_use

    decodes = bool((operators["phase"] == DECODE).any())
    decoded = workload.decode_steps * workload.batch if decodes else 0
    request = "request" if not sees else "page" if decodes else "image"
    return energy_use(operators, energy, decoded, workload.batch, request)


def cases_beside(run: Run) -> WhatIf | None:
    """What else it could be; None where no page shows it and no limit is asked for, or where no
    time is known."""
    unasked = not run.request.report.html and run.request.limit.tpot is None
    idle = not any(phase.layer.launched() for phase in run.phases.values())
    if unasked or idle or run.target.hardware.unprobed:
        return None
    from calib.steps.alternatives.table import what_if

    return what_if(run)


def estimated(
    request: Request,
    phases: Mapping[str, Phase],
    calibrations: tuple[Estimator, Estimator | None],
    reached: Estimator,
    names: dict[str, str],
    rewritten: Mapping[str, Sequence[Call]],
    costs: HostCosts | None,
    host_s: float,
    energy: Energy | None = None,
    held_by: Energy | None = None,
    kernels: Mapping[Operator, str] | None = None,
) -> Tables:
    """The formulas and what the calibrations say of them, launches replayed. ``reached``: whose
    samples are asked how far they reach; ``rewritten``: by phase, calls in place of the model's
    own; ``energy``: what joules go by, ``held_by``: the card's clock; ``kernels``: an engine's
    names."""
    from calib.estimates.energy.joules import with_joules
    from calib.estimates.energy.power import executions, power_of, timed
    from calib.estimates.modules import module_table
    from calib.estimates.reach import reach_notes
    from calib.estimates.sums import component_table
    from calib.estimates.tables import operator_table

    said, unseen = calibrations
    implementation = request.implementation
    operators = operator_table(phases, said, unseen, implementation, names, rewritten)
    made = ((rewritten.get(phase) or p.layer.calls()) for phase, p in phases.items())
    ops = [call.op for calls in made for call in calls]
    said_of = list(zip(ops, operators["estimate_s"], operators["provenance"], strict=True))
    repeats = {phase: p.repeat for phase, p in phases.items()}
    power = power_of(ops, executions(operators, repeats), held_by, said.hardware)
    operators, held = timed(operators, power, repeats, costs, request.execution, host_s)
    operators = with_joules(operators, power if energy else None)
    return Tables(
        operators,
        module_table(phases, operators),
        component_table(operators),
        notes=(*reach_notes(reached, said_of, implementation, kernels), *held),
    )


def beside_formulas(found: Tables, model: Any, workload: Workload) -> Tables:
    """Modules of a traced model with the columns of the layers' own formulas, where it has any."""
    from calib.trace.hf.ours import agreement, formula_columns

    modules = formula_columns(found.modules, model.formulas(workload))
    return replace(found, modules=modules, notes=(*found.notes, *agreement(modules)))


def beside_clock(
    found: Tables,
    request: Request,
    target: Target,
    observed: Observed | None,
    repeats: Mapping[str, int],
) -> Tables:
    """The tables with measured columns: of the model that was run here, or of a recorded trace."""
    blind = (found.operators, found.modules, found.components)
    if observed:
        from calib.compare.clock.compare import compare

        joined = compare(*blind, observed.measurement, observed.speeds, target.samples)
        return Tables(*joined, (*found.notes, *observed.measurement.notes))
    if request.measured:
        from calib.compare.clock.recorded import read_trace
        from calib.compare.clock.traced import compare_recorded

        asked, hardware = asdict(request.workload), target.hardware
        recorded = read_trace(
            request.measured, found.modules, repeats, asked, hardware, request.measured_step
        )
        joined = compare_recorded(*blind, recorded)
        return Tables(*joined, (*found.notes, *recorded.notes, *trace_notes(joined[-1])))
    return found


def ceiling_table(target: Target) -> pd.DataFrame | None:
    """What the device was measured to reach at best, beside its datasheet; None: not measured."""
    import pandas as pd

    from calib.samples.ceilings import ceilings

    found = ceilings(target.samples, target.hardware)
    return pd.DataFrame([asdict(c) for c in found]) if found else None


def issue_costs(target: Target) -> HostCosts | None:
    """What issuing work to the target costs; None for a CPU, whose samples hold their dispatch."""
    if target.hardware.name == CPU:
        return None
    return host_costs(target.samples, target.hardware.name)
