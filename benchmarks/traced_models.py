"""Traced estimates against the clock of this CPU: ``python -m benchmarks.traced_models``.

Models of ``tests/data/hf``, the large ones cut to a few layers, with random weights in bfloat16,
run for real: whole phases without hooks, modules between hooks. Estimates come from a fit to the
samples in ``--samples`` that never saw a shape of these models. Times are brought to the machine's
speed during the sweep by probes around every repeat. First measure the machine:

    python -m calib.run +hw=cpu mode=calibrate model=vit_l workload=image_224 sweep=standard \\
        samples.dir=SAMPLES
    python -m benchmarks.traced_models --samples SAMPLES --write
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.trace_coverage import CONFIGS, PAGE
from calib.measure.allocator import keep_freed_memory

if TYPE_CHECKING:
    from calib.steps.request import Request

TEXT = {"name": "text", "prompt_tokens": 128, "decode_steps": 32, "logits": "last"}
MODELS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "llama_3_1_8b": (TEXT, {"num_hidden_layers": 2}),
    "qwen3_30b_a3b": (TEXT, {"num_hidden_layers": 2}),
    "gemma_3_12b": (TEXT, {"text_config": {"num_hidden_layers": 2}}),
    "vit_l": ({"name": "image", "side": 224, "prompt_tokens": 0, "decode_steps": 1}, {}),
    "whisper_large_v3": (
        {"name": "speech", "prompt_tokens": 4, "decode_steps": 32},
        {"encoder_layers": 4, "decoder_layers": 4},
    ),
    "resnet_50": ({"name": "image", "side": 224, "prompt_tokens": 0, "decode_steps": 1}, {}),
}
"""The workload of each, and what is changed in its configuration."""
BLIND = "wall_unseen_s"
"""Operators by the fit that never saw a model's shapes, and the module code around them."""
BEGIN, END = "<!-- clock {} -->", "<!-- end of clock {} -->"
LEAST_SHARE = 0.02
"""Modules that take less of their phase are not compared one by one."""


@dataclass
class Timed:
    """Seconds of one pass of a phase: of every repeat, with probes around it, and of modules."""

    repeat: int
    seconds: list[float] = field(default_factory=list)
    speeds: list[tuple[Any, Any]] = field(default_factory=list)
    modules: dict[str, list[float]] = field(default_factory=dict)


def shortened(name: str, changes: dict[str, Any], folder: Path) -> Path:
    given = json.loads((CONFIGS / name / "config.json").read_text("utf-8"))
    for key, value in changes.items():
        given[key] = {**given[key], **value} if isinstance(value, dict) else value
    (folder / name).mkdir()
    (folder / name / "config.json").write_text(json.dumps(given), "utf-8")
    return folder / name


def with_values(module: Any, device: str = "cpu") -> Any:
    """Random weights whose results stay finite: matrices N(0, 0.02), scales 1, shifts 0."""
    import torch

    generator = torch.Generator(device).manual_seed(0)
    for name, parameter in module.named_parameters():
        if parameter.ndim > 1:
            parameter.data.normal_(0, 0.02, generator=generator)
        else:
            parameter.data.fill_(0.0 if name.endswith("bias") else 1.0)
    return module


def compile_in_place(module: Any) -> None:
    """A model of speech calls its encoder on its own, so that is compiled on its own."""
    module.compile()
    if getattr(module.config, "is_encoder_decoder", False):
        module.get_encoder().compile()


