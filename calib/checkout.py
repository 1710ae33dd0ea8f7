"""Where this installation's files lie, and a check that its package names are not shadowed.

``model`` and ``kernels`` are common names: a folder ``model`` in the current directory, or the
Hugging Face package ``kernels``, would be imported in place of ours and fail far from the cause.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

from calib.errors import CalibError

ROOT = Path(__file__).resolve().parents[1]
CONF = ROOT / "conf"
"""The configuration beside ``calib``, in a checkout as in an installed wheel."""


def read_yaml(path: Path) -> Any:
    """Plain data, by the C library where PyYAML has it: a card's file takes a tenth of the time."""
    import yaml

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    return yaml.load(path.read_text("utf-8"), Loader=loader)


def check_packages(names: tuple[str, ...] = ("model", "kernels"), root: Path = ROOT) -> None:
    """Raise ``CalibError`` where a top-level name does not resolve to the package under ``root``.

    Only looks the names up; imports nothing.
    """
    for name in names:
        spec = find_spec(name)
        found = Path(spec.origin).resolve() if spec and spec.origin else None
        expected = root / name / "__init__.py"
        if found != expected:
            raise CalibError(
                f"package {name!r} resolves to {found or 'nothing'}: expected {expected}; start "
                f"python with -P or from another folder, and uninstall any other package {name!r}"
            )
