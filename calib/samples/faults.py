"""What is known to be wrong with the seconds of a sample, and what a fit takes instead of them.

Samples say their faults in words (``Sample.fault``). Those of versions of the table that had no
such column are told by how they were timed. One function, :func:`clean`, stands before every fit:

- ``marks``: by events, two marks hold a time around each kernel besides the kernel.
- ``dirty flush``: cold and by events, the L2 was flushed by writing, so the operator waited for its
  lines to be written back. It drives out no more dirty lines than it reads, and where it leaves
  memory idle it does not wait for them. (A graph that is twenty copies long hides it.)
- ``no kernel``: a graph that was empty, shorter than any kernel. Left out.
- ``node gap``: as a graph, before what lies between its nodes was taken off, of each; cold, or of
  several. (Hot ones of one kernel were as long as the profiler has them: kernels that do not fill
  the device leave no gap.)
- ``cleared``: what clears memory before its kernel, not by the profiler: around that lies more than
  between kernels.
- ``short gap``: hot and as a graph, a short kernel, less that gap all the same. The gap is added
  again; a sample of over ``SHORT_S`` is left out, since a longer kernel leaves part of a gap.
- ``clean flush``: cold and by events, an operator that streams, after a flush that left the L2 room
  for all that it writes. Left out, unless writing all of it to main memory would be no more than
  ``WRITTEN`` of its time, as in a convolution of patches.
- ``kernels unknown``: nobody could say how many kernels there were. Kept: most are one kernel.

What the first two cost was told on the card (``BY_EVENTS_ON``): with s the whole surcharge of a
cold product by events, c and B of ``seconds = c + bytes / B``, there is taken off

    marks * kernels + min(s - marks, bytes / B) min(1, bytes / B / (its own time - c))

the second part only of cold ones. A sample that would lose over half of its time is left out, and
so is one with a dirty flush of a card for which nobody knows.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from math import inf, sqrt

from calib.hardware import attention_backend
from calib.hardware.convolutions import kernels as of_convolution
from calib.hardware.datasheet import load_hardware
from calib.samples.sample import COLD, Sample
from model.ops import Attention, Conv2d, Convolution, GroupedMatmul, Norm

MARKS, DIRTY_FLUSH, NO_KERNEL, KERNELS_UNKNOWN = (
    *("marks", "dirty flush", "no kernel", "kernels unknown"),
)
NODE_GAP, SHORT_GAP, CLEAN_FLUSH = "node gap", "short gap", "clean flush"
CLEARED = "cleared"
CORRECTED = frozenset({MARKS, DIRTY_FLUSH, NODE_GAP, SHORT_GAP, CLEAN_FLUSH, CLEARED, NO_KERNEL})
"""Those that :func:`clean` answers to."""
BY_EVENTS = ("events", "unheld")
SHORTEST_S = 0.3e-6
"""No kernel is shorter: the shortest in the profiles of an H200 takes 0.64 microseconds."""


@dataclass(frozen=True)
class ByEvents:
    """What a sample by events has too many, of the formula above: ``marks_s`` around a kernel,
    ``surcharge_s`` s [s], ``start_s`` c [s], ``bandwidth`` B [bytes/s]."""

    marks_s: float
    surcharge_s: float
    start_s: float
    bandwidth: float


BY_EVENTS_ON = {"h200": ByEvents(1.2e-6, 7.99e-6, 3.97e-6, 3.861e12)}
"""By card. s, c, B: ``python -m benchmarks.dirty_flush --samples <pool and sweep of the first
run>``.
``marks_s``: by which hot samples of one kernel exceed the same kernel in the profiles of that run
(1.16, 1.20 and 1.58 us); its RMS norms, of eight kernels each, by 1.22 and 1.24 us a kernel."""
NODE_GAP_ON = {"h200": 0.37e-6}
"""By card, of a graph's node: the median by which 334 samples of one shape, graphs on two days,
differ before and after it was taken off (``python -m benchmarks.two_days``)."""
CLEARED_ON = {"h200": 0.4e-6}
"""By card: attention of many queries that the profiler timed in the evening was 1.12 and 1.21
microseconds shorter than in the morning's graph (the same command), two of its nodes' gaps 0.74."""
SHORT_GAP_ON = {"h200": 0.34e-6}
"""By card: the median by which 131 samples below ``SHORT_S``, of operators other than attention,
are shorter than on the earlier day; nine in ten lie within 0.09 us of it (the same command)."""
SHORT_S = 5e-6
WRITTEN = 0.03


def faults_of(sample: Sample) -> list[str]:
    return [fault for fault in sample.fault.split(", ") if fault]


def recorded_faults(sample: Sample) -> str:
    """The faults of a sample that was stored before they were: those of version 2 and older.

    Only a card's samples are timed by events.
    """
    if sample.method not in BY_EVENTS:
        if sample.method != "graph" or not len(sample.seconds):
            return ""
        if sample.median < SHORTEST_S:
            return NO_KERNEL
        is_several = sample.hardware in NODE_GAP_ON and kernels_of(sample) > 1
        faults = [NODE_GAP] if sample.cache == COLD or is_several else []
    else:
        faults = [DIRTY_FLUSH, MARKS] if sample.cache == COLD else [MARKS]
    return ", ".join([*faults, *([CLEARED] if _clears(sample) else [])])


def _clears(sample: Sample) -> bool:
    """Whether it is torch's attention with a counter to clear, on a card whose gap is known."""
    if sample.implementation != "torch" or sample.hardware not in CLEARED_ON:
        return False
    card = load_hardware(sample.hardware).compute_capability
    return isinstance(sample.op, Attention) and attention_backend.clears(sample.op, card)


