"""In which order to measure: the design first, then its next shapes where the fit is less sure.

The design interleaves the domains by their shares, and each domain follows a Halton sequence, so
that every prefix fills all domains and a sweep may stop anywhere. Once half the budget is spent, a
fit to what is measured says where it is unsure: of the design's next shapes a share is drawn in
proportion to that, spread out and clear of what is measured (:mod:`calib.measure.sweep.choice`).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Protocol, TypeVar

from calib.measure.sweep.choice import Uncertainty, choose
from calib.measure.sweep.domains import domains
from calib.measure.sweep.plan import DESIGN, Designs, Point, State
from calib.samples.sample import Sample
from model.ops import Operator

ROUNDS = (0.5, 0.75)
"""Shares of the budget at which the next shapes are chosen anew."""
_POOL = 4
"""Of so many shapes of the design, one is chosen."""


class Pending(Protocol):
    """A fit under way in another process, while measuring goes on."""

    def ready(self) -> bool: ...

    def result(self) -> Uncertainty: ...


Refit = Callable[[Sequence[Sample]], "Uncertainty | Pending"]
"""Samples -> what a fit to them is unsure of, at once or later."""
_VAIN = 300
"""A domain that has no shape worth keeping among so many has none."""
Keep = Callable[[Operator], bool]
T = TypeVar("T")


def design(
    seed: int = 0, keep: Keep = lambda op: True, reach: int = 1
) -> Iterator[tuple[Operator, str]]:
    """Operators with the cache state to measure them in, endless; every prefix keeps the shares.

    ``keep``: which operators are worth their time; ``reach``: see :func:`domains.domains`.
    """
    some = domains(reach)
    streams = [_kept(d.points(seed + i), keep, d.cache) for i, d in enumerate(some)]
    return in_shares(streams, [domain.share / 2 for domain in some])


def _kept(points: Iterator[Operator], keep: Keep, cache: str) -> Iterator[tuple[Operator, str]]:
    while True:
        found = next((op for op in itertools.islice(points, _VAIN) if keep(op)), None)
        if found is None:
            return
        yield found, cache


def in_shares(streams: Iterable[Iterator[T]], shares: Iterable[float]) -> Iterator[T]:
    """Merge streams so that every prefix has about ``share`` of each; until all have ended."""
    waiting = list(zip(streams, shares, strict=True))
    credit = [0.0] * len(waiting)
    while waiting:
        ended = set()
        for i, (stream, share) in enumerate(waiting):
            credit[i] += share
            due, credit[i] = int(credit[i]), credit[i] % 1
            some = list(itertools.islice(stream, due))
            yield from some
            if len(some) < due:
                ended.add(i)
        credit = [c for i, c in enumerate(credit) if i not in ended]
        waiting = [entry for i, entry in enumerate(waiting) if i not in ended]


def plain(seed: int = 0, keep: Keep = lambda op: True, reach: int = 1) -> Designs:
    """The plan that does not adapt."""
    return lambda state: (Point(op, cache) for op, cache in design(seed, keep, reach))


def adaptive(
    refit: Refit,
    seed: int = 0,
    keep: Keep = lambda op: True,
    reach: int = 1,
    part: float = 1.0,
) -> Designs:
    """The design up to the first of ``ROUNDS``, then draws by what a fresh fit is unsure of.

    ``part``: of the budget, what the design alone has, of which ``ROUNDS`` are shares.
    """

    def points(whole: State) -> Iterator[Point]:
        state = State(whole.samples, lambda: whole.share() / part)
        stream = plain(seed, keep, reach)(state)
        while state.share() < ROUNDS[0]:
            yield next(stream)
        for until in (*ROUNDS[1:], 1.0):
            if state.share() < until:
                yield from _round(stream, state, refit, until)
        yield from stream

    return points


def _round(stream: Iterator[Point], state: State, refit: Refit, until: float) -> Iterator[Point]:
    """The chosen, spread out in every prefix, until so much of the budget is spent."""
    found = refit([s for s in state.samples if s.origin == DESIGN and s.status == "ok"])
    while not callable(found) and not found.ready():
        if state.share() >= until:
            return
        yield next(stream)
    uncertainty = found if callable(found) else found.result()
    designs = [s for s in state.samples if s.origin == DESIGN and s.status == "ok"]
    known = list(dict.fromkeys(s.op for s in designs))
    share = state.share()
    if share >= until:  # while the fit was waited for
        return
    count = int(1.5 * len(known) * (until - share) / share) + 1
    pool = list(itertools.islice(stream, _POOL * count))
    chosen = iter(most_useful(pool, known, uncertainty, count))
    while state.share() < until and (point := next(chosen, None)) is not None:
        yield point


def most_useful(
    pool: Sequence[Point], measured: Sequence[Operator], uncertainty: Uncertainty, count: int
) -> list[Point]:
    """About ``count`` points of ``pool``, each kind with its share of the pool, in every prefix.

    Kinds are not weighed by their spread: that of a tiny operator is noise which no sample removes.
    """
    kinds: dict[tuple[str, str], list[Point]] = {}
    for point in pool:
        kinds.setdefault(_kind(point.op), []).append(point)
    streams, shares = [], []
    for kind, some in kinds.items():
        known = [op for op in measured if _kind(op) == kind]
        shares.append(len(some) / len(pool))
        wanted = min(round(count * shares[-1]) + 1, len(some))
        rows = choose([p.op for p in some], known, wanted, uncertainty)
        streams.append(iter([some[i] for i in rows]))
    return list(itertools.islice(in_shares(streams, shares), count))


def _kind(op: Operator) -> tuple[str, str]:
    """What a fit takes together."""
    return f"{op.operator} {getattr(op, 'name', '')}", str(vars(op)["dtype"])
