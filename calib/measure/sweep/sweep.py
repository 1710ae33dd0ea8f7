"""The sweep: measure operators under a budget of time, in blocks that probes bracket.

A model's own shapes are measured among those of the design, which goes on until the budget is
spent. Samples are appended to the store block by block; what the store holds is not measured again,
and the time it took counts as spent. So a sweep may be killed at any moment: started again, it goes
on where it was. Time is read off one clock, which tests replace, as they do the device.

Where a machine's speed changes within seconds, a sample taken at once carries its moment. There the
repeats of a shape are split over visits (``Instrument.visits``), each a sample of its own in the
store: a stretch of shapes is passed as often before the next begins. A fit takes them together.
"""

from __future__ import annotations

import itertools
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from calib.errors import DeviceLost
from calib.measure.clock import StopRule
from calib.measure.instrument import LOST, OK, UNSUPPORTED, Instrument, Reading, Taken
from calib.measure.probes import Speed, steady
from calib.measure.sweep.attempts import FATAL, Attempts
from calib.measure.sweep.plan import (
    DESIGN,
    Budget,
    Designs,
    Entry,
    Order,
    Plan,
    Point,
    State,
    in_turn,
    spent_s,
)
from calib.samples.faults import KERNELS_UNKNOWN
from calib.samples.parts.columns import HOUR_S
from calib.samples.sample import Sample
from calib.samples.store import SampleStore
from model.ops import Operator

BLOCK_S = 0.8
"""Length of a block [s]: short against the drift of a shared machine, long against two probes."""

STRETCH_SHARE = 0.5
"""Of the budget: what all passes over one stretch of shapes take at most. The longer, the further
apart are the visits to a shape; a plan adapts at the end of a stretch."""

_RETRY_SHARE = 0.1
"""Of the budget: what measuring unsteady blocks again may take."""

log = logging.getLogger(__name__)


@dataclass
class Block:
    """Samples between two probes, with what it takes to measure them again."""

    before: Speed
    opened: float
    entries: list[Entry] = field(default_factory=list)
    readings: list[Reading] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)

    def add(self, entry: Entry, taken: tuple[Reading, Sample]) -> Sample:
        """One more, and its sample."""
        self.entries.append(entry)
        self.readings.append(taken[0])
        self.samples.append(taken[1])
        return taken[1]

    def taken(self) -> list[Taken]:
        """What an instrument finishes."""
        pairs = zip(self.entries, self.readings, strict=True)
        return [Taken(p.op, by, p.cache, reading) for (p, by), reading in pairs]