def clean(samples: Iterable[Sample]) -> Iterator[Sample]:
    """Samples as a fit may take them: corrected as said above, or left out; so are seconds that
    cannot be."""
    for sample in samples:
        if not all(0 < s < inf for s in sample.seconds):
            continue
        faults = CORRECTED.intersection(faults_of(sample))
        if not faults:
            yield sample
            continue
        extra = _too_long_by(sample, faults)
        if extra is not None and (not len(sample.seconds) or extra <= sample.median / 2):
            rest = ", ".join(fault for fault in faults_of(sample) if fault not in faults)
            seconds = [max(s - extra, s / 2) for s in sample.seconds]
            yield replace(sample, seconds=seconds, fault=rest)


def _too_long_by(sample: Sample, faults: Collection[str]) -> float | None:
    """Seconds that the ``faults`` have added; None where nobody knows."""
    told = BY_EVENTS_ON.get(sample.hardware)
    if NO_KERNEL in faults or (told is None and DIRTY_FLUSH in faults):
        return None
    if {SHORT_GAP, CLEAN_FLUSH}.intersection(faults):
        return _of_the_second_day(sample, faults, told)
    cleared = CLEARED_ON.get(sample.hardware, 0.0) * (CLEARED in faults)
    if NODE_GAP in faults:
        return cleared + NODE_GAP_ON.get(sample.hardware, 0.0) * kernels_of(sample)
    if told is None or not len(sample.seconds) or not {MARKS, DIRTY_FLUSH}.intersection(faults):
        return cleared
    marks = cleared + told.marks_s * kernels_of(sample)
    if DIRTY_FLUSH not in faults:
        return marks
    busy = float(sample.op.bytes) / told.bandwidth
    writing = min(told.surcharge_s - told.marks_s, busy)
    # moving = own - c solves moving + writing * busy / moving = rest
    rest = sample.median - marks - told.start_s
    moving = rest / 2 + sqrt(max(rest * rest / 4 - writing * busy, 0.0))
    return marks + writing * (min(busy / moving, 1.0) if moving > 0 else 1.0)


def _of_the_second_day(
    sample: Sample, faults: Collection[str], told: ByEvents | None
) -> float | None:
    gap = SHORT_GAP_ON.get(sample.hardware)
    if told is None or gap is None or not len(sample.seconds):
        return None
    if SHORT_GAP in faults:
        return -gap if sample.median < SHORT_S else None
    return 0.0 if _writing(sample, told) <= WRITTEN else None


def _writing(sample: Sample, told: ByEvents) -> float:
    """What writing its result to main memory would be of the time of a sample."""
    return float(sample.op.bytes_written) / told.bandwidth / sample.median


def kernels_of(sample: Sample) -> int:
    """Those of one call: as the profiler saw them, else by what torch launches. Ours are one each.

    A grouped product of torch has one that writes down where its groups begin; an RMS norm is a
    cast, a square, a mean, a sum, a root, two products and a cast, without casts in float32.
    """
    op = sample.op
    if sample.kernels or sample.implementation != "torch":
        return max(len(sample.kernels), 1)
    if isinstance(op, Conv2d | Convolution):
        return int(of_convolution(op))
    if isinstance(op, Norm) and op.kind == "rmsnorm":
        return 6 if op.dtype == "float32" else 8
    if isinstance(op, Attention) and sample.hardware in NODE_GAP_ON:
        card = load_hardware(sample.hardware)
        return attention_backend.kernels(op, card.compute_capability, card.sm_count)
    return 2 if isinstance(op, GroupedMatmul) else 1


@dataclass(frozen=True)
class Cleaned:
    """How many samples were ``corrected``, and how many are gone."""

    samples: list[Sample]
    corrected: int
    left_out: int


def cleaned(samples: Sequence[Sample]) -> Cleaned:
    faulty = sum(bool(CORRECTED.intersection(faults_of(s))) for s in samples)
    kept = list(clean(samples))
    left_out = len(samples) - len(kept)
    return Cleaned(kept, faulty - left_out, left_out)
