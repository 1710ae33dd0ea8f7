"""What a run needs, as ``report.json`` has it: memory, a pass of each phase, joules."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from calib.report.layers.quantities import Joules, Limit, Seconds
from calib.report.layers.schema import Doc


@dataclass(frozen=True)
class MemoryNeed:
    """What the workload needs of the device's memory, and the largest one that fits."""

    weight_bytes: Annotated[float, Doc("of the whole model [bytes]", minimum=0)]
    kv_cache_bytes: Annotated[float, Doc("the largest at a phase's end [bytes]", minimum=0)]
    kv_cache_phase: Annotated[str, Doc("the phase that ends with it")]
    activation_bytes: Annotated[float, Doc("the largest peak of a phase [bytes]", minimum=0)]
    activation_phase: Annotated[str, Doc("the phase that has it")]
    working_bytes: Annotated[
        float, Doc("KV cache and activations of the phase that needs most [bytes]", minimum=0)
    ]
    phase: Annotated[str, Doc("the one that needs most")]
    needed_bytes: Annotated[float, Doc("weights and working bytes [bytes]", minimum=0)]
    memory_bytes: Annotated[float, Doc("of the device [bytes]", minimum=0)]
    fits: bool
    largest_batch: Annotated[int, Doc("that fits with this context; 0: none", minimum=0)]
    largest_context: Annotated[
        int | None, Doc("tokens of a sequence that fit at this batch; 0: none", minimum=0)
    ]


@dataclass(frozen=True)
class PhaseTimeline:
    """One pass of a phase, replayed launch by launch."""

    phase: str
    passes: Annotated[int, Doc("in the workload", minimum=1)]
    launches: Annotated[int, Doc("in one pass", minimum=0)]
    wall_s: Seconds
    low_s: Seconds
    high_s: Seconds
    kernel_s: Annotated[float | None, Doc("of the kernels alone [s]", minimum=0)]
    idle_s: Annotated[float | None, Doc("device waiting for the host [s]", minimum=0)]
    graph_s: Annotated[float | None, Doc("wall_s if it were a CUDA graph [s]", minimum=0)]
    new_length_s: Annotated[float | None, Doc("wall_s at a length's first time [s]", minimum=0)]
    new_length_low_s: Seconds
    new_length_high_s: Seconds
    limited_by: Limit
    joules: Joules
    joules_low: Joules
    joules_high: Joules


@dataclass(frozen=True)
class EnergyUse:
    """What the workload draws, the idle card's watts in it. A request is a page, an image or a
    prompt with its answer; ``token``: one that is decoded, null where none is."""

    joules: Joules
    joules_low: Joules
    joules_high: Joules
    joules_a_request: Joules
    joules_low_a_request: Joules
    joules_high_a_request: Joules
    joules_a_token: Joules
    joules_low_a_token: Joules
    joules_high_a_token: Joules
    watts: Annotated[float, Doc("on average [W]", minimum=0)]
    idle_w: Annotated[float, Doc("of the card that does nothing [W]", minimum=0)]
    idle_share: Annotated[
        float, Doc("of the joules, what is drawn while no kernel runs", minimum=0, maximum=1.000001)
    ]
    request: Annotated[str, Doc("what a request is called")]
    operators_counted: Annotated[int, Doc("on this card, to which it was fitted", minimum=1)]
    median_error: Annotated[float, Doc("of joules of operators that were held out", minimum=0)]
