"""Everything that is to be run on a card, in order of worth, in one command.

    python -m benchmarks.card                       # 20 minutes, results in outputs/card
    python -m benchmarks.card --budget 540          # again and again: it goes on where it was
    python -m benchmarks.card --only sweep,model

Exit status 0 where every step is done, 1 where one is not, 2 where there is no card.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from benchmarks.card import checklist, summary
from benchmarks.card.wheels import ROOT, install
from calib.errors import CalibError
from calib.hardware.device import detect_device, device_hardware
from calib.samples.files import read_samples, write_samples
from calib.samples.sample import Sample


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.card", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--budget", type=float, default=1200.0, help="seconds in all")
    parser.add_argument("--out", type=Path, default=Path("outputs/card"), help="results")
    parser.add_argument("--work", type=Path, default=Path("outputs/card-work"), help="logs, stores")
    parser.add_argument("--wheels", type=Path, default=Path("wheels"), help="offline packages")
    parser.add_argument("--only", default="", help="names of steps, by comma")
    parser.add_argument("--again", action="store_true", help="also the steps that are done")
    options = parser.parse_args(arguments)
    found = detect_device()
    if found is None:
        sys.stderr.write("benchmarks.card: no CUDA device and driver here: nothing to run it on\n")
        return 2
    work, out = options.work.resolve(), options.out.resolve()
    work.mkdir(parents=True, exist_ok=True)
    notes, environment = prepare(options.wheels, work / "site")
    plan = checklist.steps(work)
    if options.only:
        chosen = options.only.split(",")
        if unknown := set(chosen) - {s.name for s in plan}:
            parser.error(f"--only {','.join(sorted(unknown))}: expected {[s.name for s in plan]}")
        plan = [s for s in plan if s.name in chosen]
    state = work / "outcomes.json"
    before = checklist.load(state)
    asked = {s.name for s in plan}
    known = {n: o for n, o in before.items() if not (options.again and n in asked)}
    execute, store = checklist.execute_in(work, environment), checklist.store_in(state)
    checklist.run(plan, options.budget, known, execute, store)
    every = checklist.steps(work)
    outcomes = {s.name: checklist.Outcome(s.name, "not asked for") for s in every}
    outcomes |= checklist.load(state)
    notes += summary.collect(work, out)
    hardware = device_hardware(found)
    samples = stored(work / "samples" / hardware.name)
    if samples:
        write_samples(out / "samples.parquet", samples)
    (out / "outcomes.json").write_text(state.read_text("utf-8"), "utf-8")
    text = summary.page(every, outcomes, work, samples, hardware, notes)
    (out / "summary.md").write_text(text, "utf-8")
    sys.stdout.write(
        summary.table(("step", "what", "outcome", "took"), summary.step_rows(every, outcomes))
        + f"\n{out / 'summary.md'}\n"
    )
    return 0 if all(o.status == checklist.DONE for o in outcomes.values()) else 1


def prepare(wheels: Path, site: Path) -> tuple[list[str], dict[str, str]]:
    """Install what is missing from ``wheels``; notes, and the environment of the steps."""
    notes = install(wheels, site) if wheels.is_dir() else []
    paths = [str(ROOT), *([str(site)] if site.is_dir() else [])]
    paths += [p for p in os.environ.get("PYTHONPATH", "").split(os.pathsep) if p]
    return notes, {"PYTHONPATH": os.pathsep.join(paths), "HYDRA_FULL_ERROR": "1"}


def stored(folder: Path) -> list[Sample]:
    try:
        return read_samples(folder) if folder.is_dir() else []
    except CalibError as error:
        sys.stderr.write(f"{error}\n")
        return []


if __name__ == "__main__":
    raise SystemExit(main())
