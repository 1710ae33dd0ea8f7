"""The end of many runs: what they found as one table, what failed with its reason."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, ClassVar

from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from calib.errors import CalibError
from calib.steps.many.members import LEFT_OUT

MERGE = "+hydra.callbacks.merge_runs._target_=calib.steps.many.merging.MergeRuns"
"""Names the class here, since nothing in the configuration is code."""
INTERRUPTED = 130


class MergeRuns(Callback):  # type: ignore[misc]  # Hydra has no types here
    """Hydra calls it before and after all runs of ``-m``, in whatever process each was."""

    begun: ClassVar[MergeRuns | None] = None

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Note what an earlier sweep has left in the same folder: it is none of this one's."""
        from calib.report.runs.merge import stamps

        self.folder = Path(config.hydra.sweep.dir)
        self.pictures = bool(config.report.pictures)
        self.html = bool(config.report.html)
        self.before = stamps(self.folder)
        MergeRuns.begun = self

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Raises ``SystemExit``: of other errors Hydra makes a warning."""
        MergeRuns.begun = None
        if self.finish():
            sys.exit(2)

    def finish(self) -> int:
        """Merge and tell; 2 where a run failed or could not be merged."""
        from calib.report.page.explorer import write_explorer
        from calib.report.runs.grid import print_runs
        from calib.report.runs.merge import merge_runs, outcome

        status, (runs, failed) = 0, outcome(self.folder, self.before)
        try:
            if runs:
                written, table = merge_runs(self.folder, runs, self.pictures)
                written += [write_explorer(table, self.folder)] if self.html else []
                print_runs(table)
                print("all runs: " + ", ".join(str(path) for path in written), flush=True)
        except CalibError as error:
            print(f"error: {error}", file=sys.stderr)
            status = 2
        if failed:
            print(f"{len(failed)} of {len(failed) + len(runs)} runs failed:", file=sys.stderr)
            status = 2
        for path, why in failed.items():
            print(f"  {path}: {why}", file=sys.stderr)
        for option, why in LEFT_OUT.items():
            print(f"left out, {option}: {why}", file=sys.stderr)
            status = 2
        return status


def merge_what_is_done() -> int:
    """After Ctrl-C: the runs that are done as one, and a line. Returns the exit status."""
    from calib.report.runs.merge import outcome

    sweep = MergeRuns.begun
    if sweep is None:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    sweep.finish()
    done = len(outcome(sweep.folder, sweep.before)[0])
    print(f"interrupted: {done} runs were done and are merged", file=sys.stderr)
    return INTERRUPTED
