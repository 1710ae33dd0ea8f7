"""An encoder's result that is decoded token by token: of text, sound or an image."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch

from calib.trace.passes.forms import Form, Pass
from calib.trace.passes.inputs import Inputs, parameters
from calib.trace.passes.states import lengthen
from calib.trace.passes.text import Memory, step_length
from calib.trace.passes.whole import main_forms, main_input


@dataclass
class Seen:
    """The encoder's result."""

    outputs: Any = None
    memory: Memory = field(default_factory=Memory)


def encode_then_decode(made: Inputs) -> Iterator[Pass]:
    """The encoder, the decoder's first tokens, then a decode step at the mean context.

    Text is the encoder's, and the decoder starts at one token; of sound or an image the workload's
    prompt is what the decoder starts with.
    """
    module, w, seen = made.module, made.workload, Seen()
    encoder = module.get_encoder()
    main = main_input(module)
    forms = [
        encoder_form(encoder, given, main, seen) for given, _ in main_forms(made, module, main)
    ]
    yield Pass("encoder", forms)
    reads = main == "input_ids"
    config = module.config.get_text_config(decoder=True)
    length = 1 if reads else made.shortened(max(w.prompt_tokens, 1), config)
    made.check_length(length + w.decode_steps, config)
    prompt, one, memory = made.tokens(length), made.tokens(1), seen.memory

    def prefill() -> Any:
        memory.cache = None
        return decoded(module, prompt, seen)

    yield Pass("prefill", [prefill], cache=memory.held, growth=memory.growth, tokens=length)
    if memory.cache is None:
        made.refuse("hf.config", "keeps nothing that a decode step could go on from", "task encode")
    ahead = step_length(length, w.decode_steps)
    lengthen(memory.cache, ahead)
    tokens = length + max(ahead, 0) + 1
    yield Pass(
        "decode",
        [lambda: decoded(module, one, seen)],
        w.decode_steps,
        cache=memory.held,
        growth=memory.growth,
        tokens=tokens,
    )


def encoder_form(encoder: Any, given: dict[str, Any], main: str, seen: Seen) -> Form:
    """By position, since encoders call their own input what they like."""
    rest = {k: v for k, v in given.items() if k != main and k in parameters(encoder.forward)}

    def run() -> None:
        seen.outputs = encoder(given[main], **rest)

    return run


def decoded(module: Any, ids: torch.Tensor, seen: Seen) -> Any:
    given: dict[str, Any] = {"encoder_outputs": seen.outputs, "decoder_input_ids": ids}
    if seen.memory.cache is not None:
        given[seen.memory.name] = seen.memory.cache
    return seen.memory.keep(module(**given, use_cache=True))
