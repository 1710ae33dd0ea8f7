"""One call for a module of one's own, and a file of the user's that the command line names."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

import calib
from calib.checkout import ROOT
from calib.errors import CalibError
from calib.steps.module import source
from calib.steps.module.source import named_in, note_named, own_of
from model.workload import Workload

ASKED = Workload("text", prompt_tokens=4, batch=3)
FILE = """
import torch

def make_model(workload):
    return torch.nn.Linear(8, 4), torch.zeros(workload.batch, 8)

def alone(size=8):
    return torch.nn.Linear(size, 4), {"input": torch.zeros(2, size)}

def wrong():
    return torch.nn.Linear(8, 4)

def raises():
    raise KeyError("no weights")
"""


def test_importing_calib_is_light() -> None:
    code = (
        "import sys, calib\n"
        "print([n for n in ('torch', 'pandas', 'numpy', 'hydra') if n in sys.modules])\n"
        "print('estimate' in dir(calib), callable(calib.estimate))"
    )
    kept = {"cwd": ROOT, "capture_output": True, "text": True}
    done = subprocess.run([sys.executable, "-c", code], check=False, **kept)
    assert done.stdout.split("\n")[:2] == ["[]", "True True"], done.stderr
    with pytest.raises(AttributeError, match="no attribute 'nonesuch'"):
        calib.nonesuch  # noqa: B018


def test_one_call_tells_time_interval_and_how_it_is_known(tmp_path: Path) -> None:
    module = torch.nn.Sequential(torch.nn.Linear(1024, 4096), torch.nn.GELU())
    found = calib.estimate(module, torch.zeros(64, 1024), hw="h200", samples_dir=tmp_path)
    assert 0 < found.low_s < found.wall_s < found.high_s
    assert found.kernel_s <= found.wall_s and found.roofline_s <= found.kernel_s
    assert found.provenance in ("interpolated", "extrapolated", "transferred")
    assert found.fits and found.mfu is None
    table = found.to_pandas()
    assert list(table["path"]) == ["0", "1"] and table.equals(found.operators)
    assert table["estimate_s"].sum() == pytest.approx(found.kernel_s)
    assert repr(found).startswith("<Sequential on h200: ")
    assert "64x1024 float32" in str(found)
    written = {path.name for path in found.report(tmp_path / "run", pictures=False)}
    assert {"estimates.parquet", "modules.parquet", "report.json", "report.md"} <= written
    with pytest.raises(CalibError, match=r"table = 'rows': expected one of operators, "):
        found.to_pandas("rows")


def test_a_step_of_training_has_an_mfu(tmp_path: Path) -> None:
    module = torch.nn.Linear(4096, 4096, dtype=torch.bfloat16)
    inputs = torch.zeros(4096, 4096, dtype=torch.bfloat16)
    given = {"hw": "h200", "samples_dir": tmp_path, "execution": "graph"}
    step = calib.estimate(module, inputs, train=True, **given)
    wide = {"state_dtype": "float32", "master_dtype": "float32"}
    mixed = calib.estimate(module, inputs, train=True, training=wide, **given)
    assert step.mfu is not None and 0.1 < step.mfu < 1
    assert mixed.memory_bytes - step.memory_bytes == pytest.approx(8 * (4096**2 + 4096))
    alone = calib.estimate(module, inputs, **given)
    assert step.wall_s > 2 * alone.wall_s


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"hw": "h2000"}, "hw = 'h2000': expected one of .*h200"),
        ({"execution": "fast"}, "execution = 'fast': expected one of eager, graph, compiled"),
        (
            {"train": True, "training": {"state": "float32"}},
            "training.state = .*did you mean state_dtype",
        ),
        ({"training": {"state_dtype": "float32"}}, "training = .*: expected train=True beside it"),
        ({"measure": "quick"}, "measure = 'quick' on h200: expected a device that is here"),
        ({"cuda": "12"}, "cuda = '12': expected a version of CUDA with both parts"),
        ({"traces": "none.json"}, "samples.traces = .*: expected a trace of torch.profiler"),
        ({"measure": "quik"}, "sweep = 'quik': expected one of .*quick"),
    ],
)
def test_a_wrong_argument_is_named(given: dict, said: str) -> None:
    with pytest.raises(CalibError, match=said):
        calib.estimate(torch.nn.Linear(2, 2), torch.zeros(1, 2), **{"hw": "h200", **given})


# A file of the user's


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(source, "_named", set())
    monkeypatch.delenv(source.NAMED, raising=False)
    path = tmp_path / "my_file.py"
    path.write_text(FILE, "utf-8")
    return str(path)


def test_a_function_makes_the_module_and_its_inputs(file: str) -> None:
    note_named([f"module.path={file}:make_model,{file}:alone", "model=module"])
    model = own_of(f"{file}:make_model", ASKED)
    assert (model.workload.name, model.workload.batch) == ("3x8 float32", 3)
    assert own_of(f"{file}:alone", ASKED).workload.name == "2x8 float32"


def test_a_file_that_the_command_line_does_not_name_is_not_run(file: str) -> None:
    """As when a configuration that came from elsewhere names it."""
    Path(file).write_text("raise SystemExit('it ran')", "utf-8")
    note_named(["model=module"])
    with pytest.raises(CalibError, match="only where the command line names it"):
        own_of(f"{file}:make_model", ASKED)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        (":nothing", "has no function 'nothing': expected one of make_model, alone"),
        ("", "expected the path of a Python file and a function in it"),
        ("x:make_model", "there is no file"),
        (":wrong", r"it returned Linear: expected \(module, inputs\)"),
        (":raises", "it raised KeyError in line 14: 'no weights'"),
    ],
)
def test_what_is_wrong_with_a_file_is_one_sentence(file: str, name: str, said: str) -> None:
    note_named([f"module.path={file}{name}"])
    with pytest.raises(CalibError, match=rf"^module\.path = '{file}{name}': .*{said}"):
        own_of(f"{file}{name}", ASKED)


def test_words_of_the_command_line_name_files() -> None:
    words = ["model=module", "+module.path='a b.py:f'", "module.path=x.py:f,y.py:g", "-m"]
    assert list(named_in(words)) == ["a b.py:f", "x.py:f", "y.py:g"]


def test_a_card_is_asked_whatever_the_tensors_lie_on() -> None:
    """In training mode a CPU writes attention with dropout out; a card has one kernel."""

    class Attends(torch.nn.Module):
        def forward(self, q: torch.Tensor) -> torch.Tensor:
            attend = torch.nn.functional.scaled_dot_product_attention
            return attend(q, q, q, dropout_p=0.1, is_causal=True)

    q = torch.zeros(1, 4, 256, 64, dtype=torch.bfloat16)
    kinds = [
        list(calib.estimate(Attends(), t, hw="h200").to_pandas()["kind"]) for t in (q, q.to("meta"))
    ]
    assert kinds == [["attention"], ["attention"]]


def test_a_module_that_runs_nothing_is_named() -> None:
    with pytest.raises(CalibError, match="runs no operator"):
        calib.estimate(torch.nn.Identity(), torch.zeros(3, 8), hw="h200")
