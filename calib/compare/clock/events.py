"""The gate for a recorded trace: what the file must be, and what each event of it may say.

Times, categories and names are checked once, here; below nobody asks again. What is wrong is one
sentence with the file, the event, its key, the value and what is accepted. Other events are unread.
Ids may be missing or null (:mod:`calib.compare.clock.links` says what follows).
"""

from __future__ import annotations

import gzip
import json
import math
import re
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from calib.errors import CalibError

OPERATOR, RANGE, STACK = "cpu_op", "user_annotation", "python_function"
ON_DEVICE = (KERNEL := "kernel", "gpu_memcpy", "gpu_memset")
CALLS = ("cuda_runtime", "cuda_driver", "hip_runtime", "xpu_runtime")
"""What the host asks of a driver; ROCm's traces say cuda_runtime too."""
NN_MODULE = "nn.Module: "
ACCEPTED = "expected a trace that torch.profiler exported (export_chrome_trace)"
MOST_BYTES = 2**31
"""Of a trace when it is unpacked: beyond it, reading takes tens of gigabytes."""
MOST_US, MOST_SPAN_US = 3.6e9, 8.64e10
"""The longest event, an hour, and the longest trace, a day [us]."""
NONE = -1


@dataclass(frozen=True, slots=True)
class Recorded:
    """One event, with the methods of the profiler's own that operators are found by.

    ``thread``: process and thread; ``stream``: device and stream, of what ran on one. ``external``,
    ``correlation``: ids as the file has them. ``number``: that of an operator, and on a device that
    of the operator which launched the event, or ``NONE``. ``issued_ns``: when it was asked for.
    ``cut``: at the begin of the next on its stream.
    """

    label: str
    begin_ns: int
    length_ns: int
    thread: tuple[Any, Any]
    category: str
    external: int | None = None
    correlation: int | None = None
    stream: tuple[Any, Any] | None = None
    dims: tuple[Any, ...] = ()
    types: tuple[str, ...] = ()
    strides: tuple[Any, ...] = ()
    inputs: tuple[str, ...] = ()
    number: int = NONE
    issued_ns: int | None = None
    cut: bool = False

    @property
    def end_ns(self) -> int:
        return self.begin_ns + self.length_ns

    @property
    def on_device(self) -> bool:
        return self.category in ON_DEVICE

    def name(self) -> str:
        return self.label

    def overload_name(self) -> str:
        return overload(self.label)

    def start_ns(self) -> int:
        return self.begin_ns

    def duration_ns(self) -> int:
        return self.length_ns

    def start_thread_id(self) -> Any:
        return self.thread

    def device_type(self) -> SimpleNamespace:
        return SimpleNamespace(name="CUDA" if self.on_device else "CPU")

    def correlation_id(self) -> int:
        return self.number

    def linked_correlation_id(self) -> int:
        return self.number

    def shapes(self) -> tuple[Any, ...]:
        return self.dims

    def dtypes(self) -> tuple[str, ...]:
        return self.types


@dataclass(frozen=True)
class Card:
    """A device as the profiler describes it; None: it does not say."""

    index: int | None
    name: str
    capability: str | None
    multiprocessors: int | None
    memory_bytes: int | None


@dataclass(frozen=True)
class TraceFile:
    """``events`` in order of their begin. ``stacked``: Python's frames were recorded, which slows
    the host down several times. ``named``: how errors call the file. ``cuda``: the version of the
    runtime, None where the file names none."""

    path: Path
    named: str
    events: tuple[Recorded, ...]
    cards: tuple[Card, ...]
    stacked: bool
    cuda: str | None = None


def shown(name: str, most: int = 60) -> str:
    """A name out of a file as a sentence may hold it: printable, in one line, not too long."""
    clean = "".join(c if c.isprintable() else " " for c in name)
    return clean if len(clean) <= most else clean[: most - 3] + "..."


_KNOWN = re.compile(r"[A-Za-z_]\w*::[A-Za-z_]\w*")


