"""What the clock says of the whole model: phases, modules and operators of the reference model.

Three instruments, from the least to the most intrusive, each on passes of its own:

- phases: wall time, nothing attached;
- modules: inclusive times between forward hooks;
- operators: a ``torch.profiler`` pass, every operator under its module's path.

Times of modules and operators are those of one pass through the phase: one decode step, the mean
over the steps of a run (modules) or the median over the steps profiled (operators). ``repeat``
says how many passes the phase consists of.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from calib.measure.reference.tables import module_table, operator_table
from model.workload import Workload

if TYPE_CHECKING:
    import pandas as pd

    from calib.measure.reference.model import Reference
    from calib.measure.reference.operators import Profile
    from calib.measure.reference.passes import Between, Passes


@dataclass(frozen=True)
class Measurement:
    """One workload, measured on one device. All times in seconds.

    ``phases``: phase -> whole time of every repeat. ``hooked``: the same with module hooks on.
    ``repeat``: passes that a phase consists of. ``modules``: phase, path, class_name, calls in one
    pass, seconds [repeat] of one pass. ``operators``: phase, path, index (within the path), order
    (within the phase), aten, kind, shapes, dtypes, seconds (median over profiled passes, the
    recording of nested events deducted), nested (events inside), raw [pass] (as the profiler says).
    ``experts_touched``: "prefill" and "decode" -> distinct experts of each MoE layer.
    ``overheads``: ``hook_s`` a hooked call, ``event_s`` a recorded event, ``warm_up`` the rounds
    before the first repeat, ``profiled`` by phase the time, events and operators of a pass.
    ``lengths``: "new" and "seen" -> decode steps over lengths that the process met for the first
    time, and the same steps again; empty on a CPU, whose operators plan nothing.
    ``memory_bytes``: the most that the process held (on CUDA: that torch held on the device).
    """

    workload: dict[str, Any]
    device: str
    phases: dict[str, list[float]]
    hooked: dict[str, list[float]]
    repeat: dict[str, int]
    modules: pd.DataFrame
    operators: pd.DataFrame
    experts_touched: dict[str, list[float]]
    decoder_layers: int
    parameters: int
    memory_bytes: int
    threads: int
    overheads: dict[str, Any]
    versions: dict[str, str]
    notes: list[str] = field(default_factory=list)
    lengths: dict[str, list[float]] = field(default_factory=dict)

    def phase_seconds(self, phase: str) -> float:
        """Median over the repeats of the whole phase."""
        return statistics.median(self.phases[phase])


def measure_reference(
    workload: Workload,
    dimensions: Mapping[str, Any] | None = None,
    *,
    device: str = "cpu",
    repeats: int = 3,
    profiles: int = 3,
    profiled_steps: int = 4,
    between: Between = lambda name: None,
    limit_s: float = 90.0,
    seed: int = 0,
) -> Measurement:
    """Build the model, warm it up, and measure ``workload`` on it ``repeats`` times.

    ``between`` is called before each phase of each repeat and after the last, with a name such as
    ``timed 0 prefill``, on a CPU before each further decode step of a timed repeat too
    (``timed 0 decode step 3``): the place for probes. ``profiled_steps``: decode steps, spread over
    all, that each of the ``profiles`` operator passes records. After ``limit_s`` seconds without
    the build no further repeat or profile begins, but there is one of each; a note says so.

    Raises ``CalibError`` as ``build_reference`` does.
    """
    from calib.measure.reference.model import build_reference

    reference = build_reference(dimensions, workload, device, seed)
    return measure_built(
        reference,
        workload,
        repeats=repeats,
        profiles=profiles,
        profiled_steps=profiled_steps,
        between=between,
        limit_s=limit_s,
    )


def measure_built(
    reference: Reference,
    workload: Workload,
    *,
    repeats: int = 3,
    profiles: int = 3,
    profiled_steps: int = 4,
    between: Between = lambda name: None,
    limit_s: float = 90.0,
) -> Measurement:
    """As :func:`measure_reference`, on a model that is there already."""
    import torch

    from calib.measure.allocator import reserve
    from calib.measure.reference.operators import event_seconds
    from calib.measure.reference.passes import (
        PHASES,
        ModuleTimer,
        Passes,
        experts_touched,
        hook_seconds,
        make_inputs,
        observed,
        over_lengths,
        run_phases,
        warm_up,
    )

    end = time.monotonic() + limit_s
    if reference.device == "cpu":
        reserve()
    passes = Passes(reference, workload, make_inputs(reference, workload))
    steps = workload.decode_steps
    repeat = {phase: steps if phase == "decode" else 1 for phase in PHASES}
    timed, timers, hooked = [], [], []
    with torch.no_grad():
        passes.vision()
        touched = experts_touched(passes)
        warmed = warm_up(passes)
        for index in within(end, repeats):
            timed.append(run_phases(passes, between, f"timed {index}"))
            timers.append(ModuleTimer(reference.device))
            with observed(reference.model, timers[-1]):
                hooked.append(run_phases(passes, between, f"modules {index}", timers[-1]))
        lengths = {} if reference.device == "cpu" else over_lengths(passes)
        profiled = profile_phases(passes, within(end, profiles), profiled_steps, between)
    # Only a call's duration on the host holds the recording of what is inside it.
    event_s = event_seconds() if torch.device(reference.device).type == "cpu" else 0.0
    modules = module_table(reference.model, timers, repeat)
    operators, notes = operator_table(profiled, event_s)
    for name, made, wanted in (
        ("repeats", len(timed), repeats),
        ("operator passes", len(profiled["vision"]), profiles),
    ):
        if made < wanted:
            notes.append(f"{made} of {wanted} {name} were made within {limit_s:g} s")
    overheads = {
        "hook_s": hook_seconds(reference.device),
        "event_s": event_s,
        "warm_up": warmed,
        "profiled": {phase: _profile_figures(found) for phase, found in profiled.items()},
    }
    return Measurement(
        workload=asdict(workload),
        device=reference.device,
        phases={phase: [t[phase] for t in timed] for phase in PHASES},
        hooked={phase: [t[phase] for t in hooked] for phase in PHASES},
        repeat=repeat,
        modules=modules,
        operators=operators,
        experts_touched=touched,
        decoder_layers=reference.decoder_layers,
        parameters=reference.parameters,
        memory_bytes=peak_memory(reference.device),
        threads=torch.get_num_threads(),
        overheads=overheads,
        versions=_versions(),
        notes=[*reference.notes, *notes],
        lengths=lengths,
    )


def within(end: float, count: int) -> Iterator[int]:
    """0, 1, ... below ``count``; after the first, only until the monotonic clock says ``end``."""
    for index in range(count):
        if index and time.monotonic() >= end:
            return
        yield index


def profile_phases(
    passes: Passes, profiles: Iterable[int], profiled_steps: int, between: Between
) -> dict[str, list[Profile]]:
    """Every pass of every phase that was profiled; decode passes are single steps."""
    from calib.measure.reference.operators import Ranges, profile_pass
    from calib.measure.reference.passes import PHASES, State, observed

    found: dict[str, list[Profile]] = {phase: [] for phase in PHASES}
    model, device = passes.reference.model, passes.reference.device
    state: list[State] = []

    def profiled(phase: str, run: Callable[[Ranges], Any]) -> None:
        ranges = Ranges()
        with observed(model, ranges):
            found[phase].append(profile_pass(lambda: run(ranges), device))

    for index in profiles:
        between(f"operators {index} vision")
        profiled("vision", passes.vision)
        between(f"operators {index} prefill")
        profiled("prefill", lambda _: state.append(passes.prefill()))
        between(f"operators {index} decode")
        chosen = spread(passes.workload.decode_steps, profiled_steps)
        for step in range(passes.workload.decode_steps):
            if step in chosen:
                profiled("decode", lambda _: state.append(passes.step(state.pop())))
            else:
                state.append(passes.step(state.pop()))
        state.clear()
    between("operators end")
    return found


def spread(count: int, wanted: int) -> set[int]:
    """``wanted`` of ``count`` indices, evenly spread, so that their mean is that of all."""
    wanted = min(count, wanted)
    return {(2 * i + 1) * count // (2 * wanted) for i in range(wanted)}


def _profile_figures(found: Iterable[Profile]) -> dict[str, Any]:
    passes = list(found)
    return {
        "seconds": [p.seconds for p in passes],
        "events": statistics.median(p.events for p in passes) if passes else 0,
        "operators": len(passes[0].operators) if passes else 0,
    }


def peak_memory(device: str) -> int:
    """Bytes that the process has held at most; on CUDA, that torch has held on the device."""
    import torch

    if torch.device(device).type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    import resource
    import sys

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _versions() -> dict[str, str]:
    import torch
    import transformers

    return {"torch": torch.__version__, "transformers": transformers.__version__}
