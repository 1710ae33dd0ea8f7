"""Models that strangers timed: what is read, and what is built of it."""

from __future__ import annotations

import pytest

from benchmarks.neusight_models import CONFIGS, forward_of, training_of
from benchmarks.public_models import (
    COMPILED,
    INFERENCE,
    PUBLISHED,
    TRAINING,
    compared,
    described,
    published,
)
from calib.hardware.datasheet import load_hardware
from calib.trace import unknown
from model.layer import Call
from model.ops import Elementwise, Matmul, Softmax

CARDS = {"h100": 22, "l4": 14, "a100_pcie_40gb": 14, "a100_pcie_80gb": 8} | {
    **{"v100_pcie_32gb": 11, "p100": 5, "t4": 5, "p4": 3}
}
PARAMETERS = {"bert_large": 335e6, "gpt2_large": 774e6, "opt_13": 1.32e9}


def test_every_time_is_of_a_card_and_a_model_that_are_known() -> None:
    rows = published()
    assert {card: sum(r.card == card for r in rows) for card in CARDS} == CARDS
    assert len(rows) == sum(CARDS.values()) and all(load_hardware(card) for card in CARDS)
    assert {row.model for row in rows} == set(CONFIGS)
    for row in rows:
        assert (row.backward > row.forward > 0) if row.mode == TRAINING else row.backward == 0
        assert 0 <= row.neusight < 1
    source = PUBLISHED.with_suffix(".md").read_text("utf-8")
    assert "MIT" in source and "4.38.1" in source


def test_twice_the_batch_takes_about_twice_as_long() -> None:
    """A row mistyped would stand out."""
    by_case = {(r.card, r.mode, r.model, r.batch): r for r in published()}
    for (card, mode, model, batch), small in by_case.items():
        for times in (2, 4):
            large = by_case.get((card, mode, model, times * batch))
            if large is not None:
                ratio = (large.forward + large.backward) / (small.forward + small.backward)
                assert 0.75 * times < ratio < 1.2 * times, (card, model, batch)


def flops(calls: tuple[Call, ...]) -> float:
    return sum(c.op.flops * c.count for c in calls if isinstance(c.op, Matmul))


@pytest.mark.parametrize("name", PARAMETERS)
def test_a_step_has_the_products_of_its_parameters(name: str) -> None:
    """Two FLOPs a weight and token, and attention's; backward twice as many, nothing unknown."""
    tokens = 128
    once, (forward, backward) = forward_of(name, tokens, 2), training_of(name, tokens, 2)
    assert not unknown((*once, *forward, *backward))
    assert flops(backward) == pytest.approx(
        2 * flops(forward), rel=1e-3
    )  # BERT's pooler learns not
    assert flops(forward) == pytest.approx(2 * PARAMETERS[name] * 2 * tokens, rel=0.1)
    assert {c.op.dtype for c in forward if isinstance(c.op, Matmul)} == {"float32"}


def test_attention_is_written_out_as_it_was_then() -> None:
    """The loss is not between the clocks."""
    tokens = 40
    for name in PARAMETERS:
        layers = CONFIGS[name].num_hidden_layers
        calls = forward_of(name, tokens, 2)
        scores = 2 * CONFIGS[name].num_attention_heads * tokens * tokens
        kinds = (Elementwise, Softmax)
        found = [c for c in calls if isinstance(c.op, kinds) and is_of(c, scores)]
        assert len(found) == 3 * layers  # two maps and a softmax
    learning, _ = training_of("bert_large", tokens, 2)
    assert not any("loss" in getattr(c.op, "name", "") for c in learning)


def is_of(call: Call, scores: int) -> bool:
    op = call.op
    return scores == (op.rows * op.cols if isinstance(op, Softmax) else op.elements)


def test_a_few_rows_are_told_and_summed_up() -> None:
    few = [r for r in published() if r.card in ("h100", "v100_pcie_32gb") and r.batch == 8]
    few = [r for r in few if r.model == "bert_large"]
    rows = list(compared(few))
    assert {r["mode"] for r in rows} == {INFERENCE, COMPILED, TRAINING}
    assert all(abs(r["error"]) < 0.2 and r["roofline"] < r["error"] for r in rows)
    assert all(r["inside"] for r in rows if r["card"] == "h100")
    text = described(rows)
    assert "h100 training" in text and "all inference" in text
    assert max(map(len, text.splitlines())) <= 110
