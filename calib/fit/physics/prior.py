"""The physics of one kind of operator: a few numbers that every fit starts from.

    time = dispatch + added + (sum of bounds^p)^(1/p)    [cycles]
    bounds: compute / e_c, memory / e_m, c * depth^a, serial, and those of the kind itself

``compute`` and ``memory`` are the two floors of an operator on the device, ``e_c`` and ``e_m`` the
shares of the two peaks that this kind reaches (``e_m`` twice: from main memory and from cache;
where the share of bytes that miss the cache is known, both are bounds),
``dispatch`` what a call costs however small it is. The third bound is a chain: a sum over ``depth``
terms is a loop whose steps wait for one another, which no further multiprocessor shortens; a < 1
where the library splits deep sums. p says how sharply one bound takes over from the next.

A kind may bring columns of its own (:mod:`calib.fit.physics.blocks.attention.columns`,
:mod:`calib.fit.physics.blocks.expert_blocks`, :mod:`calib.fit.physics.blocks.grouped_blocks`,
:mod:`calib.fit.physics.blocks.convolution_blocks`):
``bound ...`` are logarithms of further bounds; ``serial ...`` count what a multiprocessor does one
after the other, and their sum is one bound; ``added ...`` count what a call does besides.
Each has a fitted cost a unit. The last word of such a name is the rule of cutting the work that it
belongs to; the rule that explains the times best is kept. Products and convolutions on a GPU have
candidates besides, ways to cut them that share their costs: their soft minimum is a bound
(:mod:`calib.fit.physics.blocks.product_blocks`), and stands for the chain; or, on Hopper, the least
of others, whose kernel that adds split sums up comes last (:mod:`calib.fit.physics.one_wave`).

Time is counted in clock cycles, in which cards differ least. Outside the sampled shapes this is all
that an estimate knows.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, fields

import numpy as np

from calib.fit.physics.blocks import grouped_blocks, stream_blocks
from calib.fit.physics.blocks.attention import cudnn, flash
from calib.fit.physics.blocks.convolution_blocks import STARTS
from calib.fit.physics.blocks.product_blocks import CHOICE, COSTS, MISSED, Candidates
from calib.fit.physics.features import ADDED, BOUND, SERIAL, Features
from calib.fit.physics.one_wave import COSTS as OF_WAVES
from calib.fit.physics.one_wave import OneWave, told_by

_PULL = 0.05
_PULL_TO_OTHERS = 0.3
"""Weight of the pull towards a start. That of a guess is far below one sample's and only decides
what no sample does; from other devices' a change of a third costs as much as a miss of 10%."""
_NO_CHAIN = -40.0
_MOST = 3000
"""The numbers are fitted to at most so many samples."""
_PRECISION = 1e-5
"""A fit ends where a step changes its cost, or its numbers, by less than this share."""


@dataclass(frozen=True)
class Prior:
    """Natural logarithms: dispatch [cycles], efficiencies, chain [cycles], power p; and a.

    ``costs``: of each column of the kind itself, cycles a unit.
    """

    dispatch: float
    compute: float
    memory_cold: float
    memory_hot: float
    chain: float
    chain_power: float
    blend: float
    costs: dict[str, float] = field(default_factory=dict)

    def log_cycles(self, x: Features) -> np.ndarray:
        """[n] natural logarithm of the predicted clock cycles."""
        return _log_cycles(self.vector, _Columns.of(x, self.costs))

    @property
    def vector(self) -> np.ndarray:
        """All numbers in order, the costs last."""
        first = (getattr(self, name) for name in _FIRST)
        return np.array([*first, *self.costs.values()])

    def with_vector(self, theta: np.ndarray) -> Prior:
        """The same columns with other costs: the inverse of ``vector``."""
        values = dict(zip((*_FIRST, *self.costs), (float(v) for v in theta), strict=True))
        costs = {name: values.pop(name) for name in self.costs}
        return Prior(**values, costs=costs)


_FIRST = tuple(f.name for f in fields(Prior) if f.name != "costs")


