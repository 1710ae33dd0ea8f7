"""Random inputs of a workload: of each name that a module takes, in the forms it may have."""

from __future__ import annotations

import inspect
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NoReturn

import torch

from calib.errors import CalibError
from model.workload import Workload, beyond

WORDS = 1 << 15
"""Of a vocabulary that prompts are drawn from."""
FRAMES_PER_SECOND = 100
"""Of a spectrogram, hops of 10 ms."""
SECONDS = 30
"""Of sound, where a model has no window of its own."""


POSITIONS = ("max_position_embeddings", "n_positions", "max_target_positions")
"""What configurations call the tokens of a sequence that a model was made for."""
OFFSET = 8
"""Rows at most that a table of learned positions has besides, for what stands before a text."""


def has_table_of(module: Any, positions: int) -> bool:
    """Whether a part of ``module`` looks up each of its ``positions`` in a table of that many."""
    tables = ((n.rsplit(".", 1)[-1], m) for n, m in module.named_modules())
    return any(
        isinstance(table, torch.nn.Embedding)
        and ("position" in name or name == "wpe")
        and 0 <= table.num_embeddings - positions <= OFFSET
        for name, table in tables
    )


def found(config: Any, *names: str) -> Any:
    """The first of ``names`` that a configuration has, or one of those that it holds."""
    level = [config]
    while level:
        for part in level:
            for name in names:
                value = getattr(part, name, None)
                if value is not None:
                    return value
        level = [sub for part in level for sub in parts_of(part)]
    return None


def parts_of(config: Any) -> Iterator[Any]:
    from transformers import PreTrainedConfig

    for value in vars(config).values():
        if isinstance(value, PreTrainedConfig):
            yield value


def parameters(function: Callable[..., Any]) -> dict[str, bool]:
    """The arguments that a function takes by name, and whether it needs them."""
    plain = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    given = inspect.signature(function).parameters.values()
    return {p.name: p.default is p.empty for p in given if p.kind in plain}


def pair(size: Any) -> tuple[int, int]:
    """(height, width) of a size that is one number, two, or a dictionary of two."""
    if isinstance(size, dict):
        return int(size["height"]), int(size["width"])
    if isinstance(size, list | tuple):
        return int(size[0]), int(size[-1])
    return int(size), int(size)


@dataclass(frozen=True)
class Inputs:
    """Random inputs of a workload on ``module``. ``notes``: what the reader must know;
    ``bounded``: no text may be longer than the model can be told where it stands."""

    module: Any
    workload: Workload
    dtype: torch.dtype
    notes: list[str]
    bounded: bool = True

    @property
    def config(self) -> Any:
        return self.module.config

    @property
    def batch(self) -> int:
        return self.workload.batch

    def note(self, said: str) -> None:
        if said not in self.notes:
            self.notes.append(said)

    def refuse(self, what: str, why: str, expected: str) -> NoReturn:
        kind = type(self.module).__name__
        raise CalibError(f"{what}: {kind} {why}: expected {expected}")

    def noise(self, *shape: int) -> torch.Tensor:
        """[batch, *shape]."""
        return torch.randn(self.batch, *shape).to(self.dtype)

    def ones(self, *shape: int) -> torch.Tensor:
        return torch.ones(self.batch, *shape, dtype=torch.long)

    def tokens(self, count: int, ends: bool = False) -> torch.Tensor:
        """[batch, count] of words, none of which means an image, an end or nothing; ``ends``: but
        the last, which ends the text."""
        special = {
            v
            for k, v in vars(self.config).items()
            if k.endswith(("_token_id", "_index")) and isinstance(v, int)
        }
        vocabulary = found(self.config, "vocab_size")
        vocabulary = vocabulary if isinstance(vocabulary, int) and vocabulary > 0 else 1000
        words = [n for n in range(min(vocabulary, WORDS)) if n not in special] or [0]
        ids = random.Random(0).choices(words, k=self.batch * count)
        last = found(self.config, "eos_token_id")
        if ends and isinstance(last, int) and last >= 0:
            ids[count - 1 :: count] = [last] * self.batch
        return torch.tensor(ids).view(self.batch, count)

    def shortened(self, tokens: int, config: Any) -> int:
        """As many as the model has positions for, which is said where they are fewer."""
        most = found(config, *POSITIONS)
        if not isinstance(most, int) or not 0 < most < tokens:
            return tokens
        self.note(f"The prompt of {tokens} tokens is cut to the model's {most} positions.")
        return most

    def check_length(self, tokens: int, config: Any) -> None:
        """Say where text grows beyond the positions that the model was made for. Raises
        ``CalibError`` where each of them was learned, so that there is none beyond the last."""
        most = found(config, *POSITIONS)
        if not isinstance(most, int) or not 0 < most < tokens:
            return
        if self.bounded and has_table_of(self.module, most):
            asked = f"prompt_tokens = {self.workload.prompt_tokens}"
            steps = self.workload.decode_steps
            self.refuse(
                f"workload.{asked} and workload.decode_steps = {steps}",
                f"has learned its {most:,} positions one by one",
                f"at most {most:,} tokens, prompt and decoded, not {tokens:,}",
            )
        for said in beyond(tokens, most):
            self.note(said)

    # Images

    def sides(self) -> list[tuple[int, int]]:
        """(height, width) of an image: that of the workload, then the model's own."""
        own = found(self.config, "image_size", "input_size", "crop_size")
        own_pair = pair(own) if isinstance(own, int | list | tuple | dict) and own else (224, 224)
        asked = [pair(self.workload.side)] if self.workload.side else []
        return list(dict.fromkeys([*asked, own_pair]))

    def channels(self) -> int:
        given = found(self.config, "num_channels", "in_channels", "in_chans", "num_input_channels")
        return given if isinstance(given, int) else 3

    def side_note(self, side: tuple[int, int]) -> None:
        asked = self.workload.side
        if asked and side != pair(asked):
            self.note(
                f"An image of {asked} pixels does not fit the model: its own {side} is taken."
            )


# Sound


def sound_forms(made: Inputs) -> Iterator[torch.Tensor]:
    """A window of sound in the forms it may have, the likeliest first."""
    mels = mel_bins(made)
    lengths = window(made)
    if mels:
        for frames in lengths:
            yield made.noise(mels, frames)
            yield made.noise(frames, mels)
            yield made.noise(1, frames, mels)
    samples = SECONDS * (found(made.config, "sampling_rate", "sample_rate") or 16_000)
    yield made.noise(samples)
    yield made.noise(found(made.config, "audio_channels") or 1, samples)
    width = found(made.config, "feature_size", "input_dim", "hidden_size")
    if isinstance(width, int):
        yield made.noise(SECONDS * FRAMES_PER_SECOND, width)


def mel_bins(made: Inputs) -> int | None:
    given = found(made.config, "num_mel_bins", "n_mels", "feature_projection_input_dim")
    given = given or found(made.config, "input_feat_per_channel", "num_freq_bins")
    return given if isinstance(given, int) else None


def window(made: Inputs) -> list[int]:
    """Frames: those of the model's own window, whose encoder halves them, then of 30 s."""
    own = getattr(made.config, "max_source_positions", None)
    fixed = found(made.config, "max_length", "spec_size")
    lengths = [2 * own] if isinstance(own, int) else []
    lengths += [SECONDS * FRAMES_PER_SECOND]
    lengths += [fixed] if isinstance(fixed, int) and fixed > 64 else []
    return lengths
