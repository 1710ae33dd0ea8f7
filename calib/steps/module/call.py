"""The whole way in one call: a torch module and its inputs in, what it takes on a device out."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from calib.checkout import CONF, check_packages, read_yaml
from calib.errors import CalibError, one_of, wrong
from calib.report.record import UNKNOWN

if TYPE_CHECKING:
    import pandas as pd
    import torch

    from calib.hardware.datasheet import Hardware
    from calib.report.record import RunRecord
    from calib.steps.request import Request

TABLES = ("operators", "modules", "components", "figures")


@dataclass(frozen=True)
class Estimate:
    """What a module takes on a device. All quantities are SI.

    record    the tables behind it (``calib.report.record.RunRecord``): one row an operator with
              its estimate, its interval, and how it is known
    """

    record: RunRecord

    @property
    def wall_s(self) -> float:
        """Seconds of one pass, or of one training step, with the host; NaN where none is known, and
        where it does not fit."""
        return float(self.record.total["estimate_s"])

    @property
    def low_s(self) -> float:
        """The lower end of the 90% interval of ``wall_s`` [s]."""
        return float(self.record.total["low_s"])

    @property
    def high_s(self) -> float:
        """The upper end [s]."""
        return float(self.record.total["high_s"])

    @property
    def kernel_s(self) -> float:
        """Seconds of the kernels alone."""
        return float(self.record.total["kernel_s"])

    @property
    def roofline_s(self) -> float:
        """The least that FLOPs and bytes allow at the device's peaks [s]."""
        return float(self.record.total["roofline_s"])

    @property
    def provenance(self) -> str:
        """How it is known: measured, interpolated, extrapolated, transferred or roofline."""
        return str(self.record.total["provenance"])

    @property
    def joules(self) -> float | None:
        """Of the whole, the idle card's among them; None where none were counted on the card."""
        use = self.record.energy
        return None if use is None else float(use["joules"])

    @property
    def bound_by(self) -> str:
        """host, compute or memory; unknown where no time is."""
        return str(self.record.total["limited_by"] or UNKNOWN)

    @property
    def memory_bytes(self) -> float:
        """At the peak: weights, activations and, of a step, gradients and optimizer state."""
        return float(self._memory["needed_bytes"])

    @property
    def fits(self) -> bool:
        """Whether that is no more than the device has."""
        return bool(self._memory["fits"])

    @property
    def mfu(self) -> float | None:
        """Of a training step, model FLOPs over what the peak allows in its time (0 to 1)."""
        figures = self.record.figures
        found = figures.loc[figures["name"] == "MFU", "estimate"]
        return None if found.empty else float(found.iloc[0]) / 100

    @property
    def _memory(self) -> dict[str, Any]:
        if self.record.memory is None:
            raise CalibError(f"{self.record.hardware['name']}: its memory is not known")
        return self.record.memory

    @property
    def operators(self) -> pd.DataFrame:
        """One row a call; the columns are those of ``estimates.parquet``."""
        return self.to_pandas()

    def to_pandas(self, table: str = "operators") -> pd.DataFrame:
        """A copy of one table: operators, modules, components or figures.

        Raises ``CalibError`` for another name.
        """
        if table not in TABLES:
            raise CalibError(f"table = {table!r}: expected {one_of(table, TABLES)}")
        found: pd.DataFrame = getattr(self.record, table)
        return found.copy()

    def report(self, folder: Path | str, pictures: bool = True) -> list[Path]:
        """Write what a run writes into ``folder``; returns the paths.

        Raises ``ReportError``, an ``OSError``, for a folder that cannot be written.
        """
        from calib.report.write import write_report

        return write_report(self.record, folder, pictures)

    def __repr__(self) -> str:
        from calib.report.units import interval, nbytes, seconds

        record = self.record
        if not record.has_room:
            needs, has = (nbytes(self._memory[f"{of}_bytes"]) for of in ("needed", "memory"))
            return f"<{record.model} on {record.place}: does not fit, needs {needs} of {has}>"
        return (
            f"<{record.model} on {record.hardware['name']}: {seconds(self.wall_s)} "
            f"({interval(self.low_s, self.high_s)}), kernels {seconds(self.kernel_s)}, "
            f"{self.provenance}, bound by {self.bound_by}>"
        )

    def __str__(self) -> str:
        """The tables and remarks that a run prints."""
        from calib.report.terminal import print_report

        out = io.StringIO()
        print_report(self.record, out)
        return out.getvalue()