@dataclass(frozen=True)
class _Columns:
    """What a prior reads of features: ``own`` [m, n], and which of them are what, [m] bool each.

    ``choice``: candidates, with the costs at the positions that ``costs`` [m] bool tells;
    ``waves``: those of products that are cut in waves, which stand for them.
    ``missed``: one of them is the time of what main memory moves.
    """

    x: Features
    names: list[str]
    own: np.ndarray
    bound: np.ndarray
    serial: np.ndarray
    added: np.ndarray
    costs: np.ndarray
    choice: Candidates | None
    waves: OneWave | None
    missed: bool

    @classmethod
    def of(cls, x: Features, names: Iterable[str]) -> _Columns:
        names = list(names)
        bound, serial, added, costs = (
            np.array([n.startswith(kind) for n in names], dtype=bool)
            for kind in (BOUND, SERIAL, ADDED, CHOICE)
        )
        absent = np.where(bound, _NEVER, 0.0)
        none = np.zeros(len(x))
        own = [x.columns.get(n, none + least) for n, least in zip(names, absent, strict=True)]
        table = np.stack(own) if own else np.zeros((0, len(x)))
        choice = Candidates.of(x.columns) if costs.any() else None
        waves = OneWave.of(x.columns) if OF_WAVES.keys() & names else None
        missed = any(name.startswith((f"{BOUND}missed", f"{SERIAL}missed")) for name in names)
        return cls(x, names, table, bound, serial, added, costs, choice, waves, missed)


_NEVER = -50.0
"""Logarithm of a bound that an operator does not have."""
_LEAST = 1e-9


def _log_cycles(theta: np.ndarray, by: _Columns) -> np.ndarray:
    x, power, own = by.x, np.exp(theta[6]), theta[len(_FIRST) :]
    bounds = [
        x.log_compute - theta[1],
        *_memory(theta, by),
        theta[4] + theta[5] * x.log_depth,
        *(by.own[by.bound] + own[by.bound, None]),
    ]
    if by.serial.any():
        bounds.append(np.log(np.exp(own[by.serial]) @ by.own[by.serial] + _LEAST))
    if by.choice is not None:
        named = zip(by.names, own, by.costs, strict=True)
        costs = {n: value for n, value, is_cost in named if is_cost}
        bounds.append(by.choice.log_cycles(costs))
    if by.waves is not None:
        cut, reduced = by.waves.cycles(costs)
        bounds[-1][by.waves.rows] = np.log(cut)
    table = np.stack(bounds)
    top = table.max(axis=0)
    work = top + np.log(np.exp(power * (table - top)).sum(axis=0)) / power
    fixed = theta[0]
    if by.added.any():
        fixed = np.logaddexp(fixed, np.log(np.exp(own[by.added]) @ by.own[by.added] + _LEAST))
    total = np.asarray(np.logaddexp(fixed, work))
    if by.waves is not None:
        total[by.waves.rows] = np.logaddexp(total[by.waves.rows], np.log(reduced + _LEAST))
    return total


def _memory(theta: np.ndarray, by: _Columns) -> list[np.ndarray]:
    """The bounds of main memory and of the cache; one, where no share of missed bytes is told.

    Where the kind has a column of its own for what main memory moves, hot or cold, the cache's.
    """
    x = by.x
    if by.missed:
        return [x.log_memory - theta[3]]
    if by.choice is None or MISSED not in x.columns:
        return [x.log_memory - np.where(x.hot, theta[3], theta[2])]
    return [x.log_memory + x.columns[MISSED] - theta[2], x.log_memory - theta[3]]


def columns_of(x: Features, prior: Prior) -> tuple[str, ...]:
    """Names of all columns that trees read: none of candidates, or of a rule not followed."""
    rules = {_rule_of(n) for n in _own(x)} - {_rule_of(n) for n in prior.costs}
    names = sorted(n for n in x.columns if not n.startswith(CHOICE))
    return tuple(n for n in names if _rule_of(n) not in rules)


