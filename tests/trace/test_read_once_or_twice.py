"""Bytes of losses, of norms' gradients and of a tensor given twice, counted by hand."""

import pytest
import torch
from does import Does
from torch import nn

from calib.trace import trace, unknown
from model.layer import Call
from model.ops import Elementwise, Norm, Other

ROWS, COLS = 12, 35
ALL = ROWS * COLS * 4  # bytes of the scores in float32


def scores(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.empty(shape, device="meta", dtype=dtype, requires_grad=True)


def named(calls: list[Call], name: str) -> list[Other]:
    return [call.op for call in calls if isinstance(call.op, Other) and call.op.name == name]


def test_a_loss_reads_the_number_of_each_rows_target_and_its_gradient_writes_zeros() -> None:
    target = torch.empty(ROWS, device="meta", dtype=torch.int64)
    calls = trace(nn.CrossEntropyLoss(), scores(ROWS, COLS), target, backward=True)
    (loss,), (gradient,) = named(calls, "nll_loss_forward"), named(calls, "nll_loss_backward")
    assert loss.read == ROWS * (8 + 4) and loss.written == 2 * 4  # the loss, and the weights' sum
    assert gradient.read == ROWS * 8 + 4 and gradient.written == ROWS * 4
    assert [zeros.written for zeros in named(calls, "zeros")] == [ALL]
    (softmax,) = (c.op for c in calls if isinstance(c.op, Elementwise) and c.op.elements == ALL / 4)
    assert softmax.inputs == 2  # the gradient of the logarithm reads its result and what arrives
    assert not unknown(calls)


def test_weights_of_classes_are_read_for_each_target() -> None:
    weight = torch.empty(COLS, device="meta")
    target = torch.empty(ROWS, device="meta", dtype=torch.int64)
    calls = trace(nn.CrossEntropyLoss(weight), scores(ROWS, COLS), target)
    assert [loss.read for loss in named(calls, "nll_loss_forward")] == [ROWS * (8 + 4 + 4)]


@pytest.mark.parametrize(
    ("norm", "shape", "vectors"),
    [
        (nn.LayerNorm(COLS), (ROWS, COLS), 2 * COLS),
        (nn.LayerNorm(COLS, elementwise_affine=False), (ROWS, COLS), None),
        (nn.BatchNorm1d(COLS), (ROWS, COLS), 2 * COLS),
        (nn.GroupNorm(5, COLS), (ROWS, COLS), 2 * COLS),
        (nn.GroupNorm(5, COLS, affine=False), (ROWS, COLS), 0),
    ],
)
def test_both_kernels_of_a_norms_gradient_read_the_input_and_what_arrives(
    norm: nn.Module, shape: tuple[int, ...], vectors: int | None
) -> None:
    calls = trace(norm.to("meta"), scores(*shape), backward=True)
    found = [c.op for c in calls if isinstance(c.op, Other) and "norm_backward" in c.op.name]
    *sums, elements = found
    assert elements.written == ALL and elements.read >= 2 * ALL
    assert [(op.read, op.written) for op in sums] == (
        [] if vectors is None else [(2 * ALL, 4 * vectors)]
    )
    assert not unknown(calls)


def test_a_tensor_given_twice_is_read_once() -> None:
    x = scores(ROWS, COLS)
    for run, reads in ((lambda a: a * a, 1), (lambda a: torch.xlogy(a, a), 1)):
        (call,) = trace(Does(run), x)
        assert isinstance(call.op, Elementwise) and call.op.inputs == reads
    (call,) = trace(Does(torch.mul), x, scores(ROWS, COLS))
    assert isinstance(call.op, Elementwise) and call.op.inputs == 2


@pytest.mark.parametrize("activation", [nn.SiLU(), nn.GELU()])
def test_the_gradient_of_an_activation_is_one_kernel(activation: nn.Module) -> None:
    """That of silu has a kernel of its own beside a composite for devices without."""
    forward, gradient = trace(activation, scores(ROWS, COLS), backward=True)
    assert isinstance(forward.op, Elementwise) and forward.op.inputs == 1
    assert isinstance(gradient.op, Elementwise) and gradient.op.inputs == 2


class WrittenOut(nn.Module):
    """A root-mean-square norm as models write it."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(COLS, dtype=dtype))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        wide = x.to(torch.float32)
        wide = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + 1e-6)
        return self.weight * wide.to(x.dtype)


def test_a_scale_of_a_wider_type_writes_wide_and_is_no_norm_that_was_measured() -> None:
    x = scores(ROWS, COLS, dtype=torch.bfloat16)
    (norm,) = trace(WrittenOut(torch.bfloat16).to("meta"), x)
    assert isinstance(norm.op, Norm)
    calls = trace(WrittenOut(torch.float32).to("meta"), x)
    assert sum(c.launches for c in calls) == norm.launches == 8
    assert isinstance(calls[-1].op, Elementwise) and calls[-1].op.bytes >= ALL / 2 + ALL
