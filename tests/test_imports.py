"""Imports flow one way: what each part may import is stated here and read off the source."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from calib.checkout import ROOT, check_packages
from calib.errors import CalibError

LEARNING = "errors checkout hardware samples fit"
MAY_IMPORT = {
    "errors": "",
    "checkout": "errors",
    "hardware": "errors checkout",
    "samples": "errors checkout hardware",
    "trace": "errors checkout hardware",
    "measure": "errors checkout hardware samples",  # and never fit
    "fit": "errors checkout hardware samples",
    "cards": LEARNING,
    "estimates": f"{LEARNING} cards",
    "report": "errors",  # it sees tables only
    "compare": f"{LEARNING} estimates measure report",
    "steps": f"{LEARNING} cards estimates compare measure trace report",
    "run": "errors checkout steps report",
}
"""Rooms of ``calib``, from the ground up, and the rooms that each may know."""
KERNELS_TOO = {"measure"}
"""Rooms that execute work, and so may import ``kernels`` beside ``model``."""
TORCH_AT_THE_TOP = {"measure", "trace"}


def imports(source: str, everywhere: bool = True) -> Iterator[str]:
    """Dotted names that are imported at run time; at module level only, unless ``everywhere``.

    ``from a import b`` yields ``a.b``, since b may be a module. What stands under
    ``if TYPE_CHECKING`` is never executed and left out.
    """
    pending: list[ast.AST] = [ast.parse(source)]
    while pending:
        node = pending.pop()
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            pending += node.orelse
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{'.' * node.level}{node.module}.{alias.name}" for alias in node.names)
        elif everywhere or not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            pending += ast.iter_child_nodes(node)


def modules(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def room(path: Path) -> str:
    """The room of ``calib`` that a file belongs to, or its own name beside them."""
    return path.relative_to(ROOT / "calib").parts[0].removesuffix(".py")


def foreign(path: Path, allowed: set[str]) -> set[str]:
    """Imports of ``path`` from outside the standard library and ``allowed``."""
    tops = {name.split(".")[0] for name in imports(path.read_text("utf-8"))}
    return tops - sys.stdlib_module_names - allowed


def test_reads_imports_where_they_stand() -> None:
    source = """
import a.b
from typing import TYPE_CHECKING
if TYPE_CHECKING:
    import never
try:
    import c
except ImportError:
    pass
class D:
    import d
def f():
    from e import g
from . import h
"""
    everywhere = {"a.b", "typing.TYPE_CHECKING", "c", "d", "e.g", ".None.h"}
    assert set(imports(source)) == everywhere
    assert set(imports(source, everywhere=False)) == everywhere - {"e.g"}


def test_no_relative_imports() -> None:
    for package in ("model", "kernels", "calib"):
        for path in modules(package):
            relative = [n for n in imports(path.read_text("utf-8")) if n.startswith(".")]
            assert not relative, f"{path}: name the package in full: {relative}"


@pytest.mark.parametrize("path", modules("model"), ids=lambda p: p.stem)
def test_model_needs_numpy_alone(path: Path) -> None:
    assert foreign(path, {"model", "numpy"}) == set()


@pytest.mark.parametrize("path", modules("kernels"), ids=lambda p: p.stem)
def test_kernels_need_torch_and_triton_alone(path: Path) -> None:
    assert foreign(path, {"kernels", "torch", "triton"}) == set()


@pytest.mark.parametrize("path", modules("calib"), ids=lambda p: "-".join(p.parts[-2:]))
def test_calib_imports_downwards(path: Path) -> None:
    own = room(path)
    if own == "__init__":  # light: a call imports what it needs
        assert not list(imports(path.read_text("utf-8"), everywhere=False))
        return
    assert own in MAY_IMPORT, f"calib/{own} is new: state in MAY_IMPORT what it may import"
    for name in imports(path.read_text("utf-8")):
        top, *rest = name.split(".")
        if top == "calib":
            allowed = {*MAY_IMPORT[own].split(), own}
            assert rest[0] in allowed, f"{path} imports {name}: allowed is {sorted(allowed)}"
        if top == "kernels":
            assert own in KERNELS_TOO, f"{path} imports {name}"


@pytest.mark.parametrize("path", modules("calib"), ids=lambda p: "-".join(p.parts[-2:]))
def test_torch_waits_until_it_is_needed(path: Path) -> None:
    if room(path) in TORCH_AT_THE_TOP:
        return
    at_the_top = imports(path.read_text("utf-8"), everywhere=False)
    tops = {name.split(".")[0] for name in at_the_top}
    assert not tops & {"torch", "triton", "transformers", "sklearn", "matplotlib", "sympy"}


def test_configuration_and_steps_start_light() -> None:
    """What every run imports, executed: none of the heavy libraries comes with it."""
    code = (
        "import sys, calib.run, calib.steps.measuring, calib.hardware.device, calib.samples\n"
        "heavy = {'torch', 'triton', 'transformers', 'sklearn', 'matplotlib', 'scipy', 'pandas'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.stdout.strip() == "[]", done.stdout + done.stderr


def test_our_packages_lie_beside_calib() -> None:
    check_packages()


def test_a_foreign_package_is_named(tmp_path: Path) -> None:
    """A project with a folder ``model`` of its own, in which calib is started."""
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "__init__.py").write_text("", "utf-8")
    code = f"import sys; sys.path.append({str(ROOT)!r}); import calib.run; calib.run.main()"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode != 0
    assert f"package 'model' resolves to {tmp_path / 'model' / '__init__.py'}" in done.stderr
    assert str(ROOT / "model" / "__init__.py") in done.stderr
    assert "Traceback" not in done.stderr


def test_a_missing_package_is_named(tmp_path: Path) -> None:
    with pytest.raises(CalibError, match=r"'no_such_package' resolves to nothing: expected .*"):
        check_packages(("no_such_package",), tmp_path)


def test_no_circle() -> None:
    """Of files, whatever rooms they are in; an import inside a function counts too."""
    files = {dotted(path): path for top in ("model", "kernels", "calib") for path in modules(top)}
    known = {name: set(imported_files(path, files)) - {name} for name, path in files.items()}
    try:
        TopologicalSorter(known).prepare()
    except CycleError as error:
        raise AssertionError(f"a circle: {' -> '.join(error.args[1])}") from None


def dotted(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def imported_files(path: Path, files: Mapping[str, Path]) -> Iterator[str]:
    """Modules that ``path`` names; a name taken from a module stands for the module."""
    for name in imports(path.read_text("utf-8")):
        for known in (name, name.rpartition(".")[0]):
            if known in files:
                yield known
                break


def test_a_room_is_taken_in_at_a_glance() -> None:
    entries = [p for p in (ROOT / "calib").iterdir() if p.suffix == ".py" or is_room(p)]
    assert len(entries) <= 14, sorted(p.name for p in entries)
    for folder in {path.parent for path in modules("calib")} - {ROOT / "calib"}:
        files = list(folder.glob("*.py"))
        assert len(files) <= 10, f"{folder} holds {len(files)} files: expected at most 10"


def is_room(path: Path) -> bool:
    return path.is_dir() and (path / "__init__.py").exists()
