"""What a compiler makes of a sequence of calls: chains of pointwise work become one kernel each.

The rule, in full. Pointwise work is elementwise arithmetic, norms, softmax and copies (casts,
permutations, concatenations). Calls that follow one another are one chain while

- each is pointwise, and the host waits for none of them;
- each runs as often as the one before (``count``);
- each touches as many elements as the one before, or half, or twice as many (rotary positions turn
  one half of a head).

A number that is made on the card, as what scores are divided by, is no call: a compiler writes it
into the kernel that takes it.

A chain is one launch. Each byte that a call of the chain writes is read by a later one at most
once, from registers: it is then neither written to memory nor read from it. What is left is what
the kernel reads and writes. Products, attention, convolutions, gathers and everything without a
formula stay calls of a library.

The rule sees the order of calls and not which tensor goes where. It takes a chain's intermediates
to be needed nowhere else, which saves a residual's bytes where they are; and it fuses nothing
across a product, where a compiler may move an activation next to its use.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from model.layer import Call
from model.ops import Copy, Elementwise, Norm, Operator, Other, Softmax, item_bytes

POINTWISE = ("elementwise", "norm", "softmax", "copy")
"""Kinds of operators that a compiler generates code for."""


@dataclass(frozen=True)
class Fusion:
    """Calls after fusing. ``chains``: kinds of a chain of several -> how many such chains run."""

    calls: list[Call]
    chains: dict[tuple[str, ...], int]
    launches_before: int
    launches: int
    saved_bytes: float


def fuse(calls: Sequence[Call]) -> Fusion:
    """The calls of one pass, in order, as a compiler would launch them."""
    fused: list[Call] = []
    chains: Counter[tuple[str, ...]] = Counter()
    for chain in _chains(call for call in calls if not _makes_a_number(call.op)):
        kinds = tuple(call.op.operator for call in chain)
        if kinds[0] not in POINTWISE:
            fused += chain
            continue
        if len(chain) > 1:
            chains[kinds] += chain[0].count
        fused.append(_one_kernel(chain))
    return Fusion(
        fused, dict(chains), _launches(calls), _launches(fused), _bytes(calls) - _bytes(fused)
    )


def with_fused_norms(calls: Sequence[Call]) -> list[Call]:
    """The calls with each norm that Python writes as several kernels in one, and nothing else."""
    return [
        _one_kernel([call]) if isinstance(call.op, Norm) and call.launches > 1 else call
        for call in calls
    ]


def _makes_a_number(op: Operator) -> bool:
    made = isinstance(op, Other) and not (op.unknown or op.read)
    return made and 0 < op.bytes_written <= item_bytes(str(vars(op)["dtype"]))


def _chains(calls: Iterable[Call]) -> Iterable[list[Call]]:
    chain: list[Call] = []
    for call in calls:
        if chain and not _follows(chain[-1], call):
            yield chain
            chain = []
        chain.append(call)
    if chain:
        yield chain


def _follows(last: Call, call: Call) -> bool:
    kinds = last.op.operator, call.op.operator
    if any(kind not in POINTWISE for kind in kinds) or last.sync or last.count != call.count:
        return False
    small, large = sorted((_elements(last.op), _elements(call.op)))
    return bool(large in (small, 2 * small))


def _elements(op: Operator) -> float:
    """Of the largest tensor that a pointwise operator touches."""
    if isinstance(op, Norm | Softmax):
        return op.rows * op.cols
    if isinstance(op, Copy):
        return max(op.elements, op.out_elements or 0)
    assert isinstance(op, Elementwise)
    return op.elements


def _one_kernel(chain: Sequence[Call]) -> Call:
    """The chain as one elementwise call with what it still reads and writes, at its last path."""
    last = chain[-1]
    if len(chain) == 1 and not isinstance(last.op, Norm):
        return replace(last, launches=min(last.launches, 1))
    read = waiting = 0  # waiting: bytes written by the chain that none of it has read yet
    for call in chain:
        from_registers = min(waiting, call.op.bytes_read)
        read += call.op.bytes_read - from_registers
        waiting += call.op.bytes_written - from_registers
    dtype = str(vars(chain[0].op)["dtype"])
    out_dtype = str(vars(last.op).get("out_dtype") or vars(last.op)["dtype"])
    elements = _whole(waiting, item_bytes(out_dtype))
    whole = elements * item_bytes(dtype)
    inputs = int(read // whole)
    op = Elementwise(
        elements=elements,
        inputs=inputs,
        flops_per_element=_whole(sum(c.op.cuda_core_flops for c in chain), elements),
        dtype=dtype,
        broadcast=_whole(read - inputs * whole, item_bytes(dtype), least=0),
        out_dtype=out_dtype,
    )
    return Call(last.path, op, last.count, 1, last.sync, last.gradient)


def _whole(amount: float, unit: float, least: int = 1) -> int:
    """``amount`` in units, rounded up."""
    return max(int(-(-amount // unit)), least)


def _launches(calls: Iterable[Call]) -> int:
    return int(sum(c.launches * c.count for c in calls))


def _bytes(calls: Iterable[Call]) -> float:
    return float(sum(c.op.bytes * c.count for c in calls))
