"""Times of operators: a ``torch.profiler`` pass in which every module is a named range.

The profiler records a tree of calls. An operator here is what the dispatcher hands to a kernel:
composite functions (``linear``, ``reshape``, ``to``) are looked through, what a kernel calls
inside itself belongs to it, and views are left out. Each operator goes to the innermost range
around it, which is its module's path.

Recording costs time for every event, also for those within an operator. ``nested`` counts them, and
:func:`event_seconds` measures what one costs, so that a time can be corrected and is known to be.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from calib.measure.reference_run import synchronise

if TYPE_CHECKING:
    from torch.autograd.profiler_util import FunctionEvent

MARK = "calib:"
"""Before a module's path in the name of its range."""

KINDS = {
    "matmul": ("mm", "addmm", "bmm", "baddbmm"),
    "grouped_matmul": ("_grouped_mm", "grouped_mm_fallback"),
    "attention": (
        "_scaled_dot_product_flash_attention_for_cpu",
        "_scaled_dot_product_flash_attention",
        "_scaled_dot_product_efficient_attention",
        "_scaled_dot_product_cudnn_attention",
        "_scaled_dot_product_attention_math_for_mps",
        "_scaled_dot_product_fused_attention_overrideable",
    ),
    "conv2d": ("convolution", "cudnn_convolution", "mkldnn_convolution"),
    "norm": ("native_layer_norm", "_fused_rms_norm"),
    "softmax": ("_softmax",),
    "gather": ("embedding", "index", "index_select", "gather"),
    "copy": ("_to_copy", "clone", "copy_", "cat", "constant_pad_nd", "contiguous"),
    "elementwise": (
        *("add", "sub", "mul", "div", "pow", "rsqrt", "neg", "exp", "cos", "sin", "floor_divide"),
        *("silu", "gelu", "sigmoid", "tanh", "le", "lt", "ge", "gt", "eq", "ne"),
        *("bitwise_and", "bitwise_or", "logical_and", "logical_or", "__and__", "__or__"),
        *("remainder", "clamp", "where", "masked_fill"),
    ),
}
KIND_OF = {name: kind for kind, names in KINDS.items() for name in names}
"""Our kind of operator by the name of theirs; whatever is not here is ``other``."""


@dataclass(frozen=True)
class OperatorEvent:
    """One operator as it ran: ``aten`` its name with overload, ``shapes`` those of its inputs.

    ``seconds`` [s]: on a CPU the call itself, on CUDA its kernels. ``nested``: events inside it.
    """

    path: str
    aten: str
    shapes: str
    seconds: float
    nested: int

    @property
    def kind(self) -> str:
        return kind_of(self.aten)


@dataclass(frozen=True)
class Profile:
    """One pass under the profiler: wall time, all events of the host, and the operators in order."""

    seconds: float
    events: int
    operators: tuple[OperatorEvent, ...]


class Ranges:
    """An observer that opens a named range for every module."""

    def __init__(self) -> None:
        self._open: list[Any] = []

    def enter(self, path: str) -> None:
        from torch.profiler import record_function

        opened = record_function(MARK + path)
        opened.__enter__()
        self._open.append(opened)

    def leave(self, path: str) -> None:
        self._open.pop().__exit__(None, None, None)


def profile_pass(run: Callable[[], Any], device: str) -> Profile:
    """Run once under the profiler. ``run`` has its modules observed by :class:`Ranges`."""
    import torch
    from torch.profiler import ProfilerActivity, profile

    quiet()
    on_device = torch.device(device).type == "cuda"
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * on_device
    with profile(
        activities=activities,
        record_shapes=True,
        experimental_config=torch._C._profiler._ExperimentalConfig(capture_overload_names=True),
    ) as profiler:
        synchronise(device)
        start = time.perf_counter()
        run()
        synchronise(device)
        seconds = time.perf_counter() - start
    events = [e for e in profiler.events() if e.device_type == torch.autograd.DeviceType.CPU]
    return Profile(seconds, len(events), tuple(operators_of(events, on_device)))


