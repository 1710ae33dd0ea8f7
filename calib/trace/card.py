"""What a card would run, asked of tensors that lie on none.

Torch chooses a kernel by where its tensors are: on a CPU attention of unlike heads is written out,
which a card has in one kernel, and tensors on ``meta`` have no kernels at all. While
:func:`on_card` is in force the choice is the card's: attention as
:mod:`calib.hardware.attention_backend` says, dropout in training as one operator, and recurrent
layers as one of cuDNN. Tensors on ``meta`` are taken to be on a card; those on a CPU where a card
is meant.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F

from calib.hardware.attention_backend import EFFICIENT, FLASH, MATH, backend_of
from calib.trace.rules.fused import GATES
from calib.trace.rules.rows import dtype_name
from model.ops import Attention

ANY_CARD = "8.0"
"""Of which the card is taken to be where nobody says; in what is fused, all later ones agree."""


@contextmanager
def on_card(capability: str | None) -> Iterator[None]:
    """``capability``: the card's compute capability; None: no card is meant.

    The functions of torch are replaced where modules look them up, since some modules leave their
    fused path where a mode of torch functions is in force.
    """
    with ExitStack() as stack:
        for place, name, choose in CHOICES if capability else ():
            plain, chosen = getattr(place, name), partial(choose, capability)
            stack.enter_context(mock.patch.object(place, name, either(chosen, plain)))
        yield


@contextmanager
def uncompiled() -> Iterator[None]:
    """``flex_attention`` as the operator that it is, on tensors of any device: it compiles itself
    first, which torch refuses while somebody listens."""
    name = "torch.nn.attention.flex_attention"
    found = sys.modules.get(name)
    with ExitStack() as stack:
        if found is not None:
            flag = mock.patch.object(found, "_FLEX_ATTENTION_DISABLE_COMPILE_DEBUG", True)
            stack.enter_context(flag)
            anywhere = mock.patch.object(found, "_validate_device", lambda *tensors: None)
            stack.enter_context(anywhere)
            stack.enter_context(warnings.catch_warnings())
            warnings.filterwarnings("ignore", message="flex_attention called without torch.compile")
        yield


def either(chosen: Callable[..., Any], plain: Callable[..., Any]) -> Callable[..., Any]:
    """What ``chosen`` says, or, where that is nothing, ``plain``."""

    def run(*args: Any, **kwargs: Any) -> Any:
        found = chosen(*args, **kwargs)
        return plain(*args, **kwargs) if found is None else found

    return run


def card_of(tensors: Iterable[torch.Tensor], card: str | None) -> str | None:
    """The card that is meant; of tensors on ``meta`` any one."""
    if card is None and any(tensor.device.type == "meta" for tensor in tensors):
        return ANY_CARD
    return card


def attend(
    capability: str,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attn_mask: torch.Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> torch.Tensor | None:
    """Attention by the operator of the family that the card takes; None: shapes that torch hands
    to none, or refuses."""
    if not all(t.dim() == 4 for t in (query, key, value)) or not is_like(query, key, value):
        return None
    op = asked(query, key, value, attn_mask, is_causal)
    family = backend_of(op, capability)
    if family == MATH:
        math = torch.ops.aten._scaled_dot_product_attention_math
        more = {"scale": scale, "enable_gqa": enable_gqa}
        written: torch.Tensor = math(query, key, value, attn_mask, dropout_p, is_causal, **more)[0]
        return written
    if family == FLASH.name:
        return flash(query, key, value, dropout_p, is_causal, scale)
    bias = None if attn_mask is None else added(attn_mask, query.dtype)
    if bias is not None and family == EFFICIENT.name and op.kv_len % ALIGNED:
        bias = F.pad(bias, (0, -op.kv_len % ALIGNED))[..., : op.kv_len]
    if bias is not None:
        bias = bias.expand(op.batch, op.heads, op.q_len, op.kv_len)
    given = (query, key, value, bias, torch.is_grad_enabled(), dropout_p, is_causal)
    aten = torch.ops.aten
    if family == EFFICIENT.name:
        found = aten._scaled_dot_product_efficient_attention(*given, scale=scale)
    else:
        found = aten._scaled_dot_product_cudnn_attention(*given, False, scale=scale)
    out: torch.Tensor = found[0]
    return out


def flash(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    dropout_p: float,
    is_causal: bool,
    scale: float | None,
) -> torch.Tensor:
    """Heads of other widths than multiples of 8 are padded, and the result is cut."""
    width = query.shape[3]
    short = -width % ALIGNED
    if short:
        query, key, value = (F.pad(t, (0, short)) for t in (query, key, value))
    run = torch.ops.aten._scaled_dot_product_flash_attention
    out: torch.Tensor = run(query, key, value, dropout_p, is_causal, False, scale=scale)[0]
    return out[..., :width] if short else out


ALIGNED = 8
"""Elements that a kernel reads at once, of heads and of a row of a bias."""


def added(mask: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """A mask of bool as torch makes it before all fused kernels: something to add."""
    if mask.dtype != torch.bool:
        return mask
    return torch.zeros_like(mask, dtype=dtype).masked_fill_(mask.logical_not(), -torch.inf)


def is_like(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> bool:
    """Whether they can belong together; what cannot is torch's to refuse."""
    alike = query.shape[0] == key.shape[0] == value.shape[0] and query.shape[3] == key.shape[3]
    return alike and key.shape[1:3] == value.shape[1:3] and 0 not in query.shape


