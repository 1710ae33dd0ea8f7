"""A stage is never silent on a terminal, and never clutters a log."""

from __future__ import annotations

import io
import sys

import pytest

from calib.steps.progress import stage


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("ci", "plain"), [("", False), ("true", True)])
def test_on_a_terminal_a_line_moves_and_in_ci_it_stands(
    ci: str, plain: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("CI", ci)
    with stage("fitting") as tell:
        tell("matmul", 0.0)
    assert ("\x1b[" in terminal.getvalue()) != plain
    assert (terminal.getvalue() == "fitting ...\n") == plain


def test_without_a_terminal_a_run_stays_quiet(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with stage("measuring operators", 110.0) as tell:
        for second in range(9):
            tell("matmul", float(second))
    assert capsys.readouterr() == ("", "")
