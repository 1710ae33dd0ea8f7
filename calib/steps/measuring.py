"""What is measured: operators, what the host costs, the model itself. All of it imports torch."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from calib.hardware.datasheet import Hardware
from calib.hardware.versions import versions
from calib.samples.host_costs import EAGER
from calib.samples.sample import Sample
from calib.steps.card.sweep import sweep_card
from calib.steps.fitting import uncertainty
from calib.steps.progress import stage
from calib.steps.request import Request, SweepRequest
from calib.steps.subject import shapes_of
from calib.steps.target import Target, open_instrument, probed
from model.layer import Call
from model.ops import Operator
from model.workload import Phase

if TYPE_CHECKING:
    from calib.fit.calibration import Estimator
    from calib.measure.instrument import Instrument
    from calib.measure.probes import Speed
    from calib.measure.reference.measurement import Measurement


_LONG_S = 0.05
"""A shape of the design whose floor [s] is longer is left out: it would cost too much budget."""

PROBE_BYTES = 2**30
"""Of random inputs for probes beside a model on a card."""


def measure_operators(
    target: Target, phases: Mapping[str, Phase], limits: SweepRequest, seed: int
) -> Target:
    """Probe the device, then sweep until the budget is spent, earlier sweeps' time included."""
    from calib.measure.allocator import keep_freed_memory

    target.store.check_writable()
    keep_freed_memory()
    from calib.estimates.tables import found_in_cache
    from calib.measure.clock import StopRule
    from calib.measure.sweep.design import adaptive
    from calib.measure.sweep.plan import MODEL, Point
    from calib.measure.sweep.sweep import Sweep
    from calib.samples.ceilings import ORIGIN, ceiling_operators

    with stage("probing the device"):
        target = probed(target)
    hardware = target.hardware
    caches = {op: "hot" if found_in_cache(op, hardware) else "cold" for op in shapes_of(phases)}
    models = [Point(op, cache, ORIGIN) for op, cache in ceiling_operators(hardware)]
    models += [Point(op, cache, MODEL) for op, cache in caches.items()]
    rule = StopRule(limits.spread, limits.cap_s, limits.least, limits.most)
    if target.on_card:
        rule = replace(rule, cap_s=limits.card_cap_s)
    instrument = open_instrument(target, seed)
    reach = 4 if target.on_card else 1
    keep = partial(_short, hardware=hardware)
    budget_s = limits.card_budget_s if target.on_card else limits.budget_s
    with stage("measuring operators", budget_s) as tell:
        sweep = Sweep(
            instrument,
            target.store,
            budget_s,
            instrument.rule(rule),
            versions(target.on_card),
            lambda elapsed_s, label: tell(label, elapsed_s),
        )
        if target.on_card:
            sweep_card(sweep, hardware, models, seed, keep, reach)
        else:
            refit = partial(uncertainty, hardware=hardware)
            sweep.run(models, adaptive(refit, seed, keep, reach))
    measure_costs(target, instrument)
    target.store.compact()
    return replace(target, samples=target.store.samples())


def _short(op: Operator, hardware: Hardware) -> bool:
    """Whether a shape of the design is worth its time."""
    from calib.hardware.datasheet import floor

    return float(floor(op, hardware)) < _LONG_S


def measure_host(target: Target, calibration: Estimator, execution: str) -> float:
    """Seconds that eager module code adds to a launch of a CPU; 0 where launches do not wait for
    it. (What a card's host costs is measured with its operators.)

    Measured once on a miniature model and kept with the samples.
    """
    from calib.measure.reference.miniature import host_rounds
    from calib.samples.host_costs import MODULE_CODE

    if not target.here or target.on_card or execution != EAGER:
        return 0.0
    known = [s for s in target.samples if s.op == MODULE_CODE]
    if not known:
        from calib.estimates.tables import found_in_cache
        from calib.measure.cases.arena import Arena, weight_stream

        def operators(calls: Sequence[Call]) -> float:
            ops = [c.op for c in calls]
            hot = [found_in_cache(op, target.hardware) for op in ops]
            each = calibration.estimate(ops, hot=hot)["estimate_s"]
            return float(sum(s * c.count for s, c in zip(each, calls, strict=True)))

        disturb = weight_stream(Arena())
        with stage("measuring what module code costs"):
            seconds = host_rounds(operators, disturb=disturb).module_code
        known = store_costs(target, {MODULE_CODE: seconds})
    return statistics.median(s.expected for s in known)


def measure_costs(target: Target, instrument: Instrument) -> None:
    """What host and queue cost beside the operators, once, and how fast the host was then."""
    from calib.samples.host_costs import EAGER_OPERATOR, MODULE_CODE

    stored = {s.op for s in target.store.samples()}
    if not {EAGER_OPERATOR, MODULE_CODE} <= stored and target.on_card:
        costs = instrument.costs()
        store_costs(target, costs, instrument.speed().host)


def store_costs(
    target: Target, costs: Mapping[Operator, list[float]], probe_host: float | None = None
) -> list[Sample]:
    """Append the raw seconds of each cost to the target's store; of a difference that came out as
    what cannot be there is no sample."""
    from calib.samples.host_costs import ORIGIN
    from calib.samples.parts.columns import HOUR_S

    samples = [
        Sample(
            op=op,
            seconds=seconds,
            hardware=target.store.hardware,
            implementation="torch",
            origin=ORIGIN,
            device=target.device,
            probe_host=probe_host,
            versions=versions(target.on_card),
        )
        for op, seconds in costs.items()
        if seconds and all(0 <= s < HOUR_S for s in seconds)
    ]
    if samples:
        target.store.append(samples)
    return samples


@dataclass(frozen=True)
class Observed:
    """The measured model, with the machine's speed between its passes."""

    measurement: Measurement
    speeds: dict[str, Speed]


def measure_model(request: Request, target: Target) -> Observed | None:
    """Run the reference model on the device, where there is one for this architecture.

    It runs eagerly, so that other ways of execution are estimated only.
    """
    if not target.here or request.model.architecture != "deepseek_ocr":
        return None
    if request.execution != EAGER or request.measured or request.trains or request.spread:
        return None
    from calib.measure.reference.measurement import measure_reference

    speeds: dict[str, Speed] = {}
    probe = open_probe(target)
    with stage("building and measuring the model") as tell:

        def between(name: str) -> None:
            tell(name, 0.0)
            speeds[name] = probe(name)

        measurement = measure_reference(
            request.workload,
            request.model.dimensions,
            device=target.torch_device,
            repeats=request.repeats,
            between=between,
            seed=request.seed,
        )
    return Observed(measurement, speeds)


def open_probe(target: Target) -> Callable[[str], Speed]:
    """What says how fast the device is, before the pass of a given name."""
    from calib.measure.probes import speed
    from calib.measure.reference.passes import STEP

    if not target.on_card:
        return lambda name: speed(repeats=3 if STEP in name else 9)
    instrument = open_instrument(target, arena_bytes=PROBE_BYTES)
    instrument.warm_up()
    return lambda name: instrument.speed()


def routing(observed: Observed | None) -> dict[str, list[float]] | None:
    """Experts touched as they were seen; None: their expectation under uniform routing."""
    return observed.measurement.experts_touched if observed else None
