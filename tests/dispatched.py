"""What a real module dispatches: every aten operator, the module it ran in, the tensors it touched.

Shared by tests that compare our calls with the implementation in ``transformers``.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from model.layer import Call, join
from model.ops import GroupedMatmul

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
        "eq",
        "ge",
        "div_",
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
    transposed: bool = False

    @property
    def kind(self) -> str:
        """Rows picked by one index are a gather; elements picked by several are not."""
        if self.name == "index" and len(self.inputs) > 2:
            return "other"
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
                func._schema.name in WALKS_ROWS and is_transposed(args[0]),
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


WALKS_ROWS = {"aten::native_layer_norm", "aten::add"}
"""Operators whose time we take to depend on how the first tensor lies in memory."""


def is_transposed(tensor: torch.Tensor) -> bool:
    """Whether neighbours of the last dimension do not lie beside each other."""
    return tensor.dim() > 1 and tensor.shape[-1] > 1 and tensor.stride(-1) != 1


def strides(tensor: torch.Tensor) -> tuple[int, ...]:
    return tensor.stride() if tensor.numel() else (1,) * tensor.dim()


WRITES_INTO = {"index_put_", "fill_"}
"""Operators whose first tensor is not read but written."""
READS_NOTHING = {"new_zeros", "new_ones", "empty_like", "arange", "full", "scalar_tensor"}
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


def touched_by_path(
    rows: list[Dispatched], norms: dict[str, int]
) -> dict[str, list[tuple[int, int]]]:
    """Bytes read and written of every operator by path, sorted; of a norm written as several,
    what it reads at its start, its weight, and what it writes at its end."""
    found: dict[str, list[tuple[int, int]]] = {}
    for path, of_path in by_path(rows).items():
        if path in norms:
            found[path] = [norm_bytes(part) for part in parts(of_path, norms[path])]
        else:
            found[path] = [(bytes_read(row), bytes_written(row)) for row in of_path]
    return {path: sorted(pairs) for path, pairs in found.items()}


def norm_bytes(rows: list[Dispatched]) -> tuple[int, int]:
    weight = min(size.nbytes for size in rows[-1].inputs)
    return bytes_read(rows[0]) + weight, bytes_written(rows[-1])


def listed_bytes_by_path(calls: list[Call]) -> dict[str, list[tuple[int, int]]]:
    """The same of our calls, where a grouped product has the weights of all experts before it."""
    found: dict[str, list[tuple[int, int]]] = {}
    for call in calls:
        op = call.op
        if isinstance(op, GroupedMatmul):
            op = replace(op, active_experts=op.experts)
        found.setdefault(call.path, []).extend([(op.bytes_read, op.bytes_written)] * call.count)
    return {path: sorted(pairs) for path, pairs in found.items()}


def by_path(rows: list[Dispatched]) -> dict[str, list[Dispatched]]:
    found: dict[str, list[Dispatched]] = {}
    for row in rows:
        found.setdefault(row.path, []).append(row)
    return found


def parts(rows: list[Dispatched], size: int) -> list[list[Dispatched]]:
    return [rows[start : start + size] for start in range(0, len(rows), size)]


def composite_norms(calls: list[Call]) -> dict[str, int]:
    """Launches of each norm that is written as several operators, by path."""
    return {c.path: c.launches for c in calls if c.op.operator == "norm" and c.launches > 1}


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


def dispatched_kinds_by_path(rows: list[Dispatched], norms: dict[str, int]) -> dict[str, list[str]]:
    """The same of a recording, with the launches of each norm written as several operators."""
    kinds: dict[str, list[str]] = {}
    for path, of_path in by_path(rows).items():
        if path in norms:
            kinds[path] = [f"norm of {len(part)}" for part in parts(of_path, norms[path])]
        else:
            kinds[path] = [row.kind for row in of_path]
    return kinds


def assert_same_operators(calls: list[Call], rows: list[Dispatched]) -> None:
    """As many launches in every module, of the same kinds in the same order, touching as many
    bytes as the tensors of the real operators have."""
    norms = composite_norms(calls)
    assert launches_by_path(calls) == Counter(row.path for row in rows)
    assert kinds_by_path(calls) == dispatched_kinds_by_path(rows, norms)
    assert listed_bytes_by_path(calls) == touched_by_path(rows, norms)
    across = Counter(row.path for row in rows if row.transposed)
    assert Counter(c.path for c in calls if getattr(c.op, "transposed", False)) == across
