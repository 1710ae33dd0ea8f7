"""From a recording to a layer, so that a traced module is summed up and reported as ours are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import torch

from calib.trace.recorder import Again, Allocated, Enter, Event, Leave
from calib.trace.rules.rows import Row, dtype_name
from calib.trace.rules.table import calls_of, spans
from model.layer import Call, Child, Layer, Live, Step


@dataclass(frozen=True, eq=False)
class TracedLayer(Layer):
    """A module as one run of it was recorded: its own calls, its parts, and their memory.

    ``count`` parameters of ``dtype`` that the run read and no part owns; ``cache_bytes``: of keys
    and values at the run's end.
    """

    mirrors: str
    steps: tuple[Step, ...]
    count: int = 0
    dtype: str = "bfloat16"
    cache_bytes: int = 0

    @property
    def class_name(self) -> str:
        """That of the module which was run."""
        return self.mirrors

    def forward(self) -> Iterator[Step]:
        return iter(self.steps)

    def parameters(self) -> int:
        return self.count

    def own_kv_cache_bytes(self) -> int:
        return self.cache_bytes

    def activation_bytes(self) -> int:
        """As of any layer; the cache, which grows by new tensors, is counted apart from it."""
        return max(0, int(super().activation_bytes()) - self.cache_bytes)


@dataclass
class Open:
    """A module that has been entered and not left. ``again``: an earlier call of its like."""

    path: str
    number: int = 0
    steps: list[Step] = field(default_factory=list)
    again: TracedLayer | None = None


def layer_of(
    events: Sequence[Event], used: Sequence[str], module: torch.nn.Module, cache_bytes: int = 0
) -> TracedLayer:
    """The tree of ``events``, whose root stands for ``module``; ``used``: its parameters in use."""
    paths = {event.path for event in events if isinstance(event, Enter)}
    owned = parameters_by_path(module, used, paths)
    classes = {path: type(part).__name__ for path, part in module.named_modules()}
    calls = iter(calls_by_row([event for event in events if isinstance(event, Row)]))
    stack, called = [Open("")], dict[int, TracedLayer]()

    def close(opened: Open, cache: int = 0) -> TracedLayer:
        count, dtype = owned.get(opened.path, (0, "bfloat16"))
        name = classes.get(opened.path, "")
        return TracedLayer(name, tuple(opened.steps), count, dtype, cache)

    for event in events:
        if isinstance(event, Enter):
            stack.append(Open(event.path, event.number))
        elif isinstance(event, Again):
            stack[-1].again = called[event.number]
        elif isinstance(event, Leave):
            done = stack.pop()
            above = next(o for o in reversed(stack) if is_above(o.path, done.path))
            name = done.path.removeprefix(f"{above.path}.") if above.path else done.path
            layer = called[done.number] = done.again or close(done)
            # The root itself, called as a module: its steps are the root's.
            above.steps += [Child(name, layer)] if name else done.steps
        elif isinstance(event, Allocated):
            stack[-1].steps.append(Live(event.nbytes))
        else:
            for call in next(calls):
                # What a call writes is counted where it is allocated.
                written = call.op.bytes_written * call.count
                stack[-1].steps += [Live(-written), call] if written else [call]
    return close(stack[0], cache_bytes)


def is_above(path: str, other: str) -> bool:
    return path == "" or other.startswith(f"{path}.")


def calls_by_row(rows: Sequence[Row]) -> list[list[Call]]:
    """The calls of each row, at its module's own path; those of a norm stand at its first row."""
    found: list[list[Call]] = [[] for _ in rows]
    position = 0
    for size, calls in calls_of_spans(rows):
        found[position] = [replace(call, path="") for call in calls]
        position += size
    return found


def calls_of_spans(rows: Sequence[Row]) -> Iterator[tuple[int, list[Call]]]:
    for first, end in spans(rows):
        yield end - first, list(calls_of(rows[first:end]))


def parameters_by_path(
    module: torch.nn.Module, used: Sequence[str], paths: set[str]
) -> dict[str, tuple[int, str]]:
    """Parameters in use by the innermost module called that holds them, with their type."""
    known, found = dict(module.named_parameters()), dict[str, tuple[int, str]]()
    for name in used:
        path = name
        while path and path not in paths:
            path = path.rpartition(".")[0]
        count, _ = found.get(path, (0, ""))
        found[path] = count + known[name].numel(), dtype_name(known[name].dtype)
    return found