def _own(x: Features) -> list[str]:
    """Columns of the kind itself that a prior gives a cost."""
    return sorted(n for n in x.columns if n.startswith((BOUND, SERIAL, ADDED)))


def _rule_of(name: str) -> str:
    return name.rpartition(" ")[2]


def fit_prior(
    x: Features,
    log_cycles: np.ndarray,
    start: Prior | None = None,
    rule: Iterable[str] | None = None,
) -> Prior:
    """The prior that fits ``log_cycles`` [n] best, outliers weighted down (soft L1).

    ``start``: a prior of other devices, which stands where the samples say nothing. ``rule``: the
    columns of the kind itself, where they have been chosen before.
    """
    if len(log_cycles) > _MOST:
        some = np.random.default_rng(0).permutation(len(log_cycles))[:_MOST]
        x, log_cycles = x.rows(some), log_cycles[some]
    rules = _rules(x) if rule is None else [list(rule)]
    starts = [start] if start else [_guess(x, log_cycles, some) for some in rules]
    pull = _PULL_TO_OTHERS if start else _PULL
    fits = [_fit(x, log_cycles, first, pull) for first in starts]
    return min(fits, key=lambda fit: fit[0])[1]


def _fit(x: Features, log_cycles: np.ndarray, start: Prior, pull: float) -> tuple[float, Prior]:
    from scipy.optimize import least_squares

    first, columns = start.vector, _Columns.of(x, start.costs)

    def residuals(theta: np.ndarray) -> np.ndarray:
        misfit = _log_cycles(theta, columns) - log_cycles
        return np.concatenate([misfit, pull * (theta - first)])

    best = least_squares(
        residuals, first, loss="soft_l1", f_scale=0.1, max_nfev=60, ftol=_PRECISION, xtol=_PRECISION
    )
    return float(best.cost), start.with_vector(best.x)


def _rules(x: Features) -> list[list[str]]:
    """Names of costs for each rule of cutting the work, those of candidates among all of them.

    Products may be cut in waves besides, which the others' costs then tell of unaligned ones.
    """
    shared = list(COSTS) if Candidates.of(x.columns) is not None else []
    names = _own(x)
    rules = sorted({_rule_of(n) for n in names})
    found = [shared + [n for n in names if _rule_of(n) == rule] for rule in rules] or [shared]
    if told_by(x.columns, x.hot):
        found += [[*some, *OF_WAVES] for some in found]
    return found


def _guess(x: Features, log_cycles: np.ndarray, names: list[str]) -> Prior:
    """No chain where candidates tell of it, or where no operator has depth: its bound is then out
    of reach, and stays there.

    A bound of the kind's own starts where it lies below nearly all times.
    """
    is_cut = bool(set(names) & set(COSTS))
    chain = log_cycles.min() - 2.0 if np.any(x.log_depth) and not is_cut else _NO_CHAIN
    dispatch, costs = log_cycles.min() - 1.0, {}
    for name in names:
        if name in _KNOWN:
            costs[name] = _KNOWN[name]
        elif name.startswith(ADDED):
            costs[name] = float(dispatch - 1.0)
        else:
            costs[name] = _below(x.columns[name], log_cycles, name.startswith(BOUND))
    cache = _OF_CACHE if is_cut or _KNOWN.keys() & names else 0.0
    return Prior(dispatch, 0.0, 0.0, cache, chain, 0.3, float(np.log(4.0)), costs)


_STARTS = stream_blocks.COSTS | STARTS | cudnn.STARTS | flash.STARTS | grouped_blocks.STARTS
_KNOWN = COSTS | OF_WAVES | _STARTS
_OF_CACHE = float(np.log(2.0))
"""Bandwidth of the L2 over that of main memory, where a fit starts."""


def _below(units: np.ndarray, log_cycles: np.ndarray, is_log: bool) -> float:
    """The cost at which ``units`` [n] alone lie below nearly all times."""
    known = units > (_NEVER if is_log else 0.0)
    if not known.any():
        return _NEVER
    logs = units[known] if is_log else np.log(units[known])
    return float(np.quantile(log_cycles[known] - logs, 0.02))
