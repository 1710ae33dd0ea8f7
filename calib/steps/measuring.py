"""The steps of a run, each from the results of the last. Only those that measure import torch."""

from __future__ import annotations

import logging
import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any

from calib.errors import CalibError, one_of
from calib.hardware.datasheet import Hardware
from calib.hardware.versions import versions
from calib.samples.host_costs import EAGER
from calib.samples.sample import Sample
from calib.steps.progress import stage
from calib.steps.request import dimensions_of
from calib.steps.target import Target, open_instrument, probed
from model.architectures import build
from model.layer import Call
from model.ops import Operator
from model.workload import Phase, Workload

if TYPE_CHECKING:
    from calib.estimates.tables import Estimator
    from calib.fit.calibration import Calibration
    from calib.measure.cuda.instrument import CudaInstrument
    from calib.measure.instrument import Instrument
    from calib.measure.probes import Speed
    from calib.measure.reference.measurement import Measurement
    from calib.measure.sweep.choice import Uncertainty
    from calib.measure.sweep.sweep import Point, Sweep

log = logging.getLogger(__name__)

HF = "hf"
"""The architecture that is a configuration of ``transformers``, and traced."""
_LONG_S = 0.05
"""A shape of the design whose floor [s] is longer is left out: it would cost too much budget."""
PROBE_BYTES = 2**30
"""Of random inputs for probes beside a model on a card."""


def model_and_workload(config: dict[str, Any]) -> tuple[Any, Workload]:
    """The model and what is asked of it. Raises ``CalibError`` that names the key that is wrong."""
    architecture, dimensions = config["model"].get("architecture"), dimensions_of(config)
    shape = dict(config["workload"])
    if shape.get("tiles"):
        shape["tiles"] = tuple(shape["tiles"])
    known = [f.name for f in fields(Workload)]
    for key in shape:
        if key not in known:
            raise CalibError(f"workload: no key {key!r}: expected {one_of(key, known)}")
    try:
        workload = Workload(**shape)
    except (TypeError, ValueError) as error:
        raise CalibError(f"workload: {error}") from None
    if architecture == HF:
        from calib.trace.hf import load

        return load(config["hf"]["config"], config["hf"]["dtype"]), workload
    try:
        return build(architecture, **dimensions), workload
    except (TypeError, ValueError) as error:
        raise CalibError(f"model: {error}") from None


def measure_operators(config: dict[str, Any], target: Target, phases: dict[str, Phase]) -> Target:
    """Probe the device, then sweep until the budget is spent, earlier sweeps' time included."""
    from calib.measure.allocator import keep_freed_memory

    target.store.check_writable()
    keep_freed_memory()
    from calib.estimates.tables import found_in_cache
    from calib.measure.sweep.design import adaptive
    from calib.measure.sweep.sweep import MODEL, Point, Sweep
    from calib.samples.ceilings import ORIGIN, ceiling_operators

    with stage("probing the device"):
        target = probed(target)
    hardware, limits = target.hardware, config["sweep"]
    caches = {op: "hot" if found_in_cache(op, hardware) else "cold" for op in shapes_of(phases)}
    models = [Point(op, cache, ORIGIN) for op, cache in ceiling_operators(hardware)]
    models += [Point(op, cache, MODEL) for op, cache in caches.items()]
    instrument = open_instrument(target, config["seed"])
    reach = 4 if target.on_card else 1
    keep = partial(_short, hardware=hardware)
    if target.on_card:
        limits = {**limits, "budget_s": limits["card_budget_s"], "cap_s": limits["card_cap_s"]}
    budget_s = limits["budget_s"]
    with stage("measuring operators", budget_s) as tell:
        sweep = Sweep(
            instrument,
            target.store,
            budget_s,
            instrument.rule(limits),
            versions(target.on_card),
            lambda elapsed_s, label: tell(label, elapsed_s),
        )
        if target.on_card:
            sweep_card(sweep, hardware, models, config["seed"], keep, reach)
        else:
            refit = partial(_uncertainty, hardware=hardware)
            sweep.run(models, adaptive(refit, config["seed"], keep, reach))
    measure_costs(target, instrument)
    target.store.compact()
    return replace(target, samples=target.store.samples())


def sweep_card(
    sweep: Sweep,
    hardware: Hardware,
    models: Sequence[Point],
    seed: int,
    keep: Callable[[Operator], bool],
    reach: int,
) -> None:
    """A card's minutes are for measuring: torch's operators are compared before, our kernels are
    compiled and fits are made in other processes meanwhile."""
    from calib.measure.sweep.design import adaptive, design
    from calib.measure.sweep.order import DESIGN_SHARE, by_worth
    from calib.measure.sweep.sweep import spent_s
    from calib.steps.refits import Refits, in_words, one_process, read_trail

    card: CudaInstrument = sweep.instrument  # type: ignore[assignment]
    first = (op for op, _ in islice(design(seed, keep, reach), _PROVED))
    began = sweep.clock()
    card.prove([*first, *(point.op for point in models)])
    sweep.budget_s = max(sweep.budget_s - (sweep.clock() - began), 0.0)
    refits, ahead = Refits(hardware, one_process(), spent_s), card.ahead()
    try:
        sweep.order = by_worth(ahead, refits.good)
        sweep.run(models, adaptive(refits, seed, keep, reach, DESIGN_SHARE))
    finally:
        ahead.close()
        refits.close(sweep.store.folder)
    log.info(in_words(read_trail(sweep.store.folder)))


