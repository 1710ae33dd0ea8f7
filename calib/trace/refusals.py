"""Modules that cannot be traced as they are: which, and what to hand over in their place."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter

from calib.errors import CalibError


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


def reason(part: nn.Module) -> str | None:
    if isinstance(part, torch.jit.ScriptModule):
        return "is compiled by torch.jit: expected the module that it was made of"
    if isinstance(part, nn.DataParallel | nn.parallel.DistributedDataParallel):
        return "spreads a module over devices: expected the module itself, its attribute module"
    own = (*part.parameters(recurse=False), *part.buffers(recurse=False))
    if any(isinstance(tensor, UninitializedParameter | UninitializedBuffer) for tensor in own):
        return "has parameters without a shape: expected a module that has run once"
    return None
