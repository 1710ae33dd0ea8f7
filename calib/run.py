"""The entry: configuration, operators, samples, fit, estimates, report. ``python -m calib.run``."""

from __future__ import annotations

import gc
import os
import signal
import sys
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from calib.checkout import CONF, check_packages
from calib.errors import FAILED, LOST_STATUS, CalibError, DeviceLost
from calib.steps.manners.asked import HELD_BACK, configuration, hold_back, leave_nothing
from calib.steps.manners.order import options_first
from calib.steps.manners.texts import quoted
from calib.steps.many.alone import alone_in
from calib.steps.many.members import leave_unknown, member_name, note_parent
from calib.steps.many.merging import MERGE, merge_what_is_done
from calib.steps.module.source import note_named

if TYPE_CHECKING:
    from calib.steps.request import Request


def run(
    request: Request,
    folder: Path,
    member: str | None = None,
    config: Mapping[str, str] | None = None,
) -> None:
    """One run: everything that it learns goes into ``folder``.

    ``member``: what it is called as one of many, of which a line is said and no more; "": nothing.
    ``config``: files of what was asked, written with what is found.
    """
    if request.mode == "serve":
        served(request, folder, member, config)
        return
    from calib.report.terminal import print_member, print_report
    from calib.report.units import counted
    from calib.report.write import write_asked, write_report
    from calib.steps.answer import answer
    from calib.steps.card.traces import recorded, with_traces
    from calib.steps.fitting import fit_samples
    from calib.steps.measuring import measure_host, measure_model, measure_operators, routing
    from calib.steps.progress import stage
    from calib.steps.subject import find_subject, phases_of, shapes_of
    from calib.steps.target import find_target, of_cuda

    target = find_target(request.hw, request.samples.dir, request.mode, request.execution)
    traces = recorded(request.measured, request.samples.traces)
    target = of_cuda(target, request.cuda, traces)
    with stage("reading the model"):
        request, model = find_subject(request, target.hardware)
        phases = phases_of(model, request.workload)
    if target.here:
        target = measure_operators(target, phases, request.sweep, request.seed)
    if request.mode == "calibrate":
        write_asked(config or {}, folder)
        shapes = len({(s.op, s.cache, s.implementation) for s in target.samples})
        print(
            f"{counted(shapes, 'shape')} of {target.hardware.name} sampled: {target.store.folder}"
        )
        return
    target = with_traces(target, request.samples.traces)
    calibrations = fit_samples(target, shapes_of(phases))
    host_s = measure_host(target, calibrations[0], request.execution)
    observed = measure_model(request, target)
    phases = model.phases(request.workload, routing(observed))
    with stage("estimating"):
        record = answer(request, target, model, phases, calibrations, observed, host_s)
    asked = request.report
    write_report(record, folder, asked.pictures, asked.layers, config, asked.html)
    if member is not None:
        print_member(member, record)
        return
    print_report(record)
    print(f"report: {folder / ('report.html' if asked.html else 'report.md')}")


def served(
    request: Request, folder: Path, member: str | None, config: Mapping[str, str] | None = None
) -> None:
    """A server's front in place of one run."""
    if member is not None:
        raise CalibError("mode = 'serve' with -m: expected one run: serve.isl and .osl take lists")
    from calib.report.serving.texts import print_front
    from calib.steps.engine.front import serve
    from calib.steps.progress import stage

    with stage("trying layouts"):
        front = serve(request, folder, config)
    print_front(front)
    print(f"front: {folder / ('front.html' if request.report.html else 'front.md')}")


@hydra.main(config_path=str(CONF), config_name="config", version_base="1.3")
def main(config: DictConfig) -> None:
    job = HydraConfig.get()
    folder = Path(job.runtime.output_dir)
    (folder / FAILED).unlink(missing_ok=True)  # of an earlier run into the same folder
    try:
        check_packages()
        from calib.steps.request import read_request

        request = read_request(resolved(config))
        with alone_in(folder):
            run(request, folder, member_name(job), configuration(config, job))
    except KeyboardInterrupt:
        if job.mode == RunMode.MULTIRUN:
            raise
        print("interrupted: what was measured is kept; run again to go on", file=sys.stderr)
        sys.exit(INTERRUPTED)
    except Exception as error:
        expected = isinstance(error, CalibError | ValueError | OSError)
        if job.mode == RunMode.MULTIRUN:
            fail(folder, error, expected)
            return
        leave_nothing(folder)
        if expected:
            print(f"error: {error}", file=sys.stderr)
            sys.exit(LOST_STATUS if isinstance(error, DeviceLost) else 2)
        traceback.print_exception(error)  # a fault of ours, and here, so that what reaches
        sys.exit(1)  # cli() is of Hydra and not of a run


def resolved(config: DictConfig) -> Any:
    """As plain dictionaries. Raises ``CalibError`` for a reference that leads nowhere."""
    try:
        return OmegaConf.to_container(config, resolve=True, throw_on_missing=False)
    except OmegaConfBaseException as error:
        said = str(error.msg or error).split("\n", 1)[0]
        raise CalibError(f"{error.full_key}: {said}") from None


def fail(folder: Path, error: Exception, expected: bool) -> None:
    """One of many runs failed: the others go on, and the end of all tells of it.

    Said in a file, since the runs of a launcher may be other processes on other machines. What an
    earlier run left in the folder is none of this one's.
    """
    from calib.report.write import forget

    forget(folder)
    said = f"{error}\n"
    if not expected:
        said = f"{type(error).__name__}: {error}".splitlines()[0] + "\n"
        trace = "".join(traceback.format_exception(error))
        (folder / FAILED).write_text(f"{trace}{said}", encoding="utf-8")
        print(f"error: {said.strip()} ({folder / FAILED} has more)", file=sys.stderr)
        return
    print(f"error: {said}", end="", file=sys.stderr)
    (folder / FAILED).write_text(said, encoding="utf-8")


INTERRUPTED = 130
"""Exit status of a run that a signal ended."""


def end_on_signals() -> None:
    """SIGTERM and the loss of a terminal end a run as Ctrl-C does: what was measured is stored, and
    nothing is taken for killed. (``nohup`` has a lost terminal ignored, which stays so.)"""
    for name in ("SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)  # Windows has but one of them
        if number is not None and signal.getsignal(number) == signal.SIG_DFL:
            signal.signal(number, signal.default_int_handler)


def cli() -> None:
    """The command line: what Hydra finds wrong before a run starts is one clear error too."""
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "1")  # looking for them reads every package
    gc.set_threshold(700_000, 3, 3)  # what imports and tables create stays: a search is in vain
    sys.argv[1:] = quoted(sys.argv[1:])
    note_parent(sys.argv[1:])
    note_named(sys.argv[1:])
    if {"--help", "-h"} & set(sys.argv[1:]):
        from calib.steps.manners.help import help_text

        print(help_text(), end="")
        return
    sys.argv[1:] = options_first(hold_back(leave_unknown(sys.argv[1:])), MERGE)
    end_on_signals()
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(merge_what_is_done())
    except Exception as error:  # Hydra's own, of any kind, where overrides are none
        from calib.steps.command_line import explain

        ours = (MERGE, HELD_BACK)
        given = [word for word in sys.argv[1:] if not word.startswith("-") and word not in ours]
        print(f"error: {explain(error, given)}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    cli()
