"""What a real module dispatches: every aten operator, the module it ran in, the tensors it touched.

Shared by tests that compare our calls with the implementation in ``transformers``.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from model.layer import Call, join

KINDS = {
    "matmul": ("mm", "addmm", "bmm"),
    "grouped_matmul": ("_grouped_mm",),
    "conv2d": ("convolution",),
    "attention": ("_scaled_dot_product_flash_attention_for_cpu",),
    "norm": ("native_layer_norm",),
    "softmax": ("_softmax",),
    "copy": ("cat", "clone", "_to_copy", "constant_pad_nd"),
    "gather": ("index", "embedding"),
    "elementwise": [
        "add",
        "mul",
        "sub",
        "neg",
        "silu",
        "gelu",
        "sigmoid",
        "cos",
        "sin",
        "floor_divide",
        "gt",
        "le",
        "lt",
        "bitwise_and",
        "bitwise_or",
    ],
}
KIND_OF = {name: kind for kind, names in KINDS.items() for name in names}


@dataclass(frozen=True)
class Size:
    """A tensor without its contents."""

    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def nbytes(self) -> int:
        """Bytes of its distinct elements: an expanded dimension counts as one."""
        return math.prod(self.shape) * self.dtype.itemsize


@dataclass(frozen=True)
class Dispatched:
    """One operator: where, which, and the tensors that it was given and returned."""

    path: str
    name: str
    inputs: tuple[Size, ...]
    outputs: tuple[Size, ...]

    @property
    def kind(self) -> str:
        return KIND_OF.get(self.name, "other")


class Recorder(TorchDispatchMode):
    """Records non-view operators with the path of the innermost module that runs."""

    def __init__(self, module: torch.nn.Module, path: str = "") -> None:
        super().__init__()
        self.rows: list[Dispatched] = []
        self.stack = [path]
        self.hooks = []
        for name, part in module.named_modules():
            self.hooks += [
                part.register_forward_pre_hook(self.enter(join(path, name))),
                part.register_forward_hook(self.leave),
            ]

    def enter(self, path: str) -> Callable[..., None]:
        return lambda module, args: self.stack.append(path)

    def leave(self, module: torch.nn.Module, args: Any, out: Any) -> None:
        self.stack.pop()

    def close(self) -> None:
        for hook in self.hooks:
            hook.remove()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        if func.namespace == "aten" and not is_view(func):
            row = Dispatched(
                self.stack[-1],
                func._schema.name.removeprefix("aten::"),
                sizes((args, kwargs)),
                sizes(out),
            )
            self.rows.append(row)
        return out


def is_view(func: Any) -> bool:
    """A view returns its input under another shape; ``_unsafe_view`` does so without saying it."""
    aliases = [r.alias_info for r in func._schema.returns if r.alias_info is not None]
    return any(not a.is_write for a in aliases) or func._schema.name == "aten::_unsafe_view"


def sizes(tree: Any) -> tuple[Size, ...]:
    return tuple(
        Size(
            tuple(n if stride else 1 for n, stride in zip(leaf.shape, strides(leaf), strict=True)),
            leaf.dtype,
        )
        for leaf in tree_leaves(tree)
        if isinstance(leaf, torch.Tensor)
    )


def strides(tensor: torch.Tensor) -> tuple[int, ...]:
    return tensor.stride() if tensor.numel() else (1,) * tensor.dim()


WRITES_INTO = {"index_put_"}
"""Operators whose first tensor is not read but written."""
READS_NOTHING = {"new_zeros", "new_ones", "empty_like", "arange"}
STATISTICS = {"native_layer_norm": 1, "_scaled_dot_product_flash_attention_for_cpu": 1}
"""Tensors of the result that count; the others are kept for a gradient."""


def bytes_read(row: Dispatched) -> int:
    """An embedding reads the rows it picks, as many as it returns, not its whole table; where
    the rows of each expert end is no part of a grouped product."""
    if row.name in READS_NOTHING:
        return 0
    if row.kind == "grouped_matmul":
        return sum(size.nbytes for size in row.inputs if size.dtype.is_floating_point)
    inputs = [size.nbytes for size in row.inputs]
    if row.kind == "gather":
        return sum(inputs[1:]) + row.outputs[0].nbytes
    return sum(inputs[1:]) if row.name in WRITES_INTO else sum(inputs)


def bytes_written(row: Dispatched) -> int:
    if row.name == "empty_like":
        return 0
    return sum(size.nbytes for size in row.outputs[: STATISTICS.get(row.name)])


def grouped(rows: list[Dispatched], norms: set[str]) -> dict[str, list[tuple[int, int]]]:
    """Bytes read and written of every operator by path; of a norm written as several, what it
    reads at its start, its weight, and what it writes at its end."""
    touched: dict[str, list[tuple[int, int]]] = {}
    for row in rows:
        touched.setdefault(row.path, []).append((bytes_read(row), bytes_written(row)))
    for path in norms:
        first, last = (next(r for r in rows[::d] if r.path == path) for d in (1, -1))
        weight = min(size.nbytes for size in last.inputs)
        touched[path] = [(bytes_read(first) + weight, bytes_written(last))]
    return touched


def record(module: torch.nn.Module, run: Callable[[], Any], path: str = "") -> list[Dispatched]:
    """The operators that ``run`` dispatches without gradients; ``path``: where it starts."""
    recorder = Recorder(module, path)
    with torch.no_grad(), recorder:
        run()
    recorder.close()
    return recorder.rows


def launches_by_path(calls: list[Call]) -> Counter[str]:
    count: Counter[str] = Counter()
    for call in calls:
        count[call.path] += call.launches * call.count
    return count


def kinds_by_path(calls: list[Call]) -> dict[str, list[str]]:
    """The kinds in order; a norm of several launches stands for all of them."""
    kinds: dict[str, list[str]] = {}
    for call in calls:
        kind = call.op.operator
        name = f"{kind} of {call.launches}" if call.launches > 1 else kind
        kinds.setdefault(call.path, []).extend([name] * call.count)
    return kinds


def dispatched_kinds_by_path(rows: list[Dispatched], norms: set[str]) -> dict[str, list[str]]:
    """The same for a recording; ``norms``: paths of norms written as several operators."""
    kinds: dict[str, list[str]] = {}
    for row in rows:
        kinds.setdefault(row.path, []).append(row.kind)
    return {p: [f"norm of {len(k)}"] if p in norms else k for p, k in kinds.items()}
