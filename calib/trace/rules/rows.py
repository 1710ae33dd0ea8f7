"""What the dispatcher was asked to do, without the contents of tensors."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

import torch
from torch._ops import HigherOrderOperator
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.flop_counter import flop_registry

from model.ops import Operator, Other, is_floating, item_bytes


@dataclass(frozen=True)
class Size:
    """A tensor without its contents.

    ``expanded``: dimensions that repeat one element. ``transposed``: neighbours of the last
    dimension do not lie beside each other. ``strides``: elements from one of a dimension to the
    next; none given: dense, the last dimension innermost. ``values``: of starts of sequences that
    lie one after the other, where a real run knows them. ``ragged``: several of unlike sizes, of
    which ``shape`` is the mean. ``again``: the very tensor that an argument before it is.
    """

    shape: tuple[int, ...]
    dtype: str
    device: str = "cpu"
    expanded: tuple[bool, ...] = ()
    transposed: bool = False
    strides: tuple[int, ...] = ()
    values: tuple[int, ...] = ()
    ragged: bool = False
    again: bool = False

    @property
    def numel(self) -> int:
        return round(math.prod(self.shape))

    @property
    def distinct(self) -> int:
        """Elements that lie in memory: an expanded dimension counts as one."""
        if not any(self.expanded):
            return self.numel
        pairs = zip(self.shape, self.expanded, strict=True)
        return math.prod(1 if repeats else n for n, repeats in pairs)

    @property
    def nbytes(self) -> Any:
        return self.distinct * item_bytes(self.dtype)

    @property
    def is_floating(self) -> bool:
        return is_floating(self.dtype)


def size_of(tensor: torch.Tensor) -> Size:
    if tensor.is_nested:
        return nested_size(tensor)
    shape = tuple(tensor.shape)
    # Some layouts (sparse, nested) have no strides: they count as dense.
    plain = tensor.layout == torch.strided and tensor.numel() > 0
    strides = tensor.stride() if plain else (1,) * len(shape)
    expanded = tuple(stride == 0 for stride in strides)
    transposed = len(shape) > 1 and shape[-1] > 1 and strides[-1] > 1
    dtype = dtype_name(tensor.dtype)
    return Size(shape, dtype, tensor.device.type, expanded, transposed, tuple(strides))


def nested_size(tensor: torch.Tensor) -> Size:
    """How many there are, and their mean size in each dimension."""
    sizes = tensor._nested_tensor_size().double()
    means = (float(mean) for mean in sizes.mean(0))
    shape: Any = (len(sizes), *(int(mean) if mean.is_integer() else mean for mean in means))
    ragged = bool((sizes != sizes[0]).any())
    return Size(shape, dtype_name(tensor.dtype), tensor.device.type, ragged=ragged)


@cache
def dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


@dataclass(frozen=True)
class Row:
    """One dispatched operator.

    ``name``: with the namespace left out for aten, an in-place operator with its underscore.
    ``given``: arguments by their names in the schema, tensors as :class:`Size`. ``outputs``: the
    tensors returned. ``routed``: shape of the expert indices handed to the module, [tokens, top_k],
    where there are any. ``on_card``: what the target would run is asked, whatever the tensors are
    on. ``counted``: FLOPs by a formula of ``torch.utils.flop_counter``, where there is one.
    """

    path: str
    name: str
    given: dict[str, Any]
    outputs: tuple[Size, ...]
    pointwise: bool = False
    module: int = 0
    routed: tuple[tuple[int, ...], ...] = field(default=(), repr=False)
    on_card: bool = False
    counted: int | None = None

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
    seen: set[int] = set()
    sizes = {n: _without_contents(v, seen) for n, v in given.items()}
    sizes |= {n: v for n, v in defaults(func).items() if n not in given}
    for name in STARTS.intersection(given):
        if given[name] is not None and is_real(given[name]):
            sizes[name] = replace(sizes[name], values=tuple(given[name].tolist()))
    outputs = tuple(size_of(t) for t in tensors(out))
    # Statistics that nobody asked for come back empty.
    whole = tuple(size for size in outputs if size.numel) or outputs
    return Row(path, name_of(func), sizes, whole, is_pointwise(func), **more)


STARTS_OF_QUERIES = ("cum_seq_q", "cu_seq_q", "cu_seqlens_q")
STARTS_OF_KEYS = ("cum_seq_k", "cu_seq_k", "cu_seqlens_k")
STARTS = {*STARTS_OF_QUERIES, *STARTS_OF_KEYS}
"""Names of arguments that say where sequences start that lie one after the other, and the end."""


def is_real(tensor: torch.Tensor) -> bool:
    """Whether it has contents."""
    return not isinstance(tensor, FakeTensor) and tensor.device.type != "meta"


def _without_contents(value: Any, seen: set[int]) -> Any:
    """``seen``: what has been met among the arguments, by identity."""
    if isinstance(value, torch.Tensor):
        size = size_of(value)
        again = id(value) in seen
        seen.add(id(value))
        return replace(size, again=True) if again else size
    is_tree = isinstance(value, list | tuple | dict)
    return tree_map(lambda leaf: _without_contents(leaf, seen), value) if is_tree else value


def counted_by_torch(func: Any, args: Any, kwargs: Any, out: Any) -> int | None:
    """What somebody has registered with torch's FLOP counter for an operator."""
    formula = flop_registry.get(getattr(func, "_overloadpacket", func))
    return None if formula is None else int(formula(*args, **kwargs, out_val=out))


