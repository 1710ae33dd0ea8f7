"""Listens to the dispatcher while a module runs: operators, modules, and memory, in order.

The mode sits below autograd, where a composite function has become its parts, so what it sees is
what is executed. Module hooks say whose operators these are; a tensor's end is seen by a weak
reference to its storage.
"""

from __future__ import annotations

import bisect
import weakref
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from calib.trace.rules.rows import (
    Row,
    allocates,
    asks_only,
    decomposes,
    is_view,
    name_of,
    row_of,
    tensors,
)
from model.layer import join


@dataclass(frozen=True)
class Enter:
    """A module starts. ``number``: of this call of a module, from 1."""

    path: str
    number: int = 0


@dataclass(frozen=True)
class Leave:
    """The innermost module ends."""


@dataclass(frozen=True)
class Allocated:
    """Bytes that live from here on; negative: that end here."""

    nbytes: int


@dataclass(frozen=True)
class Again:
    """The module that runs does what an earlier call did. ``number``: of that call."""

    number: int


Event = Enter | Leave | Allocated | Again | Row


@dataclass
class Frame:
    """A module that runs. ``number``: of this call of it. ``routed``: shapes of expert indices."""

    path: str
    number: int
    routed: tuple[tuple[int, ...], ...] = ()


@dataclass
class Marks:
    """Which module was running when an autograd node was made, by the node's sequence number."""

    numbers: list[int] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)

    def note(self, path: str) -> None:
        self.numbers.append(torch.autograd._get_sequence_nr())  # type: ignore[attr-defined]
        self.paths.append(path)

    def path(self, number: int) -> str:
        return self.paths[max(bisect.bisect_right(self.numbers, number) - 1, 0)]


class Recorder(TorchDispatchMode):
    """Records while it is entered; hooks stay on ``module`` until :meth:`close`.

    ``path``: where the recording starts, before any module is called. ``before``: tensors that
    count as live from the start, such as a cache that the run replaces.
    """

    def __init__(
        self,
        module: torch.nn.Module,
        path: str = "",
        before: Iterable[torch.Tensor] = (),
        state: dict[str, torch.Tensor] | None = None,
    ) -> None:
        super().__init__()
        self.events: list[Event] = []
        self.frames = [Frame(path, 0)]
        self.calls = 0
        self.marks = Marks()
        self.known: dict[int, int] = {}
        weights = dict(module.named_parameters())
        held = {**weights, **dict(module.named_buffers()), **(state or {})}
        self.parameters = {id(held[name]): name for name in weights}
        self.used: dict[str, None] = {}
        self.recording = True
        for tensor in held.values():
            self.known[tensor.untyped_storage()._cdata] = 0
        self.follow(before)
        self.hooks: list[Any] = []
        for name, part in module.named_modules():
            self.hooks += [
                part.register_forward_pre_hook(self.entering(join(path, name)), with_kwargs=True),
                part.register_forward_hook(self.leave, always_call=True),
            ]

    def close(self) -> None:
        """Take the hooks off, and forget tensors that still live."""
        self.recording = False
        for hook in self.hooks:
            hook.remove()

    # Modules

    def entering(self, path: str) -> Callable[..., None]:
        def enter(module: Any, args: Any, kwargs: Any) -> None:
            self.calls += 1
            indices = (t for t in tensors((args, kwargs)) if t.dtype == torch.int64 and t.ndim == 2)
            self.frames.append(Frame(path, self.calls, tuple(tuple(t.shape) for t in indices)))
            self.events.append(Enter(path, self.calls))
            self.marks.note(path)

        return enter

    def leave(self, module: Any, args: Any, out: Any) -> None:
        self.frames.pop()
        self.events.append(Leave())
        self.marks.note(self.frames[-1].path)

    # Operators

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if asks_only(func):
            return func(*args, **kwargs)
        if decomposes(func):  # an inference mode hands composite functions down whole
            with self:
                out = func.decompose(*args, **kwargs)
            if out is not NotImplemented:
                return out
        out = func(*args, **kwargs)
        self.use(args, kwargs)
        if self.recording and not is_view(func):
            self.note(func, args, kwargs, out)
        return out

    def note(self, func: Any, args: Any, kwargs: Any, out: Any) -> None:
        """The operator, unless it only allocates, and the memory that it takes."""
        if name_of(func) != "empty":
            frame = self.frames[-1]
            more: dict[str, Any] = {"module": frame.number, "routed": frame.routed}
            self.events.append(row_of(func, frame.path, args, kwargs, out, **more))
        if allocates(func):
            self.follow(tensors(out))

    def use(self, args: Any, kwargs: Any) -> None:
        """Note the parameters that the run touches: only they are its weights."""
        for tensor in tensors((args, kwargs)):
            name = self.parameters.get(id(tensor))
            if name is not None:
                self.used[name] = None

    # Memory

    def follow(self, results: Iterable[torch.Tensor]) -> None:
        for tensor in results:
            if tensor.layout != torch.strided:
                continue
            storage = tensor.untyped_storage()
            key = storage._cdata
            if key not in self.known:
                self.known[key] = storage.nbytes()
                self.events.append(Allocated(storage.nbytes()))
                weakref.finalize(storage, self.forget, key).atexit = False

    def adopt(self, tensor: torch.Tensor) -> None:
        """Follow a tensor whose beginning is recorded already."""
        storage = tensor.untyped_storage()
        self.known[storage._cdata] = storage.nbytes()
        weakref.finalize(storage, self.forget, storage._cdata).atexit = False

    def forget(self, key: int) -> None:
        nbytes = self.known.pop(key)
        if self.recording:
            self.events.append(Allocated(-nbytes))

    # The way back

    def place_gradients(self, outputs: Iterable[torch.Tensor]) -> None:
        """Let every autograd node behind ``outputs`` tell the path that it was made at."""
        pending = [t.grad_fn for t in outputs if t.grad_fn is not None]
        seen = set(pending)
        while pending:
            node = pending.pop()
            self.hooks.append(node.register_prehook(self.going_back(node)))
            for following, _ in node.next_functions:
                if following is not None and following not in seen:
                    seen.add(following)
                    pending.append(following)

    def going_back(self, node: Any) -> Callable[[Any], None]:
        number = node._sequence_nr()
        # A node that accumulates a parameter's gradient was made by no operator.
        path = self.marks.path(number) if number < 2**62 else None

        def prehook(gradients: Any) -> None:
            if path is not None and path != self.frames[-1].path:
                self.calls += 1
                self.frames[-1] = Frame(path, self.calls)

        return prehook
