"""Mutants of recorded traces: whatever is done to one, its reader says what is wrong, or is right.

A mutant counts as ``right`` where every figure that is shown equals the healthy trace's to 1%, as
``clear`` where the file is refused in one sentence, or a figure that differs is refused or remarked
upon, and else as ``silently_wrong``. A trace of something else (another card, model, size or type,
a gradient, several passes in one range) must be refused or remarked upon.
"""

from __future__ import annotations

import gzip
import json
import math
import random
import tempfile
import time
from collections.abc import Callable
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

from benchmarks.hardening.made_trace import Event, Made, make, subject
from benchmarks.hardening.outcome import Outcome
from benchmarks.hardening.trace_judge import Mutant, judge

EXAMPLES = 3
HOSTILE = "<script>alert(1)</script>|`x`\n# [y](http://z)"
JUNK: tuple[Any, ...] = (
    *(None, True, [], {}, [[]], {"a": 1}, "", "x", "1", -1, 0, 3.5, 10**30, math.inf, math.nan),
    *("\ud800", "aten::mm.out", "load_library::__self__", "__class__::mro", HOSTILE),
)
INFINITE = (math.inf, -math.inf, math.nan)
TIMES: tuple[Any, ...] = (*INFINITE, -1, -1e9, 1e308, 10**400, 1e18, "soon", None)


Kind = Callable[[random.Random], Mutant]


@cache
def healthy(architecture: str, modules: bool, passes: int = 1) -> Made:
    return make(subject(architecture), modules, passes)


def of_json(rng: random.Random, change: Callable[[random.Random, Event], Any]) -> Mutant:
    """A trace that ``change`` was done to, in place or as what it returns."""
    name, made = _any(rng)
    trace = deepcopy(made.trace)
    changed = change(rng, trace)
    return Mutant(_dumped(trace if changed is None else changed), subject(name), made)


def _any(rng: random.Random) -> tuple[str, Made]:
    name = rng.choice(("vit", "llama"))
    return name, healthy(name, rng.random() < 0.5, rng.choice((1, 2)))


def _dumped(trace: Any) -> bytes:
    return json.dumps(trace).encode("utf-8", "surrogatepass")


def of_bytes(rng: random.Random, packed: bool, change: Callable[..., bytes]) -> Mutant:
    name, made = _any(rng)
    content = _dumped(made.trace)
    return Mutant(change(rng, gzip.compress(content) if packed else content), subject(name), made)


def flipped(rng: random.Random, content: bytes) -> bytes:
    at, bit = rng.randrange(len(content)), rng.randrange(8)
    return content[:at] + bytes([content[at] ^ 1 << bit]) + content[at + 1 :]


def cut(rng: random.Random, content: bytes) -> bytes:
    return content[: rng.randrange(len(content))]


def _places(trace: Event, *keys: str) -> list[tuple[Event, str]]:
    found = [(e, key) for e in trace["traceEvents"] for key in e]
    found += [(e["args"], key) for e in trace["traceEvents"] for key in e["args"]]
    found += [(card, key) for card in trace["deviceProperties"] for key in card]
    return [(holder, key) for holder, key in found if not keys or key in keys]


def without_key(rng: random.Random, trace: Event) -> None:
    holder, key = rng.choice(_places(trace))
    del holder[key]


def nulled(rng: random.Random, trace: Event) -> None:
    holder, key = rng.choice(_places(trace))
    holder[key] = None


def of_wrong_type(rng: random.Random, trace: Event) -> None:
    holder, key = rng.choice(_places(trace))
    holder[key] = rng.choice(JUNK)


def impossible_time(rng: random.Random, trace: Event) -> None:
    holder, key = rng.choice(_places(trace, "ts", "dur"))
    holder[key] = rng.choice(TIMES)


def _kernels(trace: Event) -> list[Event]:
    return [e for e in trace["traceEvents"] if e["cat"] == "kernel"]


