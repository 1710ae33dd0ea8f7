"""What measured: versions of the libraries and of the system."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version

from calib.hardware.device import driver_version


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
