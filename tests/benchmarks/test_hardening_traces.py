"""A short run of what is done to traces; ``python -m benchmarks.hardening`` does it for longer."""

from __future__ import annotations

import pytest

from benchmarks.hardening.traces import KINDS, UNCHECKED, run


@pytest.mark.slow
def test_no_mutant_of_a_trace_is_believed() -> None:
    outcomes = {o.kind: o for o in run(8.0, seed=1)}
    assert set(outcomes) == {*KINDS, *UNCHECKED}
    for kind, found in outcomes.items():
        assert found.tried == found.clear + found.right + found.traceback + found.silently_wrong
        assert not found.traceback and not found.hang, found
        assert not found.silently_wrong or kind in UNCHECKED, found
    assert outcomes["healthy"].right == outcomes["healthy"].tried
    for kind in ("another card", "another model", "another size", "another type", "a gradient"):
        assert outcomes[kind].clear == outcomes[kind].tried
