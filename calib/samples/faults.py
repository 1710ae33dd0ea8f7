"""What is known to be wrong with the seconds of a sample, and what a fit takes instead of them.

Samples say their faults in words (``Sample.fault``). Those of versions of the table that had no
such column are told by how they were timed. One function, :func:`clean`, stands before every fit:

- ``dirty flush``: the L2 was flushed by writing, so the operator waited for its lines to be written
  back. That time was measured on the card (``WRITE_BACK_S``) and is taken off, as far as the
  operator waits for main memory: where arithmetic takes r times as long as its bytes, an r-th. A
  sample of a card for which it was not, or of which it would be more than half, is left out. It is
  a fault of cold samples by events: a graph that is twenty copies long hides it.
- ``stream gaps``: a composite of several kernels, whose gaps are in its seconds. They are taken
  off at the distance of kernels that was measured on the card (``GAP_S``). A short one is held up
  less by a dirty flush than one kernel is, by nobody knows how much: with both faults, or on
  another card, it is left out.
- ``no kernel``: a graph that was empty, shorter than any kernel. Left out.
- ``kernels unknown``: nobody could say how many kernels there were. Kept: most are one kernel.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from calib.hardware.datasheet import floors, load_hardware
from calib.samples.sample import COLD, Sample
from model.ops import Norm, Operator

DIRTY_FLUSH, STREAM_GAPS, KERNELS_UNKNOWN = "dirty flush", "stream gaps", "kernels unknown"
NO_KERNEL = "no kernel"
SHORTEST_S = 0.3e-6
"""No kernel is shorter: the shortest in the profiles of an H200 takes 0.64 microseconds."""
BY_EVENTS = ("events", "unheld")

WRITE_BACK_S = {"h200": 8.2e-6}
"""Seconds that a cold sample by events has too many after a flush by writing, by card:
``python -m benchmarks.dirty_flush --samples <pool and sweep of the first run>`` tells them."""
GAP_S = {"h200": 1.51e-6}
"""Seconds between two kernels of a composite, by card: ``dependent_gap`` of the first run's sweep.
With it RMSNorm of 283 x 1280 comes to 17.6 us, where its kernels take 18.4 in that run's profile
of DeepSeek-OCR's prefill."""
_RMSNORM_KERNELS = {"float32": 6}
"""Eight otherwise: two of them cast."""


def faults_of(sample: Sample) -> list[str]:
    return [fault for fault in sample.fault.split(", ") if fault]


def recorded_faults(sample: Sample) -> str:
    """The faults of a sample that was stored before they were: those of version 2 and older.

    Only a card's samples are timed by events. Of torch's operators RMSNorm alone was written as a
    composite (eight operators); other kinds are one kernel, or one beside a short fill.
    """
    if sample.method not in BY_EVENTS:
        empty = sample.method == "graph" and len(sample.seconds) and sample.median < SHORTEST_S
        return NO_KERNEL if empty else ""
    composite = isinstance(sample.op, Norm) and sample.op.kind == "rmsnorm"
    several = composite and sample.implementation == "torch"
    found = {DIRTY_FLUSH: sample.cache == COLD, STREAM_GAPS: several}
    return ", ".join(name for name, has in found.items() if has)


def clean(samples: Iterable[Sample]) -> Iterator[Sample]:
    """Samples as a fit may take them: corrected as said above, or left out."""
    for sample in samples:
        faults = {DIRTY_FLUSH, STREAM_GAPS, NO_KERNEL}.intersection(faults_of(sample))
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
    if len(faults) > 1 or NO_KERNEL in faults:
        return None
    if DIRTY_FLUSH in faults:
        whole = WRITE_BACK_S.get(sample.hardware)
        return whole * _waiting(sample.op, sample.hardware) if whole else None
    gap = GAP_S.get(sample.hardware)
    kernels = len(sample.kernels) or _RMSNORM_KERNELS.get(vars(sample.op).get("dtype", ""), 8)
    return None if gap is None else (kernels - 1) * gap


def _waiting(op: Operator, hardware: str) -> float:
    """Time of the operator's bytes over that of its arithmetic, at most 1."""
    computes, moves = floors(op, load_hardware(hardware))
    return float(moves / computes) if computes > moves else 1.0


@dataclass(frozen=True)
class Cleaned:
    """How many samples were ``corrected``, and how many are gone."""

    samples: list[Sample]
    corrected: int
    left_out: int


def cleaned(samples: Sequence[Sample]) -> Cleaned:
    wrong = {DIRTY_FLUSH, STREAM_GAPS, NO_KERNEL}
    faulty = sum(bool(wrong.intersection(faults_of(s))) for s in samples)
    kept = list(clean(samples))
    left_out = len(samples) - len(kept)
    return Cleaned(kept, faulty - left_out, left_out)
