"""A model on the cards of a layout, as one model: its phases are what a user waits for.

Cards of a stage do the same at the same time, up to a row of the vocabulary or a pair of a token
and its expert; what is shown is the first card, which has the most. Through a pipeline it is the
longest way: the calls of all stages, those of the slowest as often as it sets the pace
(:mod:`model.parallel.stages`).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from math import gcd
from typing import Any

from model.causal_lm import Language
from model.layer import Layer
from model.parallel.layout import Layout, LayoutError, share
from model.parallel.one_card import Nothing, Place
from model.parallel.stages import Features, Stages, alone, layers_of, passes, slowest, staged
from model.workload import Phase, Workload

DECODE = "decode"


@dataclass(frozen=True)
class Part:
    """One pass of a card of each stage for one microbatch. ``features``: None of what no stage
    hands on, such as an image that is seen."""

    layer: Layer
    repeat: int
    features: Features | None = None


@dataclass(frozen=True, eq=False)
class Parallel:
    """``whole``: the model on one card.

    A model that is traced says itself what a card runs, ``parts``; one with formulas by its layers.
    """

    whole: Any
    layout: Layout
    cards: dict[tuple[int, int], Any] = field(default_factory=dict, repr=False)

    @property
    def name(self) -> str | None:
        return getattr(self.whole, "name", None)

    @property
    def dimensions(self) -> dict[str, Any]:
        return dict(getattr(self.whole, "dimensions", {}))

    @property
    def notes(self) -> list[str]:
        return [*getattr(self.whole, "notes", ()), *layout_notes(self.layout)]

    def prompt_length(self, workload: Workload) -> int | None:
        length: int | None = self.whole.prompt_length(workload)
        return length

    def sequences(self, workload: Workload) -> tuple[int, int]:
        """Of the largest group, and of a microbatch of it."""
        group = int(share(workload.batch, self.layout.dp, 0)) or 1
        return group, -(-group // self.layout.parts(group))

    def phases(self, workload: Workload, routing: Any = None) -> dict[str, Phase]:
        parts = self.layout.parts(self.sequences(workload)[0])
        found = self.parts(workload, 0, routing)
        return {name: self._longest_way(name, part, parts) for name, part in found.items()}

    def parts(self, workload: Workload, rank: int = 0, routing: Any = None) -> dict[str, Part]:
        """What the ``rank``-th card of every stage runs for one microbatch."""
        micro = self.sequences(workload)[1]
        asked = replace(workload, batch=micro)
        if self.is_traced:
            return self._traced_parts(self.traced(workload), asked)
        place = Place(self.layout, rank, self.others(workload))
        passed = self.whole.phases(asked, routing)
        found = {name: self._part(phase, place) for name, phase in passed.items()}
        if not any(part.features for part in found.values()):
            raise LayoutError(*self.layout.first, "1 for what is no language model")
        if self.layout.ep > 1 and not self.whole.experts:
            raise LayoutError("ep", self.layout.ep, "1 for a model without experts")
        return found

    def everyone(self, workload: Workload) -> int:
        """Sequences of all groups that a stage works on at a time."""
        return min(workload.batch, self.sequences(workload)[1] * self.layout.dp)

    def others(self, workload: Workload) -> tuple[int, int]:
        """Sequences of all groups over those of one, at a time."""
        micro = self.sequences(workload)[1]
        every = self.everyone(workload)
        least = gcd(every, micro)
        return every // least, micro // least

    @property
    def is_traced(self) -> bool:
        return hasattr(self.whole, "on_cards")

    def traced(self, workload: Workload) -> Any:
        """The first card's own module, of a model that is traced."""
        others = self.others(workload)
        if others not in self.cards:
            self.cards[others] = self.whole.on_cards(self.layout, others)
        return self.cards[others]

    def _traced_parts(self, card: Any, asked: Workload) -> dict[str, Part]:
        found = {}
        if self.layout.pp > 1 and card.prompt_length(asked) is None:
            raise LayoutError("pp", self.layout.pp, "1 for a model whose text does not grow")
        for name, phase in card.phases(asked).items():
            size = card.features(asked, name)
            features = Features(*size) if size and layers_of(phase.layer) else None
            found[name] = Part(phase.layer, phase.repeat, features)
        return found

    def _part(self, phase: Phase, place: Place) -> Part:
        root = phase.layer
        if type(root) is not Language:
            return Part(root, phase.repeat)
        attention = root.language_model.blocks[0].self_attn
        features = Features(attention.rows * attention.hidden, attention.dtype)
        return Part(place.of_root(root), phase.repeat, features)

    def stage(self, part: Part, number: int) -> Layer:
        """What a card of one stage runs of a pass."""
        if self.layout.pp == 1:
            return part.layer
        if part.features is None:
            return part.layer if number == 0 else Nothing()
        stages = Stages(self.layout, layers_of(part.layer))
        return staged(part.layer, stages, part.features, alone(stages, number))

    def _longest_way(self, name: str, part: Part, parts: int) -> Phase:
        if part.features is None:
            return Phase(part.layer, part.repeat * parts)
        if self.layout.pp == 1:
            return Phase(part.layer, part.repeat)
        stages = Stages(self.layout, layers_of(part.layer))
        views = [self.stage(part, i) for i in range(self.layout.pp)]
        times = passes(stages, slowest(views, name == DECODE), parts, name == DECODE)
        return Phase(staged(part.layer, stages, part.features, times), part.repeat)

    # Memory of a card

    def weight_bytes(self, workload: Workload) -> float:
        """Of the stage that holds the most."""
        if self.is_traced and self.layout.pp == 1:
            return float(self.traced(workload).weight_bytes(self._micro(workload)))
        parts = self.parts(workload)
        return max(self._weights(parts, i) for i in range(self.layout.pp))

    def _weights(self, parts: dict[str, Part], number: int) -> float:
        """A module that several passes use counts once, where it is whole."""
        views = [self.stage(part, number) for part in parts.values()]
        largest: dict[str, float] = {}
        for view in views:
            for name, child in view.children().items():
                largest[name] = max(largest.get(name, 0.0), float(child.weight_bytes()))
        return max(float(v.own_weight_bytes()) for v in views) + sum(largest.values())

    def working(self, workload: Workload) -> dict[str, tuple[float, float]]:
        """KV cache at the end and activations at the peak [bytes] of each pass: the cache of all
        microbatches, and what one of them works with, of the stage with the most."""
        group, micro = self.sequences(workload)
        if self.is_traced:
            held = self.traced(workload).working(self._micro(workload))
            times = group / micro * self._most_layers()
            return {name: (cache * times, active) for name, (cache, active) in held.items()}
        found = {}
        for name, part in self.parts(workload).items():
            last = self._last_step(workload) if name == DECODE else part
            caches = (self.stage(last, i).kv_cache_bytes() for i in range(self.layout.pp))
            active = float(last.layer.activation_bytes())
            found[name] = (float(max(caches)) * group / micro, active)
        return found

    def _last_step(self, workload: Workload) -> Part:
        """The decode step with the most in the cache."""
        micro = self.sequences(workload)[1]
        context = self.whole.prompt_length(workload) + workload.decode_steps
        place = Place(self.layout, 0, self.others(workload))
        return self._part(Phase(self.whole.decode_layer(context, micro)), place)

    def _most_layers(self) -> float:
        """Of a traced model's stage, over all."""
        layers = self.whole.dimensions.get("layers", 0)
        return Stages(self.layout, layers).held(0) / layers if self.layout.pp > 1 else 1.0

    def _micro(self, workload: Workload) -> Workload:
        return replace(workload, batch=self.sequences(workload)[1])


def layout_notes(layout: Layout) -> list[str]:
    """What a reader must know of the times of several cards."""
    said = (
        f"On {layout.cards} cards ({layout.words()}), of which operators, FLOPs, bytes and memory "
        "are those of one."
    )
    notes = [said]
    if layout.pp > 1:
        notes.append(
            "Operators are those of all stages one after the other, those of the slowest stage as "
            "often as it sets the pace of the microbatches; memory is that of the fullest stage."
        )
    if layout.ep > 1:
        notes.append(
            "Tokens are taken to spread evenly over the cards' experts; a router loads one card "
            "more than another, and the others wait for it."
        )
    return notes
