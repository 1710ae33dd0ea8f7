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
        Size(tuple(leaf.shape), leaf.dtype)
        for leaf in tree_leaves(tree)
        if isinstance(leaf, torch.Tensor)
    )


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
