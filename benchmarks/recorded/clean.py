"""Samples of a record without what is known to be wrong with them. All of it is here.

**Cold samples timed by events** hold the writing back of the lines that the flush left dirty in the
L2: a surcharge s [s] whatever the operator. It is estimated from the record itself. Plain products
whose time is that of their bytes were timed both ways, short ones by a graph, long ones by events:

    seconds = c + bytes / B + s [by events]

fitted by least squares to relative errors, Huber's weights against what is no such product. Of s,
two marks around a kernel hold ``BETWEEN_MARKS_S`` whatever it does, and as much for each further
kernel of the operator: that is taken off hot samples by events too. The rest, w = s -
BETWEEN_MARKS_S, is writing. An operator drives out no more dirty lines than it reads, and where it
leaves memory idle it does not wait for them: off a cold sample by events is taken

    BETWEEN_MARKS_S kernels + min(w, bytes / B) min(1, bytes / B / (its own time - c))

and a sample that would lose over half of its time is left out.
Where a record holds too few products of either way, all of those samples are left out. A record
whose flush leaves nothing dirty gives s near 0.

**Samples shorter than any kernel** are of an empty graph, and left out. **Module code** was timed
together with attention's planning of new key lengths, so it is left out, and with it the cost of
an eager operator that it would be added to: the published range stands for both.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from calib.hardware.convolutions import kernels as of_convolution
from calib.hardware.datasheet import Hardware, floor, peak
from calib.samples.host_costs import EAGER_OPERATOR, MODULE_CODE
from calib.samples.sample import Sample
from model.ops import Conv2d, Convolution, GroupedMatmul, Matmul, Norm

BY_MEMORY = 0.25
"""A product is bound by memory where its arithmetic takes at most this share of its bytes' time."""
FEWEST = 8
"""Products of either way that a surcharge is estimated from."""
SHORTEST_S = 0.3e-6
"""No kernel is shorter: the shortest in the profiles of an H200 takes 0.64 microseconds."""
HUBER = 1.345
BETWEEN_MARKS_S = 1.2e-6
"""By which hot samples of one kernel exceed the same kernel in the profiles of an H200 (1.16, 1.20
and 1.58 us); its RMS norms, of eight kernels each, by 1.22 and 1.24 us a kernel."""


@dataclass(frozen=True)
class Cleaned:
    """``surcharge_s``: None where it could not be estimated. How many were changed or are gone."""

    samples: list[Sample]
    surcharge_s: float | None
    corrected: int
    left_out: int


@dataclass(frozen=True)
class Fault:
    """Of the formula above: s, c [s] and B [bytes/s]."""

    surcharge_s: float
    start_s: float
    bandwidth: float


def cleaned(samples: Sequence[Sample], others: Sequence[Sample], hardware: Hardware) -> Cleaned:
    """``samples`` without the faults above; ``others``: more of the record to estimate from."""
    fault = fault_of([*samples, *others], hardware)
    kept: list[Sample] = []
    corrected = 0
    for sample in samples:
        if sample.op in (MODULE_CODE, EAGER_OPERATOR) or is_empty(sample):
            continue
        extra = surplus_s(sample, fault, hardware)
        if extra == 0:
            kept.append(sample)
        elif extra is not None and sample.median >= 2 * extra:
            kept.append(replace(sample, seconds=[s - extra for s in sample.seconds]))
            corrected += 1
    surcharge = fault.surcharge_s if fault else None
    return Cleaned(kept, surcharge, corrected, len(samples) - len(kept))


def surplus_s(sample: Sample, fault: Fault | None, hardware: Hardware) -> float | None:
    """What a sample holds besides its kernels' time [s]; None where nobody can tell."""
    if sample.status != "ok" or sample.method != "events":
        return 0.0
    between = BETWEEN_MARKS_S * kernels(sample)
    if not dirty(sample):
        return between
    if fault is None:
        return None
    between = min(between, fault.surcharge_s * kernels(sample))
    busy = float(sample.op.bytes) / fault.bandwidth
    writing = min(max(fault.surcharge_s - BETWEEN_MARKS_S, 0.0), busy)
    # moving = own - c solves moving + writing * busy / moving = rest
    rest = sample.median - between - fault.start_s
    moving = rest / 2 + np.sqrt(max(rest * rest / 4 - writing * busy, 0.0))
    return between + writing * (min(busy / moving, 1.0) if moving > 0 else 1.0)


def kernels(sample: Sample) -> int:
    """Those of one call of torch's; ours are one each. A grouped product has one that writes down
    where its groups begin; an RMS norm is a cast, a square, a mean, a sum, a root, two products and
    a cast."""
    op = sample.op
    if sample.implementation != "torch":
        return 1
    if isinstance(op, Conv2d | Convolution):
        return int(of_convolution(op))
    if isinstance(op, Norm) and op.kind == "rmsnorm":
        return 8
    return 2 if isinstance(op, GroupedMatmul) else 1


def dirty(sample: Sample) -> bool:
    return sample.status == "ok" and (sample.cache, sample.method) == ("cold", "events")


def is_empty(sample: Sample) -> bool:
    return sample.status == "ok" and sample.method == "graph" and sample.median < SHORTEST_S


def fault_of(samples: Iterable[Sample], hardware: Hardware) -> Fault | None:
    """By the formula above, s at least 0; None where there are too few products of either way."""
    products = [s for s in samples if is_memory_product(s, hardware)]
    events = np.array([s.method == "events" for s in products], dtype=float)
    if min(events.sum(), len(events) - events.sum()) < FEWEST:
        return None
    seconds = np.array([s.median for s in products])
    moved = np.array([float(s.op.bytes) for s in products])
    a = np.stack([np.ones(len(seconds)), moved / hardware.bandwidth, events]).T / seconds[:, None]
    weights = np.ones(len(seconds))
    for _ in range(20):
        root = np.sqrt(weights)
        found = np.linalg.lstsq(a * root[:, None], root, rcond=None)[0]
        off = np.abs(1 - a @ found)
        weights = 1 / np.maximum(off / (HUBER * 1.4826 * np.median(off) + 1e-12), 1.0)
    start, share, surcharge = (float(number) for number in found)
    return Fault(max(surcharge, 0.0), max(start, 0.0), hardware.bandwidth / share)


def is_memory_product(sample: Sample, hardware: Hardware) -> bool:
    op = sample.op
    if sample.status != "ok" or sample.cache != "cold" or not isinstance(op, Matmul):
        return False
    if sample.implementation != "torch" or sample.method not in ("events", "graph"):
        return False
    if op.dtype not in hardware.peak_flops:
        return False
    computes = float(op.min_flops) / peak(op, hardware)
    return computes <= BY_MEMORY * float(floor(op, hardware))
