"""Formulas in LaTeX, by running the very properties that compute the numbers on sympy symbols.

An operator or layer is copied with symbols in place of its sizes; what its properties then return
is the formula. Nothing is written down a second time, so nothing can drift.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from functools import cache, lru_cache
from typing import Any

from model.layer import Call, Child, Layer
from model.ops import ITEM_BYTES, Operator

OPERATOR_FIELDS = {
    "m": ("m", "rows of the result"),
    "n": ("n", "columns of the result"),
    "k": ("k", "depth of the reduction"),
    "batch": ("B", "batch"),
    "tokens": ("T", "tokens"),
    "experts": ("E", "experts"),
    "top_k": ("t", "experts each token goes to"),
    "active_experts": ("A", "distinct experts touched"),
    "max_load": (r"\lambda", "rows of the busiest expert"),
    "hidden": ("D", "width of the model"),
    "intermediate": ("I", "inner width"),
    "q_len": ("q", "queries of a sequence"),
    "kv_len": ("l", "keys of a sequence"),
    "heads": ("h", "heads"),
    "kv_heads": (r"h_{kv}", "heads of keys and values"),
    "head_dim": ("d", "width of a head"),
    "v_head_dim": ("d_{v}", "width of a head of values"),
    "products": (r"f_{p}", "FLOPs of the products"),
    "window": ("w", "keys that a query sees"),
    "in_channels": (r"C_{in}", "channels of the input"),
    "out_channels": (r"C_{out}", "channels of the output"),
    "height": ("H", "height of the input"),
    "width": ("W", "width of the input"),
    "kernel": (r"\kappa", "side of the kernel"),
    "stride": (r"\sigma", "stride"),
    "padding": ("p", "padding"),
    "taps": (r"\tau", "taps of the window"),
    "in_positions": (r"x_{in}", "positions of the input"),
    "out_positions": (r"x_{out}", "positions of the result"),
    "groups": ("g", "groups of channels"),
    "channels": ("C", "channels"),
    "vectors": ("v", "vectors of channels"),
    "planes": ("p", "channels of all maps of a batch"),
    "rows": ("r", "rows"),
    "cols": ("c", "columns"),
    "elements": ("e", "elements of a tensor"),
    "inputs": (r"n_{in}", "input tensors"),
    "outputs": (r"n_{out}", "output tensors"),
    "flops_per_element": ("f", "operations on an element"),
    "broadcast": ("b", "elements of smaller inputs, in all"),
    "axes": ("x", "axes that the walk over memory has"),
    "walked": (r"r_{2}", "rows that are read twice"),
    "out_elements": (r"e_{out}", "elements of the result"),
    "read": (r"b_{in}", "bytes read"),
    "written": (r"b_{out}", "bytes written"),
    "arithmetic": ("a", "elementary operations"),
    "ranks": ("N", "cards"),
    "nodes": (r"\nu", "nodes that the cards are on"),
}
"""Letter and meaning of each numeric field of an operator."""
DTYPE_FIELDS = {
    "dtype": ("s", "bytes of an element"),
    "weight_dtype": (r"s_{w}", "bytes of an element of the weights"),
    "out_dtype": (r"s_{out}", "bytes of an element of the result"),
}
PROPERTIES = {
    "tensor_core_flops": "F_{tensor}",
    "min_flops": "F_{min}",
    "cuda_core_flops": "F_{cuda}",
    "weight_bytes_read": "R_{weights}",
    "bytes_read": "R",
    "bytes_written": "W",
    "link_bytes": "L",
}
"""The costs of an operator and the name of each in a formula."""


@dataclass(frozen=True)
class Formula:
    """``name`` = ``latex``; ``remark``: what the code says about it."""

    name: str
    latex: str
    remark: str = ""


@dataclass(frozen=True)
class OperatorFormulas:
    """One form of an operator: its flags fixed, its sizes free. ``symbols``: (letter, meaning)."""

    title: str
    formulas: tuple[Formula, ...]
    symbols: tuple[tuple[str, str], ...]


def operator_form(op: Operator) -> tuple[Any, ...]:
    """Equal for operators that share their formulas: class, flags, and which fields are not set."""
    flags = {n: v for n, v in vars(op).items() if isinstance(v, bool) or n == "kind"}
    unset = tuple(n for n, v in vars(op).items() if v is None)
    return (type(op), *flags.items(), unset)


def operator_formulas(op: Operator) -> OperatorFormulas:
    """The formulas of ``op``'s costs. One that is 0, or the same as another, is left out."""
    sizes = {n: _symbol(OPERATOR_FIELDS[n][0]) for n in op.shape()}
    types = {n: letter for n, (letter, _) in DTYPE_FIELDS.items() if vars(op).get(n) is not None}
    with symbolic_item_bytes():
        return _formulas(replace(op, **sizes, **types))


@cache
def _formulas(op: Operator) -> OperatorFormulas:
    """Of an operator whose sizes are symbols."""
    values = {name: getattr(op, name) for name in PROPERTIES}
    if values["min_flops"] in (values["tensor_core_flops"], values["cuda_core_flops"]):
        del values["min_flops"]
    shown = {name: latex(value) for name, value in values.items() if value != 0}
    formulas = (Formula(PROPERTIES[n], t, remark(type(op), n)) for n, t in shown.items())
    named = {**OPERATOR_FIELDS, **DTYPE_FIELDS}
    everything = {str(s) for value in values.values() for s in getattr(value, "free_symbols", ())}
    symbols = tuple(named[n] for n in vars(op) if n in named and named[n][0] in everything)
    return OperatorFormulas(_title(op), tuple(formulas), symbols)