def measured(module: Any, dtype: str, workload: Any, repeats: int, hooks: bool) -> dict[str, Timed]:
    """Every pass: ``repeats`` times whole, then as often between ``hooks`` (which a compiler
    would trace with the model)."""
    import torch

    from calib.measure.probes import speed
    from calib.measure.reference.passes import ModuleTimer, observed
    from calib.trace.passes import passes_of

    found: dict[str, Timed] = {}
    with torch.no_grad():
        for one in passes_of(module, dtype, workload):
            timed = found[one.name] = Timed(one.repeat)
            runs = min(one.repeat, 4)  # steps of a repeat: each sees a token more
            for _ in range(3):
                one.run()
            before = speed()
            for _ in range(repeats):
                start = time.perf_counter()
                for _ in range(runs):
                    one.run()
                timed.seconds.append((time.perf_counter() - start) / runs)
                after = speed()
                timed.speeds.append((before, after))
                before = after
            for _ in range(repeats if hooks else 0):
                timer = ModuleTimer("cpu")
                with observed(module, timer):
                    one.run()
                timer.collect(one.name)
                for (_, path), seconds in timer.seconds.items():
                    timed.modules.setdefault(path, []).append(seconds)
    return found


def slowdown(timed: Timed, rows: Any, samples: Sequence[Any]) -> list[float]:
    """How much slower the machine was in each repeat than during the sweep."""
    flops = statistics.median(s.probe_flops for s in samples if s.probe_flops)
    bandwidth = statistics.median(s.probe_bandwidth for s in samples if s.probe_bandwidth)
    share = rows.loc[rows["bound"] == "compute", "estimate_s"].sum() / rows["estimate_s"].sum()
    found = []
    for around in timed.speeds:
        compute = statistics.fmean(flops / s.flops for s in around)
        memory = statistics.fmean(bandwidth / s.bandwidth for s in around)
        found.append(float(share * compute + (1 - share) * memory))
    return found


def asked(samples: str, config: Path, workload: Any, execution: str = "eager") -> Request:
    """What a run on this CPU is asked, as the command line composes it."""
    from hydra import compose, initialize_config_dir
    from omegaconf import OmegaConf

    from calib.checkout import CONF
    from calib.steps.request import read_request

    with initialize_config_dir(str(CONF), version_base="1.3"):
        given = compose("config", ["+hw=cpu", "model=hf", f"samples.dir={samples}"])
    found: Any = OmegaConf.to_container(given, resolve=True, throw_on_missing=False)
    found["hf"] = {"config": str(config), "dtype": "bfloat16"}
    return read_request({**found, "workload": asdict(workload), "execution": execution})


def compared(name: str, samples: str, repeats: int, known: Any, compiled: bool) -> dict[str, Any]:
    """One model's estimate and time by phase, and the errors of its modules."""
    from calib.steps.answer import answer
    from calib.steps.subject import build_model
    from model.workload import Workload

    shape, changes = MODELS[name]
    workload = Workload(**shape)
    with tempfile.TemporaryDirectory() as folder:
        execution = "compiled" if compiled else "eager"
        config = shortened(name, changes, Path(folder))
        request = asked(samples, config, workload, execution)
        model = build_model(request.model, request.hf)
        target, calibrations, host_s = known
        host_s = 0.0 if compiled else host_s
        phases = model.phases(workload)
        record = answer(request, target, model, phases, calibrations, None, host_s)
        module = with_values(model.build())
        if compiled:
            compile_in_place(module)
        clock = measured(module, model.dtype, workload, repeats, hooks=not compiled)
    rows = []
    for phase, timed in clock.items():
        mine = record.operators[record.operators["phase"] == phase]
        slower = slowdown(timed, mine, target.samples)
        steady = statistics.median(s / f for s, f in zip(timed.seconds, slower, strict=True))
        rows.append(
            {
                "phase": phase,
                "repeat": timed.repeat,
                "estimate_s": float(mine[BLIND].sum()) / timed.repeat,
                "roofline_s": float(mine["roofline_s"].sum()) / timed.repeat,
                "measured_s": statistics.median(timed.seconds),
                "steady_s": steady,
                "modules": module_errors(mine, timed, statistics.median(slower)),
            }
        )
    return {"model": name, "compiled": compiled, "phases": rows}


