"""Joules a second of some 40 operators, spread over arithmetic intensity, off the energy counter.

    python -m benchmarks.card.energy --out <folder>

An operator runs over and over for a second and more, as CUDA graphs of many copies, so that the
host does not show; the counter moves some tens of times a second, and is read where it moves. The
watts of an operator are joules over seconds between the first step after it began and the last
before it ended. Written one by one: what was measured stays, and is not measured again.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from calib.errors import CalibError
from calib.measure.cuda.stream import Run, Stream, Uncapturable, wait
from calib.samples.files import op_to_json
from model import ops
from model.ops import Operator

if TYPE_CHECKING:
    import pandas as pd

LEAST_S = 1.0
"""Of repeated work between the two readings that count."""
LONGEST_S = 3.0
"""A counter that moves more rarely than that does not move at all."""
COPIES_S = 5e-3
"""A graph is about so long: many times what its launch takes, a fraction of a counter's step."""
_MOST_COPIES = 2000
_AHEAD = 12
"""Calls that are enqueued and not finished, at most."""
READ_EVERY_S = 0.01
"""More often than the counter moves, and seldom enough that reading it leaves time to enqueue."""


Count = Callable[[Run], tuple[float, float, float]]
"""(passes, seconds, joules) of a run that is repeated for a while."""


class Counter(Protocol):
    def joules(self) -> float | None: ...


@dataclass(frozen=True)
class Energy:
    """One operator. ``seconds`` and ``joules`` lie between two steps of the counter, while
    ``repeats`` were executed at an even rate; rates are FLOP/s and bytes/s, ``watts`` J/s."""

    kind: str
    shape: str
    cache: str
    repeats: float
    seconds: float
    joules: float
    watts: float
    flops_rate: float
    bytes_rate: float
    intensity: float | None


def operators() -> list[tuple[Operator, str]]:
    """Some 40, from copies to products of 8,192 cubed, each with its cache state."""
    half = 2**28
    streams: list[tuple[Operator, str]] = [
        (ops.Copy(half), "cold"),
        (ops.Elementwise(half), "cold"),
        (ops.Elementwise(half, inputs=2), "cold"),
        (ops.Elementwise(2**27, dtype="float32"), "cold"),
        (ops.Elementwise(2**21), "hot"),
        (ops.Elementwise(2**17), "hot"),
        (ops.Softmax(4096, 32768), "cold"),
        (ops.Norm(16384, 8192, "layernorm"), "cold"),
        (ops.Reduction(16384, 8192, "float32"), "cold"),
        (ops.Gather(65536, 4096), "cold"),
    ]
    rows = [1, 2, 4, 8, 16, 32, 64, 96, 128, 192, 256, 384, 512, 1024, 2048, 4096]
    thin = [(ops.Matmul(m, 8192, 8192), "cold") for m in rows]
    cubes = [
        *(ops.Matmul(n, n, n) for n in (512, 1024, 2048, 8192)),
        ops.Matmul(4096, 4096, 4096, dtype="float32"),
        ops.Matmul(8192, 8192, 8192, dtype="tf32"),
        ops.Matmul(8192, 8192, 8192, dtype="float8_e4m3fn"),
        ops.Matmul(8192, 8192, 8192, dtype="float16"),
    ]
    others: list[Operator] = [
        ops.Attention(1, 2048, 2048, 32, 8, 128, causal=True),
        ops.Attention(1, 8192, 8192, 32, 8, 128, causal=True),
        ops.Attention(64, 1, 4096, 32, 8, 128),
        ops.Conv2d(8, 256, 256, 64, 64, 3, padding=1),
        ops.Conv2d(32, 64, 64, 56, 56, 3, padding=1),
        ops.GroupedMatmul(4096, 64, 6, 1792, 1280),
    ]
    return [*streams, *thin, *((op, "hot") for op in (*cubes, *others))]