@dataclass
class Sweep:
    """One sweep of ``instrument`` into ``store``, under a budget of ``budget_s`` seconds in all."""

    instrument: Instrument
    store: SampleStore
    budget_s: float
    rule: StopRule
    versions: dict[str, str] = field(default_factory=dict)
    progress: Callable[[float, str], None] = lambda elapsed_s, label: None
    stretch_share: float = STRETCH_SHARE
    order: Order = in_turn
    clock: Callable[[], float] = time.time

    def run(self, models: Sequence[Point], designs: Designs) -> int:
        """Measure until the plan or the budget ends; how many samples were taken."""
        self.samples, self._attempts = self.store.samples(), Attempts(self.store.folder)
        self._give_up()
        self._visited: Counter[tuple[Operator, str, str]] = Counter()
        for sample in self.samples:
            self._count(sample)
        self._budget = Budget(self.budget_s, spent_s(self.samples))
        self._start, self._retried_s, already = self.clock(), 0.0, len(self.samples)
        self._repeated = 0
        entries = self._in_passes(self._entries(models, designs))
        first = next(entries, None)
        if first is not None:
            self.instrument.warm_up()
            self._measure(itertools.chain([first], entries))
        if self._repeated:
            log.info("%d samples were taken twice: the machine changed under them", self._repeated)
        return len(self.samples) - already

    def _give_up(self) -> None:
        """Store as lost the shapes over which processes were killed again and again."""
        for killed in self._attempts.before.values():
            if killed.times < FATAL:
                continue
            log.warning("%s: %d processes were killed over it", killed.op, killed.times)
            point = Point(killed.op, killed.cache, killed.origin)
            lost = self._sample(point, killed.implementation, self.clock(), Reading(status=LOST))
            self.store.append([lost])
            self.samples.append(lost)

    def _count(self, sample: Sample) -> None:
        """One more visit to the sample's shape; one that failed needs no other."""
        key = (sample.op, sample.implementation, sample.cache)
        self._visited[key] += 1 if sample.status == OK else self.instrument.visits

    def _lacks(self, entry: Entry) -> int:
        """Visits that are still to be made."""
        point, implementation = entry
        key = (point.op, implementation, point.cache)
        return max(0, self.instrument.visits - self._visited[key])

    def _in_passes(self, entries: Iterator[Entry]) -> Iterator[Entry]:
        """Every entry as often as it lacks visits: a stretch of them pass by pass, then the next.
        Whoever draws them counts (``_count``).

        A stretch ends where the budget is just enough for the other passes over it.
        """
        for first in entries:
            began, visits = self._elapsed_s(), self.instrument.visits
            left = self._budget.left_s(first[0].origin) - began
            most = min(self.stretch_share * self.budget_s, left) / visits
            stretch, entry = [first], first
            while True:
                yield entry
                if visits == 1 or self._elapsed_s() - began >= most:
                    break
                if (following := next(entries, None)) is None:
                    break
                stretch.append(entry := following)
            while stretch := [entry for entry in stretch if self._lacks(entry)]:
                yield from stretch

    def _unfinished(self) -> Iterator[Point]:
        """What earlier sweeps into the store visited, and not as often as they were to. (What has
        no probes around it was not measured by a sweep.)"""
        for s in list(self.samples):
            point = Point(s.op, s.cache, s.origin)
            if s.status == OK and s.probe_flops and self._lacks((point, s.implementation)):
                yield point

    def _entries(self, models: Sequence[Point], designs: Designs) -> Iterator[Entry]:
        """What is still to be measured, each with the implementation that is to execute it.

        A shape of the design that is a model's own too is left to the model, so that its samples
        are marked as such.
        """
        state = State(self.samples, lambda: self._budget.share(self._elapsed_s()))
        own = {point.op for point in models}
        fatal = {(s.op, s.implementation) for s in self.samples if s.status == LOST}
        others = (point for point in designs(state) if point.op not in own)
        by = self.instrument.implementations
        plan = Plan(models, others, by, state, lambda: self._in_time(DESIGN))
        unfinished = ((point, name) for point in self._unfinished() for name in by)
        seen: set[tuple[Operator, str, str]] = set()
        for point, implementation in itertools.chain(unfinished, self.order(plan)):
            entry, key = (point, implementation), (point.op, implementation, point.cache)
            fresh = key not in seen and key[:2] not in fatal and self._lacks(entry)
            if fresh and self._in_time(point.origin):
                seen.add(key)
                yield entry

    def _elapsed_s(self) -> float:
        return self.clock() - self._start

    def _in_time(self, origin: str) -> bool:
        return self._elapsed_s() < self._budget.left_s(origin)

    def _measure(self, entries: Iterator[Entry]) -> None:
        """All entries in blocks; one that is broken off is stored with what it holds.

        Raises ``DeviceLost``; the shape that did it is stored too, and so never tried again.
        """
        block = Block(self.instrument.speed(), self.clock())
        try:
            for entry in entries:
                self.progress(self._elapsed_s(), entry[0].op.operator)
                sample = block.add(entry, self._take(*entry))
                self._count(sample)
                _check(sample)
                if self.clock() - block.opened >= BLOCK_S:
                    after = self._settle(block)
                    self._store(block, after)
                    block = Block(after, self.clock())
        finally:
            try:
                if block.samples:
                    self._store(block, self._last_speed(block))
            finally:
                self._attempts.end()

    def _last_speed(self, block: Block) -> Speed:
        """Of the machine now; a device that is lost was last seen before the block."""
        if any(s.status == LOST for s in block.samples):
            return block.before
        try:
            return self.instrument.speed()
        except DeviceLost:
            return block.before

    def _settle(self, block: Block) -> Speed:
        """Probe; where the machine changed, measure ``block`` once more, while the share lasts.

        Not where shapes are visited again in any case: those visits tell more than two in a row.
        """
        now = self.instrument.speed()
        spent = self._retried_s >= _RETRY_SHARE * self.budget_s
        if self.instrument.visits > 1 or spent or steady(block.before, now):
            return now
        log.debug("the machine changed under %d samples: measured again", len(block.samples))
        began = self.clock()
        for i, entry in enumerate(block.entries):
            block.readings[i], block.samples[i] = self._take(*entry)
            _check(block.samples[i])
        block.before = now
        self._repeated += len(block.samples)
        self._retried_s += self.clock() - began
        return self.instrument.speed()

    def _store(self, block: Block, after: Speed) -> None:
        """Finish the block's samples, give them the mean of the probes around them, store them."""
        flops = (block.before.flops + after.flops) / 2
        bandwidth = (block.before.bandwidth + after.bandwidth) / 2
        known = [speed.host for speed in (block.before, after) if speed.host]
        host = sum(known) / len(known) if known else None
        probes: dict[str, Any] = {"probe_flops": flops, "probe_bandwidth": bandwidth}
        probes["probe_host"] = host
        lost = None
        try:
            finished = self.instrument.finish(block.taken())
        except DeviceLost as error:  # none of the block's shapes did it: they had been timed
            lost = error
            finished = [replace(r, fault=KERNELS_UNKNOWN) for r in block.readings]
        finished = [_possible(reading) for reading in finished]
        probed = [
            replace(sample, status=reading.status, **reading.told(), **probes)
            for sample, reading in zip(block.samples, finished, strict=True)
        ]
        self.store.append(probed)
        self.samples.extend(probed)
        block.entries, block.readings, block.samples = [], [], []
        if lost is not None:
            raise lost

    def _take(self, point: Point, implementation: str) -> tuple[Reading, Sample]:
        """A reading and its sample; what cannot run is recorded as such, without seconds."""
        began = self.clock()
        self._attempts.begin(point.op, implementation, point.cache, point.origin)
        reading = self.instrument.measure(point.op, implementation, point.cache, self.rule)
        if reading.status == LOST:
            log.warning("%s: %s", point.op, reading.reason)
        return reading, self._sample(point, implementation, began, reading)

    def _sample(self, point: Point, implementation: str, began: float, reading: Reading) -> Sample:
        return Sample(
            op=point.op,
            hardware=self.store.hardware,
            implementation=implementation,
            cache=point.cache,
            origin=point.origin,
            status=reading.status,
            device=self.store.device,
            threads=self.instrument.threads,
            discarded=reading.discarded,
            started=datetime.fromtimestamp(began, UTC).isoformat(timespec="milliseconds"),
            versions=self.versions,
            **reading.told(),
            **asdict(reading.telemetry),
        )


def _possible(reading: Reading) -> Reading:
    """A reading that a store takes: one whose seconds cannot be is none."""
    if all(0 < s < HOUR_S for s in reading.seconds):
        return reading
    log.warning("timed by %s as %s s: left out", reading.method, reading.seconds)
    return replace(reading, seconds=(), status=UNSUPPORTED, reason="seconds that cannot be")


def _check(sample: Sample) -> None:
    if sample.status == LOST:
        raise DeviceLost(
            f"the device was lost over {sample.op} ({sample.implementation}), which is not tried "
            "again: run again, what was measured is kept"
        )
