"""The command line's manners: help, completion, words in any order, one line a member."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from hydra.types import RunMode
from omegaconf import OmegaConf

from calib.checkout import CONF, ROOT
from calib.errors import CalibError
from calib.steps.command_line import option_names
from calib.steps.manners.help import EXAMPLES, entries, help_text
from calib.steps.manners.order import options_first
from calib.steps.manners.texts import quoted
from calib.steps.many import members
from calib.steps.many.alone import alone_in
from calib.steps.many.members import LEFT_OUT, leave_unknown, member_name, swept_in
from calib.steps.progress import PARENT


def test_help_names_groups_keys_and_examples() -> None:
    text = help_text()
    words = " ".join(text.split())
    assert max(map(len, text.splitlines())) <= 100
    for group, options in option_names().items():
        assert f" {'+' * (group == 'hw')}{group}= " in words
        assert all(option in words for option in options)
    assert "model= what is run: deepseek_ocr*, " in words
    assert len(EXAMPLES) == 3 and all(command in text for command, _ in EXAMPLES)


def test_help_has_every_key_of_the_configuration_with_its_comment() -> None:
    config = OmegaConf.to_container(OmegaConf.load(CONF / "config.yaml"))
    assert isinstance(config, dict)
    nested = {k: v for k, v in config.items() if k not in ("defaults", "hydra")}
    keys = {f"{k}.{n}" for k, v in nested.items() if isinstance(v, dict) for n in v}
    keys |= {k for k, v in nested.items() if not isinstance(v, dict)}
    found = {entry.key: entry for entry in entries("hw:", "hydra:") if entry.value}
    assert set(found) == keys
    assert all(entry.said for entry in found.values())
    assert found["hf.dtype"].said.startswith("of model=hf: bfloat16")
    words = " ".join(help_text().split())
    assert all(" ".join(entry.said.split()) in words for entry in found.values())


def test_help_is_what_the_command_says() -> None:
    command = [sys.executable, "-m", "calib.run", "+hw=h200", "--help"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, help_text(), "")


@pytest.mark.parametrize(
    ("word", "made"),
    [
        ("cuda=12.10", "cuda='12.10'"),
        ("cuda=12", "cuda='12'"),
        ("+hw.cuda=12.4", "+hw.cuda='12.4'"),
        ("cuda=12.4,'12.10',null", "cuda='12.4','12.10',null"),
        ("cuda=choice(12.4, 13.0)", "cuda=choice('12.4', '13.0')"),
        *((word, word) for word in ("cuda=", "cuda=v12.4", 'cuda="12.1"', "seed=12", "--cuda")),
    ],
)
def test_versions_are_texts(word: str, made: str) -> None:
    assert quoted([word]) == [made]


def test_a_version_reaches_the_run_as_it_was_written(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "calib.run", "+hw=cpu", "cuda=12.10"]
    command.append(f"hydra.run.dir={tmp_path / 'run'}")
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stderr == "error: cuda = '12.10': expected null with +hw=cpu\n"
    assert done.returncode == 2


def test_overrides_may_stand_on_both_sides_of_an_option() -> None:
    words = ["+hw=h200", "-m", "workload.batch=1,2", "--config-dir", "a=b", "repeats=3"]
    ordered = ["-m", "--config-dir", "a=b", "first", "+hw=h200", "workload.batch=1,2", "repeats=3"]
    assert options_first(words, "first") == ordered
    assert options_first([], "first") == ["first"]


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("calib +hw=rtx5", "+hw=rtx5090"),
        ("calib +hw=h200 workload=ocr_t", "workload=ocr_tiny"),
        ("calib +hw=h200 workload.ba", "workload.batch="),
    ],
)
def test_completion_of_the_script(line: str, found: str, tmp_path: Path) -> None:
    """In bash itself, by what ``calib -sc install=bash`` installs."""
    script = tmp_path / "calib"
    lines = [f"#!{sys.executable}", "import sys", f"sys.path.insert(0, {str(ROOT)!r})"]
    script.write_text("\n".join([*lines, "from calib.run import cli", "cli()", ""]), "utf-8")
    script.chmod(0o755)
    code = (
        'eval "$(calib -sc install=bash)"; complete -p calib > /dev/null || exit 1\n'
        f'COMP_LINE="{line}"; COMP_POINT=${{#COMP_LINE}}; COMP_CWORD={line.count(" ")}\n'
        'hydra_bash_completion; echo "${COMPREPLY[@]}"'
    )
    given = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash", "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False, env=given
    )
    assert done.stdout.strip() == found, done.stderr


# One of many


def job(launcher: str, mode: RunMode = RunMode.MULTIRUN) -> SimpleNamespace:
    words = ["+hw=h200", "model=vit_l", "workload.batch=8"]
    return SimpleNamespace(
        mode=mode,
        launcher={"_target_": f"hydra_plugins.{launcher}"},
        overrides=SimpleNamespace(task=words),
        job=SimpleNamespace(num=3),
    )


def test_a_member_is_called_by_what_is_swept(monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["+hw=h200,rtx5090", "model=vit_l", "workload.batch=1,8", "-m", "a.b=[1,2]"]
    assert list(swept_in(words)) == ["hw", "workload.batch"]
    monkeypatch.setenv(members.SWEPT, "hw workload.batch")
    assert member_name(job("BasicLauncher")) == "3: +hw=h200 workload.batch=8"
    monkeypatch.setenv(members.SWEPT, "")
    assert member_name(job("JoblibLauncher")) == "3: +hw=h200 model=vit_l workload.batch=8"


def test_a_run_alone_is_none_and_one_far_away_says_nothing() -> None:
    assert member_name(job("BasicLauncher", RunMode.RUN)) is None
    assert member_name(job("RayLauncher")) == member_name(job("SlurmLauncher")) == ""


def test_a_worker_leaves_ctrl_c_to_the_process_that_started_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import signal

    set_to: list = []
    monkeypatch.setattr(members.signal, "signal", lambda *given: set_to.append(given))
    monkeypatch.setenv(PARENT, str(os.getpid()))
    member_name(job("JoblibLauncher"))
    assert not set_to
    monkeypatch.setenv(PARENT, str(os.getppid()))
    member_name(job("JoblibLauncher"))
    assert set_to == [(signal.SIGINT, signal.SIG_IGN)]


def test_an_option_that_does_not_exist_leaves_the_others_of_a_sweep() -> None:
    words = ["-m", "+hw=rtx5090,rtx590,h200", "workload.batch=1,2", "model=no_such"]
    assert leave_unknown(words) == ["-m", "+hw=rtx5090,h200", *words[2:]]
    assert list(LEFT_OUT) == ["hw=rtx590"]
    assert "did you mean rtx5090" in LEFT_OUT["hw=rtx590"]
    assert leave_unknown(words[1:]) == words[1:] and not LEFT_OUT  # of one run Hydra says it


def test_a_folder_of_a_run_is_one_process_s(tmp_path: Path) -> None:
    held = "from calib.steps.many.alone import alone_in; import pathlib, sys\n"
    held += "with alone_in(pathlib.Path(sys.argv[1])): print('in', flush=True); input()"
    asked = [sys.executable, "-c", held, str(tmp_path)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(asked, cwd=ROOT, **pipes) as other:
        assert other.stdout.readline() == "in\n"
        said = "another run is writing there: expected a folder"
        with pytest.raises(CalibError, match=said), alone_in(tmp_path):
            pass
        other.communicate("\n")
    with alone_in(tmp_path):
        assert (tmp_path / ".lock").exists()
