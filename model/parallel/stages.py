"""A pipeline: the layers of a model on several cards one after the other, and what a batch takes.

A batch goes through in m microbatches. A stage works on one while the next works on the one before,
so that the slowest stage sets the pace and all others are passed once:

    seconds of a prefill = sum over stages of t  +  (m - 1) max t
    seconds of a token   = max(sum over stages of t, m max t)

with t the time of a stage for one microbatch. The first is the plain sum where m = 1, when all
stages but one stand still; of p equal stages a share of (p - 1) / (m + p - 1) is such a bubble. Of
a token, m = p microbatches fill the stages without making anybody wait. Both are sums over calls:
those of the slowest stage count several times.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from model.layer import Call, Child, Layer, Step, total
from model.parallel.layout import Layout, LayoutError, share
from model.parallel.one_card import OneCard

_NUMBERED = re.compile(r"(.+)\.(\d+)")


@dataclass(frozen=True)
class Features:
    """What a stage hands to the next: ``elements`` of ``dtype``."""

    elements: Any
    dtype: str


@dataclass(frozen=True)
class Stages:
    """``layers`` of a stack on the stages of a layout; the first have one more."""

    layout: Layout
    layers: int

    def __post_init__(self) -> None:
        if self.layout.pp > self.layers:
            raise LayoutError("pp", self.layout.pp, f"at most layers = {self.layers}")

    @property
    def last(self) -> int:
        return self.layout.pp - 1

    def held(self, stage: int) -> int:
        """Layers of a stage."""
        return int(share(self.layers, self.layout.pp, stage))

    def of(self, index: int) -> int:
        """The stage of a layer."""
        stage = 0
        while index >= self.held(stage):
            index -= self.held(stage)
            stage += 1
        return stage


def stack_of(layer: Layer) -> list[str]:
    """Names of the numbered parts of ``layer``, such as ``layers.0``, the most of one name; none
    where there are fewer than two."""
    found: dict[str, list[str]] = {}
    for name in layer.children():
        numbered = _NUMBERED.fullmatch(name)
        if numbered:
            found.setdefault(numbered[1], []).append(name)
    longest = max(found.values(), key=len, default=[])
    return longest if len(longest) > 1 else []


def layers_of(layer: Layer) -> int:
    """Of the one stack in the tree of ``layer``; 0 where there is none."""
    own = len(stack_of(layer))
    return own or max((layers_of(c) for c in layer.children().values()), default=0)


def staged(layer: Layer, stages: Stages, features: Features, times: Sequence[int]) -> OneCard:
    """``layer`` with the calls of each stage counted ``times`` and the features sent between them.

    What comes before the stack is the first stage's, what comes after it the last's. A stage that
    counts 0 times is not there, nor are its weights.
    """
    stack = {name: stages.of(i) for i, name in enumerate(stack_of(layer))}
    deeper = None if stack else _holder(layer)
    steps: list[Step] = []
    at = 0
    for step in layer.steps:
        if isinstance(step, Child) and step.name == deeper:
            steps.append(Child(step.name, staged(step.layer, stages, features, times)))
            at = stages.last
            continue
        if isinstance(step, Child) and step.name in stack:
            while at < stack[step.name]:
                hop = stages.layout.hop(features.elements, features.dtype, at)
                steps += [Call("", hop, times[at])] if times[at] else []
                at += 1
        steps += _counted(step, times[at])
    return OneCard(layer, layer.mirrors, tuple(steps), owns=times[0] > 0)


def _holder(layer: Layer) -> str | None:
    """The part with the stack in it."""
    parts = layer.children()
    name = max(parts, key=lambda n: layers_of(parts[n]), default=None)
    return name if name is not None and layers_of(parts[name]) else None


def _counted(step: Step, times: int) -> Iterator[Step]:
    if times == 1:
        yield step
    elif isinstance(step, Call) and times:
        yield replace(step, count=step.count * times)
    elif isinstance(step, Child) and times:
        again = tuple(s for inner in step.layer.steps for s in _counted(inner, times))
        yield Child(step.name, OneCard(step.layer, step.layer.mirrors, again))
    elif not isinstance(step, Call | Child):
        yield step


def alone(stages: Stages, stage: int) -> list[int]:
    """Times of one stage without the others."""
    return [int(i == stage) for i in range(stages.layout.pp)]


def slowest(views: Sequence[Layer], decodes: bool) -> int:
    """The stage with the most to do: to read in a decode step, to compute elsewhere; of equal ones
    the last."""

    def work(stage: int) -> tuple[Any, Any, int]:
        calls = views[stage].calls()
        flops, moved = total(calls, lambda op: op.flops), total(calls, lambda op: op.bytes)
        return (moved, flops, stage) if decodes else (flops, moved, stage)

    return max(range(len(views)), key=work)


def passes(stages: Stages, slow: int, parts: int, decodes: bool) -> list[int]:
    """How often each stage counts on the way of a batch in ``parts`` microbatches."""
    often = max(1, parts - stages.layout.pp + 1) if decodes else parts
    return [often if i == slow else 1 for i in range(stages.layout.pp)]