@cache
def overload(name: str) -> str:
    """An overload of the operator that a dispatcher knows: the export leaves it out, and all of a
    name are alike in kind. Empty: the one without a name, or an operator that is not known here.
    """
    import torch

    if not _KNOWN.fullmatch(name):
        return ""
    namespace, _, function = name.partition("::")
    packet = getattr(getattr(torch.ops, namespace, None), function, None)
    if not isinstance(packet, torch._ops.OpOverloadPacket):
        return ""
    for known in sorted(packet.overloads(), key=lambda o: o != "default"):
        suffix = "" if known == "default" else f".{known}"
        if torch._C._dispatch_has_kernel(name + suffix):
            return suffix[1:]
    return ""


def read_events(path: str | Path, key: str = "measured") -> TraceFile:
    """The trace at ``path``, which ``key`` gave: JSON, or that in gzip. A file that a run asks for
    several times is read once. Raises ``CalibError`` for what is none."""
    said, path = f"{key} = {str(path)!r}", Path(path)
    try:
        about = path.stat()
        found = _read_once(path.absolute(), about.st_mtime_ns, about.st_size)
    except CalibError as error:
        raise CalibError(f"{said}: {error}") from None
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise CalibError(f"{said}: cannot be read ({why}): {ACCEPTED}") from None
    return replace(found, path=path, named=said)


@lru_cache(maxsize=16)
def _read_once(path: Path, changed: int, size: int) -> TraceFile:
    """``changed``, ``size``: of the file that is meant."""
    whole = _parsed(path)
    about: Mapping[str, Any] = whole if isinstance(whole, Mapping) else {}
    listed = about.get("traceEvents") if about else whole
    if not isinstance(listed, list):
        raise CalibError(f"is none (it has no list of traceEvents): {ACCEPTED}")
    events = _read(listed)
    if not any(e.category == OPERATOR for e in events):
        raise CalibError(f"holds no operators: {ACCEPTED} with CPU activity")
    stacked = any(isinstance(e, Mapping) and e.get("cat") == STACK for e in listed)
    cards, cuda = _cards(about.get("deviceProperties")), about.get("cuda_runtime_version")
    return TraceFile(path, "", tuple(events), cards, stacked, _version(_whole(cuda) or 0))


def _parsed(path: Path) -> Any:
    try:
        return json.loads(_unpacked(path))
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        reason = f"its gzip is cut or damaged: {error}"
    except RecursionError:
        reason = "its JSON is nested too deep"
    except MemoryError:
        reason = "it is larger than the memory"
    except ValueError as error:
        reason = f"{type(error).__name__}: {error}"
    raise CalibError(f"is none ({shown(reason, 200)}): {ACCEPTED}")


