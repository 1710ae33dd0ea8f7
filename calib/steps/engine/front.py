"""``mode=serve``: a model on all layouts of some cards, as users of a server see it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from calib.errors import CalibError, wrong
from calib.hardware.datasheet import Hardware
from calib.hardware.links import between, within
from calib.steps.engine.stack import NARROW
from calib.steps.request import HF, OWN, Request
from calib.steps.settings.limits import ServeRequest
from calib.steps.subject import build_model
from calib.steps.target import find_target
from model.workload import beyond

if TYPE_CHECKING:
    from calib.estimates.serving.kernels import Server
    from calib.estimates.serving.points import Asked, Serving
    from calib.fit.calibration import Estimates
    from calib.report.serving.found import Front
    from model.ops import Operator
    from model.parallel import Layout

MOST = 20_000_000
"""Configurations of a run: more would not fit into the memory of a small machine."""


def serve(request: Request, folder: Path, config: Mapping[str, str] | None = None) -> Front:
    """The front of ``request``, written into ``folder``, with the files ``config`` of what was
    asked.

    Raises ``CalibError`` for what cannot be served: no decoder of text, no card that ships, no
    layout that memory holds.
    """
    import pandas as pd

    from calib.estimates.serving.apart import apart
    from calib.estimates.serving.front import Limits, judged, largest
    from calib.estimates.serving.points import points
    from calib.report.serving.found import Front
    from calib.report.serving.write import write_front

    hardware = find_target(request.hw, request.samples.dir, "analytic").hardware
    model = decoder(request)
    name = request.model.name or type(model).__name__
    serving, note = serving_of(request.implementation, hardware)
    servers = servers_of(request, model, hardware)
    rows = points(servers, serving, asked_of(request.serve, len(servers)))
    if rows.empty:
        accepted = (
            f"one that {request.serve.cards} x {hardware.name} hold with a request (serve.cards)"
        )
        raise CalibError(wrong("model", name, accepted))
    tried = len(servers) * len(batches_of(request.serve)) * len(lengths_of(request.serve))
    if request.serve.apart:
        split = apart(rows, servers, serving, request.serve.cards)
        rows, tried = pd.concat([rows, split], ignore_index=True), tried + len(split)
    limits = Limits(request.limit.tpot, request.limit.ttft, request.price.per_hour)
    rows = judged(rows, limits)
    title = f"{name} on {hardware.name}, by {request.implementation}"
    said = {"tpot": request.limit.tpot, "ttft": request.limit.ttft}
    far = beyond(max(map(sum, lengths_of(request.serve))), model.positions)
    front = Front(title, rows, largest(rows), said, tried, (note, *far, *notes(request)))
    write_front(front, folder, request.report.pictures, request.report.html, config)
    return front


def decoder(request: Request) -> Any:
    """The model. Raises ``CalibError`` for one whose calls have no roles in a decoder of text."""
    from calib.estimates.stack.roles import OTHER, role_of
    from model.causal_lm import CausalLM

    model = None
    if request.model.architecture not in (HF, OWN):
        model = build_model(request.model, request.hf)
    if isinstance(model, CausalLM) and not model.reads_features:
        roles = {role_of(call) for call in model.decode_step(2)}
        if OTHER not in roles and "A" in roles:
            return model
    accepted = "a decoder of text with mode=serve, such as model=llama_3_1_8b"
    raise CalibError(wrong("model.architecture", request.model.architecture, accepted))


@dataclass(frozen=True)
class TorchKernels:
    """What torch's kernels take, by what ships of the card."""

    card: Any

    def estimates(self, ops: Sequence[Operator] | Operator, implementation: str = "") -> Estimates:
        found: Estimates = self.card.estimates(ops, "torch")
        return found


