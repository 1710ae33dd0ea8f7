"""A hundred operators that strangers timed: what is read, and what is built of it."""

from __future__ import annotations

import pytest

from benchmarks.kernelbench_problems import MAKERS, ONE, TWO, sizes_of
from benchmarks.public_kernelbench import PUBLISHED, Problem, calls_of, problems, published
from benchmarks.published_times import compared
from calib.hardware.datasheet import floor, load_hardware
from calib.trace import unknown
from model.ops import Attention, Conv2d, Convolution, Matmul, Operator, Reduction, Softmax

CARDS = {"h100": 92, "h200": 8, "h100_pcie": 100, "a10g": 66, "a10": 34, "l40s": 5}


def ops_of(kernel: str, shape: str) -> list[Operator]:
    return [call.op for call in calls_of(Problem("any", kernel, shape))]


def test_every_time_is_of_a_card_and_a_problem_that_is_known() -> None:
    passes = published()
    assert {card: sum(p.card == card for p in passes) for card in CARDS} == CARDS
    assert all(load_hardware(card) for card in CARDS)
    found = problems()
    assert list(found) == [str(n) for n in range(1, 101)]
    assert {p.kernel for p in found.values()} == {*ONE, *TWO, *MAKERS}
    source = PUBLISHED.with_suffix(".md").read_text("utf-8")
    assert "MIT" in source and "2.5.0" in source


def test_nothing_is_unknown_and_no_card_beats_its_roofline() -> None:
    """A time below the floor would be one of other sizes. A norm or a softmax may find in the L2
    what it reads again; none reads less than its bytes once."""
    for each in published():
        assert not unknown(each.calls)
        hardware = load_hardware(each.card)
        least = sum(float(floor(c.op, hardware)) * c.count for c in each.calls)
        assert least < 1.01 * each.seconds, (each.card, each.label)


@pytest.mark.parametrize(
    ("kernel", "shape", "expected"),
    [
        ("product", "m=3;n=5;k=7;turned=1x1", Matmul(3, 5, 7, dtype="float32")),
        ("by_rows", "x=2x3x7;n=5", Matmul(6, 5, 7, dtype="float32")),
        ("softmax", "x=4x9", Softmax(4, 9, dtype="float32")),
        ("sum", "x=2x5x3", Reduction(6, 5, dtype="float32")),
        (
            "convolution",
            "x=2x8x9x9;out=4;window=3x3;padding=1;bias=1",
            Conv2d(2, 8, 4, 9, 9, 3, 1, 1, dtype="float32", bias=True, planar=True),
        ),
        (
            "transposed",
            "x=2x8x4x6;out=4;window=3x5;stride=2x3;padding=1x2;dilation=2x1;groups=4",
            Convolution(2, 8, 4, 24, 9 * 16, 15, 4, transposed=True, dtype="float32"),
        ),
    ],
)
def test_a_problem_is_what_was_timed(kernel: str, shape: str, expected: Operator) -> None:
    assert ops_of(kernel, shape) == [expected]


def test_attention_is_one_kernel_and_a_written_norm_several() -> None:
    (op,) = ops_of("attention", "batch=1;heads=2;length=8;head_dim=1024")
    assert isinstance(op, Attention) and op.dtype == "float16"
    assert len(ops_of("rms_norm", "x=2x4x3x3")) == 5
    first, second = ops_of("separable", "x=1x8x6x6;out=4;window=3x3;padding=1")
    assert isinstance(first, Conv2d) and first.groups == 8
    assert isinstance(second, Conv2d) and second.kernel == 1
    assert sizes_of("x=16x3;out=64") == {"x": (16, 3), "out": (64,)}


def test_maps_of_every_card_are_told_to_a_fifth() -> None:
    """Nothing was fitted to these."""
    some = [p for p in published() if p.group == "pointwise"][::6]
    rows = list(compared(some))
    assert {r["card"] for r in rows} >= {"h100", "h100_pcie", "a10g"}
    assert all(abs(r["error"]) < 0.2 and r["inside"] for r in rows)