def _unpacked(path: Path) -> bytes:
    with path.open("rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
        file.seek(0)
        stream: Any = gzip.GzipFile(fileobj=file) if packed else file
        parts, size = [], 0
        while part := stream.read(2**24):
            parts.append(part)
            size += len(part)
            if size > MOST_BYTES:
                raise ValueError(f"over {MOST_BYTES:,} bytes unpacked: record fewer passes")
    return b"".join(parts)


def _read(listed: Sequence[Any]) -> list[Recorded]:
    """Complete events of the categories that count, in order of their begin."""
    used = []
    for index, event in enumerate(listed):
        if not isinstance(event, Mapping):
            raise _wrong(index, "itself", event, "an object")
        if event.get("ph") == "X" and _counts(index, event):
            used.append((index, event, _times(index, event)))
    if not used:
        return []
    first = min(begin for _, _, (begin, _) in used)
    events = []
    for index, event, (begin, length) in used:
        if begin - first > MOST_SPAN_US:
            accepted = f"a day after the first, {first:g}, at most"
            raise _wrong(index, "ts", event["ts"], accepted)
        events.append(_event(event, begin - first, length))
    return sorted(events, key=lambda e: (e.begin_ns, -e.length_ns))


def _counts(index: int, event: Mapping[str, Any]) -> bool:
    """Whether the event is of a category that is read."""
    category, name = event.get("cat"), event.get("name")
    if not isinstance(category, str):
        raise _wrong(index, "cat", category, "a text")
    if category == STACK:
        return isinstance(name, str) and name.startswith(NN_MODULE)
    if category not in (OPERATOR, RANGE, *ON_DEVICE, *CALLS):
        return False
    if not isinstance(name, str):
        raise _wrong(index, "name", name, "a text")
    return True


def _times(index: int, event: Mapping[str, Any]) -> tuple[float, float]:
    """Begin and length [us]."""
    begin, length = _number(event.get("ts")), _number(event.get("dur"))
    if begin is None:
        raise _wrong(index, "ts", event.get("ts"), "a finite number of microseconds")
    if length is None or not 0 <= length <= MOST_US:
        accepted = f"microseconds from 0 to {MOST_US:g}, an hour"
        raise _wrong(index, "dur", event.get("dur"), accepted)
    return begin, length


def _wrong(index: int, key: str, value: Any, accepted: str) -> CalibError:
    found = shown(repr(value) if not isinstance(value, list | Mapping) else type(value).__name__)
    return CalibError(f"traceEvents[{index}]: {key} = {found}: expected {accepted}")


def _number(value: Any) -> float | None:
    """Finite, or None. Some exporters write numbers as text."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        read = float(value)
    except (ValueError, OverflowError):
        return None
    return read if math.isfinite(read) else None


def _event(event: Mapping[str, Any], begin_us: float, length_us: float) -> Recorded:
    about = event.get("args")
    about = about if isinstance(about, Mapping) else {}
    category = event["cat"]
    thread = (_key(event.get("pid")), _key(event.get("tid")))
    stream = (_key(about.get("device", thread[0])), _key(about.get("stream", thread[1])))
    return Recorded(
        label=event["name"].encode("utf-8", "replace").decode(),
        # Since the first event: the numbers themselves have no digits left for nanoseconds.
        begin_ns=round(begin_us * 1e3),
        length_ns=round(length_us * 1e3),
        thread=thread,
        category=category,
        external=_id(about.get("External id", about.get("external id"))),
        correlation=_id(about.get("correlation")),
        stream=stream if category in ON_DEVICE else None,
        dims=tuple(_shape(s) for s in _items(about.get("Input Dims"))),
        types=tuple(str(t)[:80] for t in _items(about.get("Input type"))),
        strides=tuple(_shape(s) for s in _items(about.get("Input Strides"))),
        inputs=tuple(str(i)[:200] for i in _items(about.get("Concrete Inputs"))),
    )


def _key(value: Any) -> Any:
    """A process, thread, device or stream: a number or a name."""
    return value if isinstance(value, int | str) else None


def _id(value: Any) -> int | None:
    """A whole number that is no placeholder: profilers write 0 or -1 where they know none."""
    if isinstance(value, str) and re.fullmatch(r"[0-9]{1,19}", value):
        value = int(value)
    whole = isinstance(value, int) and not isinstance(value, bool)
    return value if whole and value > 0 else None


def _items(value: Any) -> Iterable[Any]:
    return value if isinstance(value, list) else ()


def _shape(value: Any) -> tuple[Any, ...]:
    """Sizes of a tensor, or those of each in a list of tensors; of anything else none."""
    sizes = tuple(_items(value))
    if all(isinstance(n, int) for n in sizes):
        return sizes
    listed = all(isinstance(s, list) and all(isinstance(n, int) for n in s) for s in sizes)
    return tuple(list(s) for s in sizes) if listed else ()


def _version(number: int) -> str | None:
    """12040 is 12.4."""
    major, minor = number // 1000, number % 1000 // 10
    return f"{major}.{minor}" if 0 < major < 100 else None


def _cards(described: Any) -> tuple[Card, ...]:
    """What ``deviceProperties`` says; nothing of entries without a name."""
    found = []
    for entry in _items(described):
        if isinstance(entry, Mapping) and isinstance(entry.get("name"), str):
            major, minor = _whole(entry.get("computeMajor")), _whole(entry.get("computeMinor"))
            found.append(
                Card(
                    _whole(entry.get("id")),
                    entry["name"].encode("utf-8", "replace").decode(),
                    None if major is None or minor is None else f"{major}.{minor}",
                    _whole(entry.get("numSms")),
                    _whole(entry.get("totalGlobalMem")),
                )
            )
    return tuple(found)


def _whole(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None
