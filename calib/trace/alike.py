"""Layers that are alike run twice and are told the rest of the times.

A model of eighty layers dispatches the same operators eighty times. A layer of a list whose class,
numbers, parameters, inputs and share of the cache have the form of an earlier one's does what that
one did. So it is run while what it does is not known twice in the same way; from then on it is not
run: its result and its cache get tensors of the same form, and the recording an :class:`Again`.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch.utils._pytree import tree_flatten, tree_unflatten

from calib.trace.recorder import Again, Enter, Event, Recorder
from calib.trace.rules.rows import Row

LEAST = 3
"""Layers of a list that is looked at."""
PLACES = ("layer_idx", "layer_id", "layer_index", "layer_number", "block_idx")
"""What tells a layer which one it is."""
SCALARS = (int, float, bool, str, type(None), torch.dtype, torch.device)


@dataclass(frozen=True)
class Form:
    """A new tensor, as it lies in memory. ``storage``: number of the memory that it shares."""

    shape: tuple[int, ...]
    stride: tuple[int, ...]
    offset: int
    dtype: torch.dtype
    storage: int
    nbytes: int


@dataclass(frozen=True)
class Given:
    """A tensor that the layer was given and handed back. ``leaf``: which of its inputs."""

    leaf: int


@dataclass(frozen=True)
class Run:
    """What one run of a layer did. ``left``: forms of its result and of its share of the cache."""

    path: str
    number: int
    events: tuple[Event, ...]
    used: tuple[str, ...]
    left: list[Any]
    spec: Any
    known: bool

    def is_like(self, other: Run) -> bool:
        return (
            self.left == other.left
            and self.spec == other.spec
            and len(self.events) == len(other.events)
            and all(map(self._same, self.events, other.events, [other.path] * len(self.events)))
        )

    def _same(self, mine: Event, theirs: Event, path: str) -> bool:
        return placed(mine, self.path) == placed(theirs, path)


def placed(event: Event, path: str) -> Event:
    """``event`` as seen from the layer at ``path``, without the number of its call."""
    if isinstance(event, Row):
        return replace(event, path=event.path.removeprefix(path), module=0)
    return Enter(event.path.removeprefix(path)) if isinstance(event, Enter) else event


class Replays:
    """Stands before the layers of ``module`` while ``recorder`` listens, until closed."""

    def __init__(self, recorder: Recorder, module: torch.nn.Module) -> None:
        self.recorder = recorder
        self.runs: dict[Any, Run] = {}
        self.layers: list[torch.nn.Module] = []
        for name, part in module.named_modules():
            if isinstance(part, torch.nn.ModuleList) and len(part) >= LEAST:
                for number, layer in part.named_children():
                    if "forward" not in vars(layer):
                        path = f"{name}.{number}" if name else number
                        self._stand_before(layer, path)

    def _stand_before(self, layer: Any, path: str) -> None:
        plain, form = layer.forward, form_of(layer)

        def forward(*args: Any, **kwargs: Any) -> Any:
            return self.called(plain, layer, path, form, (args, kwargs))

        layer.forward = forward
        self.layers.append(layer)

    def close(self) -> None:
        for layer in self.layers:
            del layer.forward

    def called(self, plain: Any, layer: Any, path: str, form: Any, given: Any) -> Any:
        leaves, _ = tree_flatten(given)
        shares = [share for leaf in leaves for share in shares_of(leaf, place_of(layer))]
        key = signature(form, leaves, shares)
        known = self.runs.get(key) if key is not None else None
        if known is not None and known.known:
            return self.replay(known, path, leaves, shares)
        if key is None:
            return plain(*given[0], **given[1])
        return self.watch(plain, given, path, layer, (key, leaves, known))

    def watch(self, plain: Any, given: Any, path: str, layer: Any, about: Any) -> Any:
        """Run the layer, and keep what it did if another could be told it."""
        key, leaves, before = about
        recorder, start = self.recorder, len(self.recorder.events)
        number, used = recorder.frames[-1].number, dict(recorder.used)
        result = plain(*given[0], **given[1])
        after, _ = tree_flatten(given)
        shares = [share for leaf in after for share in shares_of(leaf, place_of(layer))]
        same = len(after) == len(leaves) and all(a is b for a, b in zip(after, leaves, strict=True))
        left = forms_of((result, [share.held for share in shares]), leaves) if same else None
        if left is None:
            self.runs.pop(key, None)
            return result
        events = tuple(recorder.events[start:])
        names = tuple(n.removeprefix(path) for n in recorder.used if n not in used)
        run = Run(path, number, events, names, *left, known=False)
        self.runs[key] = replace(run, known=before is not None and run.is_like(before))
        return result

    def replay(self, run: Run, path: str, leaves: list[Any], shares: list[Share]) -> Any:
        recorder = self.recorder
        recorder.events.append(Again(run.number))
        recorder.used |= dict.fromkeys(path + name for name in run.used)
        recorder.recording = False
        try:
            storages: dict[int, torch.Tensor] = {}
            made = [self._made(form, leaves, storages) for form in run.left]
            result, held = tree_unflatten(made, run.spec)
            for share, state in zip(shares, held, strict=True):
                share.put(state)
        finally:
            recorder.recording = True
        return result

    def _made(self, form: Any, leaves: list[Any], storages: dict[int, torch.Tensor]) -> Any:
        if isinstance(form, Given):
            return leaves[form.leaf]
        if not isinstance(form, Form):
            return form
        if form.storage not in storages:
            base = torch.empty(form.nbytes // form.dtype.itemsize, dtype=form.dtype)
            self.recorder.adopt(base)
            storages[form.storage] = base
        base = storages[form.storage]
        return torch.as_strided(base, form.shape, form.stride, form.offset)


@dataclass(frozen=True)
class Kind:
    """A layer of a cache, which stands for others of its class."""

    layer: Any

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Kind) and type(self.layer) is type(other.layer)

    def __hash__(self) -> int:
        return hash(type(self.layer))


@dataclass
class Share:
    """A layer's part of a cache: the entry ``place`` of ``layers``, and of marks beside it."""

    layers: list[Any]
    place: int
    marks: dict[int, bool] | None = None

    @property
    def held(self) -> Any:
        """Its class and fields; None before it is there."""
        if self.place >= len(self.layers):
            return None
        mark = None if self.marks is None else self.marks.get(self.place)
        return [Kind(self.layers[self.place]), dict(vars(self.layers[self.place])), mark]

    def put(self, state: Any) -> None:
        if state is None:
            return
        like, fields, mark = state
        if self.place >= len(self.layers):
            self.layers.append(copy.copy(like.layer))
        vars(self.layers[self.place]).update(fields)
        if self.marks is not None and mark is not None:
            self.marks[self.place] = mark