def overlapping(rng: random.Random, trace: Event) -> None:
    kernel = rng.choice(_kernels(trace)[:-1])
    kernel["dur"] *= 10 ** rng.uniform(0.5, 5)


def external_ids_shuffled(rng: random.Random, trace: Event) -> None:
    """As in traces whose kernels are numbered otherwise than their operators."""
    kernels = _kernels(trace)
    ids = [k["args"]["External id"] for k in kernels]
    rng.shuffle(ids)
    for kernel, number in zip(kernels, ids, strict=True):
        kernel["args"]["External id"] = number


def without_external_ids(rng: random.Random, trace: Event) -> None:
    for kernel in _kernels(trace):
        kernel["args"].pop("External id")


def without_calls(rng: random.Random, trace: Event) -> None:
    kept = [e for e in trace["traceEvents"] if e["cat"] != "cuda_runtime"]
    trace["traceEvents"] = kept


def events_shuffled(rng: random.Random, trace: Event) -> None:
    rng.shuffle(trace["traceEvents"])


def dropped(rng: random.Random, trace: Event) -> None:
    trace["traceEvents"].pop(rng.randrange(len(trace["traceEvents"])))


def doubled(rng: random.Random, trace: Event) -> None:
    trace["traceEvents"].append(deepcopy(rng.choice(trace["traceEvents"])))


def of_one_instant(rng: random.Random, trace: Event) -> None:
    for event in trace["traceEvents"]:
        event["ts"] = 5.0


def other_form(rng: random.Random, trace: Event) -> Any:
    deep = "[" * 10**5
    return rng.choice(
        [trace["traceEvents"], [], {}, 3, None, {"traceEvents": {}}, {"traceEvents": [3]}]
        + [{"traceEvents": [{**trace["traceEvents"][0], "args": deep}]}]
    )


def deep(rng: random.Random) -> Mutant:
    text = "[" * rng.choice((10**3, 10**5, 10**6))
    return Mutant(f'{{"traceEvents": {text}'.encode(), subject("vit"), healthy("vit", True))


def hostile_names(rng: random.Random, trace: Event) -> None:
    for event in rng.sample(trace["traceEvents"], 20):
        if event["cat"] in ("cpu_op", "kernel"):
            event["name"] = f"{rng.choice(('aten', 'x', HOSTILE))}::{HOSTILE}"


# Traces of something else


def of_another_card(rng: random.Random) -> Mutant:
    name, made = _any(rng)
    trace = deepcopy(made.trace)
    names = ("NVIDIA H200", "NVIDIA A100-SXM4-80GB", "AMD Instinct MI300X", "NVIDIA H100 PCIe")
    trace["deviceProperties"][0] |= {"name": rng.choice(names), "numSms": rng.choice((80, 132))}
    return Mutant(_dumped(trace), subject(name), None)


def of_another_model(rng: random.Random) -> Mutant:
    asked, given = rng.choice((("vit", "llama"), ("llama", "vit")))
    trace = deepcopy(healthy(given, rng.random() < 0.5).trace)
    to = list(subject(asked).repeat)
    for event in trace["traceEvents"]:  # under the phases that are asked for
        if event["name"] in subject(given).repeat:
            event["name"] = rng.choice(to)
    return Mutant(_dumped(trace), subject(asked), None)


def of_another_size(rng: random.Random) -> Mutant:
    name = rng.choice(("vit", "llama"))
    other = rng.choice(({"batch": rng.choice((2, 5))}, {"hidden": rng.choice((32, 128))}))
    given = make(subject(name, **other), rng.random() < 0.5)
    trace = deepcopy(given.trace)
    if rng.random() < 0.3:
        for event in trace["traceEvents"]:
            event["args"].pop("Input Dims", None)
    return Mutant(_dumped(trace), subject(name), None)


def of_another_type(rng: random.Random) -> Mutant:
    name, made = _any(rng)
    text = json.dumps(made.trace).replace("c10::BFloat16", rng.choice(("float", "c10::Half")))
    return Mutant(text.encode(), subject(name), None)


