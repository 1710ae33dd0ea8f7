"""Our calls beside those of a trace: as many launches in every module, of the same kinds in the
same order, touching as many bytes.

Shared by tests that compare our layers with the implementation in ``transformers``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch

from calib.trace import module as trace
from calib.trace.rules.rows import Row
from model.layer import Call


def record(module: torch.nn.Module, run: Callable[[], Any], path: str = "") -> list[Call]:
    """The calls that ``run`` makes without gradients; ``path``: where it starts."""
    return trace.record(module, run, path=path).calls


def dispatched(module: torch.nn.Module, run: Callable[[], Any], path: str = "") -> list[Row]:
    """The operators themselves, with their names."""
    return list(trace.rows(trace.record(module, run, path=path).events))


def launches_by_path(calls: Iterable[Call]) -> Counter[str]:
    count: Counter[str] = Counter()
    for call in calls:
        count[call.path] += call.launches * call.count
    return count


def kinds_by_path(calls: Iterable[Call]) -> dict[str, list[str]]:
    """The kinds in order, one entry a call."""
    kinds: dict[str, list[str]] = {}
    for call in calls:
        name = f"{call.op.operator} of {call.launches}"
        kinds.setdefault(call.path, []).extend([name] * call.count)
    return kinds


def bytes_by_path(calls: Iterable[Call]) -> dict[str, list[tuple[float, float]]]:
    """Bytes read and written of every operator by path, sorted."""
    found: dict[str, list[tuple[float, float]]] = {}
    for call in calls:
        pair = (call.op.bytes_read, call.op.bytes_written)
        found.setdefault(call.path, []).extend([pair] * call.count)
    return {path: sorted(pairs) for path, pairs in found.items()}


def across_by_path(calls: Iterable[Call]) -> Counter[str]:
    """Calls by path whose inputs do not lie row by row."""
    return Counter(call.path for call in calls if getattr(call.op, "transposed", False))


def walks_by_path(calls: Iterable[Call]) -> dict[str, list[tuple[str, float, int]]]:
    """Kind, elements and axes of every map and copy that is more than one run of memory."""
    found: dict[str, list[tuple[str, float, int]]] = {}
    for call in calls:
        axes = getattr(call.op, "axes", 1)
        if axes > 1:
            walk = (call.op.operator, call.op.bytes_written, axes)
            found.setdefault(call.path, []).extend([walk] * call.count)
    return {path: sorted(walks) for path, walks in found.items()}


def assert_same_operators(calls: list[Call], traced: list[Call]) -> None:
    assert launches_by_path(calls) == launches_by_path(traced)
    assert kinds_by_path(calls) == kinds_by_path(traced)
    assert across_by_path(calls) == across_by_path(traced)
    assert walks_by_path(calls) == walks_by_path(traced)
    ours, theirs = bytes_by_path(calls), bytes_by_path(traced)
    for path, pairs in ours.items():
        assert pairs == [pytest.approx(pair, rel=1e-12) for pair in theirs[path]], path
