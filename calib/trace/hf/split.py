"""A module of ``transformers`` as one card of several has it: its matrices cut as the library's own
plan says (``base_model_tp_plan``), before it is traced.

The library's code then runs as it would there: heads and widths are read off the tensors. Where a
plan leaves latent attention (MLA) whole, its projections are cut by heads all the same, as engines
do: ``q_b_proj`` (or ``q_proj``) and ``kv_b_proj`` by columns, ``o_proj`` by rows; the latent keys
and values are on every card.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from calib.errors import CalibError, wrong
from model.parallel.layout import Layout, LayoutError, divided, share
from model.parallel.one_card import kv_heads

if TYPE_CHECKING:
    import torch

COLUMNS, ROWS, PACKED = "colwise", "rowwise", "packed_colwise"
HEAD, EMBEDDING = "colwise_gather_output", "embedding_rowwise"
EXPERTS, SUMMED = "moe_tp_experts", "all_reduce"
WHOLE = ("replicated_with_grad_allreduce", "replicate", "mla_kv_a_proj", "ep_dispatch_experts")
STYLES = (COLUMNS, ROWS, PACKED, HEAD, EMBEDDING, EXPERTS, SUMMED, *WHOLE, "grouped_gemm")
LATENT = {"q_proj": COLUMNS, "q_b_proj": COLUMNS, "kv_b_proj": COLUMNS, "o_proj": ROWS}
"""Of attention with a ``kv_b_proj`` that the plan says nothing of."""


@dataclass
class Cut:
    """What a card of ``layout`` has of ``module``. ``after``: path of a module -> style of what the
    cards tell each other behind it; ``whole``: path -> the size on all cards of what is cut by
    rows of the vocabulary."""

    module: Any
    layout: Layout
    after: dict[str, str] = field(default_factory=dict)
    whole: dict[str, int] = field(default_factory=dict)
    replaced: dict[int, tuple[Any, Any]] = field(default_factory=dict, repr=False)

    def apply(self, path: str, style: str) -> None:
        above, _, name = path.rpartition(".")
        parent = self.module.get_submodule(above)
        part = getattr(parent, name)
        if style in (EXPERTS, SUMMED):
            self.after[path] = style
        elif not hasattr(part, "named_parameters"):
            if style in (PACKED, ROWS):
                self.experts(parent, name, style)
        elif style == COLUMNS:
            self.columns(part, name, parent)
        elif style == ROWS:
            own = divided("tp", self.layout.tp, "the inner width", part.weight.shape[1])
            self.narrow(part, "weight", 1, own)
            part.in_features = own
            self.after[path] = style
        elif style in (HEAD, EMBEDDING):
            self.after[path], self.whole[path] = style, part.weight.shape[0]
            self.narrow(part, "weight", 0, share(part.weight.shape[0], self.layout.tp, 0))
            if getattr(part, "padding_idx", None) is not None:
                part.padding_idx = None  # whose row another card may have; it costs nothing else

    def columns(self, part: Any, name: str, parent: Any) -> None:
        own = self.width(name, part.weight.shape[0], parent)
        self.narrow(part, "weight", 0, own)
        if getattr(part, "bias", None) is not None:
            self.narrow(part, "bias", 0, own)
        part.out_features = own

    def width(self, name: str, wide: int, parent: Any) -> int:
        """Outputs of a card: whole heads of an attention, at least one of keys and values."""
        tp, head = self.layout.tp, getattr(parent, "head_dim", None)
        grouped = hasattr(parent, "num_key_value_groups")
        if not isinstance(head, int) or wide % head or not grouped:
            heads = getattr(parent, "num_heads", None) if hasattr(parent, "kv_b_proj") else None
            if isinstance(heads, int):
                return wide // heads * divided("tp", tp, "heads", heads)
            return divided("tp", tp, "the inner width", wide)
        if name not in ("k_proj", "v_proj"):
            return head * divided("tp", tp, "heads", wide // head)
        heads, own = wide // head, kv_heads(wide // head, tp)
        if own * tp > heads and name == "k_proj":  # a card has fewer heads that share one
            parent.num_key_value_groups = parent.num_key_value_groups * heads // tp // own
        return head * own

    def experts(self, parent: Any, name: str, style: str) -> None:
        """Of matrices [experts, outputs, inputs], or the last two the other way round."""
        layout, weight = self.layout, getattr(parent, name)
        outputs, inputs = (2, 1) if getattr(parent, "is_transposed", False) else (1, 2)
        axis = outputs if style == PACKED else inputs
        own = divided("tp", layout.expert_tp, "the experts' width", weight.shape[axis])
        self.narrow(parent, name, axis, own)
        if layout.ep > 1:
            held = divided("ep", layout.ep, "experts", weight.shape[0])
            self.narrow(parent, name, 0, held)
            parent.num_experts = held

    def narrow(self, part: Any, name: str, axis: int, size: int) -> None:
        import torch

        old = getattr(part, name)
        if id(old) in self.replaced:  # tied to one that was cut
            setattr(part, name, self.replaced[id(old)][1])
            return
        values = old.detach().narrow(axis, 0, size).clone()
        new = torch.nn.Parameter(values, requires_grad=False)
        setattr(part, name, new)
        self.replaced[id(old)] = old, new

    def retie(self) -> None:
        """What was tied to a parameter that was cut is so again."""
        for part in self.module.modules():
            for name, old in list(part.named_parameters(recurse=False)):
                if id(old) in self.replaced:
                    setattr(part, name, self.replaced[id(old)][1])


def cut(module: torch.nn.Module, layout: Layout) -> Cut:
    """Cuts ``module`` as the first card of ``layout`` has it.

    Raises ``CalibError`` that names the key, for a module without a plan, or with what a plan does
    that is not known, and for sizes that do not divide.
    """
    made = Cut(module, layout)
    try:
        for path, style in plan_of(module, layout).items():
            made.apply(path, style)
    except LayoutError as error:
        raise CalibError(str(error)) from None
    made.retie()
    return made


def plan_of(module: Any, layout: Layout) -> dict[str, str]:
    """Path of a module or parameter -> its style. Raises ``CalibError`` for what has no plan."""
    if layout.stage_cards == 1:
        return {}
    given = dict(getattr(module, "tp_plan", None) or {})
    kind, known = type(module.config).__name__, dict[str, str]()
    key, value = layout.first
    names = [name for name, _ in module.named_modules()]
    names += [name for name, _ in module.named_parameters()]
    rules = {re.compile(_pattern(rule)): style for rule, style in given.items()}
    for name in names:
        style = next((s for r, s in rules.items() if r.fullmatch(name)), None)
        if style is not None:
            known[name] = style
    if layout.ep > 1 and EXPERTS not in known.values():
        raise CalibError(
            wrong("parallel.ep", layout.ep, f"1 for {kind}, whose plan splits no experts")
        )
    if layout.tp > 1 and not {COLUMNS, ROWS} & set(known.values()):
        accepted = f"1 for {kind}, which has no plan that can be followed here (base_model_tp_plan)"
        raise CalibError(wrong(f"parallel.{key}", value, accepted))
    strange = next((s for s in known.values() if s not in STYLES), None)
    inner = [p for p, s in known.items() if s == HEAD and not _is_head(module, p)]
    if (strange or inner) and layout.tp > 1:
        what = strange or f"{HEAD} of {inner[0]}"
        accepted = f"1 for {kind}, whose plan has {what}, which is not known here"
        raise CalibError(wrong(f"parallel.{key}", value, accepted))
    return known | dict(_latent(module, known))


def _pattern(rule: str) -> str:
    return re.escape(rule).replace(r"\*", r"\d+")


def _is_head(module: Any, path: str) -> bool:
    return module.get_submodule(path) is module.get_output_embeddings()


def _latent(module: Any, known: dict[str, str]) -> Iterator[tuple[str, str]]:
    for path, part in module.named_modules():
        if hasattr(part, "kv_b_proj") and f"{path}.kv_b_proj" not in known:
            query = "q_b_proj" if getattr(part, "q_b_proj", None) is not None else "q_proj"
            for name in (query, "kv_b_proj", "o_proj"):
                yield f"{path}.{name}", LATENT[name]
