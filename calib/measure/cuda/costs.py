"""What the host and the queue cost on this machine (``calib.samples.host_costs`` says what each one
is).

Each cost is measured many times over in a row and divided, since most of them are about as long as
one look at the clock. The kernel that does nothing is a spin of no cycles.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional

from calib.measure.cuda.around import Surroundings, in_a_row
from calib.measure.cuda.stream import Run, Stream, wait
from calib.measure.cuda.timer import Timer
from calib.samples.host_costs import (
    ATTENTION,
    ATTENTION_PLAN,
    CLASS_OPERATORS,
    CONVOLUTION,
    DEPENDENT_GAP,
    EAGER_OPERATOR,
    GRAPH_LAUNCH,
    GRAPH_NODE,
    LAUNCH,
    MODULE_CODE,
    MOVE,
    NODE_GAP,
    NORM,
    POINTWISE,
    PRODUCT,
    STREAM_GAP,
    SYNC,
    host_class,
)
from model.layer import Call
from model.ops import Operator

if TYPE_CHECKING:
    from calib.measure.reference.miniature import Rounds

REPEATS = 30
IN_A_ROW = 200
"""Launches between two looks at the clock: fewer than a card's queue holds."""
SPEED_REPEATS, SPEED_IN_A_ROW = 3, 100
"""Of a look at the host's speed, which a sweep takes around every block."""
CLASS_IN_A_ROW = 100
"""The same for operators that may be several launches each."""


def queue_costs(timer: Timer, tiny: Run, read: Run) -> dict[Operator, list[float]]:
    """Raw seconds of every cost but those of a class and of the miniature.

    ``tiny``: one eager operator on a tensor of a few elements; ``read``: reads one number of the
    device.
    """
    stream = timer.stream
    empty = partial(stream.spin, 0)
    node = stream.capture([empty])
    return {
        EAGER_OPERATOR: [host_seconds(stream, tiny) for _ in range(REPEATS)],
        LAUNCH: [host_seconds(stream, empty) for _ in range(REPEATS)],
        SYNC: [host_seconds(stream, read, 1) for _ in range(REPEATS)],
        GRAPH_LAUNCH: [host_seconds(stream, node, 20) for _ in range(REPEATS)],
        DEPENDENT_GAP: device_seconds(timer, in_a_row(empty, IN_A_ROW)),
        GRAPH_NODE: device_seconds(timer, stream.capture([empty] * IN_A_ROW)),
        **gaps(timer.around),
    }


def gaps(around: Surroundings) -> dict[Operator, list[float]]:
    """Between kernels that are busy; none where no profiler said for how long they are."""
    if not around.profiled:
        return {}
    return {STREAM_GAP: [around.events.gap_s], NODE_GAP: [around.graph.gap_s]}


def host_seconds(stream: Stream, run: Run, count: int = IN_A_ROW) -> float:
    """Of the host for one of ``count`` calls in a row, begun on an idle device."""
    wait(stream, stream.mark())
    start = stream.now()
    for _ in range(count):
        run()
    return (stream.now() - start) / count


def operators_a_second(stream: Stream, run: Run) -> float:
    """The host's speed: how many of ``run``, a tiny operator, it issues in a second, by the median
    of a few short loops."""
    run()
    found = [host_seconds(stream, run, SPEED_IN_A_ROW) for _ in range(SPEED_REPEATS)]
    return 1 / statistics.median(found)


def device_seconds(timer: Timer, run: Run) -> list[float]:
    """Of the device for one of ``IN_A_ROW`` kernels that ``run`` enqueues, the device held."""
    seconds, _ = timer.held(run, False, lambda seconds, _: len(seconds) >= REPEATS)
    return [s / IN_A_ROW for s in seconds]


def class_costs(stream: Stream, runs: Mapping[str, Run]) -> dict[Operator, list[float]]:
    """Raw seconds of the host for one tiny operator of each class: a loop of it, begun on an idle
    device. A class is called once before, which pays for all that only a first time costs."""
    found: dict[Operator, list[float]] = {}
    for name, run in runs.items():
        run()
        seconds = [host_seconds(stream, run, CLASS_IN_A_ROW) for _ in range(REPEATS)]
        found[CLASS_OPERATORS[name]] = seconds
    return found


def class_runs(device: str) -> dict[str, Run]:
    """One operator of each class, as a model calls it."""
    like: Any = {"device": device, "dtype": torch.bfloat16}
    x, w = torch.randn(8, 64, **like), torch.randn(64, 64, **like)
    q = torch.randn(1, 2, 8, 64, **like)
    image, filters = torch.randn(1, 8, 16, 16, **like), torch.randn(8, 8, 3, 3, **like)
    return {
        POINTWISE: partial(torch.mul, x, x),
        MOVE: partial(torch.Tensor.to, x, torch.float32),
        PRODUCT: partial(functional.linear, x, w),
        NORM: partial(functional.layer_norm, x, (64,), w[0], w[1]),
        ATTENTION: partial(functional.scaled_dot_product_attention, q, q, q),
        CONVOLUTION: partial(functional.conv2d, image, filters),
    }


def operators_seconds(costs: Mapping[Operator, list[float]], calls: Sequence[Call]) -> float:
    """Of the host for the operators of ``calls`` alone, each launch at its class's cost."""
    each = {name: statistics.median(costs[op]) for name, op in CLASS_OPERATORS.items()}
    return sum(each[host_class(c.op.operator, c.launches)] * c.launches * c.count for c in calls)


def miniature_costs(
    measure: Callable[[Callable[[Sequence[Call]], float]], Rounds],
    costs: Mapping[Operator, list[float]],
) -> dict[Operator, list[float]]:
    """What the miniature tells, whose step waits for nothing but the host: module code at lengths
    that were seen, and a plan for one that was not.

    ``measure``: ``calib.measure.reference.miniature.host_rounds`` on the card.
    """
    rounds = measure(partial(operators_seconds, costs))
    return {MODULE_CODE: rounds.module_code, ATTENTION_PLAN: rounds.plans}


def open_costs(timer: Timer, device: str) -> dict[Operator, list[float]]:
    """All costs, on the card that torch calls ``device``."""
    from calib.measure.reference.miniature import host_rounds

    x: Any = torch.zeros(8, device=device)
    with torch.no_grad():
        runs = class_runs(device)
        tiny = runs.pop(POINTWISE)
        costs = queue_costs(timer, tiny, partial(torch.Tensor.item, x[0]))
        costs |= class_costs(timer.stream, runs)
    return costs | miniature_costs(partial(host_rounds, device=device), costs)
