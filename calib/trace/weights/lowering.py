"""A traced pass as a stack runs it on narrow weights.

The model is traced in its dtype; here the products of what a release quantised become those of the
:class:`Format`: both factors narrow, where the card has units for that, with a kernel before it
that makes the activations so; else weights that are widened on the way. Parameters take the bytes
that the release stores, scales and zero points included, keys and values the type that it names.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from calib.trace.passes import Traced
from calib.trace.tree import TracedLayer
from calib.trace.weights.formats import Format
from calib.trace.weights.inventory import Held, Matrices
from calib.trace.weights.scheme import Scheme
from model.layer import Call, Child, Live, Step, call, join
from model.ops import (
    REST,
    Copy,
    Elementwise,
    GroupedMatmul,
    Matmul,
    Operator,
    Other,
    item_bytes,
)


@dataclass(frozen=True, eq=False)
class StoredLayer(TracedLayer):
    """A module whose parameters lie in memory as a release stores them.

    ``stored_bytes``: of its own parameters, None: in their dtype. ``cache_share``: bytes of its
    keys and values over those of the type that was traced.
    """

    stored_bytes: float | None = None
    cache_share: float = 1.0

    def own_weight_bytes(self) -> Any:
        return super().own_weight_bytes() if self.stored_bytes is None else self.stored_bytes

    def own_kv_cache_bytes(self) -> int:
        return round(self.cache_bytes * self.cache_share)


@dataclass(frozen=True)
class Stored:
    """One module's matrices and their format on a ``card``, a compute capability; None: a CPU."""

    held: Held
    format: Format
    card: str | None

    @property
    def nbytes(self) -> float:
        narrow = sum(m.count * self.format.stored_bytes(m.n, m.k) for m in self.held.matrices)
        return narrow + self.held.rest_bytes

    def matrices_of(self, op: Operator) -> Matrices | None:
        """Those that ``op`` multiplies, by their shape."""
        if not isinstance(op, Matmul | GroupedMatmul) or op.weight_dtype is not None:
            return None
        sides = {(op.n, op.k)} if isinstance(op, GroupedMatmul) else {(op.n, op.k), (op.m, op.k)}
        return next((m for m in self.held.matrices if m.product in sides), None)


def lowered(
    traced: Traced,
    scheme: Scheme,
    held: Mapping[str, Held],
    dtype: str,
    card: str | None = None,
) -> Traced:
    """``traced`` of a model of ``dtype`` that holds ``held``, with what ``scheme`` quantised."""
    stored = {
        path: Stored(own, format_, card)
        for path, own in held.items()
        if (format_ := scheme.format_of(path, own)) is not None
    }
    share = item_bytes(scheme.kv_dtype) / item_bytes(dtype) if scheme.kv_dtype else 1.0
    phases = {
        name: replace(phase, layer=_lower(phase.layer, "", stored, share))
        for name, phase in traced.phases.items()
    }
    saved = sum(s.held.wide_bytes + s.held.rest_bytes - s.nbytes for s in stored.values())
    growing = tuple((round(each * share), window) for each, window in traced.growth.growing)
    growth = replace(traced.growth, growing=growing)
    weights = round(traced.weight_bytes - saved)
    return replace(traced, phases=phases, growth=growth, weight_bytes=weights)


def _lower(layer: Any, path: str, stored: Mapping[str, Stored], share: float) -> StoredLayer:
    own = stored.get(path)
    steps: list[Step] = []
    for step in layer.steps:
        if isinstance(step, Child):
            below = _lower(step.layer, join(path, step.name), stored, share)
            steps.append(Child(step.name, below))
        elif isinstance(step, Call) and own is not None:
            steps += _product(step, own)
        else:
            steps.append(step)
    values = {f.name: getattr(layer, f.name) for f in fields(layer)}
    nbytes = own.nbytes if own is not None and layer.count else None
    made: dict[str, Any] = {"stored_bytes": nbytes, "cache_share": share}
    return StoredLayer(**{**values, **made, "steps": tuple(steps)})


def _product(step: Call, stored: Stored) -> Iterator[Step]:
    """The steps of a product; any other call as it is."""
    op: Any = step.op
    matrices = stored.matrices_of(op)
    if matrices is None:
        yield step
        return
    form = stored.format
    rows = op.rows if isinstance(op, GroupedMatmul) else op.m * op.batch
    if form.multiplies_narrow(stored.card):
        yield from _both_narrow(step, op, rows, str(form.activation))
    elif form.unpacks and isinstance(op, Matmul) and op.m > 1:
        yield from _unpacked(step, op, form)
    else:
        yield replace(step, op=replace(op, weight_dtype=form.weight))
    read = op.experts_read if isinstance(op, GroupedMatmul) else 1
    beside = read * matrices.fused * form.beside_bytes(matrices.n, matrices.k)
    if beside:
        yield replace(step, op=Other(REST, beside, dtype=op.dtype), launches=0)


def _both_narrow(step: Call, op: Any, rows: int, narrow: str) -> Iterator[Step]:
    """Activations made narrow, once for each execution, and freed after the product."""
    made = Elementwise(rows * op.k, dtype=op.dtype, out_dtype=narrow)
    yield call(made, step.count)
    yield replace(step, op=replace(op, dtype=narrow, out_dtype=op.dtype))
    yield Live(-made.bytes_written * step.count)


def _unpacked(step: Call, op: Matmul, form: Format) -> Iterator[Step]:
    """A kernel that widens the whole matrix, then the product in the model's dtype."""
    wide = Copy(op.n * op.k, form.weight, op.dtype)
    yield call(wide, step.count)
    yield step
    yield Live(-wide.bytes_written * step.count)
