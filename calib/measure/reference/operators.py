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
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from calib.errors import CalibError
from calib.measure.reference.passes import synchronise

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
        "_scaled_dot_product_fused_attention_overrideable",
    ),
    "conv2d": ("convolution",),
    "norm": ("native_layer_norm", "_fused_rms_norm"),
    "softmax": ("_softmax",),
    "gather": ("embedding", "index", "index_select", "gather"),
    "copy": ("_to_copy", "clone", "copy_", "cat", "constant_pad_nd"),
    "elementwise": (
        *("add", "sub", "mul", "div", "pow", "rsqrt", "neg", "exp", "cos", "sin", "floor_divide"),
        *("silu", "gelu", "sigmoid", "tanh", "le", "lt", "ge", "gt", "eq", "ne"),
        *("bitwise_and", "bitwise_or", "logical_and", "logical_or", "__and__", "__or__"),
        *("remainder", "clamp", "where", "masked_fill"),
    ),
}
KIND_OF = {name: kind for kind, names in KINDS.items() for name in names}
"""Our kind of operator by the name of theirs; whatever is not here is ``other``."""

VIEWS = ("aten::_unsafe_view", "aten::_reshape_alias", "aten::detach_", "aten::empty")
"""What launches nothing though its schema does not say so; ``torch.tensor`` leaves an ``empty``."""


@dataclass(frozen=True)
class OperatorEvent:
    """One operator as it ran: ``aten`` its name with overload, ``shapes`` those of its inputs.

    ``seconds`` [s]: on a CPU the call itself, on CUDA its kernels. ``nested``: events inside it.
    """

    path: str
    aten: str
    shapes: str
    dtypes: str
    seconds: float
    nested: int

    @property
    def kind(self) -> str:
        return kind_of(self.aten)


@dataclass(frozen=True)
class Profile:
    """One pass under the profiler: wall time, events of the host, and the operators in order."""

    seconds: float
    events: int
    operators: tuple[OperatorEvent, ...]


@dataclass
class Node:
    """An event of the host within those that contain it. Times in nanoseconds."""

    event: Any
    name: str
    start: int
    end: int
    children: list[Node] = field(default_factory=list)

    @property
    def overload(self) -> str:
        return self.event.overload_name()

    def below(self) -> Iterator[Node]:
        pending = self.children[::-1]
        while pending:  # a recorded trace may nest deeper than Python recurses
            node = pending.pop()
            yield node
            pending += node.children[::-1]


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
    """Run once under the profiler. ``run`` has its modules observed by :class:`Ranges`.

    A process's first session with a card sets up what the driver records into while kernels run:
    some of 3 microseconds are recorded as 100. It is thrown away, and ``run`` run again.
    """
    import torch

    quiet()
    on_device = torch.device(device).type == "cuda"
    if on_device and device not in _PROFILED:
        _PROFILED.add(device)
        _session(run, device, on_device)
    seconds, events = _session(run, device, on_device)
    return Profile(seconds, len(events), tuple(operators_of(events, on_device)))


_PROFILED: set[str] = set()
"""Cards that this process has profiled."""


def _session(run: Callable[[], Any], device: str, on_device: bool) -> tuple[float, list[Any]]:
    """Wall seconds of ``run`` under the profiler, and its events."""
    import torch
    from torch.profiler import ProfilerActivity, profile

    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * on_device
    with profile(
        activities=activities,
        record_shapes=True,
        acc_events=True,  # no cycle follows another, which torch would warn of
        experimental_config=torch._C._profiler._ExperimentalConfig(capture_overload_names=True),
    ) as profiler:
        synchronise(device)
        start = time.perf_counter()
        run()
        synchronise(device)
        seconds = time.perf_counter() - start
    # The profiler's own list of events takes ten times as long to build as the pass took to run.
    return seconds, list(profiler.profiler.kineto_results.events())


def quiet() -> None:
    """Keep the profiler's library from writing a line to stderr whenever it starts or stops."""
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")


def operators_of(events: Iterable[Any], on_device: bool) -> Iterator[OperatorEvent]:
    """The operators among the profiler's ``events``, in the order in which they start.

    Raises ``CalibError`` where no module was recorded.
    """
    host: list[Any] = []
    kernels: dict[int, int] = {}  # nanoseconds by the event that launched them
    for event in events:
        if event.device_type().name == "CPU":
            host.append(event)
        else:
            launched_by = event.linked_correlation_id()
            kernels[launched_by] = kernels.get(launched_by, 0) + event.duration_ns()
    pending = [(root, "") for root in tree(host)[::-1]]
    while pending:
        node, path = pending.pop()
        found, path = _read(node, path, kernels if on_device else None)
        if isinstance(found, OperatorEvent):
            yield found
        pending += [(child, path) for child in found[::-1]] if isinstance(found, list) else []