def shares_of(leaf: Any, place: int | None) -> Iterator[Share]:
    """The shares of a layer in an argument, if that is a cache."""
    if place is None or isinstance(leaf, (torch.Tensor, *SCALARS)):
        return
    if hasattr(leaf, "self_attention_cache"):
        yield Share(leaf.self_attention_cache.layers, place, leaf.is_updated)
        yield Share(leaf.cross_attention_cache.layers, place)
    elif isinstance(getattr(leaf, "layers", None), list):
        yield Share(leaf.layers, place)


def place_of(layer: torch.nn.Module) -> int | None:
    """Which layer of the cache is this one's, by itself or a part of it."""
    found = {vars(part)[name] for part in layer.modules() for name in PLACES if name in vars(part)}
    found = {place for place in found if isinstance(place, int)}
    return found.pop() if len(found) == 1 else None


def form_of(layer: torch.nn.Module) -> Any:
    """What decides what a layer does, but for its place: classes, numbers, parameters."""
    parts = []
    for name, part in layer.named_modules():
        numbers = {
            k: v
            for k, v in vars(part).items()
            if isinstance(v, SCALARS) and k not in PLACES and not k.startswith("_forward")
        }
        held = [*part.named_parameters(recurse=False), *part.named_buffers(recurse=False)]
        sizes = tuple((k, tuple(t.shape), t.dtype) for k, t in held)
        parts.append((name, type(part), tuple(sorted(numbers.items(), key=str)), sizes))
    return tuple(parts)


def signature(form: Any, leaves: list[Any], shares: list[Share]) -> Any:
    """A key that layers share if they do the same; None where that cannot be told."""
    found: list[Any] = [form]
    caches = any(share.layers for share in shares)
    for leaf in leaves:
        if isinstance(leaf, torch.Tensor):
            found.append((tuple(leaf.shape), leaf.stride(), leaf.dtype))
        elif isinstance(leaf, SCALARS):
            found.append((type(leaf), leaf))
        elif not shares or not (hasattr(leaf, "layers") or hasattr(leaf, "is_updated")):
            return None
    if any(share.place > len(share.layers) for share in shares):
        return None
    for share in shares:
        state = share.held
        if state is None:
            found.append(None)
            continue
        like, fields, mark = state
        held, spec = tree_flatten(fields)
        sizes = [(tuple(v.shape), v.dtype) if isinstance(v, torch.Tensor) else str(v) for v in held]
        found.append((like, tuple(sizes), str(spec), mark))
    return (tuple(found), caches)


def forms_of(tree: Any, leaves: list[Any]) -> tuple[list[Any], Any] | None:
    """The leaves of ``tree`` as forms, and its structure; None where a result lies in the memory
    of an input."""
    given = {id(leaf): n for n, leaf in enumerate(leaves) if isinstance(leaf, torch.Tensor)}
    taken = {leaves[n].untyped_storage()._cdata for n in given.values()}
    storages: dict[int, int] = {}
    found, (values, spec) = [], tree_flatten(tree)
    for value in values:
        if not isinstance(value, torch.Tensor):
            found.append(value)
        elif id(value) in given:
            found.append(Given(given[id(value)]))
        else:
            storage = value.untyped_storage()
            if storage._cdata in taken or value.layout != torch.strided:
                return None
            number = storages.setdefault(storage._cdata, len(storages))
            shape, stride = tuple(value.shape), value.stride()
            offset, nbytes = int(value.storage_offset()), storage.nbytes()
            found.append(Form(shape, stride, offset, value.dtype, number, nbytes))
    return found, spec
