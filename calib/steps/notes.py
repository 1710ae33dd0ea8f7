"""Sentences of a run about itself: where its times come from, and what was assumed."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from calib.estimates.replay.first_time import plans_of
from calib.hardware.datasheet import Hardware, hardware_names, load_hardware
from calib.hardware.rates import refuses
from calib.hardware.versions import NEWEST, PRODUCTS, cuda_version, tells_products
from calib.report.record import AVOIDED, GROWS
from calib.report.units import nbytes, seconds
from calib.samples.host_costs import EAGER, GRAPH, HostCosts
from calib.steps.request import HF, OWN, Request
from calib.steps.settings.layout import ParallelRequest
from calib.steps.target import Target
from model.workload import Phase, Workload, beyond

if TYPE_CHECKING:
    import pandas as pd

    from calib.estimates.fusion import Fusion

BESIDE = ("host", "ceiling")
"""Of samples: origins from which no fit of an operator learns."""
DECODE, VISION = "decode", "vision"
NEW, SEEN = "new", "seen"
"""Of ``calib.measure.reference.measurement.Measurement.lengths``."""


def source_notes(target: Target, operators: pd.DataFrame, implementation: str) -> list[str]:
    """Where the times come from: the user's samples, the card that ships, or nothing."""
    from calib.cards.shipped import about_card, about_taught
    from calib.cards.tables.figures import ENGINE, TORCH
    from calib.estimates.sums import known_by

    if target.hardware.unprobed:
        return [
            "No times: mode=analytic never measures, and only probes tell what this CPU can do. "
            "For times give a card, +hw=<card>, one of "
            f"{', '.join(n for n in hardware_names() if n != 'cpu')}, or measure with mode=run."
        ]
    name, notes = target.hardware.name, []
    about = about_card(name)
    taken = (s for s in target.samples if s.origin not in BESIDE)
    sampled = any(s.implementation == implementation for s in taken)
    ships = about is not None and implementation in (TORCH, ENGINE)
    if about and ships:
        behind = "Your samples correct the" if sampled else "The"
        taught = about_taught(target.hardware)
        beside = f" {taught['summary']}" if taught and implementation == TORCH else ""
        notes.append(f"{behind} calibration that ships: {about['summary']}{beside}")
        notes += clock_notes(about) + limit_notes(target.hardware)
    elif about:
        lacking = "kinds that your samples lack take" if sampled else "every kernel takes"
        notes.append(
            f"What ships for {name} is of torch's operators and {ENGINE}'s: by "
            f"implementation={implementation} {lacking} the roofline, a lower bound."
        )
    if not (sampled or about):
        of = "" if implementation == TORCH else f" of {implementation}"
        mend = f"put a Parquet file of its samples{of} (calib.samples.sample) into"
        mend = f"{mend} {target.store.folder}"
        if target.here:
            mend = "give its sweep more time (sweep.budget_s), on a machine that does nothing else"
        notes.append(
            f"{name} has no samples{of} and no calibration that ships, so every kernel takes its "
            f"roofline: a lower bound, often 2-5x below the clock. To calibrate it, {mend}."
        )
    if implementation == TORCH:
        notes += [*refused_notes(target.hardware, operators), *cuda_notes(target.hardware)]
    if about and (sampled or ships) and len(set(operators["provenance"])) > 1:
        notes.append(f"How the times of each kind are known: {known_by(operators)}.")
    return notes


def refused_notes(hardware: Hardware, operators: pd.DataFrame) -> list[str]:
    """Which products torch does not run on this card."""
    products = operators[operators["kind"].isin(("matmul", "grouped_matmul"))]
    dtypes = sorted({str(dtype) for dtype in products.get("dtype", ())})
    capability = hardware.compute_capability
    refused = [dtype for dtype in dtypes if refuses(dtype, hardware.peak_flops, capability)]
    if not refused:
        return []
    return [
        f"{hardware.name} has no units for {', '.join(refused)}: torch._scaled_mm raises there. "
        "Such products take the roofline of a kernel that widens their factors: torch has none."
    ]


OF_A_GRAPH = ("sync", "graph_node", "graph_launch", "node_gap")
"""Costs of the host that a graph's replay takes."""