_PROVED = 400
"""Shapes of the design that have every kind and dtype among them."""


def _uncertainty(samples: Sequence[Sample], hardware: Hardware) -> Uncertainty:
    """How unsure a fit to ``samples`` is of operators, found here and now: a CPU that is measured
    must not fit meanwhile."""
    import numpy as np

    from calib.steps.refits import fit_torch, spread_of

    if not samples:
        return lambda ops: np.ones(len(ops))
    return spread_of(fit_torch(samples, hardware), samples[0].implementation)


def _short(op: Operator, hardware: Hardware) -> bool:
    """Whether a shape of the design is worth its time."""
    from calib.hardware.datasheet import floor

    return float(floor(op, hardware)) < _LONG_S


def measure_host(config: dict[str, Any], target: Target, calibration: Estimator) -> float:
    """Seconds that eager module code adds to a launch of a CPU; 0 where launches do not wait for
    it. (What a card's host costs is measured with its operators.)

    Measured once on a miniature model and kept with the samples.
    """
    from calib.measure.reference.miniature import host_seconds
    from calib.samples.host_costs import MODULE_CODE

    if not target.here or target.on_card or config["execution"] != EAGER:
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
            seconds = host_seconds(operators, disturb=disturb)
        known = store_costs(target, {MODULE_CODE: seconds})
    return statistics.median(s.expected for s in known)


def measure_costs(target: Target, instrument: Instrument) -> None:
    """What host and queue cost beside the operators, once."""
    from calib.samples.host_costs import EAGER_OPERATOR

    if not any(s.op == EAGER_OPERATOR for s in target.store.samples()):
        store_costs(target, instrument.costs())


def store_costs(target: Target, costs: Mapping[Operator, list[float]]) -> list[Sample]:
    """Append the raw seconds of each cost to the target's store."""
    from calib.samples.host_costs import ORIGIN

    samples = [
        Sample(
            op=op,
            seconds=seconds,
            hardware=target.store.hardware,
            implementation="torch",
            origin=ORIGIN,
            device=target.device,
            versions=versions(target.on_card),
        )
        for op, seconds in costs.items()
    ]
    if samples:
        target.store.append(samples)
    return samples


@dataclass(frozen=True)
class Observed:
    """The measured model, with the machine's speed between its passes."""

    measurement: Measurement
    speeds: dict[str, Speed]


def measure_model(config: dict[str, Any], target: Target, workload: Workload) -> Observed | None:
    """Run the reference model on the device, where there is one for this architecture.

    It runs eagerly, so that other ways of execution are estimated only.
    """
    if not target.here or config["model"]["architecture"] != "deepseek_ocr":
        return None
    if config["execution"] != EAGER or config["measured"]:
        return None
    from calib.measure.reference.measurement import measure_reference

    speeds: dict[str, Speed] = {}
    probe = open_probe(target)
    with stage("building and measuring the model") as tell:

        def between(name: str) -> None:
            tell(name, 0.0)
            speeds[name] = probe(name)

        measurement = measure_reference(
            workload,
            dimensions_of(config),
            device=target.torch_device,
            repeats=config["repeats"],
            between=between,
            seed=config["seed"],
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


def shapes_of(phases: Mapping[str, Phase]) -> Iterator[Operator]:
    """The operators of all phases as they can be run, each time they are called."""
    from calib.fit.physics.features import whole

    yield from (whole(c.op) for p in phases.values() for c in p.layer.calls())


def fit_samples(target: Target, own: Iterable[Operator] = ()) -> tuple[Estimator, Estimator | None]:
    """The calibration of all that is known, and one that never saw a model's own shapes.

    Both share one fit, to the design's samples; the first knows the measured shapes besides.
    ``own``: the shapes of the model that is asked for, left out too where the design had them
    before. A kind without samples goes to the card's shipped calibration, and without one to the
    roofline.
    """
    from calib.cards.shipped import Layered, load_card
    from calib.fit.calibration import uncalibrated

    card = load_card(target.hardware)
    if not target.samples:
        return card or uncalibrated(target.hardware), None
    seen, unseen = _fit_own(target, frozenset(own))
    return (Layered((seen, card)), Layered((unseen, card))) if card else (seen, unseen)


def _fit_own(target: Target, own: frozenset[Operator]) -> tuple[Calibration, Calibration]:
    from calib.fit.fitting import fit, measured_shapes

    designs = [s for s in target.samples if s.origin == "design" and s.op not in own]
    with stage("fitting") as tell:
        unseen = fit(designs, target.hardware, lambda name: tell(name, 0.0))
    seen = replace(unseen, measured=measured_shapes(target.samples, target.hardware))
    return seen, unseen
