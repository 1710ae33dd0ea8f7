"""A module out of a function, for tests that trace one."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn


class Does(nn.Module):
    """A module that runs any function of its inputs."""

    def __init__(self, run: Callable[..., Any], **weights: torch.Tensor) -> None:
        super().__init__()
        self.run = run
        for name, value in weights.items():
            setattr(self, name, nn.Parameter(value))

    def forward(self, *inputs: Any) -> Any:
        return self.run(*inputs)
