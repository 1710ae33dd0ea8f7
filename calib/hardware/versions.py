"""Versions: of the libraries and the system that measured, and of the CUDA that is meant.

A CUDA brings the libraries, and so the kernels of torch that is built for it.
"""

from __future__ import annotations

import platform
import re
from importlib.metadata import PackageNotFoundError, version

NEWEST = "13.0"
"""The CUDA of the torch whose kernels the calibrations that ship were measured with."""
OLDER = "12.4"
"""The newest one of which it is known that torch takes other kernels."""
PRODUCTS = "12.9"
"""One between the two, of which it is known what products take and nothing else."""
NEAREST = "12.8"
"""The first one that is taken for it: the last minor version before, which brings the same
generation of kernels. Between that and the one above nothing is known of any kernel."""
ACCEPTED = 'a version of CUDA with both parts, as a text: "12.4", or null'
_VERSION = re.compile(r"([1-9][0-9]?)\.([0-9]{1,2})")
FIRST = {
    **{"6.0": "8.0", "6.1": "8.0", "7.0": "9.0", "7.5": "10.0", "8.0": "11.0", "8.6": "11.1"},
    **{
        "8.9": "11.8",
        "9.0": "11.8",
        "10.0": "12.8",
        "12.0": "12.8",
        "10.3": "12.9",
        "12.1": "12.9",
    },
}
"""Compute capability -> the first CUDA that compiles for it, by the toolkits' release notes."""


def cuda_version(value: str) -> tuple[int, int]:
    """(major, minor). Raises ``ValueError`` for what is no version."""
    matched = _VERSION.fullmatch(value)
    if not matched:
        raise ValueError(f"{value!r}: expected {ACCEPTED}")
    return int(matched[1]), int(matched[2])


def first_cuda(capability: str | None, cuda: str) -> str | None:
    """The first CUDA for cards of ``capability`` where ``cuda`` is an earlier one, else None."""
    first = FIRST.get(capability or "")
    return first if first and cuda_version(cuda) < cuda_version(first) else None


def is_older(cuda: str | None) -> bool:
    """Whether torch for ``cuda`` is known to take other kernels than what ships was measured with;
    None: no version is meant, hence that one."""
    return cuda_version(cuda or NEWEST) <= cuda_version(OLDER)


def tells_products(cuda: str | None) -> bool:
    """Whether of torch for ``cuda`` products are told by ``PRODUCTS``, and nothing else."""
    return cuda_version(NEAREST) <= cuda_version(cuda or NEWEST) <= cuda_version(PRODUCTS)


def versions(card: bool = False) -> dict[str, str]:
    """Versions of what measures, and of the system; with ``card``, which is measured, its driver's.

    The last needs torch.
    """
    found = {"python": platform.python_version(), "system": platform.system()}
    for name in ("calib", "torch", "triton", "transformers", "numpy", "scikit-learn"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    if card:
        import torch

        found |= {"cuda": str(torch.version.cuda), "driver": driver_version() or "not known"}
    return found


def driver_version() -> str | None:
    """Of the NVIDIA driver, from NVML; None where NVML is not there."""
    try:
        import pynvml
    except ImportError:
        return None
    try:
        pynvml.nvmlInit()
        try:
            return str(pynvml.nvmlSystemGetDriverVersion())
        finally:
            pynvml.nvmlShutdown()
    except pynvml.NVMLError:
        return None
