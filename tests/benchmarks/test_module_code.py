"""What Python takes between operators: a pass less the calls into torch that it made."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import torch

from benchmarks import module_code
from benchmarks.module_code import Found, calls_of, counted, least_seconds, measured, small, table

MODULE = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.ReLU(), torch.nn.Flatten())
X = torch.ones(2, 4)


def test_modules_and_operators_are_counted_and_views_are_none() -> None:
    with torch.no_grad():
        assert counted(MODULE, lambda: MODULE(X)) == (4, 2)
    assert "Calls" not in torch.nn.Module.__call__.__qualname__, "nobody is watched any more"


def test_what_was_called_can_be_called_again_and_what_cannot_is_left_out() -> None:
    def mapped() -> torch.Tensor:
        return torch.vmap(lambda row: row.sin() + 1)(X)

    with torch.no_grad():
        assert len(calls_of(lambda: X.sin().cos())) == 2
        assert all(call() is not None for call in calls_of(mapped))


def test_python_around_the_calls_is_what_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module_code, "REPEATS", 3)

    def run() -> torch.Tensor:
        begun = time.thread_time()
        while time.thread_time() < begun + 2e-3:
            pass
        return MODULE(X)

    with torch.no_grad():
        found = measured("one", MODULE, run)
    assert 1.9e-3 < found.seconds < 2e-2
    assert least_seconds(run) > 2e-3
    shown = table(iter([found, Found("two", 1e-3, 100, 50)]))
    assert shown.splitlines()[-1].split() == ["two", "1.00", "100", "50", "10.0", "20.0"]


def test_a_small_model_has_all_layers(tmp_path: Path) -> None:
    from calib.trace import hf

    config = hf.load(small("gemma_3_12b", tmp_path), "bfloat16").config
    text = config.get_text_config()
    assert (text.hidden_size, text.num_hidden_layers) == (64, 48)
