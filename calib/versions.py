"""What measured: versions of the libraries and of the system."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version

from calib.device import driver_version
from calib.target import Target


def versions(target: Target | None = None) -> dict[str, str]:
    """Versions of what measures, and of the system; of a card that is measured, its driver's too.

    The last needs torch.
    """
    found = {"python": platform.python_version(), "system": platform.system()}
    for name in ("calib", "torch", "triton", "transformers", "numpy", "scikit-learn"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    if target is not None and target.here and target.on_card:
        import torch

        found |= {"cuda": str(torch.version.cuda), "driver": driver_version() or "not known"}
    return found