def estimate(
    module: torch.nn.Module,
    inputs: Any,
    hw: str | Hardware | None = None,
    *,
    train: bool = False,
    execution: str = "eager",
    implementation: str = "torch",
    name: str | None = None,
    real: bool = False,
    samples_dir: Path | str | None = None,
    measure: str | None = None,
    training: Mapping[str, Any] | None = None,
    cuda: str | None = None,
    traces: Path | str | Sequence[Path | str] = (),
) -> Estimate:
    """What ``module`` takes on the device ``hw``, operator by operator; it is not run there.

    module          any torch module; on ``meta``, fake or with values: its shapes are what counts
    inputs          a tensor, a tuple of positional arguments, or a mapping of named ones
    hw              a card of ``conf/hw`` or a ``Hardware``; None: the device found
    train           a step of training: forward, backward, AdamW
    execution       eager, graph (a CUDA graph) or compiled
    implementation  whose samples the times lean on: torch, triton or vllm
    name            what the report calls it; None: its class
    real            run it on the tensors as they are, since its code looks at values
    samples_dir     where the user's own samples are; None: the user's data directory
    measure         a sweep of ``conf/sweep``, such as quick, that measures this machine's operators
                    first, where ``hw`` is here; None: nothing is measured
    training        of AdamW: ``state_dtype`` and ``master_dtype``, types by name
    cuda            the CUDA that torch is built for, "12.4"; None: as ``traces`` say, else as what
                    ships was measured with
    traces          of torch.profiler, recorded on the card: their operators are samples too

    Without ``measure`` times lean on what ships and on samples of a card taken before, and those
    of a CPU are NaN, since only probes tell its peaks.

    Raises ``CalibError`` that names the argument: a device that is not known, or not here and to be
    measured, a file that is no trace of the card, a module that looks at values, a step of one that
    has nothing to learn.
    """
    check_packages()
    if training and not train:
        raise CalibError(wrong("training", dict(training), "train=True beside it"))
    from calib.steps.answer import answer
    from calib.steps.card.traces import recorded, with_traces
    from calib.steps.fitting import fit_samples
    from calib.steps.measuring import measure_host, measure_operators
    from calib.steps.subject import meant_for, shapes_of, trained
    from calib.steps.target import find_target, of_cuda
    from calib.trace.own import own_model

    model: Any = own_model(module, inputs, name, real)
    request = asked(
        model,
        hw=card(hw),
        mode="run" if measure else "analytic",
        sweep=read_yaml(option("sweep", measure or "quick")),
        execution=execution,
        implementation=implementation,
        cuda=cuda,
        samples={"dir": samples_dir, "traces": traces},
        training=dict(training or {}),
        **{"pass": "train" if train else "inference"},
    )
    target = find_target(request.hw, request.samples.dir, request.mode, request.execution)
    target = of_cuda(target, request.cuda, recorded(None, request.samples.traces))
    if measure and not target.here:
        here = "a device that is here, or measure=None"
        raise CalibError(f"measure = {measure!r} on {target.hardware.name}: expected {here}")
    model = meant_for(model, target.hardware)
    if train:
        model = trained(model, request)
    phases = model.phases(request.workload)
    if target.here:
        target = measure_operators(target, phases, request.sweep, request.seed)
    target = with_traces(target, request.samples.traces)
    calibrations = fit_samples(target, shapes_of(phases))
    host_s = measure_host(target, calibrations[0], request.execution)
    return Estimate(answer(request, target, model, phases, calibrations, None, host_s))


def asked(model: Any, **given: Any) -> Request:
    """The request of a run. Raises ``CalibError`` for a wrong value."""
    from calib.steps.request import read_request
    from calib.steps.subject import OWN

    return read_request(
        {
            "model": {"architecture": OWN, "name": model.name},
            "workload": model.workload,
            **given,
        }
    )


def option(group: str, name: str) -> Path:
    """The file of an option. Raises ``CalibError`` for one that does not exist."""
    files = {path.stem: path for path in sorted((CONF / group).glob("*.yaml"))}
    if name not in files:
        raise CalibError(f"{group} = {name!r}: expected {one_of(name, files)}")
    return files[name]


def card(hw: str | Hardware | None) -> Hardware | None:
    """Raises ``CalibError`` for a card that no file of ``conf/hw`` describes."""
    from calib.hardware.datasheet import load_hardware

    return load_hardware(hw) if isinstance(hw, str) else hw