def clock_notes(about: Mapping[str, Any]) -> list[str]:
    """Why a product may be told below its roofline. ``about``: the data card of what ships."""
    ratio = about.get("clock_ratio", 1.0)
    if ratio <= 1:
        return []
    return [
        f"Arithmetic is taken to run at {ratio:.2f} times the card's rated clock, as products that "
        "others published of it did. The roofline is at the rated clock, so that a large product "
        "may take less."
    ]


def limit_notes(hardware: Hardware) -> list[str]:
    """What a lower power limit than that of a card's file changes, which is little."""
    sold, asked = load_hardware(hardware.name).power_w, hardware.power_w
    if sold is None or asked is None or asked >= sold:
        return []
    return [
        f"A power limit of {asked:g} W (hw.power_w) is told to attention of prompts only. Products "
        f"are those of {sold:g} W: under a lower limit large ones take longer than is said here."
    ]


def cuda_notes(hardware: Hardware) -> list[str]:
    """Whose kernels the times are, where a version of CUDA is meant."""
    from calib.cards.older.shipped import about_older

    told, meant = about_older(hardware), hardware.cuda
    if meant is None or cuda_version(meant) == cuda_version(NEWEST):
        return []
    if told is None:
        return [
            f"torch is taken to be built for CUDA {meant}, of whose kernels nothing is known on "
            f"{hardware.name}: the times and their intervals are as without it."
        ]
    is_near = tells_products(meant) and cuda_version(meant) != cuda_version(PRODUCTS)
    near = f" and to take the products of {PRODUCTS}, the nearest known" if is_near else ""
    return [
        f"torch is taken to be built for CUDA {meant}{near}: {told['summary']} Errors on held-out "
        f"shapes of what ships are of today's kernels (CUDA {NEWEST}), before that correction."
    ]


def issue_notes(
    costs: HostCosts | None, fused: Mapping[str, Fusion], execution: str = EAGER
) -> list[str]:
    """Which costs of the host were not measured, of those that ``execution`` has, and what a
    compiler fused."""
    graph, notes = execution == GRAPH, []
    published = [n for n in (costs.published if costs else ()) if n in OF_A_GRAPH or not graph]
    if costs and published:
        operator = costs.eager_operator
        takes = (
            f"; an eager operator takes {operator.low_s * 1e6:.1f}-{operator.high_s * 1e6:.1f} "
            f"microseconds of the host ({operator.known_by})"
        )
        notes.append(
            "Host costs are ranges that other hosts showed, not measured here "
            f"({', '.join(published)}){'' if graph else takes}."
        )
    for phase, fusion in fused.items():
        notes.append(
            f"Compiled, a pass of {phase} launches {fusion.launches} kernels in place of "
            f"{fusion.launches_before} and moves {nbytes(fusion.saved_bytes)} less."
        )
    return notes


AVOIDED_BY = (
    "another backend (torch.nn.attention.sdpa_kernel, or for all of the process "
    "torch.backends.cuda.enable_cudnn_sdp(False)), a static cache, or a CUDA graph"
)


def plan_notes(
    costs: HostCosts | None,
    capability: str | None,
    phases: Mapping[str, Phase],
    components: pd.DataFrame,
    lengths: Mapping[str, Sequence[float]] | None = None,
) -> list[str]:
    """What an eager decode pays while its text grows, beside what it takes at lengths that the
    process has seen; nothing where no phase's attention is planned.

    ``lengths``: the measured seconds of steps over lengths that were new and then seen.
    """
    if not costs or not costs.attention_plan:
        return []
    notes, plan = [], costs.attention_plan
    plans = plans_of(phases, capability)
    per_token, once = plans.a_step, plans.once
    if per_token:
        steady = components.loc[components["component"] == DECODE, "estimate_s"].sum()
        low, high = (1e3 * per_token * end for end in (plan.low_s, plan.high_s))
        each = "a plan" if per_token == 1 else f"{per_token} plans"
        notes.append(
            "Decode, at lengths seen before, takes "
            f"{seconds(steady / phases[DECODE].repeat)} a token: that is what this report holds. "
            f"{GROWS} torch's cuDNN attention makes "
            f"{each} a token on the host: {seconds(per_token * plan.estimate_s)} more "
            f"({low:.0f}-{high:.0f} ms, {plan.known_by}). {AVOIDED} {AVOIDED_BY}."
        )
    if once:
        notes.append(
            f"A process's first pass makes {once} more plan{'s' * (once != 1)}, one for each shape "
            f"of attention that it has not met: about {seconds(once * plan.estimate_s)} once."
        )
    return [*notes, *length_notes(lengths or {})]


