"""Models at full size on a card: the clock, the host, a CUDA graph, and every kernel by operator.

    python -m benchmarks.card.models --out <folder>                     # all, in order of worth
    python -m benchmarks.card.models --out <folder> --only vit_l.image,llama_3_1_8b.text
    python -m benchmarks.card.models --out <folder> --config my/config.json --batch 4

Random weights, from configurations alone. ``models.json`` holds an entry a phase, and
``<model>.<workload>.<phase>.parquet`` its operators in order; both are written as soon as a
workload is done, and one that is there is not run again. A decode step sees one token more each
time. The first round meets its lengths for the first time, so ``seconds`` and ``host`` hold what
torch plans for a new length; the second round (``seconds_again``, ``host_again``; of decode steps
alone) meets the same lengths again.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.card.asked import Asked, chosen
from benchmarks.card.host_speed import HostSpeed, host_speed_of
from benchmarks.traced_models import with_values
from model.workload import Workload

if TYPE_CHECKING:
    from benchmarks.card.energy import Count

REPEATS, WARM_UPS, REPLAYS = 12, 3, 8
COLUMNS = [
    *("model", "workload", "phase", "order", "path"),
    *("aten", "kind", "shapes", "dtypes", "seconds"),
]

Capture = Callable[[Sequence[Callable[[], Any]]], Callable[[], Any]]


@dataclass
class Timed:
    """One phase. ``repeat``: passes of it in the workload; ``host``: until all is issued [s];
    ``graph_s``: a replay, the median of ``graph_seconds``, of which the host took ``graph_host`` to
    launch it; ``refused``: why there is none; ``kernel_s``: sum over the operators;
    ``host_speed``, ``host_speed_again``: tiny operators a second before and after those rounds.
    ``eager_energy``, ``graph_energy``: passes, seconds and joules off the card's counter, of passes
    one after the other (decode steps each of one token more) and of replays; empty where it has
    none."""

    model: str
    workload: str
    phase: str
    repeat: int
    seconds: list[float]
    host: list[float]
    seconds_again: list[float] = field(default_factory=list)
    host_again: list[float] = field(default_factory=list)
    graph_s: float | None = None
    graph_seconds: list[float] = field(default_factory=list)
    graph_host: list[float] = field(default_factory=list)
    refused: str = ""
    kernel_s: float = 0.0
    operators: int = 0
    host_speed: list[float] = field(default_factory=list)
    host_speed_again: list[float] = field(default_factory=list)
    eager_energy: tuple[float, ...] = ()
    graph_energy: tuple[float, ...] = ()


def build(asked: Asked, device: str) -> Any:
    """The module with random weights on ``device``."""
    import torch

    from calib.trace.hf import load

    torch.set_default_device("cpu")
    model = load(asked.config, asked.dtype)
    torch.set_default_device(device)
    return with_values(model.build(), device)


def phases(
    module: Any,
    asked: Asked,
    device: str,
    capture: Capture | None,
    count: Count | None = None,
    speed: HostSpeed | None = None,
) -> Iterator[Any]:
    """``(Timed, its operators)`` of each phase, in order."""
    import torch

    from calib.measure.reference.operators import Ranges, profile_pass
    from calib.measure.reference.passes import observed
    from calib.trace.passes import passes_of

    timings = {}
    with torch.no_grad():
        for one in passes_of(module, asked.dtype, asked.workload):
            seconds, host, speeds = probed(one.run, device, speed)
            names = (asked.model, asked.workload.name, one.name, one.repeat)
            timed = Timed(*names, seconds, host, host_speed=speeds)
            with observed(module, Ranges()):
                found = profile_pass(one.run, device)
            timed.operators = len(found.operators)
            timed.kernel_s = sum(event.seconds for event in found.operators)
            if capture is not None:
                replay, timed.refused = captured(capture, one.run)
                if replay is not None:
                    timed.graph_seconds, timed.graph_host = clocked(replay, device, REPLAYS)
                    timed.graph_s = statistics.median(timed.graph_seconds)
                    if count is not None:
                        timed.graph_energy = count(replay)
                    del replay
                if one.repeat == 1:
                    one.run()  # what the next phase reads is then of no graph
            timings[one.name] = (timed, found.operators)
        # A second pass over all phases begins with an empty cache: the lengths are seen again.
        for one in passes_of(module, asked.dtype, asked.workload):
            timed, operators = timings[one.name]
            if one.repeat == 1:
                one.run()  # its lengths were the same in every run
            else:
                again = probed(one.run, device, speed)
                timed.seconds_again, timed.host_again, timed.host_speed_again = again
            if count is not None:
                timed.eager_energy = count(one.run)
            yield timed, operators


def probed(
    run: Callable[[], Any], device: str, speed: HostSpeed | None
) -> tuple[list[float], list[float], list[float]]:
    """As ``rounds``, and the host's speed before and after: it drifts within seconds, and a wall
    time means little without it."""
    before = [speed()] if speed else []
    return (*rounds(run, device), before + ([speed()] if speed else []))


def rounds(run: Callable[[], Any], device: str) -> tuple[list[float], list[float]]:
    """``clocked`` runs after a few."""
    for _ in range(WARM_UPS):
        run()
    return clocked(run, device, REPEATS)


def clocked(run: Callable[[], Any], device: str, repeats: int) -> tuple[list[float], list[float]]:
    """Wall seconds of runs, each waited for, and the host's until all of one was issued."""
    from calib.measure.reference.passes import synchronise

    seconds, host = [], []
    for _ in range(repeats):
        synchronise(device)
        start = time.perf_counter()
        run()
        host.append(time.perf_counter() - start)
        synchronise(device)
        seconds.append(time.perf_counter() - start)
    return seconds, host


