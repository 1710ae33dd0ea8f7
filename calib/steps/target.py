"""The device that estimates are for, whether it is here, and the instrument that measures it."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from calib.errors import CalibError, wrong
from calib.hardware.datasheet import Hardware, load_hardware
from calib.hardware.device import DeviceProperties, detect_device, device_hardware
from calib.hardware.versions import NEWEST, first_cuda
from calib.samples.files import read_samples
from calib.samples.host_costs import EAGER, GRAPH
from calib.samples.sample import Sample
from calib.samples.store import SampleStore

if TYPE_CHECKING:
    from calib.compare.clock.events import TraceFile
    from calib.measure.instrument import Instrument

CPU = "cpu"


@dataclass(frozen=True)
class Target:
    """The device that the estimates are for. ``here``: it is this machine's and can be measured;
    ``notes``: what a reader must know of its samples."""

    hardware: Hardware
    here: bool
    device: str
    store: SampleStore
    samples: list[Sample] = field(default_factory=list)
    notes: tuple[str, ...] = ()

    @property
    def on_card(self) -> bool:
        return self.hardware.name != CPU

    @property
    def torch_device(self) -> str:
        """What torch calls it."""
        return "cuda:0" if self.on_card else CPU


def find_target(
    chosen: Hardware | None, samples_dir: Path | None, mode: str, execution: str = EAGER
) -> Target:
    """The ``chosen`` card, else the device found, else the CPU. Its samples lie in a folder of its
    own below ``samples_dir`` (None: the user's data directory).

    A card that is here is measured, unless the mode is ``analytic``. Raises ``CalibError`` for a
    mode that the device cannot serve.
    """
    found = detect_device()
    hardware = chosen or (device_hardware(found) if found else load_hardware(CPU))
    folder = (samples_dir or default_samples_dir()).expanduser() / hardware.name
    if hardware.name == CPU:
        if execution == GRAPH:
            raise CalibError(
                "execution = 'graph' on cpu: expected eager or compiled, since a CPU has no graphs"
            )
        from calib.hardware.host import detect_host

        device = detect_host().device
        here = mode != "analytic"  # which never measures
        return Target(hardware, here, device, SampleStore(folder, CPU, device))
    here = is_here(hardware, found)
    if mode == "calibrate" and not here:
        raise CalibError(
            f"mode = 'calibrate' on {hardware.name}: expected a device of this machine, "
            f"{found.name if found else 'which has no CUDA card'}, or +hw=cpu"
        )
    device = found.name if found else ""
    store = SampleStore(folder, hardware.name, device)
    if here and mode != "analytic":
        return Target(hardware, True, device, store)
    samples = read_samples(folder, hardware.name) if folder.exists() else []
    return Target(hardware, False, device, store, samples)


def is_here(hardware: Hardware, found: DeviceProperties | None) -> bool:
    """Whether ``hardware`` is the card that was ``found``: by the names that drivers report."""
    return found is not None and found.name in hardware.device_names


def default_samples_dir() -> Path:
    """The user's data directory, as the XDG base directory specification names it."""
    return Path(os.environ.get("XDG_DATA_HOME") or "~/.local/share") / "calib" / "samples"


def probed(target: Target) -> Target:
    """The target with the peaks that only probes can tell."""
    if not target.hardware.unprobed:
        return target
    from calib.hardware.host import detect_host, with_probes
    from calib.measure.probes import peaks

    found = peaks()
    hardware = with_probes(target.hardware, detect_host(), found.peak_flops, found.bandwidth)
    return replace(target, hardware=hardware)


def open_instrument(target: Target, seed: int = 0, arena_bytes: int | None = None) -> Instrument:
    """What measures ``target``, which is here. ``arena_bytes``: of random inputs on a card, where
    a fifth of its free memory would be too much.

    Raises ``CalibError`` where torch was built without CUDA, or for another version than the
    driver's.
    """
    if not target.on_card:
        from calib.measure.cpu import CpuInstrument

        return CpuInstrument()
    import torch

    if not torch.cuda.is_available():
        raise CalibError(
            f"{target.device} is here, but torch {torch.__version__} cannot use it: expected a "
            "build of torch for its driver; or give mode=analytic, or +hw=cpu"
        )
    from calib.measure.cuda.instrument import open_cuda

    return open_cuda(target.hardware, target.torch_device, seed, arena_bytes)


def of_cuda(target: Target, cuda: str | None, traces: Iterable[TraceFile]) -> Target:
    """The target as torch built for ``cuda`` runs on it; None: for what the first of ``traces``
    that names one says, else the card's own. Raises ``CalibError`` for a ``cuda`` of a CPU, or one
    that is older than the card."""
    if not target.on_card:
        if cuda:
            raise CalibError(wrong("cuda", cuda, "null with +hw=cpu, the device found"))
        return target
    for key, asked in (("cuda", cuda), ("hw.cuda", target.hardware.cuda)):
        capability = target.hardware.compute_capability
        first = first_cuda(capability, asked) if asked else None
        if first:
            accepted = (
                f"{first} or later, as cards of compute capability {capability} need, or null"
            )
            raise CalibError(wrong(key, asked, accepted))
    traces = list(traces)
    said = {trace.path.name: trace.cuda for trace in traces if trace.cuda}
    meant = cuda or next(iter(said.values()), target.hardware.cuda)
    others = [f"{name} by CUDA {found}" for name, found in said.items() if found != meant]
    notes = [f"The times are for CUDA {meant}, but recorded was {' and '.join(others)}."] * bool(
        others
    )
    silent = dict.fromkeys(t.path.name for t in traces if not t.cuda)
    notes += [
        f"{name} does not say by which CUDA it was recorded: {meant or NEWEST} is taken (cuda=...)."
        for name in (silent if not cuda else ())
    ]
    hardware = replace(target.hardware, cuda=meant)
    return replace(target, hardware=hardware, notes=(*target.notes, *notes))
