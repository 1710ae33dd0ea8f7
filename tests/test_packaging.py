"""What is shipped: ranges with reasons, pins within them, and a wheel that runs on its own."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from calib.checkout import ROOT

TEXT = (ROOT / "pyproject.toml").read_text("utf-8")
PROJECT: dict[str, Any] = tomllib.loads(TEXT)
RUNTIME = [Requirement(text) for text in PROJECT["project"]["dependencies"]]
EXTRAS = PROJECT["project"]["optional-dependencies"]
DIRECT = RUNTIME + [Requirement(text) for text in EXTRAS["dev"]]
PUBLIC = [Requirement(text) for text in EXTRAS["public"]]
PINS = {
    canonicalize_name(name): Version(pin)
    for name, pin in (
        line.split("==") for line in (ROOT / "constraints.txt").read_text("utf-8").splitlines()
    )
}


def installed(requirements: list[Requirement]) -> set[str]:
    """Canonical names of all that ``requirements`` bring with them, as far as it is installed."""
    found: set[str] = set()
    pending = list(requirements)
    while pending:
        requirement = pending.pop()
        name = canonicalize_name(requirement.name)
        try:
            needs = distribution(name).requires or []
        except PackageNotFoundError:
            continue
        if name not in found or requirement.extras:
            found.add(name)
            for need in map(Requirement, needs):
                environments = [{"extra": extra} for extra in ("", *requirement.extras)]
                if need.marker is None or any(map(need.marker.evaluate, environments)):
                    pending.append(need)
    return found


# Ranges and pins


@pytest.mark.parametrize("requirement", DIRECT + PUBLIC, ids=str)
def test_a_pin_lies_in_its_range(requirement: Requirement) -> None:
    pin = PINS[canonicalize_name(requirement.name)]
    assert pin.local is None
    assert requirement.specifier.contains(pin), f"{requirement} leaves out {pin}"


@pytest.mark.parametrize("requirement", DIRECT, ids=str)
def test_what_is_installed_lies_in_its_range(requirement: Requirement) -> None:
    if requirement.marker is None or requirement.marker.evaluate():
        assert requirement.specifier.contains(distribution(requirement.name).version)


def test_the_contract_s_ranges_and_pins() -> None:
    ranges = {requirement.name: requirement for requirement in RUNTIME}
    assert ranges["torch"].specifier.contains("2.11.0")
    assert ranges["triton"].specifier.contains("3.6.0")
    assert ranges["transformers"].specifier.contains("5.17.0")
    triton = ranges["triton"].marker
    assert triton is not None
    assert triton.evaluate({"sys_platform": "linux"})
    assert not triton.evaluate({"sys_platform": "darwin"})
    assert PINS["torch"] == Version("2.13.0")
    assert PINS["triton"] == Version("3.7.1")
    assert PROJECT["project"]["requires-python"] == ">=3.11"


def test_everything_needed_is_pinned_and_nothing_else() -> None:
    """What torch brings for CUDA is pinned by torch itself."""
    needed = installed(DIRECT + PUBLIC)
    unpinned = {name for name in needed if name not in PINS}
    assert not {name for name in unpinned if not name.startswith(("nvidia-", "cuda-"))}
    assert not {name for name in PINS if name not in needed and is_installed(name)}


def is_installed(name: str) -> bool:
    try:
        return bool(distribution(name))
    except PackageNotFoundError:
        return False


def test_the_hugging_face_kernels_are_not_asked_for() -> None:
    """They would lie where ours do."""
    assert not {"kernels", "model", "conf"} & set(PINS)


def entries(key: str) -> list[str]:
    """The lines of a list in pyproject.toml that spans several."""
    match = re.search(rf"^{key} = \[\n(.*?)^\]", TEXT, re.MULTILINE | re.DOTALL)
    assert match, key
    return match.group(1).splitlines()


@pytest.mark.parametrize("key", ["dependencies", "dev", "ignore"])
def test_every_entry_has_a_reason(key: str) -> None:
    assert entries(key)
    for line in entries(key):
        assert re.search(r'",\s+# \S.{3,}', line), line


@pytest.mark.parametrize("extra", ["submitit", "ray"])
def test_launchers_are_extras(extra: str) -> None:
    first, *bounds = [Requirement(text) for text in EXTRAS[extra]]
    assert first.name == f"hydra-{extra}-launcher"
    assert all("<" in str(bound.specifier) for bound in bounds)  # of what it cannot be with


# pixi, make, and what surrounds a release


def test_pixi_gives_what_make_gives() -> None:
    pixi = tomllib.loads((ROOT / "pixi.toml").read_text("utf-8"))
    assert {"calib", "test", "check"} <= set(pixi["tasks"])
    assert pixi["tasks"]["calib"] == "python -m calib.run"
    assert set(pixi["environments"]) == {"default", "gpu", "rtx5090"}
    for environment in pixi["environments"].values():
        assert set(environment.get("features", [])) <= set(pixi["feature"])
    assert "+hw=rtx5090" in pixi["feature"]["rtx5090"]["tasks"]["calib"]
    makefile = (ROOT / "Makefile").read_text("utf-8")
    for command in pixi["tasks"]["check"].split(" && "):
        assert f"$(BIN)/{command}" in makefile
    assert pixi["workspace"]["version"] == PROJECT["project"]["version"]


def make(*arguments: str) -> str:
    environ = {k: v for k, v in os.environ.items() if not k.startswith("MAKE")}  # of an outer make
    done = subprocess.run(
        ["make", "--dry-run", "--always-make", "--no-print-directory", *arguments],
        cwd=ROOT,
        env=environ,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
def test_make_runs_what_it_says() -> None:
    run = make("run", "ARGS=+hw=rtx5090")
    assert run.rstrip().endswith(".venv/bin/python -m calib.run +hw=rtx5090")
    assert "-m pip install" in run
    assert "-c constraints.txt" in run
    assert "://" not in run
    assert ".venv/bin/python -m pytest" in make("test")
    assert "pytest" not in make("check")
    assert "make test" in (ROOT / ".ci" / "run").read_text("utf-8")
    assert os.access(ROOT / ".ci" / "run", os.X_OK)


def test_the_changelog_opens_with_this_version() -> None:
    version = PROJECT["project"]["version"]
    headings = re.findall(
        r"^## \[?([\d.]+)", (ROOT / "CHANGELOG.md").read_text("utf-8"), re.MULTILINE
    )
    assert headings[0] == version


def test_the_licence_is_the_one_that_is_named() -> None:
    text = (ROOT / "LICENSE").read_text("utf-8")
    assert PROJECT["project"]["license"] == "Apache-2.0"
    assert "Apache License" in text
    assert "Version 2.0" in text
    assert "The calib authors" in text


# The wheel


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy, so that no build folder is left in the checkout."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in ("calib", "model", "kernels", "conf"):
        ignored = shutil.ignore_patterns("__pycache__", "*.pyc")
        shutil.copytree(ROOT / name, source / name, ignore=ignored)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-index"]
    subprocess.run(
        [*pip, "--no-build-isolation", "--wheel-dir", str(out), str(source)], check=True, cwd=out
    )
    (built,) = out.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def elsewhere(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a fresh virtual environment that holds the wheel.

    Its dependencies are those of the environment that runs the tests: a plain ``.pth`` line adds
    that folder of packages, but not what its own ``.pth`` files add (an editable install of this
    checkout).
    """
    folder = tmp_path_factory.mktemp("elsewhere")
    environment = folder / "environment"
    subprocess.run(
        [sys.executable, "-m", "venv", "--without-pip", str(environment)], check=True, cwd=folder
    )
    python = str(environment / "bin" / "python")
    install = ["install", "--quiet", "--no-deps", "--no-index", str(wheel)]
    subprocess.run(
        [sys.executable, "-m", "pip", "--python", python, *install], check=True, cwd=folder
    )
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    packages = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    (environment / "lib" / version / "site-packages" / "dependencies.pth").write_text(
        "\n".join(sorted(packages)), "utf-8"
    )
    return folder


