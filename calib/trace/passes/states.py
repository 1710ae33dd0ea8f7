"""What a model keeps between two passes: keys and values, latents, an indexer's keys, states.

A cache of ``transformers`` is a list of layers, each with its tensors. What grows with the text
grows by a number of bytes a token, in a sliding layer up to its window; a state does not grow.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

NAMES = ("past_key_values", "cache_params", "state", "mems")
"""How models call what they keep, where they return it and where they take it."""


@dataclass(frozen=True)
class Growth:
    """Bytes that are kept, by the length of the text.

        bytes(n) = fixed + sum over growing of per_token * min(n, window)

    ``growing``: (bytes a token, window or None) of each layer that grows.
    """

    fixed: int = 0
    growing: tuple[tuple[int, int | None], ...] = ()

    def bytes(self, tokens: int) -> int:
        kept = (each * (min(tokens, window) if window else tokens) for each, window in self.growing)
        return self.fixed + sum(kept)


def states(cache: Any) -> Iterator[torch.Tensor]:
    """The tensors of a cache, one by one, so that nothing but the cache keeps them alive."""
    if isinstance(cache, torch.Tensor):
        if cache.ndim > 0:
            yield cache
    elif isinstance(cache, dict):
        for value in cache.values():
            yield from states(value)
    elif isinstance(cache, list | tuple):
        for value in cache:
            yield from states(value)
    elif type(cache).__module__.startswith("transformers."):
        for name, value in vars(cache).items():
            if not name.startswith("_"):
                yield from states(value)


def layers_of(cache: Any) -> list[Any]:
    """A decoder's own layers: those of its self-attention, where it looks at an encoder too."""
    own = getattr(cache, "self_attention_cache", cache)
    return list(getattr(own, "layers", ()))


def growth_of(cache: Any) -> Growth:
    """By the layers of ``cache`` as they are. What is no layer of tokens does not grow."""
    fixed = sum(t.nbytes for t in states(cache))
    growing = list[tuple[int, int | None]]()
    for layer in layers_of(cache):
        for tensor, axis in by_token(layer):
            fixed -= tensor.nbytes
            each = tensor.nbytes // max(tensor.shape[axis], 1)
            growing.append((each, getattr(layer, "sliding_window", None)))
    return Growth(fixed, tuple(growing))


def by_token(layer: Any) -> Iterator[tuple[torch.Tensor, int]]:
    """The tensors of a layer that have an entry a token, and the dimension of the tokens."""
    for name, axis in (("keys", -2), ("values", -2), ("indexer_keys", 1)):
        tensor = getattr(layer, name, None)
        if isinstance(tensor, torch.Tensor) and tensor.numel():
            yield tensor, axis


def lengthen(cache: Any, tokens: int) -> None:
    """As if ``tokens`` more had been decoded."""
    for layer in layers_of(cache) if tokens > 0 else ():
        found = {axis: tensor for tensor, axis in by_token(layer) if axis == 1}
        if isinstance(getattr(layer, "keys", None), torch.Tensor) and layer.keys.numel():
            pair = [more(t, -2, tokens) for t in (layer.keys, layer.values)]
            layer.update(*pair)
        for axis, tensor in found.items():
            layer.update_indexer(more(tensor, axis, tokens))


def more(tensor: torch.Tensor, axis: int, tokens: int) -> torch.Tensor:
    one = torch.zeros_like(tensor.narrow(axis, 0, 1))
    size = [-1] * tensor.ndim
    size[axis] = tokens
    return one.expand(size)


def kept(result: Any) -> tuple[str, Any] | None:
    """The cache that a model returned, and its name; None where it keeps nothing."""
    for name in NAMES:
        found = getattr(result, name, None)
        if found is not None and any(True for _ in states(found)):
            return name, found
    return None