def module_errors(mine: Any, timed: Timed, slower: float) -> dict[str, float]:
    """Path -> estimate / measured - 1 of modules that take a share of their phase."""
    whole = statistics.median(timed.seconds)
    found = {}
    for path, seconds in timed.modules.items():
        inside = (mine["path"] == path) | mine["path"].str.startswith(f"{path}.")
        clock = statistics.median(seconds)
        if path and inside.any() and clock > LEAST_SHARE * whole:
            estimate = float(mine.loc[inside, BLIND].sum()) / timed.repeat
            found[path] = estimate / (clock / slower) - 1
    return found


def table(found: list[dict[str, Any]]) -> str:
    """A row a model and phase, then the total of each model."""
    lines = [
        "| model | phase | estimate ms | clock ms | the same, steady | error | roofline "
        "| modules: median, worst decile |",
        "|---|---|---:|---:|---:|---:|---:|---:|",
    ]
    totals = []
    for one in found:
        total, steady = 0.0, 0.0
        for row in one["phases"]:
            total += row["estimate_s"] * row["repeat"]
            steady += row["steady_s"] * row["repeat"]
            errors = sorted(abs(e) for e in row["modules"].values())
            spread = "-"
            if errors:
                worst = errors[int(0.9 * (len(errors) - 1))]
                spread = f"{statistics.median(errors):.0%}, {worst:.0%} of {len(errors)}"
            lines.append(
                f"| {one['model']} | {row['phase']} | {row['estimate_s'] * 1e3:.2f} "
                f"| {row['measured_s'] * 1e3:.2f} | {row['steady_s'] * 1e3:.2f} "
                f"| {row['estimate_s'] / row['steady_s'] - 1:+.1%} "
                f"| {row['roofline_s'] / row['steady_s'] - 1:+.1%} | {spread} |"
            )
        error = total / steady - 1
        totals.append(abs(error))
        lines.append(
            f"| **{one['model']}** | **all** | {total * 1e3:.1f} | | {steady * 1e3:.1f} "
            f"| **{error:+.1%}** | | |"
        )
    lines.append("")
    lines.append(
        f"Of {len(totals)} models: mean absolute error {statistics.fmean(totals):.1%}, "
        f"largest {max(totals):.1%}."
    )
    return "\n".join(lines) + "\n"


def write(text: str, which: str, page: Path = PAGE) -> None:
    begin, end = BEGIN.format(which), END.format(which)
    before, _, rest = page.read_text("utf-8").partition(begin)
    _, _, after = rest.partition(end)
    page.write_text(f"{before}{begin}\n{text}{end}{after}", "utf-8")


def calibrated(samples: str) -> tuple[Any, Any, float]:
    """The target with its samples, the calibration of the design alone, and the host's cost."""
    from dataclasses import replace

    from calib.hardware.datasheet import load_hardware
    from calib.steps.fitting import fit_samples
    from calib.steps.measuring import measure_host
    from calib.steps.target import find_target, probed

    target = find_target(load_hardware("cpu"), Path(samples), "run")
    target = replace(probed(target), samples=target.store.samples())
    calibrations = fit_samples(target)
    return target, calibrations, measure_host(target, calibrations[0], "eager")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--samples", required=True, help="the folder of mode=calibrate")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--compiled", action="store_true", help="torch.compile, execution=compiled")
    parser.add_argument("--write", action="store_true", help="put the table into docs/trace.md")
    parser.add_argument("--raw", type=Path, help="write all figures there as JSON")
    parser.add_argument("models", nargs="*", default=list(MODELS))
    options = parser.parse_args()
    keep_freed_memory()
    known = calibrated(options.samples)
    found = []
    for name in options.models:
        found.append(compared(name, options.samples, options.repeats, known, options.compiled))
        print(table(found[-1:]), flush=True)
    text = table(found)
    print(text, end="")
    if options.raw:
        options.raw.write_text(json.dumps(found, indent=1), "utf-8")
    if options.write:
        write(text, "compiled" if options.compiled else "eager")


if __name__ == "__main__":
    main()
