"""Dropout in training: one kernel of a card, which writes a mask of bytes beside its result."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from does import Does
from torch import nn

from calib.trace import trace
from model.ops import Elementwise

ROWS, COLS = 6, 20


def x(place: str = "meta") -> torch.Tensor:
    return torch.empty(ROWS, COLS, device=place, requires_grad=True)


def test_a_card_drops_in_one_kernel_each_way() -> None:
    for drop in (nn.Dropout(0.1), Does(lambda x: torch.dropout(x, 0.1, True))):
        forward, backward = (call.op for call in trace(drop, x(), backward=True))
        assert isinstance(forward, Elementwise) and isinstance(backward, Elementwise)
        # A number read, a number written, and a byte that says whether it was kept.
        assert forward.bytes == backward.bytes == ROWS * COLS * (4 + 4 + 1)
        assert forward.bytes_written == ROWS * COLS * 4


def test_nothing_is_dropped_where_nothing_is_to_be() -> None:
    assert trace(nn.Dropout(0.1).eval(), x().detach()) == []
    assert trace(nn.Dropout(0.0), x().detach()) == []


def test_a_cpu_and_what_is_in_place_draw_and_multiply() -> None:
    on_cpu = trace(nn.Dropout(0.1), x("cpu").detach())
    assert sum(call.op.bytes > 0 for call in on_cpu) == 3
    in_place = trace(nn.Dropout(0.1, inplace=True), x().detach())
    assert sum(call.op.bytes > 0 for call in in_place) == 3
    (on_card,) = trace(nn.Dropout(0.1), x("cpu").detach(), card="9.0")
    assert on_card.op.bytes == ROWS * COLS * (4 + 4 + 1)
    assert F.dropout(torch.ones(3), 0.5, False).sum() == 3  # as it was
