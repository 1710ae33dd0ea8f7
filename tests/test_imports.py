"""Imports flow one way: what each part may import is stated here and read off the source."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from calib.checkout import ROOT, check_packages
from calib.errors import CalibError

BOTTOM = {"errors", "checkout"}
FITTING = BOTTOM | {
    "hardware",
    "samples",
    "tiles",
    "attention_blocks",
    "expert_blocks",
    "expert_tiles",
    "product_blocks",
    "likeness",
    "drift",
    "features",
    "prior",
    "residual",
    "trees",
    "lessons",
    "kind",
}
MAY_IMPORT = {
    "errors": set(),
    "checkout": {"errors"},
    "hardware": BOTTOM,
    "samples": BOTTOM,
    "device": BOTTOM | {"hardware"},
    "host": BOTTOM | {"hardware"},
    "host_costs": BOTTOM | {"samples"},
    "public": BOTTOM | {"hardware", "samples"},
    "ceilings": BOTTOM | {"hardware", "samples", "device", "host_costs"},
    "tiles": BOTTOM | {"hardware"},
    "attention_blocks": BOTTOM | {"hardware"},
    "expert_tiles": BOTTOM | {"hardware"},
    "expert_blocks": BOTTOM | {"hardware", "expert_tiles"},
    "product_blocks": BOTTOM | {"hardware"},
    "features": BOTTOM
    | {"hardware", "tiles", "attention_blocks", "expert_blocks", "product_blocks"},
    "drift": BOTTOM | {"hardware", "samples", "features"},
    "prior": BOTTOM | {"features", "product_blocks"},
    "residual": BOTTOM | {"features"},
    "trees": BOTTOM,
    "lessons": BOTTOM | {"features", "prior", "residual", "trees"},
    "kind": BOTTOM | {"features", "prior", "residual", "trees", "lessons"},
    "likeness": BOTTOM | {"hardware", "kind"},
    "fit": FITTING,
    "estimate": FITTING | {"fit"},
    "reach": FITTING | {"fit", "estimate", "cards"},
    "cards": FITTING | {"fit", "public"},
    "fusion": set(),
    "memory": set(),
    "timeline": FITTING | {"fit", "estimate", "host_costs", "fusion"},
    "tracing": {"errors", "trace"},
    "trace": {"errors", "tracing"},
    "hf": {"errors", "tracing"},
    "measure": BOTTOM | {"hardware", "samples", "device", "host", "host_costs"},  # and never fit
    "measured": BOTTOM,
    "target": BOTTOM | {"hardware", "samples", "device", "host", "host_costs", "measure"},
    "compare": FITTING | {"fit", "estimate", "measured"},
    "report": {"errors"},  # it sees tables only
    "versions": {"device", "target"},
    "notes": {"hardware", "host_costs", "target", "estimate", "cards"},
    "answer": FITTING
    | {"target", "versions", "notes", "host_costs", "estimate", "fusion", "memory", "timeline"}
    | {"hf", "compare", "measure", "ceilings", "report", "settings"}
    | {"reach"},
    "progress": set(),
    "settings": BOTTOM | {"host_costs"},
    "steps": FITTING
    | {"target", "versions", "host_costs", "fit", "estimate", "measure", "cards", "hf", "ceilings"}
    | {"progress", "settings"},
    "run": BOTTOM | {"settings", "steps", "answer", "target", "report"},
}
"""Parts of ``calib`` (modules and subpackages) and the other parts that each may import."""
KERNELS_TOO = {"measure"}
"""Parts that execute work, and so may import ``kernels`` beside ``model``."""
TORCH_AT_THE_TOP = {"measure", "trace", "tracing"}


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


def part(path: Path) -> str:
    """The part of ``calib`` that a file belongs to."""
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
    own = part(path)
    if own == "__init__":
        assert not list(imports(path.read_text("utf-8")))
        return
    assert own in MAY_IMPORT, f"calib/{own} is new: state in MAY_IMPORT what it may import"
    for name in imports(path.read_text("utf-8")):
        top, *rest = name.split(".")
        if top == "calib":
            allowed = MAY_IMPORT[own] | {own}
            assert rest[0] in allowed, f"{path} imports {name}: allowed is {sorted(allowed)}"
        if top == "kernels":
            assert own in KERNELS_TOO, f"{path} imports {name}"


@pytest.mark.parametrize("path", modules("calib"), ids=lambda p: "-".join(p.parts[-2:]))
def test_torch_waits_until_it_is_needed(path: Path) -> None:
    if part(path) in TORCH_AT_THE_TOP:
        return
    at_the_top = imports(path.read_text("utf-8"), everywhere=False)
    tops = {name.split(".")[0] for name in at_the_top}
    assert not tops & {"torch", "triton", "transformers", "sklearn", "matplotlib", "sympy"}


def test_configuration_and_steps_start_light() -> None:
    """What every run imports, executed: none of the heavy libraries comes with it."""
    code = (
        "import sys, calib.run, calib.steps, calib.hardware, calib.device, calib.samples\n"
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
