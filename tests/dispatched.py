"""What a real module dispatches: every aten operator, the module it ran in, the tensors it touched.

Shared by tests that compare our calls with the implementation in ``transformers``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from model.layer import Call

KINDS = {
    "matmul": ("mm", "addmm", "bmm"),
    "grouped_matmul": ("_grouped_mm",),
    "conv2d": ("convolution",),
    "attention": ("_scaled_dot_product_flash_attention_for_cpu",),
    "norm": ("native_layer_norm",),
    "softmax": ("_softmax",),
    "copy": ("cat", "clone", "_to_copy", "constant_pad_nd"),
    "gather": ("index", "embedding"),
    "elementwise": (
        "add mul sub neg silu gelu sigmoid cos sin floor_divide gt le lt bitwise_and bitwise_or"
    ).split(),
}
KIND_OF = {name: kind for kind, names in KINDS.items() for name in names}


@dataclass(frozen=True)
class Dispatched:
    """One operator: where, which, and (shape, dtype) of the tensors it read and returned."""

    path: str
    name: str
    inputs: tuple[torch.Tensor, ...]
    outputs: tuple[torch.Tensor, ...]

    @property
    def kind(self) -> str:
        return KIND_OF.get(self.name, "other")


class Recorder(TorchDispatchMode):
    """Records non-view operators with the path of the innermost module that runs."""

    def __init__(self, module: torch.nn.Module, forget: bool = True) -> None:
        super().__init__()
        self.rows: list[Dispatched] = []
        self.forget = forget
        self.stack: list[str] = [""]
        for path, part in module.named_modules():
            part.register_forward_pre_hook(lambda m, a, path=path: self.stack.append(path))
            part.register_forward_hook(lambda m, a, out: self.leave())

    def leave(self) -> None:
        self.stack.pop()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        if not is_view(func):
            row = Dispatched(
                self.stack[-1],
                func._schema.name.removeprefix("aten::"),
                shells((args, kwargs)),
                shells(out),
            )
            self.rows.append(row)
        return out


def is_view(func: Any) -> bool:
    """A view returns its input under another shape; ``_unsafe_view`` does so without saying it."""
    aliases = [r.alias_info for r in func._schema.returns if r.alias_info is not None]
    return any(not a.is_write for a in aliases) or func._schema.name == "aten::_unsafe_view"


def shells(tree: Any) -> tuple[torch.Tensor, ...]:
    """The tensors of a tree as meta tensors: sizes without memory."""
    tensors = [leaf for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor)]
    with torch.utils._python_dispatch._disable_current_modes():
        return tuple(torch.empty(t.shape, dtype=t.dtype, device="meta") for t in tensors)


def record(module: torch.nn.Module, run: Callable[[], Any]) -> list[Dispatched]:
    """The operators that ``run`` dispatches without gradients."""
    recorder = Recorder(module)
    with torch.no_grad(), recorder:
        run()
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