def of_several_passes(rng: random.Random) -> Mutant:
    name, modules = rng.choice(("vit", "llama")), rng.random() < 0.5
    trace = deepcopy(healthy(name, modules, rng.choice((2, 3, 8))).trace)
    for phase in subject(name).repeat:
        ranges = [e for e in trace["traceEvents"] if e["name"] == phase]
        ranges[0]["dur"] = ranges[-1]["ts"] + ranges[-1]["dur"] - ranges[0]["ts"]
        trace["traceEvents"] = [e for e in trace["traceEvents"] if e not in ranges[1:]]
    return Mutant(_dumped(trace), subject(name), None)


def of_training(rng: random.Random) -> Mutant:
    name, made = _any(rng)
    trace = deepcopy(made.trace)
    for phase in subject(name).repeat:
        span = next(e for e in trace["traceEvents"] if e["name"] == phase)
        node = {"cat": "cpu_op", "name": "autograd::engine::evaluate_function: MmBackward0"}
        begin = span["ts"] + span["dur"] * rng.random()
        node |= {"tid": 2, "ts": begin, "dur": 1.0, "args": {}}
        trace["traceEvents"].append({**span, **node})
    return Mutant(_dumped(trace), subject(name), None)


def _json(change: Callable[[random.Random, Event], Any]) -> Kind:
    return lambda rng: of_json(rng, change)


KINDS: dict[str, Kind] = {
    "healthy": _json(lambda rng, trace: None),
    "gzip, a bit flipped": lambda rng: of_bytes(rng, True, flipped),
    "gzip, cut": lambda rng: of_bytes(rng, True, cut),
    "JSON, cut": lambda rng: of_bytes(rng, False, cut),
    "JSON, another form": _json(other_form),
    "JSON, nested deep": deep,
    "a key missing": _json(without_key),
    "a null": _json(nulled),
    "a wrong type": _json(of_wrong_type),
    "an impossible time": _json(impossible_time),
    "kernels that overlap": _json(overlapping),
    "External ids shuffled": _json(external_ids_shuffled),
    "no External ids": _json(without_external_ids),
    "no calls of the driver": _json(without_calls),
    "events in any order": _json(events_shuffled),
    "an event dropped": _json(dropped),
    "an event doubled": _json(doubled),
    "all at one instant": _json(of_one_instant),
    "hostile names": _json(hostile_names),
    "another card": of_another_card,
    "another model": of_another_model,
    "another size": of_another_size,
    "another type": of_another_type,
    "several passes in a range": of_several_passes,
    "a gradient": of_training,
}
UNCHECKED = {"JSON, a bit flipped": lambda rng: of_bytes(rng, False, flipped)}
"""JSON has no checksum: of a digit that is another digit nobody can know."""


def run(seconds: float, seed: int) -> list[Outcome]:
    """Mutants of every kind in turn, until ``seconds`` are over; at least one of each."""
    end = time.monotonic() + seconds
    kinds = {**KINDS, **UNCHECKED}
    seen: dict[str, list[tuple[str, str]]] = {kind: [] for kind in kinds}
    with tempfile.TemporaryDirectory() as folder:
        for number in range(10**9):
            for kind, made in kinds.items():
                rng = random.Random(f"{seed} {kind} {number}")
                seen[kind].append(judge(made(rng), Path(folder) / "trace.json"))
                if number and time.monotonic() > end:
                    return [_outcome(kind, found) for kind, found in seen.items()]
    return []


def _outcome(kind: str, found: list[tuple[str, str]]) -> Outcome:
    def count(what: str) -> int:
        return sum(result == what for result, _ in found)

    bad = [text for result, text in found if result in ("traceback", "silently_wrong", "hang")]
    return Outcome(
        kind=kind,
        tried=len(found),
        clear=count("clear"),
        right=count("right"),
        traceback=count("traceback"),
        silently_wrong=count("silently_wrong"),
        hang=count("hang"),
        examples=tuple(dict.fromkeys(bad))[:EXAMPLES],
    )
