"""Everything that is to be run on a card, in order of worth, in one command.

    python -m benchmarks.card                       # 20 minutes, results in outputs/card
    python -m benchmarks.card --budget 540          # again and again: it goes on where it was
    python -m benchmarks.card --only pool,models

Results are written anew after every step, so that what ends the command leaves those of the steps
before.

Exit status 0 where every step is done, 1 where one is not, 2 where there is no card.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.card import checklist, summary
from benchmarks.card.wheels import ROOT, install
from calib.errors import CalibError
from calib.hardware.datasheet import Hardware
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
    every = checklist.steps(work)
    hardware, keep_state = device_hardware(found), checklist.store_in(state)

    def store(outcomes: Mapping[str, checklist.Outcome]) -> None:
        keep_state(outcomes)
        publish(every, work, out, hardware, notes)

    checklist.run(plan, options.budget, known, checklist.execute_in(work, environment), store)
    outcomes = outcomes_of(every, state)
    rows = summary.step_rows(every, outcomes)
    sys.stdout.write(
        summary.table(("step", "what", "outcome", "took"), rows) + f"\n{out / 'summary.md'}\n"
    )
    return 0 if all(o.status == checklist.DONE for o in outcomes.values()) else 1


def outcomes_of(every: Sequence[checklist.Step], state: Path) -> dict[str, checklist.Outcome]:
    """Of every step, those that were not asked for too."""
    outcomes = {s.name: checklist.Outcome(s.name, "not asked for") for s in every}
    return outcomes | {n: o for n, o in checklist.load(state).items() if n in outcomes}


def publish(
    every: Sequence[checklist.Step],
    work: Path,
    out: Path,
    hardware: Hardware,
    notes: Sequence[str],
) -> None:
    """What the steps so far have left in ``work``, as a page and few files in ``out``."""
    state = work / "outcomes.json"
    said = [*notes, *summary.collect(work, out)]
    samples = stored(work / "samples" / hardware.name)
    if samples:
        write_samples(out / "samples.parquet", samples)
    (out / "outcomes.json").write_text(state.read_text("utf-8"), "utf-8")
    text = summary.page(every, outcomes_of(every, state), work, samples, hardware, said)
    (out / "summary.md").write_text(text, "utf-8")


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
