"""Listens to the dispatcher while a module runs: operators, modules, and memory, in order.

The mode sits below autograd, where a composite function has become its parts, so what it sees is
what is executed. Whose operators these are is seen where modules are called, and not by hooks: some
modules take another way where they have any. A tensor's end is seen by a weak reference to its
storage.
"""

from __future__ import annotations

import bisect
import weakref
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._python_dispatch import (
    TorchDispatchMode,
    is_traceable_wrapper_subclass_type,
)

from calib.trace.rules.rows import (
    Row,
    allocates,
    asks_only,
    counted_by_torch,
    decomposes,
    is_view,
    name_of,
    row_of,
    tensors,
)
from calib.trace.rules.table import has_rule
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


LISTED: tuple[Any, ...] = (FakeTensor, torch.Tensor)
"""Whose ``tolist`` is watched."""
ASKED = "_local_scalar_dense"
"""A number that the host asks for."""
wraps = cache(is_traceable_wrapper_subclass_type)
"""Whether a class of tensors is made of others, and says itself what is done with them."""


@dataclass
class Calls:
    """Says of every call of a module of ``paths`` that it starts and ends, until it is removed.

    ``paths``: by the module's identity. The calls of all modules go through it meanwhile.
    """

    paths: dict[int, str]
    enter: Callable[[str, Any, Any], None]
    leave: Callable[[], None]

    def __post_init__(self) -> None:
        self.before = before = torch.nn.Module.__call__

        def call(module: torch.nn.Module, *args: Any, **kwargs: Any) -> Any:
            path = self.paths.get(id(module))
            if path is None:
                return before(module, *args, **kwargs)
            self.enter(path, args, kwargs)
            try:
                return before(module, *args, **kwargs)
            finally:
                self.leave()

        torch.nn.Module.__call__ = call  # type: ignore[method-assign]

    def remove(self) -> None:
        torch.nn.Module.__call__ = self.before  # type: ignore[method-assign]


@dataclass
class Lists:
    """Lets ``tolist`` be one question: the numbers of a tensor come to the host together, and only
    tensors without contents are asked for each. ``start``, ``end``: told of each."""

    start: Callable[[], None]
    end: Callable[[], None]

    def __post_init__(self) -> None:
        self.before = [(kind, kind.tolist) for kind in LISTED]
        for kind, plain in self.before:
            kind.tolist = self.listing(plain)

    def listing(self, plain: Callable[[Any], Any]) -> Callable[[Any], Any]:
        def tolist(tensor: torch.Tensor) -> Any:
            self.start()
            try:
                return plain(tensor)
            finally:
                self.end()

        return tolist

    def remove(self) -> None:
        for kind, plain in self.before:
            kind.tolist = plain


class Recorder(TorchDispatchMode):
    """Records while it is entered; modules are watched until :meth:`close`.

    ``path``: where the recording starts, before any module is called. ``before``: tensors that
    count as live from the start, such as a cache that the run replaces. ``on_card``: that what a
    card would run is asked.
    """

    supports_higher_order_operators = True

    def __init__(
        self,
        module: torch.nn.Module,
        path: str = "",
        before: Iterable[torch.Tensor] = (),
        state: dict[str, torch.Tensor] | None = None,
        on_card: bool = False,
    ) -> None:
        super().__init__()
        self.on_card = on_card
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
        paths = {id(part): join(path, name) for name, part in module.named_modules()}
        self.hooks: list[Any] = [Calls(paths, self.enter_module, self.leave_module)]
        self.asked: int | None = None  # numbers of the list that is being made
        self.hooks.append(Lists(self.start_list, self.end_list))

    def close(self) -> None:
        """Watch no longer, and forget tensors that still live."""
        self.recording = False
        for hook in self.hooks:
            hook.remove()

    # Modules

    def enter_module(self, path: str, args: Any, kwargs: Any) -> None:
        self.calls += 1
        indices = (t for t in tensors((args, kwargs)) if t.dtype == torch.int64 and t.ndim == 2)
        self.frames.append(Frame(path, self.calls, tuple(tuple(t.shape) for t in indices)))
        self.events.append(Enter(path, self.calls))
        self.marks.note(path)

    def leave_module(self) -> None:
        self.frames.pop()
        self.events.append(Leave())
        self.marks.note(self.frames[-1].path)

    def start_list(self) -> None:
        self.asked = 0

    def end_list(self) -> None:
        self.asked = None

    # Operators

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if any(wraps(kind) for kind in types):
            return NotImplemented  # it says itself what of its parts is computed with
        if asks_only(func):
            return func(*args, **kwargs)
        # An inference mode hands composite functions down whole. Those of nested tensors are other
        # functions than they are made of elsewhere.
        if decomposes(func) and not any(t.is_nested for t in tensors((args, kwargs))):
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
        if self.asked is not None and name_of(func) == ASKED:
            self.asked += 1
            if self.asked > 1:
                return
        if name_of(func) != "empty":
            frame = self.frames[-1]
            more: dict[str, Any] = {"module": frame.number, "routed": frame.routed}
            if not has_rule(name_of(func)):
                more["counted"] = counted_by_torch(func, args, kwargs, out)
            more["on_card"] = self.on_card
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