def tensors(tree: Any) -> Iterator[torch.Tensor]:
    return (leaf for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor))


@cache
def argument_names(func: Any) -> tuple[str, ...]:
    if isinstance(func, HigherOrderOperator):
        given = inspect.signature(func.__call__).parameters
        return tuple(name for name in given if name not in ("args", "kwargs"))
    return tuple(argument.name for argument in func._schema.arguments)


@cache
def defaults(func: Any) -> dict[str, Any]:
    """Values of the arguments that need not be given; the dispatcher leaves them out."""
    if isinstance(func, HigherOrderOperator):
        return {}
    return {a.name: a.default_value for a in func._schema.arguments if a.has_default_value()}


@cache
def name_of(func: Any) -> str:
    if isinstance(func, HigherOrderOperator):  # takes functions, and has no schema
        return str(func.name())
    return str(func._schema.name).removeprefix("aten::")


@cache
def is_pointwise(func: Any) -> bool:
    return torch.Tag.pointwise in getattr(func, "tags", ())


@cache
def is_view(func: Any) -> bool:
    """Whether the operator returns its input under another shape; some do without saying it."""
    if isinstance(func, HigherOrderOperator):
        return False
    if torch.Tag.inplace_view in func.tags:
        return True
    aliases = [r.alias_info for r in func._schema.returns if r.alias_info is not None]
    return any(not a.is_write for a in aliases) or name_of(func) in SILENT_VIEWS


SILENT_VIEWS = (
    *("_unsafe_view", "_reshape_alias", "detach_", "unsafe_split", "unsafe_split_with_sizes"),
    *("resolve_conj", "resolve_neg"),
)


@cache
def allocates(func: Any) -> bool:
    """Whether the operator returns tensors of its own."""
    if isinstance(func, HigherOrderOperator):
        return True
    return all(r.alias_info is None for r in func._schema.returns) and not is_view(func)


@cache
def decomposes(func: Any) -> bool:
    """Whether cards have no kernel of the operator's own. Where some device has none, the same name
    has a composite beside it: what a CPU has of its own, a card has too, but for shuffled channels.
    """
    if isinstance(func, HigherOrderOperator):
        return False
    composite, cpu = (
        getattr(torch._C.DispatchKey, key) for key in ("CompositeImplicitAutograd", "CPU")
    )
    own = func.has_kernel_for_dispatch_key(cpu) and name_of(func) != "native_channel_shuffle"
    return bool(func.has_kernel_for_dispatch_key(composite)) and not own


@cache
def asks_only(func: Any) -> bool:
    """Whether the operator is a question about a tensor's form, or a mark for a profiler."""
    if func.namespace in ("prim", "profiler", "_c10d_functional_autograd"):
        return True
    name = name_of(func)
    return name.startswith(("sym_", "is_", "_has_", "_is_", "_assert_tensor_metadata"))


@dataclass(frozen=True)
class Part:
    """An operator that runs ``count`` times inside a dispatched one, with so many ``launches``."""

    op: Operator
    count: int = 1
    launches: int = 1


def at_least(row: Row) -> Part:
    """Nothing of its own, but a word that ``row`` may be more work than its operators say: products
    over sequences of unlike lengths are more than those of their mean."""
    return Part(Other(row.base, dtype=row.out.dtype, unknown=True), launches=0)


Rule = Callable[[Row], "tuple[Operator | Part, ...]"]
"""From a row to its operator, or to several where one cannot say it exactly."""