def counted(
    run: Run, counter: Counter, stream: Stream, least_s: float = LEAST_S
) -> tuple[float, float, float]:
    """(calls of ``run``, seconds, joules) between two steps of the counter.

    So much work is always enqueued that the card does not idle while the counter is read, which
    takes the driver milliseconds; what counts is what the card has finished. Raises ``CalibError``
    where the counter stands still.
    """
    start, done, last = stream.now(), 0, _read(counter)
    first: tuple[float, float, float] | None = None
    latest = (0.0, 0.0, 0.0)
    marks: list[Any] = []
    due = start
    while True:
        run()
        marks.append(stream.mark())
        while len(marks) > _AHEAD:
            wait(stream, marks.pop(0))
            done += 1
        if stream.now() < due:
            continue
        while marks and stream.reached(marks[0]):
            marks.pop(0)
            done += 1
        now, joules = stream.now(), _read(counter)
        due = stream.now() + READ_EVERY_S
        if joules != last:
            latest = (done, now, joules)
            first = first or latest
            last = joules
        enough = first is not None and latest[1] - first[1] >= least_s
        if enough or now - start > LONGEST_S + least_s:
            break
    for mark in marks[-1:]:
        wait(stream, mark)
    if first is None or latest[1] <= first[1]:
        raise CalibError("the energy counter of this card stands still: expected it to move")
    begun, ended = first, latest
    return ended[0] - begun[0], ended[1] - begun[1], ended[2] - begun[2]


def counter_of(stream: Any, device: str, least_s: float) -> Count | None:
    """Counts over ``least_s`` and more [s]; None where the card has no counter."""
    from calib.measure.cuda.instrument import sensor_of

    sensor = sensor_of(device)
    if sensor.joules() is None or least_s <= 0:
        return None
    return lambda run: counted(run, sensor, stream, least_s)


def _read(counter: Counter) -> float:
    joules = counter.joules()
    if joules is None:
        raise CalibError("this card has no energy counter (nvmlDeviceGetTotalEnergyConsumption)")
    return joules


def repeated(stream: Stream, make: Callable[[int], Sequence[Run]], cold: bool) -> tuple[Run, int]:
    """A call that takes ``COPIES_S`` and more, and how many operators are in it."""
    (run,) = make(1)
    for _ in range(3):
        run()
    wait(stream, stream.mark())
    began = stream.mark()
    run()
    ended = stream.mark()
    wait(stream, ended)
    once = max(stream.between(began, ended), 1e-6)
    copies = max(1, min(round(COPIES_S / once), _MOST_COPIES))
    runs = list(make(min(copies, 64))) if cold else [run]
    runs = [runs[i % len(runs)] for i in range(copies)]
    try:
        return stream.capture(runs), copies
    except Uncapturable:

        def all_of_them() -> None:
            for one in runs:
                one()

        return all_of_them, copies


def energy_of(
    op: Operator,
    cache: str,
    make: Callable[[int], Sequence[Run]],
    counter: Counter,
    stream: Stream,
    least_s: float = LEAST_S,
) -> Energy:
    replay, copies = repeated(stream, make, cache == "cold")
    calls, seconds, joules = counted(replay, counter, stream, least_s)
    repeats = calls * copies
    flops, moved = float(op.flops) * repeats, float(op.bytes) * repeats
    return Energy(
        op.operator,
        op_to_json(op),
        cache,
        repeats,
        seconds,
        joules,
        joules / seconds,
        flops / seconds,
        moved / seconds,
        float(op.flops) / float(op.bytes) if op.bytes else None,
    )


