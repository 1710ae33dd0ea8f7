"""The entry: configuration, operators, samples, fit, estimates, report. ``python -m calib.run``."""

from __future__ import annotations

import gc
import os
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from calib.checkout import CONF, check_packages
from calib.errors import FAILED, LOST_STATUS, CalibError, DeviceLost

if TYPE_CHECKING:
    from calib.steps.request import Request


def run(request: Request, folder: Path) -> None:
    """One run: everything that it learns goes into ``folder``."""
    from calib.report.terminal import print_report
    from calib.report.write import write_report
    from calib.steps.answer import answer
    from calib.steps.fitting import fit_samples
    from calib.steps.measuring import measure_host, measure_model, measure_operators, routing
    from calib.steps.subject import build_model, shapes_of
    from calib.steps.target import find_target

    target = find_target(request.hw, request.samples.dir, request.mode, request.execution)
    model = build_model(request.model, request.hf, target.hardware)
    phases = model.phases(request.workload)
    if target.here:
        target = measure_operators(target, phases, request.sweep, request.seed)
    if request.mode == "calibrate":
        return
    calibrations = fit_samples(target, shapes_of(phases))
    host_s = measure_host(target, calibrations[0], request.execution)
    observed = measure_model(request, target)
    phases = model.phases(request.workload, routing(observed))
    record = answer(request, target, model, phases, calibrations, observed, host_s)
    write_report(record, folder, request.report.pictures, request.report.layers)
    print_report(record)
    print(f"report: {folder / 'report.md'}")


@hydra.main(config_path=str(CONF), config_name="config", version_base="1.3")
def main(config: DictConfig) -> None:
    job = HydraConfig.get()
    folder = Path(job.runtime.output_dir)
    (folder / FAILED).unlink(missing_ok=True)  # of an earlier run into the same folder
    plain: Any = OmegaConf.to_container(config, resolve=True, throw_on_missing=False)
    try:
        check_packages()
        from calib.steps.request import read_request

        run(read_request(plain), folder)
    except KeyboardInterrupt:
        print("interrupted: what was measured is kept; run again to go on", file=sys.stderr)
        sys.exit(130)
    except Exception as error:
        expected = isinstance(error, CalibError | ValueError | OSError)
        if job.mode == RunMode.MULTIRUN:
            fail(folder, error, expected)
        elif not expected:
            raise
        else:
            print(f"error: {error}", file=sys.stderr)
            sys.exit(LOST_STATUS if isinstance(error, DeviceLost) else 2)


def fail(folder: Path, error: Exception, expected: bool) -> None:
    """One of many runs failed: the others go on, and the end of all tells of it.

    Said in a file, since the runs of a launcher may be other processes on other machines.
    """
    said = f"{error}\n" if expected else "".join(traceback.format_exception(error))
    print(f"error: {said}", end="", file=sys.stderr)
    (folder / FAILED).write_text(said, encoding="utf-8")


class MergeRuns(Callback):  # type: ignore[misc]  # Hydra has no types here
    """Hydra calls it once all runs of ``-m`` are done, in whatever process each was."""

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Raises ``SystemExit``: of other errors Hydra makes a warning."""
        from calib.report.runs.merge import merge_runs, outcome
        from calib.report.runs.table import run_cells
        from calib.report.terminal import print_cells

        folder, status = Path(config.hydra.sweep.dir), 0
        runs, failed = outcome(folder)
        try:
            if runs:
                written, table = merge_runs(folder, runs, config.report.pictures)
                print_cells(run_cells(table))
                print("all runs: " + ", ".join(str(path) for path in written))
        except CalibError as error:
            print(f"error: {error}", file=sys.stderr)
            status = 2
        if failed:
            print(f"{len(failed)} of {len(failed) + len(runs)} runs failed:", file=sys.stderr)
        for path, why in failed.items():
            print(f"  {path}: {why}", file=sys.stderr)
        if failed or status:
            sys.exit(2)


MERGE = "+hydra.callbacks.merge_runs._target_=calib.run.MergeRuns"
"""Names the class here, since nothing in the configuration is code."""


def cli() -> None:
    """The command line: what Hydra finds wrong before a run starts is one clear error too."""
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "1")  # looking for them reads every package
    gc.set_threshold(50_000, 20, 20)  # what imports and tables create stays: a search is in vain
    first = (i for i, word in enumerate(sys.argv) if "=" in word and not word.startswith("-"))
    sys.argv.insert(next(first, len(sys.argv)), MERGE)  # overrides must stand beside one another
    try:
        main()
    except (OSError, ValueError, HydraException, OmegaConfBaseException) as error:
        from calib.steps.command_line import explain

        given = [word for word in sys.argv[1:] if not word.startswith("-") and word != MERGE]
        print(f"error: {explain(error, given)}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    cli()
