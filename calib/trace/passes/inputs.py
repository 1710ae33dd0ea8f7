"""Random inputs of a workload: of each name that a module takes, in the forms it may have."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NoReturn

import torch

from calib.errors import CalibError
from model.workload import Workload

SECONDS = 30
"""Of sound, where a model has no window of its own."""


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
    """Random inputs of a workload on ``module``. ``notes``: what the reader must know."""

    module: Any
    workload: Workload
    dtype: torch.dtype
    notes: list[str]

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

    def tokens(self, count: int) -> torch.Tensor:
        """[batch, count]."""
        vocabulary = found(self.config, "vocab_size")
        vocabulary = vocabulary if isinstance(vocabulary, int) and vocabulary > 0 else 1000
        return torch.randint(vocabulary, (self.batch, count))

    def shortened(self, tokens: int, config: Any) -> int:
        """As many as the model has positions for, which is said where they are fewer."""
        most = found(config, "max_position_embeddings", "n_positions")
        if not isinstance(most, int) or not 0 < most < tokens:
            return tokens
        self.note(f"The prompt of {tokens} tokens is cut to the model's {most} positions.")
        return most

    def check_length(self, tokens: int, config: Any) -> None:
        """Say where text grows beyond the positions that the model was made for."""
        most = found(config, "max_position_embeddings", "n_positions")
        if isinstance(most, int) and 0 < most < tokens:
            self.note(
                f"{tokens} tokens, prompt and decoded, are beyond the model's {most} positions: "
                "these are the costs of a pass that the model was not made for."
            )

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