def captured(capture: Capture, run: Callable[[], Any]) -> tuple[Callable[[], Any] | None, str]:
    """A replay of the pass, or why there is none."""
    from calib.measure.cuda.stream import Uncapturable

    try:
        return capture([run]), ""
    except Uncapturable as error:
        return None, str(error)[:200]


def table(timed: Timed, operators: Sequence[Any]) -> Any:
    """A row an operator, in order."""
    import pandas as pd

    names = (timed.model, timed.workload, timed.phase)
    rows = [
        (*names, i, e.path, e.aten, e.kind, e.shapes, e.dtypes, e.seconds)
        for i, e in enumerate(operators)
    ]
    return pd.DataFrame(rows, columns=COLUMNS)


def known(out: Path) -> list[dict[str, Any]]:
    path = out / "models.json"
    return json.loads(path.read_text("utf-8")) if path.exists() else []


def keep(out: Path, entries: Sequence[dict[str, Any]]) -> None:
    part = out / "models.json.part"
    part.write_text(json.dumps(list(entries), indent=1), "utf-8")
    os.replace(part, out / "models.json")


def run(
    out: Path,
    asked: Sequence[Asked],
    device: str,
    capture: Capture | None,
    more: Callable[[], bool] = lambda: True,
    say: Callable[[str], None] = lambda line: None,
    count: Count | None = None,
    speed: HostSpeed | None = None,
) -> list[str]:
    """Measure those of ``asked`` that ``out`` lacks, while there is ``more`` time; what failed, in
    words, which stops nothing."""
    import torch

    out.mkdir(parents=True, exist_ok=True)
    done = {f"{e['model']}.{e['workload']}" for e in known(out)}
    built: tuple[Path | None, Any] = (None, None)
    failures = []
    try:
        for one in asked:
            if one.name in done or not more():
                continue
            try:
                if built[0] != one.config:
                    built = (None, None)  # its memory first
                    free(device)
                    built = (one.config, build(one, device))
                found = list(phases(built[1], one, device, capture, count, speed))
            except (RuntimeError, ValueError, TypeError) as error:
                built = (None, None)
                first = (str(error) or type(error).__name__).splitlines()[0]
                failures.append(f"{one.name}: {first[:200]}")
                say(failures[-1])
                continue
            for timed, operators in found:
                path = out / f"{one.name}.{timed.phase}.parquet"
                table(timed, operators).to_parquet(path)
            keep(out, [*known(out), *(asdict(timed) for timed, _ in found)])
            for timed, _ in found:
                say(line(timed))
    finally:
        torch.set_default_device(None)  # no mode stays behind, which modules would notice
    return failures


def free(device: str) -> None:
    import torch

    gc.collect()
    if torch.device(device).type == "cuda":
        torch.cuda.empty_cache()


def line(timed: Timed) -> str:
    """Milliseconds, for the log."""
    known_lengths = timed.seconds_again or timed.seconds
    wall, again = (statistics.median(s) * 1e3 for s in (timed.seconds, known_lengths))
    graph = f"{timed.graph_s * 1e3:.2f}" if timed.graph_s else timed.refused or "-"
    return (
        f"{timed.model} {timed.workload} {timed.phase}: wall {wall:.2f} ms, again {again:.2f}, "
        f"host {statistics.median(timed.host) * 1e3:.2f}, kernels {timed.kernel_s * 1e3:.2f}, "
        f"graph {graph}, operators {timed.operators}"
    )


def main(arguments: list[str] | None = None) -> int:
    from calib.measure.allocator import keep_freed_memory

    keep_freed_memory()
    import torch

    parser = argparse.ArgumentParser(prog="python -m benchmarks.card.models", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", default="", help="model.workload, by comma")
    parser.add_argument("--config", type=Path, help="a config.json of transformers, or its folder")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--batch", type=int, default=1, help="of --config")
    parser.add_argument("--prompt", type=int, default=512, help="tokens, of --config")
    parser.add_argument("--side", type=int, help="of an image, of --config")
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--seconds", type=float, default=1e9, help="none is begun after them")
    parser.add_argument("--joules", type=float, default=0.8, help="seconds of counting, 0: none")
    options = parser.parse_args(arguments)
    name = f"given_b{options.batch}"
    given = Workload(
        name, side=options.side, prompt_tokens=options.prompt, batch=options.batch, logits="last"
    )
    try:
        asked = chosen(options.only, options.config, given, options.dtype)
    except ValueError as error:
        parser.error(str(error))
    capture: Capture | None = None
    count: Count | None = None
    speed: HostSpeed | None = None
    if torch.device(options.device).type == "cuda":
        from benchmarks.card.energy import counter_of
        from calib.measure.cuda.stream import TorchStream

        properties = torch.cuda.get_device_properties(options.device)
        stream = TorchStream(options.device, properties.L2_cache_size)
        capture = stream.capture
        count = counter_of(stream, options.device, options.joules)
        speed = host_speed_of(stream, options.device)
    start = time.monotonic()
    failures = run(
        options.out,
        asked,
        options.device,
        capture,
        lambda: time.monotonic() - start < options.seconds,
        lambda text: print(text, flush=True),
        count,
        speed,
    )
    if failures:
        sys.stderr.write("\n".join(failures) + "\n")
    return 1 if failures else 0


if __name__ == "__main__":
    raise SystemExit(main())