def all_of_them(
    path: Path,
    plan: Sequence[tuple[Operator, str]],
    measure: Callable[[Operator, str], Energy],
) -> Iterator[dict[str, Any]]:
    """A row an operator, those that ``path`` (JSON lines) holds already as they are; what the card
    refuses is a row with its reason."""
    known = {(r["shape"], r["kind"], r["cache"]): r for r in read(path)}
    for op, cache in plan:
        key = (op_to_json(op), op.operator, cache)
        if key in known:
            yield known[key]
            continue
        row: dict[str, Any]
        try:
            row = asdict(measure(op, cache))
        except (RuntimeError, ValueError) as error:
            if isinstance(error, CalibError):
                raise
            reason = (str(error) or type(error).__name__).splitlines()[0][:200]
            row = {"kind": op.operator, "shape": key[0], "cache": cache, "refused": reason}
        with path.open("a", encoding="utf-8") as lines:
            lines.write(json.dumps(row) + "\n")
            lines.flush()
            os.fsync(lines.fileno())
        yield row


def read(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text("utf-8").splitlines() if line]


def idle(counter: Counter, seconds: float = 2.0) -> float:
    """Watts of the card that does nothing."""
    start, joules = time.perf_counter(), _read(counter)
    time.sleep(seconds)
    return (_read(counter) - joules) / (time.perf_counter() - start)


def table_of(rows: Sequence[Mapping[str, Any]], hardware: str, idle_w: float) -> pd.DataFrame:
    """What calib's key ``energy`` reads (``calib.cards.energy.counted``)."""
    import pandas as pd

    return pd.DataFrame(rows).assign(hardware=hardware, idle_w=idle_w)


def figures(rows: Sequence[Mapping[str, Any]], idle_w: float) -> dict[str, Any]:
    """Idle watts, the least and the most, and a plane through the measured ones:
    watts = idle + a FLOP/s + b bytes/s, by least squares: a and b in joules."""
    import numpy as np

    done = [r for r in rows if "watts" in r]
    rates = np.array([[r["flops_rate"], r["bytes_rate"]] for r in done]).reshape(-1, 2)
    above = np.array([r["watts"] - idle_w for r in done])
    found: dict[str, Any] = {"operators": len(done), "idle_w": idle_w}
    if len(done) >= 3:
        scale = rates.max(axis=0)
        (a, b), *_ = np.linalg.lstsq(rates / scale, above, rcond=None)
        left = above - rates / scale @ np.array([a, b])
        found |= {
            "least_w": float(above.min() + idle_w),
            "most_w": float(above.max() + idle_w),
            "joules_a_flop": float(a / scale[0]),
            "joules_a_byte": float(b / scale[1]),
            "median_off_w": float(np.median(np.abs(left))),
        }
    return found


def main(arguments: list[str] | None = None) -> int:
    from calib.measure.allocator import keep_freed_memory

    keep_freed_memory()
    import torch

    from calib.steps.target import find_target, open_instrument

    parser = argparse.ArgumentParser(prog="python -m benchmarks.card.energy")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=LEAST_S, help="of an operator")
    options = parser.parse_args(arguments)
    target = find_target(None, Path("none"), "run")
    if not target.on_card:
        raise CalibError("energy: no CUDA device: expected one, whose counter is read")
    instrument: Any = open_instrument(target)
    counter, stream = instrument.sensor, instrument.stream
    idle_w = idle(counter)

    def measure(op: Operator, cache: str) -> Energy:
        def make(copies: int) -> Sequence[Run]:
            runs: Sequence[Run] = instrument.bench.cases(op, "torch", copies)
            return runs

        return energy_of(op, cache, make, counter, stream, options.seconds)

    with torch.no_grad():
        instrument.warm_up()
        rows = list(all_of_them(options.out / "energy.jsonl", operators(), measure))
    table_of(rows, target.hardware.name, idle_w).to_parquet(options.out / "energy.parquet")
    found = figures(rows, idle_w)
    (options.out / "energy.json").write_text(json.dumps(found, indent=1), "utf-8")
    print(json.dumps(found))
    return 0


if __name__ == "__main__":
    try:
        raise SystemExit(main())
    except CalibError as error:
        sys.exit(f"error: {error}")
