"""Two runs side by side: what changed, beyond the intervals or not."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any, cast

import pandas as pd
import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from report_record import synthetic_record

from calib.checkout import CONF
from calib.compare.__main__ import main
from calib.compare.runs import KEY, change, compare_runs, differences, joined, placed, read_run
from calib.errors import CalibError
from calib.report.write import write_report


def row(before: tuple[Any, ...], after: tuple[Any, ...]) -> dict[str, Any]:
    names = ("s", "low_s", "high_s")
    sides = (("before", before), ("after", after))
    return {f"{side}_{n}": v for side, values in sides for n, v in zip(names, values, strict=True)}


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ((1.0, 0.9, 1.1), (1.3, 1.2, 1.4), "slower"),
        ((1.3, 1.2, 1.4), (1.0, 0.9, 1.1), "faster"),
        ((1.0, 0.9, 1.1), (1.15, 1.05, 1.3), "within"),
        ((1.0, None, None), (1.3, 1.2, 1.4), "unknown"),
        ((1.0, None, None), (1.0, None, None), "within"),
        ((None, None, None), (1.3, 1.2, 1.4), "new"),
        ((1.3, 1.2, 1.4), (None, None, None), "gone"),
    ],
)
def test_a_change_is_beyond_where_intervals_do_not_overlap(before, after, said: str) -> None:
    assert change(row(before, after)) == said


def test_rows_of_one_alone_are_kept_and_the_total_stays_last() -> None:
    def table(*names: str) -> pd.DataFrame:
        rows = [{"name": n, "s": 1.0, "low_s": 0.9, "high_s": 1.1} for n in names]
        return pd.DataFrame(rows)

    both = joined(table("vision", "decode", "total"), table("prefill", "decode", "total"), ["name"])
    assert dict(zip(both["name"], both["change"], strict=True)) == {
        "vision": "gone",
        "prefill": "new",
        "decode": "within",
        "total": "within",
    }
    assert both["name"].iloc[-1] == "total"


def test_equal_shapes_are_one_operator_and_others_follow_in_order() -> None:
    """A compiler takes the first two copies away and leaves the third; a batch changes all."""

    def table(*shapes: str) -> pd.DataFrame:
        key = {"phase": "decode", "module": "attn", "kind": "copy", "dtype": "bfloat16"}
        rows = [{**key, "place": i, "shape": s, "s": 1.0} for i, s in enumerate(shapes)]
        return pd.DataFrame(rows).assign(low_s=0.9, high_s=1.1)

    both = joined(*placed(table("a", "b", "cache"), table("cache")), KEY)
    found = dict(zip(both["before_shape"], both["change"], strict=True))
    assert found == {"a": "gone", "b": "gone", "cache": "within"}
    both = joined(*placed(table("a=1", "b=1"), table("a=2", "b=2")), KEY)
    pairs = sorted(zip(both["before_shape"], both["after_shape"], strict=True))
    assert pairs == [("a=1", "a=2"), ("b=1", "b=2")]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A run that measured, the same twice as slow and by another torch, and one of a card."""
    measured, predicted = synthetic_record(), synthetic_record(measured=False)
    slow = dataclasses.replace(
        measured,
        operators=twice(measured.operators),
        components=twice(measured.components),
        environment={**measured.environment, "torch": "9.9"},
    )
    made = {"measured": measured, "slow": slow, "predicted": predicted}
    folder = tmp_path_factory.mktemp("runs")
    for name, record in made.items():
        write_report(record, folder / name, pictures=False)
    return {name: folder / name for name in made}


def twice(table: pd.DataFrame) -> pd.DataFrame:
    seconds = [c for c in table if c.endswith("_s")]
    return table.assign(**{c: 2 * table[c].astype(float) for c in seconds})


def test_a_run_beside_itself_has_not_changed(folders: dict[str, Path]) -> None:
    run = read_run(folders["predicted"])
    found = compare_runs(run, run)
    assert found.basis == "estimate" and not found.differences and not found.changed()
    assert set(found.components["change"]) == set(found.operators["change"]) == {"within"}
    total = run.operators["estimate_s"].sum()
    assert found.operators["before_s"].sum() == pytest.approx(total)


def test_the_clock_is_compared_where_both_have_it(folders: dict[str, Path]) -> None:
    runs = {name: read_run(path) for name, path in folders.items()}
    found = compare_runs(runs["measured"], runs["slow"])
    assert found.basis == "measured"
    assert found.components["ratio"].tolist() == pytest.approx([2] * len(found.components))
    assert set(found.components["change"]) == {"slower"}
    assert [name for name, _, _ in found.differences] == ["torch"]
    assert compare_runs(runs["measured"], runs["predicted"]).basis == "estimate"
    with pytest.raises(CalibError, match="predicted: nothing was measured"):
        compare_runs(runs["measured"], runs["predicted"], "measured")


def test_a_measured_time_is_as_sure_as_its_machine_is_steady(folders: dict[str, Path]) -> None:
    run = read_run(folders["measured"])
    steady = run.unsteady
    assert 0 < steady < 1
    first = compare_runs(run, run).components.iloc[0]
    assert first["after_high_s"] == pytest.approx(first["after_s"] * (1 + steady))


