"""Which passes a model has: by what it is, which its class and configuration say."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from calib.trace.diffusion.step import denoise
from calib.trace.passes.forms import Pass
from calib.trace.passes.inputs import Inputs
from calib.trace.passes.pair import encode_then_decode
from calib.trace.passes.text import read_and_decode
from calib.trace.passes.whole import forward_once, towers_of, two_towers
from model.workload import Workload


def passes_of(
    module: Any,
    dtype: str,
    workload: Workload,
    notes: list[str] | None = None,
    bounded: bool = True,
) -> Iterator[Pass]:
    """The passes of ``module``, on the tensors in force. Each is to be run before the next is
    asked for; it may run again, and a decode step then sees one token more. ``notes``: filled with
    what the reader must know; ``bounded``: as :class:`Inputs` has it."""
    made = Inputs(module, workload, getattr(torch, dtype), [] if notes is None else notes, bounded)
    if denoises(module):
        if workload.task:
            made.refuse(f"workload.task = {workload.task}", "denoises", "none")
        return denoise(made)
    if is_pair(module) and workload.task != "encode":
        return encode_then_decode(made)
    if generates(module) and workload.task != "encode":
        return read_and_decode(made)
    if workload.task in ("decode", "generate"):
        made.refuse(f"workload.task = {workload.task}", "generates no text", "encode, or none")
    if towers_of(module):
        return two_towers(made)
    return forward_once(made)


def denoises(module: Any) -> bool:
    return type(module).__module__.startswith("diffusers.")


def is_pair(module: Any) -> bool:
    """Whether an encoder's result is decoded, token by token."""
    return bool(getattr(module.config, "is_encoder_decoder", False)) and module.can_generate()


def generates(module: Any) -> bool:
    """Whether text is continued. An encoder whose class could be told to decode is none."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES as ENCODERS

    if not module.can_generate():
        return False
    decodes = getattr(module.config, "is_decoder", False)
    return decodes or module.config.model_type not in ENCODERS