def quiet() -> None:
    """Keep the profiler's library from writing a line to stderr whenever it starts or stops."""
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")


def operators_of(events: Iterable[FunctionEvent], on_device: bool) -> Iterator[OperatorEvent]:
    """The operators among ``events``, by the time at which they start."""
    roots = [e for e in events if e.cpu_parent is None]
    for root in sorted(roots, key=_start):
        yield from _walk(root, "", on_device)


def _start(event: FunctionEvent) -> float:
    return event.time_range.start


def _walk(event: FunctionEvent, path: str, on_device: bool) -> Iterator[OperatorEvent]:
    name, overload = event.name, getattr(event, "overload_name", "") or ""
    if name.startswith(MARK):
        path = name.removeprefix(MARK)
    elif "::" in name and not name.startswith("profiler::"):
        if is_operator(name, overload, event):
            if not launches_nothing(name, overload):
                yield _operator(event, path, on_device)
            return
    for child in sorted(event.cpu_children, key=_start):
        yield from _walk(child, path, on_device)


def _operator(event: FunctionEvent, path: str, on_device: bool) -> OperatorEvent:
    namespace, _, name = event.name.partition("::")
    overload = getattr(event, "overload_name", "") or ""
    microseconds = event.device_time_total if on_device else event.time_range.elapsed_us()
    return OperatorEvent(
        path=path,
        aten=(name if namespace == "aten" else event.name) + (f".{overload}" if overload else ""),
        shapes=str([s for s in event.input_shapes or [] if s]),
        seconds=microseconds / 1e6,
        nested=sum(1 for _ in _descendants(event)),
    )


def _descendants(event: FunctionEvent) -> Iterator[FunctionEvent]:
    for child in event.cpu_children:
        yield child
        yield from _descendants(child)


def is_operator(name: str, overload: str, event: FunctionEvent) -> bool:
    """Whether ``event`` is a call that has a kernel of its own.

    A composite function that allocates its result itself counts too: it has called a kernel
    directly, past the dispatcher, which leaves no event (``upsample_linear1d.vec`` does so).
    """
    if not is_composite(name, overload):
        return True
    return any(child.name.startswith("aten::empty") for child in event.cpu_children)


@cache
def _overload(name: str, overload: str) -> Any:
    import torch

    namespace, _, function = name.partition("::")
    packet = getattr(getattr(torch.ops, namespace), function, None)
    return getattr(packet, overload or "default", None)


@cache
def is_composite(name: str, overload: str) -> bool:
    """Whether the dispatcher decomposes the operator for every device and gradient mode."""
    import torch

    op = _overload(name, overload)
    key = torch._C.DispatchKey.CompositeImplicitAutograd
    return op is not None and bool(op.has_kernel_for_dispatch_key(key))


@cache
def launches_nothing(name: str, overload: str) -> bool:
    """Whether the operator only makes a view of its input, detaches it, or allocates.

    ``torch.tensor`` allocates past the dispatcher, as ``empty``.
    """
    op = _overload(name, overload)
    if name in ("aten::_unsafe_view", "aten::_reshape_alias", "aten::detach_", "aten::empty"):
        return True
    return op is not None and bool(op.is_view)


def kind_of(aten: str) -> str:
    """Our kind for the operator ``aten``; an operator in place is of the kind of its twin."""
    name = aten.rpartition("::")[2].partition(".")[0]
    return KIND_OF.get(name) or KIND_OF.get(name.rstrip("_")) or "other"


def event_seconds(events: int = 4000) -> float:
    """What the profiler adds to a call at each event inside it: views, recorded and not."""
    import torch
    from torch.profiler import ProfilerActivity, profile

    quiet()
    value = torch.zeros(4)

    def run() -> float:
        start = time.perf_counter()
        for _ in range(events):
            value.view(2, 2)
        return (time.perf_counter() - start) / events

    plain = min(run() for _ in range(3))
    with profile(activities=[ProfilerActivity.CPU], record_shapes=True):
        recorded = min(run() for _ in range(3))
    return max(0.0, recorded - plain)
