"""What the dispatcher was asked to do, without the contents of tensors."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch
from torch.utils._pytree import tree_leaves, tree_map

from model.ops import item_bytes


@dataclass(frozen=True)
class Size:
    """A tensor without its contents.

    ``expanded``: dimensions that repeat one element. ``transposed``: neighbours of the last
    dimension do not lie beside each other. ``strides``: elements from one of a dimension to the
    next; none given: dense, the last dimension innermost.
    """

    shape: tuple[int, ...]
    dtype: str
    device: str = "cpu"
    expanded: tuple[bool, ...] = ()
    transposed: bool = False
    strides: tuple[int, ...] = ()

    @property
    def numel(self) -> int:
        return math.prod(self.shape)

    @property
    def distinct(self) -> int:
        """Elements that lie in memory: an expanded dimension counts as one."""
        pairs = zip(self.shape, self.expanded, strict=True)
        return math.prod(1 if repeats else n for n, repeats in pairs)

    @property
    def nbytes(self) -> Any:
        return self.distinct * item_bytes(self.dtype)

    @property
    def is_floating(self) -> bool:
        return "float" in self.dtype


def size_of(tensor: torch.Tensor) -> Size:
    shape = tuple(tensor.shape)
    # Some layouts (sparse, nested) have no strides: they count as dense.
    plain = tensor.layout == torch.strided and tensor.numel() > 0
    strides = tensor.stride() if plain else (1,) * len(shape)
    expanded = tuple(stride == 0 for stride in strides)
    transposed = len(shape) > 1 and shape[-1] > 1 and strides[-1] > 1
    dtype = dtype_name(tensor.dtype)
    return Size(shape, dtype, tensor.device.type, expanded, transposed, tuple(strides))


@cache
def dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


@dataclass(frozen=True)
class Row:
    """One dispatched operator.

    ``name``: with the namespace left out for aten, an in-place operator with its underscore.
    ``given``: arguments by their names in the schema, tensors as :class:`Size`. ``outputs``: the
    tensors returned. ``routed``: shape of the expert indices handed to the module, [tokens, top_k],
    where there are any.
    """

    path: str
    name: str
    given: dict[str, Any]
    outputs: tuple[Size, ...]
    pointwise: bool = False
    module: int = 0
    routed: tuple[tuple[int, ...], ...] = field(default=(), repr=False)

    @property
    def inputs(self) -> tuple[Size, ...]:
        return tuple(leaf for leaf in tree_leaves(self.given) if isinstance(leaf, Size))

    @property
    def base(self) -> str:
        """The name of the operator out of place."""
        return self.name.rstrip("_") if self.in_place else self.name

    @property
    def in_place(self) -> bool:
        return self.name.endswith("_") and not self.name.endswith("__")

    @property
    def out(self) -> Size:
        return self.outputs[0]

    @property
    def read(self) -> Any:
        return sum(size.nbytes for size in self.inputs)

    @property
    def written(self) -> Any:
        return sum(size.nbytes for size in self.outputs)


def row_of(
    func: Any, path: str, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any, **more: Any
) -> Row:
    names = argument_names(func)
    given = {**dict(zip(names, args, strict=False)), **kwargs}
    sizes = {n: tree_map(_without_contents, v) for n, v in given.items()}
    outputs = tuple(size_of(t) for t in tensors(out))
    # Statistics that nobody asked for come back empty.
    whole = tuple(size for size in outputs if size.numel) or outputs
    return Row(path, name_of(func), sizes, whole, is_pointwise(func), **more)


def _without_contents(leaf: Any) -> Any:
    return size_of(leaf) if isinstance(leaf, torch.Tensor) else leaf


def tensors(tree: Any) -> Iterator[torch.Tensor]:
    return (leaf for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor))


@cache
def argument_names(func: Any) -> tuple[str, ...]:
    return tuple(argument.name for argument in func._schema.arguments)


@cache
def name_of(func: Any) -> str:
    return str(func._schema.name).removeprefix("aten::")


@cache
def is_pointwise(func: Any) -> bool:
    return torch.Tag.pointwise in func.tags


@cache
def is_view(func: Any) -> bool:
    """Whether the operator returns its input under another shape; some do without saying it."""
    aliases = [r.alias_info for r in func._schema.returns if r.alias_info is not None]
    return any(not a.is_write for a in aliases) or name_of(func) in SILENT_VIEWS


SILENT_VIEWS = ("_unsafe_view", "_reshape_alias", "detach_")


@cache
def allocates(func: Any) -> bool:
    """Whether the operator returns tensors of its own."""
    return all(r.alias_info is None for r in func._schema.returns) and not is_view(func)


@cache
def decomposes(func: Any) -> bool:
    """Whether the dispatcher has no kernel of the operator's own, on any device."""
    key = torch._C.DispatchKey.CompositeImplicitAutograd
    return bool(func.has_kernel_for_dispatch_key(key))


@cache
def asks_only(func: Any) -> bool:
    """Whether the operator is a question about a tensor's form, or a mark for a profiler."""
    if func.namespace in ("prim", "profiler", "_c10d_functional_autograd"):
        return True
    name = name_of(func)
    return name.startswith(("sym_", "is_", "_has_", "_is_", "_assert_tensor_metadata"))


Rule = Callable[[Row], Any]
"""From a row to its operator, or to several where one cannot say it exactly."""
