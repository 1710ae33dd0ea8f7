"""Wheels for a machine with a card and without a network: collected here, installed there.

    python -m benchmarks.card.wheels --collect wheels

collects what calib and its tests need beside torch, triton and the large libraries that a machine
for measuring has anyway, for Python 3.12 on Linux (x86_64), at the versions of ``constraints.txt``.
What has no wheel on the index is built. A table of public measurements for each card goes with it,
where the package that has them is installed.

On the other machine only what is missing or too old there is installed, into a folder of its own:
nothing of the machine's Python is touched.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from email.parser import Parser
from importlib.metadata import PackageNotFoundError, distribution, version
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name, parse_wheel_filename
from packaging.version import Version

ROOT = Path(__file__).parents[2]
MOST_BYTES = 60 * 2**20
ROOTS = (
    *("hydra-core>=1.3.2,<1.4", "hydra-joblib-launcher>=1.2", "omegaconf", "transformers>=5.23"),
    *("nvidia-ml-py>=12", "psutil>=5.9", "pyyaml>=6", "rich>=13.7", "pytest>=8", "hypothesis>=6"),
    *("jsonschema>=4.20", "pydantic>=2.10"),
)
"""What is asked for; the rest follows from what these ask for."""
LARGE = (
    *("torch", "triton", "numpy", "scipy", "pandas", "pyarrow", "matplotlib", "scikit-learn"),
    *("sympy", "mpmath", "pillow", "setuptools", "jinja2"),
)
"""Expected on the other machine: torch brings some, measuring needs the others. Not collected."""
LEFT_OUT = ("vl-convert-python",)
"""Neither expected nor brought along: a page's figures, 30 MB (``report.html=false`` there)."""
PYTHON, PLATFORMS = "3.12", ("manylinux_2_28_x86_64", "manylinux2014_x86_64")
_THERE = {"python_version": "3.12", "python_full_version": "3.12.0", "sys_platform": "linux"}
_THERE |= {"platform_system": "Linux", "platform_machine": "x86_64", "extra": ""}

Installed = Callable[[str], str | None]


def installed(name: str) -> str | None:
    """The version of a package that this Python finds, or None."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def applies(requirement: Requirement) -> bool:
    return requirement.marker is None or requirement.marker.evaluate(_THERE)


def closure(roots: Iterable[str] = ROOTS) -> set[str]:
    """Names of all that ``roots`` need on the other machine, read off what is installed here."""
    found: set[str] = set()
    pending = [Requirement(root) for root in roots]
    while pending:
        requirement = pending.pop()
        name = canonicalize_name(requirement.name)
        if name in found or name in LARGE or not applies(requirement):
            continue
        found.add(name)
        pending += [Requirement(text) for text in distribution(name).requires or ()]
    return found


def pins() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text("utf-8").split()
    return {canonicalize_name(n): v for n, v in (line.split("==") for line in lines)}


def collect(folder: Path) -> list[Path]:
    """The wheels, at most ``MOST_BYTES`` in all. Raises ``SystemExit`` where they are more."""
    folder.mkdir(parents=True, exist_ok=True)
    pinned = pins()
    wanted = [f"{name}=={pinned[name]}" for name in sorted(closure())]
    fetch = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder)]
    fetch += ["--only-binary=:all:", "--python-version", PYTHON, "--implementation", "cp"]
    fetch += [part for platform in PLATFORMS for part in ("--platform", platform)]
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", str(folder)]
    for text in wanted:
        if subprocess.run([*fetch, text], check=False, capture_output=True).returncode:
            subprocess.run([*build, text], check=True)
    wheels = sorted(folder.glob("*.whl"))
    total = sum(wheel.stat().st_size for wheel in wheels)
    if total > MOST_BYTES:
        raise SystemExit(f"{folder}: {total / 2**20:.1f} MiB: expected at most 60; see LARGE")
    return wheels


@dataclass(frozen=True)
class Wheel:
    """A wheel file, and what it needs."""

    path: Path
    name: str
    version: Version
    requires: tuple[str, ...]


def read_wheel(path: Path) -> Wheel:
    name, number, _, _ = parse_wheel_filename(path.name)
    with zipfile.ZipFile(path) as archive:
        member = next(
            n for n in archive.namelist() if re.fullmatch(r"[^/]+\.dist-info/METADATA", n)
        )
        message = Parser().parsestr(archive.read(member).decode("utf-8"))
    return Wheel(path, name, number, tuple(message.get_all("Requires-Dist") or ()))


def missing(
    wheels: Iterable[Wheel], roots: Iterable[str] = ROOTS, here: Installed = installed
) -> tuple[list[Wheel], list[str]]:
    """The wheels to install, and requirements that neither this Python nor the wheels meet."""
    offered = {canonicalize_name(w.name): w for w in wheels}
    chosen: dict[str, Wheel] = {}
    unmet: list[str] = []
    pending = [Requirement(root) for root in roots]
    while pending:
        requirement = pending.pop()
        name = canonicalize_name(requirement.name)
        has = here(requirement.name)
        met = has is not None and requirement.specifier.contains(has, prereleases=True)
        if met or name in chosen or not applies(requirement):
            continue
        wheel = offered.get(name)
        if wheel is None or not requirement.specifier.contains(wheel.version, prereleases=True):
            unmet.append(str(requirement))
            continue
        chosen[name] = wheel
        pending += [Requirement(text) for text in wheel.requires]
    return list(chosen.values()), sorted(unmet)


def install(folder: Path, site: Path) -> list[str]:
    """Install what is missing from ``folder`` into ``site``; lines for the reader."""
    chosen, unmet = missing(read_wheel(path) for path in sorted(folder.glob("*.whl")))
    lines = [f"neither installed nor in {folder}: {name}" for name in unmet]
    if chosen:
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps"]
        command += ["--upgrade", "--target", str(site), *(str(w.path) for w in chosen)]
        subprocess.run(command, check=True)
        lines.append(
            f"installed from {folder}: " + ", ".join(f"{w.name} {w.version}" for w in chosen)
        )
    return lines


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.card.wheels")
    parser.add_argument("--collect", type=Path, required=True, help="folder for the wheels")
    options = parser.parse_args(arguments)
    wheels = collect(options.collect)
    for wheel in wheels:
        print(f"{wheel.stat().st_size / 2**20:7.2f} MiB  {wheel.name}")
    print(f"{sum(w.stat().st_size for w in wheels) / 2**20:7.2f} MiB in {len(wheels)} wheels")
    from benchmarks.card.tables import carry

    for line in carry(options.collect):
        print(line)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
