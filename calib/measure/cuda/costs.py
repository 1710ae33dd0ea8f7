"""What the host and the queue cost on this machine (``calib.samples.host_costs`` says what each one
is).

Each cost is measured many times over in a row and divided, since most of them are about as long as
one look at the clock. The kernel that does nothing is a spin of no cycles.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch

from calib.measure.cuda.around import Surroundings, in_a_row
from calib.measure.cuda.stream import Run, Stream, wait
from calib.measure.cuda.timer import Timer
from calib.samples.host_costs import (
    DEPENDENT_GAP,
    EAGER_OPERATOR,
    GRAPH_LAUNCH,
    GRAPH_NODE,
    LAUNCH,
    MODULE_CODE,
    NODE_GAP,
    STREAM_GAP,
    SYNC,
)
from model.layer import Call
from model.ops import Operator

REPEATS = 30
IN_A_ROW = 200
"""Launches between two looks at the clock: fewer than a card's queue holds."""


def queue_costs(timer: Timer, tiny: Run, read: Run) -> dict[Operator, list[float]]:
    """Raw seconds of every cost but that of module code.

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


def device_seconds(timer: Timer, run: Run) -> list[float]:
    """Of the device for one of ``IN_A_ROW`` kernels that ``run`` enqueues, the device held."""
    seconds, _ = timer.held(run, False, lambda seconds, _: len(seconds) >= REPEATS)
    return [s / IN_A_ROW for s in seconds]


def module_code(
    measure: Callable[[Callable[[Sequence[Call]], float]], list[float]], eager_s: float
) -> list[float]:
    """Raw seconds that module code adds to a launch: the miniature's step, which waits for nothing
    but the host, less one eager operator's cost a launch.

    ``measure``: ``calib.measure.reference.miniature.host_seconds`` on the card.
    """
    return measure(lambda calls: eager_s * sum(c.launches * c.count for c in calls))


def open_costs(timer: Timer, device: str) -> dict[Operator, list[float]]:
    """All costs, on the card that torch calls ``device``."""
    from calib.measure.reference.miniature import host_seconds as miniature

    x: Any = torch.zeros(8, device=device)
    with torch.no_grad():
        costs = queue_costs(timer, partial(torch.neg, x), partial(torch.Tensor.item, x[0]))
    eager_s = statistics.median(costs[EAGER_OPERATOR])
    costs[MODULE_CODE] = module_code(partial(miniature, device=device), eager_s)
    return costs
