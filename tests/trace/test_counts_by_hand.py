"""Losses, norms by their own moments and pools, counted by hand."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from does import Does
from torch import nn

from calib.trace import trace, unknown
from model.ops import ChannelNorm, Elementwise, Operator, Other, Reduction

X, Y = torch.zeros(6, 10), torch.zeros(6, 10)
MAP = torch.zeros(2, 8, 5, 5)


def ops_of(module: nn.Module, *inputs: torch.Tensor) -> list[Operator]:
    calls = trace(module, *inputs)
    assert not unknown(calls)
    return [call.op for call in calls]


@pytest.mark.parametrize(
    "loss", [F.mse_loss, F.smooth_l1_loss, F.huber_loss, F.binary_cross_entropy]
)
def test_a_loss_writes_a_number_for_each_pair_and_reads_it_for_their_mean(loss) -> None:  # type: ignore[no-untyped-def]
    """Two kernels; without a mean the first alone."""
    each, whole = ops_of(Does(loss), X, Y)
    assert isinstance(each, Elementwise) and isinstance(whole, Reduction)
    assert (each.bytes_read, each.bytes_written) == (2 * 60 * 4, 60 * 4)
    assert (whole.rows, whole.cols) == (1, 60)
    alone = ops_of(Does(lambda a, b: loss(a, b, reduction="none")), X, Y)
    assert alone == [each]


def test_a_weight_is_multiplied_on_and_logits_are_written_out() -> None:
    weighted = ops_of(Does(F.binary_cross_entropy), X, Y, X)
    assert len(weighted) == 3
    found = ops_of(Does(F.binary_cross_entropy_with_logits), X, Y)
    assert [op.operator for op in found] == ["elementwise"] * 4 + ["reduction"]


def test_a_losss_gradient_is_a_map() -> None:
    calls = trace(Does(F.mse_loss), X.requires_grad_(), Y, backward=True)
    (gradient,) = (c.op for c in calls[2:] if c.op.bytes_written >= 60 * 4)
    assert not unknown(calls) and isinstance(gradient, Elementwise)
    assert gradient.bytes_written == 60 * 4


def test_a_norm_in_training_reads_its_map_twice() -> None:
    """Once for the moments of each channel, once to scale; by known statistics once."""
    known = [op for op in ops_of(nn.BatchNorm2d(8).eval(), MAP) if isinstance(op, ChannelNorm)]
    found = ops_of(nn.BatchNorm2d(8), MAP)
    moments, norm = (op for op in found if isinstance(op, Reduction | ChannelNorm))
    assert isinstance(moments, Reduction) and [norm] == known
    assert (moments.rows, moments.cols, moments.outputs, moments.alone) == (8, 2 * 25, 2, True)
    assert [type(op) for op in ops_of(nn.InstanceNorm2d(8), MAP)] == [Reduction, ChannelNorm]


def test_a_diagonal_is_written_onto_zeros() -> None:
    zeros, diagonal = ops_of(Does(torch.diag), torch.zeros(7))
    assert (zeros.bytes_read, zeros.bytes_written) == (0, 7 * 7 * 4)
    assert (diagonal.bytes_read, diagonal.bytes_written) == (7 * 4, 7 * 4)


@pytest.mark.parametrize(
    ("pool", "shape", "taps", "results"),
    [
        (nn.MaxPool2d(3, 2, 1), (2, 8, 5, 5), 9, 2 * 8 * 9),
        (nn.AvgPool2d((2, 3), 1), (2, 8, 5, 5), 6, 2 * 8 * 4 * 3),
        (nn.MaxPool3d(3, 2, 1, 2), (1, 4, 9, 9, 9), 27, 4 * 4**3),
        (nn.AvgPool3d(2), (1, 4, 8, 8, 8), 8, 4 * 4**3),
        (nn.AvgPool1d(4, 1), (2, 8, 16), 4, 2 * 8 * 13),
    ],
)
def test_a_pool_compares_or_adds_each_place_of_its_windows(
    pool: nn.Module, shape: tuple[int, ...], taps: int, results: int
) -> None:
    (op,) = ops_of(pool, torch.zeros(shape))
    assert isinstance(op, Other) and op.cuda_core_flops == taps * results