def tree(events: Iterable[Any]) -> list[Node]:
    """Nest the events of the thread that ran the modules by their intervals; its roots, in order.

    Other threads hold only the inner side of an operator that works in parallel.
    """
    named = [(event.name(), event) for event in events]
    thread = next((e.start_thread_id() for name, e in named if name.startswith(MARK)), None)
    if thread is None:
        raise CalibError(
            "operators: the profiler recorded no module; was CPU activity switched off?"
        )
    nodes = [
        Node(event, name, event.start_ns(), event.start_ns() + event.duration_ns())
        for name, event in named
        if event.start_thread_id() == thread
    ]
    roots: list[Node] = []
    inside: list[Node] = []
    for node in sorted(nodes, key=lambda n: (n.start, -n.end)):
        while inside and inside[-1].end <= node.start:
            inside.pop()
        (inside[-1].children if inside else roots).append(node)
        inside.append(node)
    return roots


def _read(
    node: Node, path: str, kernels: dict[int, int] | None
) -> tuple[OperatorEvent | list[Node] | None, str]:
    """The operator that a node is, or the nodes to look at in its place, and their module; nothing
    for one that launches nothing."""
    if node.name.startswith(MARK):
        path = node.name.removeprefix(MARK)
    elif "::" in node.name and not node.name.startswith("profiler::") and is_operator(node):
        if launches_nothing(node.name, node.overload):
            return None, path
        return _operator(node, path, kernels), path
    return node.children, path


def _operator(node: Node, path: str, kernels: dict[int, int] | None) -> OperatorEvent:
    nested = list(node.below())
    nanoseconds = node.end - node.start
    if kernels is not None:
        nanoseconds = sum(kernels.get(n.event.correlation_id(), 0) for n in (node, *nested))
    tensors = [(s, t) for s, t in zip(node.event.shapes(), node.event.dtypes(), strict=False) if s]
    aten = node.name.removeprefix("aten::") + (f".{node.overload}" if node.overload else "")
    return OperatorEvent(
        path=path,
        aten=aten,
        shapes=" ".join(str(list(shape)).replace(" ", "") for shape, _ in tensors),
        dtypes=" ".join(dtype.removeprefix("c10::").replace(" ", "_") for _, dtype in tensors),
        seconds=nanoseconds / 1e9,
        nested=len(nested),
    )


def is_operator(node: Node) -> bool:
    """Whether the event is a call that has a kernel of its own.

    A composite function that allocates its result itself counts too: it has called a kernel
    directly, past the dispatcher, which leaves no event (``upsample_linear1d.vec`` does so).
    """
    if not is_composite(node.name, node.overload):
        return True
    return any(child.name.startswith("aten::empty") for child in node.children)


@cache
def _overload(name: str, overload: str) -> Any:
    import torch

    namespace, _, function = name.partition("::")
    packet = getattr(getattr(torch.ops, namespace, None), function, None)
    known = isinstance(packet, torch._ops.OpOverloadPacket)  # of a file's names anything may come
    return getattr(packet, overload or "default", None) if known else None


@cache
def is_composite(name: str, overload: str) -> bool:
    """Whether the dispatcher decomposes the operator for every device and gradient mode."""
    import torch

    op = _overload(name, overload)
    key = torch._C.DispatchKey.CompositeImplicitAutograd
    return op is not None and bool(op.has_kernel_for_dispatch_key(key))


@cache
def launches_nothing(name: str, overload: str) -> bool:
    """Whether the operator only makes a view of its input, detaches it, or allocates."""
    op = _overload(name, overload)
    return name in VIEWS or (op is not None and bool(op.is_view))


def kind_of(aten: str) -> str:
    """Our kind for the operator ``aten``; an operator in place is of the kind of its twin."""
    name = aten.rpartition("::")[2].partition(".")[0]
    return KIND_OF.get(name) or KIND_OF.get(name.rstrip("_")) or "other"


def event_seconds(calls: int = 20) -> float:
    """What the profiler adds to an operator for each event inside it.

    Seen on the operator that has by far the most of them, a grouped product, here so small that
    it does little else; recorded and not, in turn, the best of seven, so that a machine that stalls
    does not count as recording.
    """
    import torch
    from torch.profiler import ProfilerActivity, profile

    quiet()
    rows = torch.zeros(8, 16, dtype=torch.bfloat16)
    weights = torch.zeros(64, 16, 16, dtype=torch.bfloat16)
    ends = torch.full((64,), 8, dtype=torch.int32)

    def run() -> float:
        start = time.perf_counter()
        for _ in range(calls):
            torch.nn.functional.grouped_mm(rows, weights, offs=ends)
        return (time.perf_counter() - start) / calls

    plain, recorded, events = [], [], 1
    for _ in range(7):
        plain.append(run())
        recording = profile(activities=[ProfilerActivity.CPU], record_shapes=True, acc_events=True)
        with recording as profiler:
            recorded.append(run())
        events = len(profiler.profiler.kineto_results.events()) // calls
    return max(0.0, min(recorded) - min(plain)) / events
