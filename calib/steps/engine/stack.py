"""What an engine runs for a model's phases, and what it takes (``implementation=vllm`` and others).

A model whose calls all have a role in a decoder (:mod:`calib.estimates.stack.roles`) is lowered to
the engine's kernels. For any other model ``vllm`` means what it did: each of the model's own
operators by the tables of that engine.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from calib.errors import CalibError, wrong
from calib.fit.calibration import Calibration, Estimates, Tabled
from calib.hardware.datasheet import Hardware
from calib.samples.host_costs import GRAPH
from model.layer import Call
from model.ops import Operator
from model.workload import Phase

if TYPE_CHECKING:
    import pandas as pd

    from calib.cards.engines.card import EngineCard
    from calib.estimates.stack.formats import Formats
    from calib.steps.request import Request
    from calib.trace.weights.scheme import Scheme

WITHOUT_MODELS = "vllm"
"""The engine whose tables ship as a card's own: they also say what single operators take."""
NOT_LOWERED = (
    "implementation=vllm knows the kernels of a plain decoder of text, and this is none, or its "
    "file is quantised in a format that no table is of: these are torch's own launches, each "
    "operator by that engine's tables."
)
AS_SERVED = {
    False: "A server runs decode steps in a CUDA graph: execution=graph.",
    True: "Decode steps are in a CUDA graph, as a server runs them.",
}
FP8, FP4 = "float8_e4m3fn", "float4_e2m1fn"
NARROW = {FP8: "fp8", FP4: "nvfp4"}
"""A model's weights by dtype -> the format of an engine's products."""


@dataclass(frozen=True)
class Stack(Tabled):
    """``calls``: by phase, what the engine runs; ``names``: operator -> what follows the engine's
    name in its kernel's."""

    card: EngineCard
    calls: dict[str, list[Call]]
    names: Mapping[Operator, str]

    @property
    def hardware(self) -> Hardware:
        return self.card.hardware

    @property
    def held_out(self) -> pd.DataFrame:
        return self.card.held_out

    @property
    def own(self) -> Calibration:
        """The fits to the engine's own tables."""
        return self.card.own

    def note(self, execution: str) -> str:
        """For the report; ``execution``: how launches follow one another in it."""
        engine = self.card.engine
        own = "its own tables" if self.card.is_told else "no table of its own on this card"
        return (
            f"The kernels are {engine}'s ({own}; what those lack leans on another engine's, then "
            f"on what ships of the card, and each row says so). {AS_SERVED[execution == GRAPH]} "
            "What its own host adds is not in these times."
        )

    def estimates(
        self,
        ops: Sequence[Operator] | Operator,
        implementation: str = "",
        hot: Sequence[bool] | np.ndarray | bool | None = None,
    ) -> Estimates:
        """Of operators in ``names``; weights and cache come from main memory, whatever ``hot``."""
        some = [ops] if isinstance(ops, Operator) else list(ops)
        found = Estimates.nothing_of(len(some))
        by_name: dict[str, list[int]] = {}
        for i, op in enumerate(some):
            by_name.setdefault(self.names.get(op, ""), []).append(i)
        for name, rows in by_name.items():
            found.put(np.array(rows), self.card.estimates([some[i] for i in rows], name))
        return found


def stack_notes(
    stack: Stack | None, request: Request, operators: pd.DataFrame, plain: list[str]
) -> list[str]:
    """What stands in place of ``plain``, the notes of single operators: whose kernels these are."""
    from calib.estimates.sums import known_by

    if stack is None:
        return [NOT_LOWERED, *plain] if request.implementation == WITHOUT_MODELS else plain
    return [
        stack.note(request.execution),
        f"How the times of each kind are known: {known_by(operators)}.",
    ]


def formats_of(engine: str, model: Any, narrow: bool = False) -> Formats:
    """Of the model's weights, on one card or several: as its file stores them, or of its
    ``weight_dtype``. ``narrow``: whether any product beside experts is of narrow weights.

    Raises ``CalibError`` for a file in a format that no engine's table is of.
    """
    from calib.estimates.stack.formats import QUANTISED, WIDENED, Formats

    whole = getattr(model, "whole", model)
    scheme = getattr(getattr(whole, "weights", None), "scheme", None)
    if scheme is None:
        stored = NARROW.get(str(getattr(whole, "weight_dtype", None)), "bfloat16")
        return Formats(stored, stored, quantised=QUANTISED.get((engine, stored), ""))
    products, experts = stored_as(scheme)
    if products in WIDENED and narrow:
        raise CalibError(UNTOLD.format(scheme.words()))
    cache = "fp8" if scheme.kv_dtype == FP8 else "bfloat16"
    return Formats(products, experts, cache, QUANTISED.get((engine, products), ""), True)


def stored_as(scheme: Scheme) -> tuple[str, str]:
    """The format of products and of experts. Raises as :func:`formats_of` does."""
    kept = {f for _, f in scheme.groups}
    form = next(iter(kept)) if len(kept) == 1 else None
    if form and form.weight == FP8:
        name = "fp8_block" if (form.rows, form.cols) == (128, 128) else "fp8"
        return name, name
    if form and form.weight == FP4 and form.activation == FP4:
        return "nvfp4", "nvfp4"
    if form and form.weight == "int4":
        return "int4", "int4"
    raise CalibError(UNTOLD.format(scheme.words()))


UNTOLD = (
    "implementation: weights stored as {}: expected implementation=torch, or a file of float8, "
    "nvfp4, or of experts in int4"
)


def stack_of(
    request: Request, hardware: Hardware, model: Any, phases: Mapping[str, Phase]
) -> Stack | None:
    """The stack of the implementation; None where it is none, or vLLM with another kind of model.

    Raises ``CalibError`` for another engine with a model that is no decoder of text, on a card that
    nothing ships for, and for a limit, which *what if* answers and an engine has not.
    """
    from calib.cards.engines.card import load_engine_card
    from calib.cards.engines.stored import ENGINES
    from calib.estimates.stack.formats import LAYERS, formatted, is_narrow
    from calib.estimates.stack.lower import fused
    from calib.estimates.stack.roles import ATTENDS, OTHER, role_of

    engine = request.implementation
    if engine not in ENGINES:
        return None
    calls = {name: phase.layer.calls() for name, phase in phases.items()}
    roles = {role_of(call) for some in calls.values() for call in some}
    if OTHER in roles or not roles & ATTENDS:
        if engine == WITHOUT_MODELS:
            return None
        raise CalibError(
            f"implementation = {engine!r} of what is no plain decoder of text, or is a step of "
            "training: expected torch or vllm, or a model like llama_3_1_8b and qwen3_30b_a3b"
        )
    if request.limit.tpot is not None:
        raise CalibError(
            wrong("limit.tpot", request.limit.tpot, "implementation=torch, or mode=serve")
        )
    narrow = any(role_of(c) in LAYERS and is_narrow(c.op) for some in calls.values() for c in some)
    try:
        formats, made = formats_of(engine, model, narrow), {}
    except CalibError:
        if engine == WITHOUT_MODELS:
            return None
        raise
    names: dict[Operator, str] = {}
    for name, some in calls.items():
        kernels = [(c, *k) for c in fused(some) for k in formatted(c, formats)]
        made[name] = [Call(c.path, op, c.count) for c, op, _ in kernels]
        names |= {op: kernel for _, op, kernel in kernels}
    return Stack(load_engine_card(hardware.name, engine), made, names)