def serving_of(implementation: str, hardware: Hardware) -> tuple[Serving, str]:
    """What serves, and what is to be said of it."""
    from calib.cards.engines.card import load_engine_card
    from calib.cards.engines.overheads import Overheads, load_overheads
    from calib.cards.shipped import load_card
    from calib.estimates.serving.habits import HABITS
    from calib.estimates.serving.points import Serving

    if implementation == "torch":
        card = load_card(hardware)
        if card is None:
            raise CalibError(wrong("hw", hardware.name, "a card that figures ship for"))
        own: Any = TorchKernels(card)
    else:
        own = load_engine_card(hardware.name, implementation)
    beside = load_overheads(implementation)
    note = (
        f"Kernels are {implementation}'s, and what a server adds to them (its host, the gaps "
        "between kernels) is in the times: numbers fitted to measured runs of the engine."
        if beside
        else f"Kernels are {implementation}'s; what a server's host adds is not in these times."
    )
    habits = HABITS[implementation]
    return Serving(own, hardware.memory_bytes, habits, beside or Overheads()), note


def servers_of(request: Request, model: Any, hardware: Hardware) -> list[Server]:
    """The model on each layout that it can be split by."""
    from calib.estimates.serving.kernels import Server
    from calib.estimates.stack.formats import QUANTISED, Formats
    from model.parallel.layout import LayoutError

    engine = request.implementation
    stored = NARROW.get(str(model.weight_dtype), "bfloat16")
    cache = request.serve.cache or "bfloat16"
    narrowed = QUANTISED.get((engine, stored), "")
    formats = Formats(stored, stored, cache, quantised=narrowed)
    found = []
    for layout in layouts_on(hardware, request.serve.cards, model.experts > 0):
        server = Server(model, layout, formats, fuses=engine != "torch")
        try:
            server.decode(1, 1)
        except LayoutError:
            continue
        if layout.pp <= model.layers:
            found.append(server)
    return found


def layouts_on(hardware: Hardware, cards: int, experts: bool) -> list[Layout]:
    """All layouts in powers of two of at most ``cards``, as many as links join, the fewest cards
    first."""
    from model.parallel import Layout

    inner = within(hardware.links)
    if inner is None:
        cards = 1
    elif between(hardware.links) is None:
        cards = min(cards, inner.cards)
    powers = [2**i for i in range(cards.bit_length())]
    node = inner.cards if inner else 0
    found = [
        Layout(tp, pp, ep, dp, node_cards=node)
        for tp, pp, dp in product(powers, repeat=3)
        if tp * pp * dp <= cards
        for ep in (powers if experts else [1])
        if (tp * dp) % ep == 0
    ]
    return sorted(found, key=lambda layout: layout.cards)


def asked_of(serve: ServeRequest, layouts: int) -> Asked:
    """Raises ``CalibError`` for more configurations than a run takes."""
    from calib.estimates.serving.points import Asked

    batches, lengths = batches_of(serve), lengths_of(serve)
    count = layouts * len(batches) * len(lengths)
    if count > MOST:
        accepted = f"at most {MOST:,} configurations, not {count:,}"
        raise CalibError(wrong("serve.batches", serve.batches, accepted))
    return Asked(batches, lengths)


def batches_of(serve: ServeRequest) -> list[int]:
    """Whole numbers from 1 to the most, evenly in log where they are wider apart than one."""
    wanted, most = min(serve.batches, serve.most), serve.most
    count = wanted
    while True:
        found = np.unique(np.rint(np.geomspace(1, most, count)).astype(np.int64))
        if len(found) >= wanted or count > 64 * wanted:
            return [int(b) for b in found]
        count += max(wanted - len(found), 1)


def lengths_of(serve: ServeRequest) -> list[tuple[int, int]]:
    return list(product(serve.isl, serve.osl))


def notes(request: Request) -> list[str]:
    """What the times leave out."""
    cache = request.serve.cache or "bfloat16"
    split = (
        "Prompts on cards of their own: a formula that no measured run was laid beside; before the "
        "bar in a name stands what takes prompts, and requests are those that decode."
    )
    return [
        *([split] if request.serve.apart else []),
        "A closed loop in its steady state: each request that is done is replaced at once; decode "
        f"in CUDA graphs; keys and values in {cache}; no prompt is found in a cache of prefixes.",
        "The first token is the server's: what a client adds is not in it. No measured run has a "
        "pipeline (pp): its times are of the formula alone.",
    ]
