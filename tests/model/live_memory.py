"""Which tensors live at once while a real module runs, seen from the dispatcher."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from model.layer import join


@dataclass
class Frame:
    """A module that runs: what lived when it started, and the most that has lived since."""

    path: str
    before: int
    peak: int


@dataclass(frozen=True)
class Span:
    """Bytes that lived beside those at the start of a module: at worst, and at its end."""

    path: str
    peak: int
    kept: int


class LiveMemory(TorchDispatchMode):
    """Follows every storage that an operator returns until nothing refers to it any more."""

    def __init__(self, module: torch.nn.Module, path: str = "") -> None:
        super().__init__()
        self.live = 0
        self.known: dict[int, int] = {}
        self.frames = [Frame(path, 0, 0)]
        self.spans: list[Span] = []
        self.hooks = []
        for tensor in [*module.parameters(), *module.buffers()]:
            self.known[tensor.untyped_storage()._cdata] = 0
        for name, part in module.named_modules():
            self.hooks += [
                part.register_forward_pre_hook(self.enter(join(path, name))),
                part.register_forward_hook(self.leave),
            ]

    def enter(self, path: str) -> Callable[..., None]:
        return lambda module, args: self.frames.append(Frame(path, self.live, self.live))

    def leave(self, module: torch.nn.Module, args: Any, out: Any) -> None:
        frame = self.frames.pop()
        self.frames[-1].peak = max(self.frames[-1].peak, frame.peak)
        span = Span(frame.path, frame.peak - frame.before, self.live - frame.before)
        self.spans.append(span)

    def close(self) -> None:
        for hook in self.hooks:
            hook.remove()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        if func.namespace == "aten":
            self.follow_all(leaf for leaf in tree_leaves(out) if isinstance(leaf, torch.Tensor))
        return out

    def follow_all(self, tensors: Iterable[torch.Tensor]) -> None:
        for tensor in tensors:
            self.follow(tensor.untyped_storage())

    def follow(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key in self.known:
            return
        size = storage.nbytes()
        self.known[key] = size
        self.live += size
        self.frames[-1].peak = max(self.frames[-1].peak, self.live)
        weakref.finalize(storage, self.forget, key)

    def forget(self, key: int) -> None:
        self.live -= self.known.pop(key)


def live_memory(
    module: torch.nn.Module,
    run: Callable[[], Any],
    path: str = "",
    before: Iterable[torch.Tensor] = (),
) -> tuple[int, list[Span]]:
    """The most bytes that ``run`` holds at once beside weights and inputs, and those of each
    module in the order in which they end. ``before``: tensors that count though they were there
    before, and that ``run`` may drop."""
    memory = LiveMemory(module, path)
    memory.follow_all(before)
    with torch.no_grad(), memory:
        result = run()
    memory.close()
    del result
    return memory.frames[0].peak, memory.spans
