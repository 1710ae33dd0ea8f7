"""How inference engines are set by default: memory, tokens of a step, prompts beside decoding."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

LEAST_TOKENS = 256
"""That a step takes of a prompt, however many requests it serves besides."""


@dataclass(frozen=True)
class Habits:
    """``memory``: the share of a card's that an engine takes, of what weights leave where
    ``of_free``; ``beside``: bytes of it that neither weights nor cache take (activations of the
    largest step, workspaces; guesses but for SGLang, whose share is of weights and cache alone);
    ``tokens``: that a step takes; ``mixed``: whether a step carries prompts beside tokens (SGLang
    lets prompts go first); ``reserves``: of a request's output, what its place in the cache is
    counted with (TensorRT-LLM admits what can run to its end, the others what fits now)."""

    memory: float = 0.9
    of_free: bool = False
    beside: float = 2e9
    tokens: int = 8192
    mixed: bool = True
    reserves: float = 0.5

    def cache_bytes(self, weights: Any, memory: Any) -> Any:
        """Of a card, for keys and values; ``weights``, ``memory`` [bytes]."""
        if self.of_free:
            return self.memory * (memory - weights - self.beside)
        return self.memory * memory - weights - self.beside

    def places(self, cached_tokens: Any, isl: Any, osl: Any) -> Any:
        """Requests that a cache of so many tokens holds at a time."""
        return cached_tokens / (isl + self.reserves * osl)

    def budget(self, running: Any) -> Any:
        """Tokens of prompts that a step takes beside ``running`` requests."""
        return np.maximum(self.tokens - running, LEAST_TOKENS)


HABITS = {
    "vllm": Habits(),
    "trtllm": Habits(of_free=True, beside=3e9, reserves=1.0),
    "sglang": Habits(memory=0.88, beside=0.0, mixed=False),
    "torch": Habits(mixed=False, reserves=1.0),
}
"""Of a server without an engine's tricks: ``torch``."""
