"""The largest batch whose tokens come within a limit.

Time per token is taken to grow with the batch: the answer is the largest batch below the first that
is found too slow, or that does not fit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from calib.estimates.alternatives import DECODE, case_calls, outcomes
from calib.estimates.memory import working_bytes
from calib.report.units import TIMES, pick
from calib.steps.alternatives.cases import Row, Run, batch_row

AT_ONCE = 7
"""Batches that are asked for together, since asking costs more than a batch more."""
MOST = 1 << 16


def limit_row(run: Run, limit_s: float) -> Row:
    """What ``limit_s`` seconds a token allow; without a time where not even one sequence does."""
    factor, unit = pick(limit_s, TIMES)
    name = f"at most {limit_s / factor:.4g} {unit} a token"
    nothing = Row("limit", name, None, 0.0, run.memory_bytes)
    if DECODE not in run.phases:
        return replace(nothing, why="nothing is decoded")
    if run.is_traced:
        return replace(nothing, why="batches of a traced model are not looked at")
    batch = largest_batch(run, limit_s)
    if not batch:
        return replace(nothing, why="not even a batch of 1 is that fast, or fits")
    return batch_row(run, batch, "limit", name)


def largest_batch(run: Run, limit_s: float) -> int:
    """0 where there is none."""
    good, bad, ladder = 0, 0, [1 << i for i in range(MOST.bit_length())]
    while ladder and not bad:
        good, bad = _narrow(run, limit_s, ladder[:AT_ONCE], good)
        ladder = ladder[AT_ONCE:]
    while bad - good > 1:
        step = max((bad - good) / (AT_ONCE + 1), 1.0)
        inner = sorted({int(good + step * (i + 1)) for i in range(AT_ONCE)} - {good})
        good, found = _narrow(run, limit_s, [n for n in inner if good < n < bad], good)
        bad = found or bad
    return good


def _narrow(run: Run, limit_s: float, batches: Sequence[int], good: int) -> tuple[int, int]:
    """The largest of ``batches``, which ascend, before the first that will not do, and that; 0 for
    none."""
    fitting = [n for n in batches if fits(run, n)]
    times = token_seconds(run, fitting)
    for batch in batches:
        if batch not in times or times[batch] > limit_s:
            return good, batch
        good = batch
    return good, 0


def fits(run: Run, batch: int) -> bool:
    workload = replace(run.request.workload, batch=batch)
    return run.weight_bytes + working_bytes(run.model, workload) <= run.memory_bytes


def token_seconds(run: Run, batches: Sequence[int]) -> dict[int, float]:
    """Seconds of a decode step of each batch, after the phases that come before it: a card that
    they drew to its ceiling is no longer at rest."""
    cases = []
    for batch in batches:
        workload = replace(run.request.workload, batch=batch)
        calls = case_calls(run.model.phases(workload))
        cases.append(replace(run.case(run.as_executed(calls)), workload=workload))
    found = outcomes(cases, run.request.implementation)
    return {batch: row["token_s"] for batch, row in zip(batches, found, strict=True)}