@pytest.mark.parametrize(
    ("words", "status"),
    [
        (["measured", "slow"], 0),
        (["measured", "slow", "--fail-if", "slower"], 1),
        (["slow", "measured", "--fail-if", "slower"], 0),
        (["slow", "measured", "--fail-if", "changed"], 1),
        (["measured", "nothing"], 2),
    ],
)
def test_the_exit_status_is_asked_for(
    words: list[str],
    status: int,
    folders: dict[str, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    paths = [str(folders.get(word, tmp_path / word)) for word in words[:2]]
    assert main([*paths, *words[2:], "--out", str(tmp_path / "out"), "--no-picture"]) == status
    said = capsys.readouterr()
    assert max(map(len, said.out.splitlines()[:-1]), default=0) <= 100
    if status == 2:
        assert said.err.startswith(f"error: {paths[1]}: cannot be read") and not said.out
    else:
        assert "torch: " in said.out and "total" in said.out


def test_a_table_and_a_picture_are_written(folders: dict[str, Path], tmp_path: Path) -> None:
    pair = [str(folders["predicted"]), str(folders["slow"])]
    assert main([*pair, "--out", str(tmp_path)]) == 0
    table = pd.read_parquet(tmp_path / "compare.parquet")
    assert set(table["level"]) == {"component", "operator"}
    assert (tmp_path / "compare.png").stat().st_size > 10_000


def test_a_folder_of_many_runs_or_of_none_is_one_clear_line(
    folders: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one = next(iter(folders.values()))
    (tmp_path / "grid").mkdir()
    shutil.copytree(one, tmp_path / "grid" / "0")
    assert main([str(tmp_path / "grid"), str(one)]) == 2
    said = capsys.readouterr().err
    among = f"holds 1 runs: expected one of them, such as {tmp_path / 'grid' / '0'}"
    assert said == f"error: {tmp_path / 'grid'}: {among}\n"
    assert main([str(tmp_path / "none"), str(one)]) == 2
    said = capsys.readouterr().err
    why = "cannot be read (No such file or directory): expected the folder of a run"
    assert said == f"error: {tmp_path / 'none'}: {why}\n"


def test_joules_are_laid_side_by_side_where_both_runs_know_them(tmp_path: Path, capsys) -> None:
    import torch

    from calib.steps.module.call import estimate

    small, large = (torch.nn.Linear(n, n) for n in (256, 4096))
    for name, module, hw in (("a", small, "h200"), ("b", large, "h200"), ("c", large, "h100")):
        inputs = torch.zeros(4096, module.in_features)
        estimate(module, inputs, hw=hw, execution="graph").report(tmp_path / name, pictures=False)
    runs = {name: read_run(tmp_path / name) for name in "abc"}
    found = compare_runs(runs["a"], runs["b"]).joules
    assert found["name"].iloc[-1] == "total"
    assert found["after_joules"].iloc[-1] == runs["b"].report["energy"]["joules"]
    assert found["change"].iloc[-1] == "slower"
    assert compare_runs(runs["b"], runs["c"]).joules.empty
    words = [str(tmp_path / "a"), str(tmp_path / "b"), "--no-picture", "--out", str(tmp_path)]
    assert main(words) == 0
    said = capsys.readouterr().out
    assert "component (joules)" in said and "more" in said
    table = pd.read_parquet(tmp_path / "compare.parquet")
    assert set(table["change"][table["basis"] == "joules"]) == {"more"}


def test_a_front_is_no_run(tmp_path: Path) -> None:
    (tmp_path / "front.parquet").write_bytes(b"")
    with pytest.raises(CalibError, match="holds a front of mode=serve: expected the folder of a"):
        read_run(tmp_path)


def test_every_key_of_a_configuration_is_compared() -> None:
    """Two runs that differ in one alone, whichever it is, are said to."""

    def report(config: dict[str, Any]) -> dict[str, Any]:
        return {
            "model": {"model_id": "m"},
            "hardware": {"name": "h100"},
            "environment": {"config": config},
            "execution": config.get("execution"),
            "implementation": config.get("implementation"),
            "workload": {"settings": config.get("workload", {})},
        }

    with initialize_config_dir(str(CONF), version_base="1.3"):
        composed = compose("config", ["+hw=h100"])
    base = OmegaConf.to_container(composed)
    assert isinstance(base, dict)
    keys = [key for key in leaves(base) if not key.startswith(("report.", "hw.sources."))]
    assert {"cuda", "samples.traces", "parallel.tp", "workload.batch"} < set(keys)
    for key in keys:
        changed = composed.copy()
        OmegaConf.set_struct(changed, False)
        OmegaConf.update(changed, key, "another")
        other: Any = OmegaConf.to_container(changed)
        found = [name for name, _, _ in differences(report(cast("Any", base)), report(other))]
        assert found == [key.removeprefix("workload.")], key
    other = cast("Any", base) | {"hw": {"name": "a100", "sm_count": 108}}
    two = [report(cast("Any", base)), report(other) | {"hardware": {"name": "a100"}}]
    assert [name for name, _, _ in differences(*two)] == ["hardware"]


def leaves(config: Any, at: str = "") -> list[str]:
    if not isinstance(config, dict):
        return [at]
    return [k for name, value in config.items() for k in leaves(value, f"{at}.{name}".strip("."))]
