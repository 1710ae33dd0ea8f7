"""Axes of a walk, beside what torch's iterator was seen to do, and by hand."""

from __future__ import annotations

import pytest
import torch
from does import Does

from calib.trace import trace
from calib.trace.rules.layouts import axes, turned
from calib.trace.rules.rows import size_of
from model.ops import Elementwise

X = torch.zeros(4, 6, 8, 16)
HEADS = X.transpose(1, 2)
COSINES = torch.zeros(1, 1, 6, 16)

CASES = {
    "one run": (torch.neg, (X,), 1),
    "two runs": (torch.add, (X, X), 1),
    "a permuted one is walked in its own order": (torch.neg, (HEADS,), 1),
    "half of each row": (torch.neg, (X[..., :8],), 2),
    "a row for all": (torch.add, (X, X[0, 0, 0]), 2),
    "a number for each row": (torch.mul, (X, X[..., :1]), 2),
    "heads within tokens times one row a token": (torch.mul, (HEADS, COSINES), 4),
    "tokens within heads times one row a token": (torch.mul, (X, torch.zeros(8, 16)), 2),
    "two orders": (torch.add, (X, HEADS.contiguous().transpose(1, 2)), 4),
    "outer": (torch.add, (X[0, 0][:, :, None], X[0, 0][:, None, :]), 3),
    "a number for all": (torch.mul, (X, torch.tensor(2.0)), 1),
    "a transposed copy": (torch.add, (torch.zeros(5, 7), torch.zeros(7, 5).t()), 2),
}


@pytest.mark.parametrize("name", CASES)
def test_axes_are_those_that_no_tensor_lets_merge(name: str) -> None:
    run, inputs, expected = CASES[name]
    shaped = [torch.broadcast_tensors(t, run(*inputs))[0] if t.dim() else t for t in inputs]
    assert axes(size_of(run(*inputs)), [size_of(t) for t in shaped]) == expected


def test_one_number_on_the_card_is_a_tensor_to_walk_and_one_of_the_host_is_not() -> None:
    """``gpu_kernel_with_scalars`` takes scalars of a CPU alone out of the walk (Loops.cuh)."""
    x = torch.empty(5, 7, device="meta")
    for place, walked in {"cpu": 1, "meta": 2}.items():
        number = torch.empty((), device=place)
        assert axes(size_of(x * number), [size_of(x), size_of(number)]) == walked
    (call,) = trace(Does(lambda x, n: x / n), x, torch.empty((), device="meta"))
    assert isinstance(call.op, Elementwise) and call.op.axes == 2


def test_a_matrix_and_its_transpose_are_turned() -> None:
    a = torch.zeros(5, 7)
    assert turned(size_of(a), size_of(torch.zeros(7, 5).t()))
    assert not turned(size_of(a), size_of(a[:, :3]))
    assert not turned(size_of(X), size_of(HEADS.contiguous().transpose(1, 2)))
