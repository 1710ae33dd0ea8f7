"""Continuous batching in closed form against the same server step by step."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calib.estimates.serving.simulate import Server, simulated
from calib.estimates.serving.steady import Load, Steps, steady

PROMPTS, WAVES = 8, 10
LOADS = [  # concurrency, tokens out, decode, prompt, slope, places
    (4, 900, 0.016, 0.05, 0.0, 10**6),
    (64, 900, 0.02, 0.05, 1e-4, 10**6),
    (64, 900, 0.02, 0.45, 1e-4, 10**6),
    (128, 900, 0.03, 0.05, 1e-4, 10**6),
    (64, 900, 0.03, 0.4, 1e-4, 30),
    (128, 1800, 0.025, 0.06, 1e-4, 80),
    (64, 100, 0.01, 0.016, 5e-5, 10**6),
    (16, 128, 0.01, 0.1, 1e-4, 10**6),
]


@pytest.mark.parametrize(("concurrency", "osl", "decode", "prompt", "slope", "places"), LOADS)
def test_the_closed_form_is_the_simulation(
    concurrency: int, osl: int, decode: float, prompt: float, slope: float, places: int
) -> None:
    running = min(concurrency, places)
    server = Server(decode, prompt, running, slope, prompts=PROMPTS, places=places)
    ttft, tpot = simulated(server, concurrency, osl, WAVES, spread=0.11)
    found = steady(
        Steps(decode, prompt, slope, 1, PROMPTS), Load(concurrency, 1.0, osl, places, WAVES)
    )
    assert float(found.tpot) == pytest.approx(tpot, rel=0.03)
    assert float(found.ttft) == pytest.approx(ttft, rel=0.12)


def test_one_request_alone() -> None:
    found = steady(Steps(0.01, 0.1), Load(1, 100, 50))
    assert float(found.tpot) == pytest.approx(0.01)
    assert float(found.ttft) == pytest.approx(0.1 + 0.01 + 0.005, abs=0.002)


def test_what_does_not_fit_waits() -> None:
    free = steady(Steps(0.02, 0.05), Load(64, 100, 500))
    full = steady(Steps(0.02, 0.05), Load(64, 100, 500, places=32))
    assert full.tpot < free.tpot
    assert full.ttft > 100 * free.ttft / 10
    assert float((full.ttft * full.throughput)[()]) == pytest.approx(32, rel=0.1)


@settings(deadline=None, max_examples=50)
@given(
    concurrency=st.integers(1, 512),
    osl=st.integers(2, 4000),
    decode=st.floats(1e-3, 0.1),
    prompt=st.floats(0, 1.0),
)
def test_laws(concurrency: int, osl: int, decode: float, prompt: float) -> None:
    """A token takes at least a step, and no less with more requests or longer prompts."""
    found = steady(Steps(decode, prompt), Load(concurrency, 100, osl))
    more = steady(Steps(decode, prompt), Load(concurrency + 1, 100, osl))
    assert float(found.tpot) >= decode * (1 - 1e-9)
    assert float(more.tpot) >= float(found.tpot) * (1 - 1e-6)
    assert 0 < float(found.decoding) <= concurrency