def length_notes(lengths: Mapping[str, Sequence[float]]) -> list[str]:
    """What the clock says of decode steps over new lengths, and over the same again."""
    if not lengths.get(NEW) or not lengths.get(SEEN):
        return []
    new, seen = (statistics.median(lengths[name]) for name in (NEW, SEEN))
    return [
        f"By the clock a decode step over a length that is new takes {seconds(new)}, and over the "
        f"same length again {seconds(seen)}: {seconds(new - seen)} for the first time."
    ]


def host_drift_notes(drift: Mapping[str, float] | None) -> list[str]:
    """How the host's speed moved; nothing where no probe asked it."""
    if not drift:
        return []
    return [
        f"The host issued operators at {drift['slowest']:.0%} to {drift['fastest']:.0%} of the "
        "speed that it had when its costs were measured; what it bounds is brought to that speed."
    ]


def trace_notes(about: Mapping[str, Any]) -> list[str]:
    """Why a recorded trace gives no measured time of a phase, or none of the host."""
    notes = [
        f"The trace is not taken for {phase} of this model: {'; '.join(reasons)}. What it holds is "
        "under How it was measured."
        for phase, reasons in about["refused"].items()
    ]
    notes += about["remarks"]
    if about["stacked"]:
        notes.append(
            "The trace was recorded with Python's frames (with_stack), which slows the host down "
            "several times: its wall times are no measurement. For those record without, modules "
            "as record_function ranges named by their path."
        )
        notes += [
            f"By the trace the device was busy with {c['phase']} for {seconds(c['measured_s'])}: "
            f"the estimate of its kernels is {seconds(c['estimate_s'])} ({c['error']:+.0%})."
            for c in about["clocks"]
            if c["what"] == "operators" and c["measured_s"]
        ]
    return notes


def image_notes(model: str, workload: Workload, phases: Iterable[str] = ()) -> list[str]:
    """What a model that looks at no image leaves of a workload that has one, or one that reads no
    text of a workload of text."""
    if not workload.side:
        if set(phases) != {VISION} or not workload.prompt_tokens:
            return []
        return [
            f"{model} reads no text: of {workload.name} only the batch is asked, of images of the "
            "model's own size."
        ]
    return [
        f"{model} looks at no image: of {workload.name} only the tokens are asked, and not its "
        f"{workload.side} pixels."
    ]


def module_code_notes(host_s: float, operators: pd.DataFrame) -> list[str]:
    """What eager module code adds on a CPU; nothing where it was not measured."""
    if not host_s:
        return []
    launches = int((operators["launches"] * operators["count"]).sum())
    return [
        f"Eager module code adds {host_s * 1e6:.1f} microseconds to each of the {launches} "
        "launches of one pass of all phases (measured on a miniature model)."
    ]


def position_notes(request: Request, model: Any) -> list[str]:
    """Where a sequence is longer than a model with formulas was made for; a traced one says so
    itself."""
    workload = request.workload
    prompt = getattr(getattr(model, "model", model), "prompt_length", lambda _: None)(workload)
    if prompt is None or request.model.architecture in (HF, OWN):
        return []
    tokens = prompt if request.trains else prompt + workload.decode_steps
    return beyond(tokens, request.model.dimensions.get("positions"))


def overlap_notes(asked: ParallelRequest) -> list[str]:
    """Whether a card waits for what it is told."""
    if not asked.overlap:
        return ["Nothing is overlapped: a card waits for what it is told."]
    return [
        f"{asked.overlap:.0%} of what cards tell each other is taken to run beside other work "
        "(parallel.overlap): a choice, which nothing here measured."
    ]