def _title(op: Operator) -> str:
    flags = [n.replace("_", " ") for n, v in vars(op).items() if v is True]
    kind = [str(vars(op)["kind"])] if "kind" in vars(op) else []
    given = [f.name for f in fields(op) if f.default is None and vars(op)[f.name] is not None]
    chosen = [f"its own {name.replace('_', ' ')}" for name in given]
    extra = ", ".join(kind + [f"with {flag}" for flag in flags + chosen])
    return type(op).__name__ + (f" ({extra})" if extra else "")


@cache
def _symbol(name: str, whole: bool = True) -> Any:
    from sympy import Symbol

    return Symbol(name, positive=True, integer=whole or None)


def _field_symbol(layer: Layer, field: str, letter: str) -> Any:
    """A size that is no whole number here, such as a mean context, may be any real one."""
    return _symbol(letter, isinstance(vars(layer)[field], int))


@contextmanager
def symbolic_item_bytes() -> Iterator[None]:
    """For a while, the letters of ``DTYPE_FIELDS`` are dtypes whose items have that many bytes."""
    letters = [letter for letter, _ in DTYPE_FIELDS.values()]
    table: dict[str, Any] = ITEM_BYTES
    table.update({letter: _symbol(letter, whole=False) for letter in letters})
    try:
        yield
    finally:
        for letter in letters:
            del table[letter]


def remark(cls: type, name: str) -> str:
    """The docstring of a property, the class's own or inherited."""
    return " ".join((getattr(cls, name).__doc__ or "").split())


@lru_cache(maxsize=None, typed=True)
def latex(value: Any) -> str:
    from sympy import sympify
    from sympy.printing.latex import LatexPrinter

    words = r"\mathrm" in str(value)
    printer = LatexPrinter({"mul_symbol": "dot" if words else None})
    return str(printer.doprint(sympify(value)))


def symbolic_layer(layer: Layer) -> tuple[Layer, dict[str, str]]:
    """``layer`` with a symbol for every size that its sequence of operators does not hang on.

    Returns it with LaTeX letter by field. A size that decides which operators run (a batch of 1 is
    not copied) keeps its value, as does one that sympy cannot carry through.
    """
    names = {n: word(n) for n in sizes_of(layer)}
    if not names:
        return layer, {}
    form = layer_form(layer)
    whole = _with_symbols(layer, names, form)
    if whole is not None:
        return whole, names
    kept: dict[str, str] = {}
    for name, letter in names.items():
        tried = {**kept, name: letter}
        kept = tried if _with_symbols(layer, tried, form) is not None else kept
    return _with_symbols(layer, kept, form) or layer, kept


def sizes_of(layer: Layer) -> list[str]:
    """Fields that are numbers other than 0: a 0 means that something is left out."""
    values = vars(layer).items()
    return [n for n, v in values if isinstance(v, int | float) and not isinstance(v, bool) and v]


def word(name: str) -> str:
    """A name of several letters as one symbol."""
    return rf"\mathrm{{{name}}}".replace("_", r"\_")


def layer_form(layer: Layer) -> tuple[Any, ...]:
    """Equal for layers that run the same sequence of operators and parts, whatever their sizes."""
    return tuple(_step_form(step) for step in executed(layer))


def executed(layer: Layer) -> tuple[Call | Child, ...]:
    """The steps that compute: operators and parts, without the release of tensors."""
    return tuple(step for step in layer.steps if isinstance(step, Call | Child))


def _step_form(step: Call | Child) -> Any:
    if isinstance(step, Child):
        return (step.name, type(step.layer))
    return operator_form(step.op)


def _with_symbols(layer: Layer, names: dict[str, str], form: tuple[Any, ...]) -> Layer | None:
    """The copy, or None where the code needs a number or the symbols change what runs."""
    copy = replace(layer, **{n: _field_symbol(layer, n, s) for n, s in names.items()})  # type: ignore[type-var]
    try:
        same = layer_form(copy) == form
        # Every property is tried: some code asks for a number only there.
        costs = [costs_of(step) for step in executed(copy) if isinstance(step, Call)]
    except (TypeError, ValueError, AttributeError):
        return None
    return copy if same and costs is not None else None


TOTALS: dict[str, Callable[[Layer], Any]] = {
    "F_{tensor}": Layer.forward_tensor_core_flops,
    "F_{cuda}": Layer.forward_cuda_core_flops,
    "P": Layer.weight_parameters,
}
"""Sums over a layer and its parts; P: parameters."""


def layer_totals(layer: Layer, symbolic: Layer, names: dict[str, str]) -> dict[str, str]:
    """LaTeX of ``TOTALS`` in the layer's symbols. One is left out that is 0, or that would be
    wrong elsewhere: a part of the layer asks for a number, or chooses what runs by one.
    """
    from sympy import sympify

    if not names or height(layer) > TALLEST:
        return {}
    values = {_field_symbol(layer, n, s): sympify(vars(layer)[n]) for n, s in names.items()}
    found = {}
    for name, cost in TOTALS.items():
        try:
            formula = sympify(cost(symbolic))
            holds = formula.xreplace(values) == cost(layer)
        except (TypeError, ValueError, AttributeError):
            continue
        if holds and formula != 0:
            found[name] = latex(formula)
    return found


TALLEST = 3
"""Levels of parts in a layer beyond which its totals are too long to tell anything."""


def height(layer: Layer) -> int:
    """Levels of parts, the layer itself one of them; parts of one class count as alike."""
    parts = {type(s.layer): s.layer for s in executed(layer) if isinstance(s, Child)}
    return 1 + max((height(part) for part in parts.values()), default=0)


def costs_of(call: Call) -> tuple[Any, ...]:
    return tuple(getattr(call.op, name) * call.count for name in PROPERTIES)
