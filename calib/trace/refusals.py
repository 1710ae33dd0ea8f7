"""Modules that cannot be traced as they are: which, and what to hand over in their place."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter

from calib.errors import CalibError
from calib.trace.rules.rows import Row


def refuse(module: Any, given: Iterable[torch.Tensor], real: bool) -> None:
    """Raise ``CalibError``, a line that says what is expected, for what has no operators to see.

    ``given``: tensors that it is called with; ``real``: that it is to run on them as they are.
    """
    if not isinstance(module, nn.Module):
        raise CalibError(f"trace: {type(module).__name__}: expected a torch.nn.Module")
    for name, part in module.named_modules():
        where = f"{name} ({type(part).__name__})" if name else type(part).__name__
        why = reason(part)
        if why:
            raise CalibError(f"trace: {where} {why}")
    if not real and any(t.is_nested and t.layout == torch.strided for t in given):
        raise CalibError(
            "trace: a nested tensor of strided layout has no form without contents: expected "
            "layout=torch.jagged, or real=True"
        )


PRODUCTS = frozenset(
    ("mm", "addmm", "bmm", "baddbmm", "addbmm", "mv", "addmv", "dot", "vdot", "convolution")
)
_ON_CARD = frozenset(("float16", "bfloat16", "float32", "float64", "complex64", "complex128"))
"""What torch multiplies on a card. On a CPU whole numbers too, but no truth values, and float8 not
in batches."""
_INSTEAD = {"int8": "torch._int_mm", "float8_e4m3fn": "torch._scaled_mm"}


def refuse_products(rows: Iterable[Row], on_card: bool) -> None:
    """Raise ``CalibError`` for a product of types that torch, which runs it on tensors without
    contents, refuses on real ones."""
    for row in rows:
        name = row.base.partition(".")[0]
        if name not in PRODUCTS:
            continue
        dtype = row.inputs[-1].dtype
        batches = dtype.startswith("float8") and name in ("bmm", "baddbmm")
        if (dtype not in _ON_CARD) if on_card else (dtype == "bool" or batches):
            instead = f", or {_INSTEAD[dtype]}" if dtype in _INSTEAD else ""
            where = row.path or "the module"
            raise CalibError(
                f"trace: {where}: {name} of {dtype}, which torch does not multiply on "
                f"{'a card' if on_card else 'a CPU'}: expected floats of 16 bits or more{instead}"
            )


def reason(part: nn.Module) -> str | None:
    if isinstance(part, torch.jit.ScriptModule):
        return "is compiled by torch.jit: expected the module that it was made of"
    if isinstance(part, nn.DataParallel | nn.parallel.DistributedDataParallel):
        return "spreads a module over devices: expected the module itself, its attribute module"
    own = (*part.parameters(recurse=False), *part.buffers(recurse=False))
    if any(isinstance(tensor, UninitializedParameter | UninitializedBuffer) for tensor in own):
        return "has parameters without a shape: expected a module that has run once"
    return None
