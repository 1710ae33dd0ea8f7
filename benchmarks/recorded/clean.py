"""Samples of a record as a fit takes them (``calib.samples.faults``), and how many that changes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from calib.samples.faults import DIRTY_FLUSH, NO_KERNEL, STREAM_GAPS, clean, faults_of
from calib.samples.sample import Sample


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
