"""A user's own formula for an operator of the user's own."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from calib.errors import CalibError
from calib.trace.rules import table
from calib.trace.rules.rows import Row, name_of
from model.ops import Operator

Formula = Callable[..., "int | Operator | Iterable[Operator]"]


def formula(*targets: Any) -> Callable[[Formula], Formula]:
    """Register what an operator costs, as ``torch.utils.flop_counter`` registers FLOPs.

    ``targets``: operators of ``torch.ops``, with or without an overload, functions made by
    ``torch.library.custom_op``, or names such as ``"mine::attention"``. The formula is called with
    the arguments by the names of the operator's schema, and ``out`` for what it returned; tensors
    are :class:`~calib.trace.rules.rows.Size`, which have a shape, a dtype and bytes. It returns the
    FLOPs of its products, a number beside which the bytes are those of every tensor touched once;
    or an operator of :mod:`model.ops`, or several.

        @formula(torch.ops.mine.low_rank)
        def low_rank(x, down, up, out):
            return 2 * x.numel * down.shape[1] + 2 * out.numel * up.shape[0]

    Raises ``CalibError`` for what is no operator, and for one that has a rule already.
    """

    def register(cost: Formula) -> Formula:
        for name in [named(target) for target in targets]:
            if name in table.RULES:
                raise CalibError(f"formula: {name} has a rule already: expected another operator")
            table.RULES[name] = rule_of(cost)
        return cost

    return register


def rule_of(cost: Formula) -> Callable[[Row], tuple[Operator, ...]]:
    def rule(row: Row) -> tuple[Operator, ...]:
        out: Any = row.outputs if len(row.outputs) != 1 else row.out
        found = cost(**row.given, out=out)
        if isinstance(found, Operator):
            return (found,)
        return tuple(found) if isinstance(found, Iterable) else table.counted(row, int(found))

    return rule


def named(target: Any) -> str:
    """The name by which rules know an operator."""
    if isinstance(target, str):
        return target.removeprefix("aten::")
    target = getattr(target, "_opoverload", target)  # of torch.library.custom_op
    if hasattr(target, "overloads"):  # a packet
        target = getattr(target, target.overloads()[0])
    if not hasattr(target, "_schema"):
        raise CalibError(
            f"formula: {target!r}: expected an operator of torch.ops, a function made by "
            "torch.library.custom_op, or a name such as 'mine::attention'"
        )
    return name_of(target)