def asked(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None,
    is_causal: bool,
) -> Attention:
    (batch, heads, q_len, width), (_, kv_heads, kv_len, _) = query.shape, key.shape
    narrow = value.shape[3] if value.shape[3] != width else None
    return Attention(
        *(batch, q_len, kv_len, heads, kv_heads, width, dtype_name(query.dtype)),
        causal=is_causal,
        mask=mask is not None,
        v_head_dim=narrow,
    )


def recur(mode: int, has_cell: bool) -> Callable[..., Any]:
    """A recurrent layer as cuDNN's operator, of dense sequences (``torch.lstm`` and the like)."""

    def run(capability: str, x: Any, state: Any, *rest: Any, **kwargs: Any) -> Any:
        if kwargs or len(rest) != 7 or torch.is_grad_enabled():
            return None  # packed sequences; a gradient, which has no form without contents
        weights, _, layers, dropout, training, both, batch_first = rest
        state, cell = state if has_cell else (state, None)
        a_layer, kept = len(weights) // (layers * (1 + both)), state.shape[-1]
        hidden = weights[1].shape[0] // GATES[mode]
        projected = kept if kept != hidden else 0
        out, last, last_cell, *_ = torch.ops.aten._cudnn_rnn(
            *(x, weights, a_layer, None, state, cell, mode, hidden, projected, layers),
            *(batch_first, dropout, training, both, [], None),
        )
        return (out, last, last_cell) if has_cell else (out, last)

    return run


def drop(_: str, x: torch.Tensor, p: float, train: bool) -> torch.Tensor | None:
    """Dropout in training, which a card has in one kernel and others in three."""
    if not train or not 0 < p < 1 or x.is_nested:
        return None
    out: torch.Tensor = torch.native_dropout(x, p, train)[0]
    return out


CHOICES: tuple[tuple[Any, str, Callable[..., Any]], ...] = (
    (F, "scaled_dot_product_attention", attend),
    (torch._VF, "dropout", drop),
    (torch, "dropout", drop),
    (torch._VF, "rnn_relu", recur(0, False)),
    (torch._VF, "rnn_tanh", recur(1, False)),
    (torch._VF, "lstm", recur(2, True)),
    (torch._VF, "gru", recur(3, False)),
)
"""Where a function is looked up, its name, and what a card makes of it."""
