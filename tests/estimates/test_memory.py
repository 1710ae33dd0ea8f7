"""Memory: closed forms of a model's parts, and the largest that fits against its neighbours."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from calib.estimates.memory import LIMIT, largest, memory
from model.causal_lm import Llama, Qwen3Moe
from model.deepseek_ocr import DeepseekOCRModel
from model.workload import Workload

TEXT = Workload("text", prompt_tokens=1000, decode_steps=24, logits="last")


@given(st.integers(0, 10**9), st.integers(1, 10**6), st.integers(0, 50), st.integers(0, 10**12))
def test_largest_is_the_last_that_fits(fixed: int, each: int, squared: int, room: int) -> None:
    calls = []

    def need(n: int) -> float:
        calls.append(n)
        return fixed + each * n + squared * n * n

    found = largest(need, room)
    if found == 0:
        assert need(1) > room
    else:
        assert need(found) <= room
        assert found == LIMIT or need(found + 1) > room
    assert len(calls) < 60


def test_in_proportion_takes_few_calls() -> None:
    calls = []
    assert largest(lambda n: calls.append(n) or 7.0 * n, 7e6 + 3) == 1_000_000
    assert len(calls) <= 6


def test_llama_by_hand() -> None:
    """Keys and values of 32 layers, 8 heads of 128, bfloat16, for 1024 tokens and 3 sequences."""
    model = Llama()
    found = memory(model, replace(TEXT, batch=3), 80e9)
    assert found.weight_bytes == 2 * 8_030_261_248  # published parameters
    decode = 2 * 32 * 8 * 128 * 2 * 1024 * 3
    prefill = 2 * 32 * 8 * 128 * 2 * 1000 * 3
    assert found.phase == "prefill"
    assert (found.kv_cache_bytes, found.kv_cache_phase) == (decode, "decode")
    layer = model.prefill_layer(1000, 3, "last")
    assert found.activation_bytes == layer.activation_bytes()
    assert found.activation_phase == "prefill"
    assert found.needed_bytes == found.weight_bytes + prefill + found.activation_bytes
    assert found.fits


@pytest.mark.parametrize(
    ("model", "workload"),
    [
        (Llama(), TEXT),
        (DeepseekOCRModel(), Workload("page", side=1024, decode_steps=16)),
    ],
    ids=["llama", "deepseek_ocr"],
)
def test_one_more_does_not_fit(model, workload: Workload) -> None:
    card = 24 * 2**30
    found = memory(model, workload, card)

    def fits(**changed: int) -> bool:
        return memory(model, replace(workload, **changed), card).fits

    assert found.largest_batch > 1
    assert fits(batch=found.largest_batch)
    assert not fits(batch=found.largest_batch + 1)
    prompt = found.largest_context - workload.decode_steps
    prompt -= model.prompt_length(replace(workload, prompt_tokens=1)) - 1
    assert fits(prompt_tokens=prompt)
    assert not fits(prompt_tokens=prompt + 1)


def test_weights_that_do_not_fit() -> None:
    found = memory(Qwen3Moe(), TEXT, 32 * 2**30)
    assert not found.fits
    assert (found.largest_batch, found.largest_context) == (0, 0)


def test_published_weights_of_deepseek_ocr() -> None:
    found = memory(DeepseekOCRModel(), Workload("page", side=1024), 32 * 2**30)
    assert found.weight_bytes == 2 * 3_336_106_240