def run_elsewhere(folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    environ = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    return subprocess.run(
        [str(folder / "environment" / "bin" / command[0]), *command[1:]],
        cwd=folder,
        env={**environ, "XDG_DATA_HOME": str(folder / "data")},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.slow
def test_the_wheel_holds_all_code_and_configuration_and_nothing_else(wheel: Path) -> None:
    shipped = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    code = {p for top in ("calib", "model", "kernels") for p in (ROOT / top).rglob("*.py")}
    expected = code | set((ROOT / "conf").rglob("*.yaml"))
    data = {".parquet", ".json", ".npz", ".md", ".html", ".css", ".js"}
    also = {p for top in ("calib", "kernels") for p in (ROOT / top).rglob("*") if p.suffix in data}
    assert shipped == {p.relative_to(ROOT).as_posix() for p in expected | also}


@pytest.mark.slow
def test_the_wheel_runs_outside_the_checkout(elsewhere: Path) -> None:
    where = run_elsewhere(elsewhere, "python", "-c", "import calib, model; print(calib.__file__)")
    assert where.stdout.startswith(str(elsewhere)), where.stdout + where.stderr
    run = run_elsewhere(
        elsewhere, "python", "-m", "calib.run", "+hw=rtx5090", "report.pictures=false"
    )
    assert run.returncode == 0, run.stdout + run.stderr
    (estimates,) = (elsewhere / "outputs").rglob("estimates.parquet")
    assert estimates.with_name("report.json").exists()


@pytest.mark.slow
def test_the_wheel_brings_a_command(elsewhere: Path) -> None:
    shown = run_elsewhere(elsewhere, "calib", "+hw=h200", "--cfg", "job")
    assert shown.returncode == 0, shown.stderr
    assert "name: h200" in shown.stdout
