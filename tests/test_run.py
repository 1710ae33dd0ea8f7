"""The command line as a user meets it: a card that is not here, and input that is wrong."""

import itertools
import json
import os
import signal
import subprocess
import sys

import pandas as pd
import pytest
from jsonschema import Draft202012Validator

from benchmarks.hardening.made_trace import make, subject
from calib.checkout import ROOT
from calib.errors import CalibError
from calib.report.layers.analytic_report import report_schema
from calib.report.runs.merge import merge_runs


def calib(*overrides, folder, run=None):
    command = [sys.executable, "-m", "calib.run", *overrides]
    command += [f"hydra.run.dir={run or folder / 'run'}", f"samples.dir={folder}/samples"]
    kept = {"cwd": ROOT, "capture_output": True, "text": True, "timeout": 120}
    return subprocess.run(command, check=False, **kept)


def test_absent_card_is_predicted_by_the_calibration_that_ships(tmp_path):
    done = calib("+hw=rtx5090", "report.pictures=false", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    said = " ".join(done.stdout.split())
    assert "The calibration that ships: rtx5090:" in said
    assert "transferred" in said and "How the times of each kind" not in said  # all are alike
    table = pd.read_parquet(tmp_path / "run" / "estimates.parquet")
    assert set(table["provenance"]) == {"transferred"}
    assert table["measured_s"].isna().all()
    assert (table["low_s"] <= table["estimate_s"]).all()
    assert (table["estimate_s"] <= table["high_s"]).all()


def test_absent_card_without_a_calibration_is_the_roofline_and_says_so(tmp_path):
    asked = ("+hw=l4", "hw.name=l4_of_mine", "model=llama_3_1_8b", "workload=text_512")
    done = calib(*asked, "report.pictures=false", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "has no samples" in done.stdout
    assert done.stdout.startswith("llama_3_1_8b, text_512 on l4_of_mine ")
    table = pd.read_parquet(tmp_path / "run" / "estimates.parquet")
    assert set(table["provenance"]) == {"roofline"}
    assert table["measured_s"].isna().all() and table["high_s"].isna().all()
    assert (table["estimate_s"] == table["roofline_s"]).all()


SMALL = {
    **{"hidden": 64, "layers": 2, "dense_layers": 2, "heads": 4, "kv_heads": 2, "head_dim": 16},
    **{"intermediate": 128, "vocabulary": 512},
}


def test_a_trace_stands_beside_the_estimate_or_is_said_to_be_of_something_else(tmp_path):
    """Made of this very model; asked of it, and of one with a batch of two."""
    path = tmp_path / "trace.json"
    made = make(subject("llama"))
    path.write_text(json.dumps(made.trace))
    asked = [f"model.{key}={value}" for key, value in SMALL.items()]
    asked += ["workload.prompt_tokens=24", "workload.decode_steps=2", f"measured={path}"]
    asked += ["+hw=h100", "model=llama_3_1_8b", "workload=text_512", "report.pictures=false"]
    done = calib(*asked, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    table = pd.read_parquet(tmp_path / "run" / "estimates.parquet")
    whole = sum(sum(kinds.values()) for kinds in made.kernels.values())
    assert table["measured_s"].sum() == pytest.approx(whole)
    done = calib(*asked, "workload.batch=2", folder=tmp_path, run=tmp_path / "other")
    assert done.returncode == 0, done.stderr
    assert "The trace is not taken for decode of this model" in " ".join(done.stdout.split())
    table = pd.read_parquet(tmp_path / "other" / "estimates.parquet")
    assert table["measured_s"].isna().all()
    data = json.loads((tmp_path / "other" / "report.json").read_text())
    Draft202012Validator(json.loads(report_schema())).validate(data)


@pytest.mark.parametrize(
    ("override", "named"),
    [
        ("+hw=rtx9090", "rtx5090"),
        ("model=gpt_9", "deepseek_ocr"),
        ("workload=ocr_huge", "ocr_base"),
        ("model.layers=-1", "layers"),
        ("workload.batch=0", "batch"),
        ("workload.tiles=[0,2]", "tiles"),
        ("mode=sing", "analytic"),
    ],
)
def test_bad_input_is_one_error_that_names_what_is_accepted(tmp_path, override, named):
    card = () if override.startswith("+hw") else ("+hw=rtx5090",)
    done = calib(*card, override, folder=tmp_path)
    assert done.returncode != 0
    assert named in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "run" / "estimates.parquet").exists()


def test_truncated_samples_are_named(tmp_path):
    (tmp_path / "samples" / "rtx5090").mkdir(parents=True)
    (tmp_path / "samples" / "rtx5090" / "000001.parquet").write_bytes(b"PAR1 cut short")
    done = calib("+hw=rtx5090", folder=tmp_path)
    assert done.returncode == 2
    assert "000001.parquet is not a whole Parquet file" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("below", ["", "/below"])
def test_output_folder_that_cannot_be_written(tmp_path, below):
    (tmp_path / "taken").write_text("in the way")
    done = calib("+hw=rtx5090", folder=tmp_path, run=f"{tmp_path}/taken{below}")
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: cannot write {tmp_path / 'taken'}")
    assert done.stderr.strip().endswith("give another hydra.run.dir")
    assert done.stdout == ""


def test_samples_that_cannot_be_kept_are_known_before_anything_is_measured(tmp_path, monkeypatch):
    from calib.hardware.datasheet import load_hardware
    from calib.samples.store import SampleStore
    from calib.steps import measuring as steps
    from calib.steps.request import SweepRequest
    from calib.steps.target import Target

    monkeypatch.setattr(steps, "probed", lambda target: pytest.fail("measured already"))
    (tmp_path / "taken").write_text("in the way")
    store = SampleStore(tmp_path / "taken" / "cpu", "cpu", "a CPU")
    target = Target(load_hardware("cpu"), True, "a CPU", store)
    each = {"spread": 0.01, "cap_s": 0.1, "card_cap_s": 0.1, "least": 5, "most": 20}
    limits = SweepRequest(budget_s=1, card_budget_s=1, **each)
    with pytest.raises(CalibError, match=r"samples: cannot write .*/taken/cpu: .*samples.dir"):
        steps.measure_operators(target, {}, limits, 0)


def test_own_samples_of_a_card_that_ships_correct_it_and_the_report_is_whole(tmp_path):
    from calib.hardware.datasheet import floor, load_hardware
    from calib.samples.files import write_samples
    from calib.samples.sample import Sample
    from model.ops import Matmul

    hardware = load_hardware("l40s")
    shapes = [Matmul(m, n, 768) for m in (16, 197, 512) for n in (768, 2304, 3072)]
    seconds = [3 * float(floor(op, hardware)) + 4e-6 for op in shapes]
    some = [Sample(op, [s] * 3, "l40s", "torch") for op, s in zip(shapes, seconds, strict=True)]
    write_samples(tmp_path / "samples" / "l40s" / "000001.parquet", some)
    asked = ("model=vit_l", "workload=image_224", "report.pictures=false")
    done = calib("+hw=l40s", *asked, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    table = pd.read_parquet(tmp_path / "run" / "estimates.parquet")
    assert (table["estimate_s"] > 0).all() and table["estimate_unseen_s"].notna().all()


def test_multirun_ends_with_one_merged_table(tmp_path):
    done = calib(
        "-m",
        "+hw=rtx5090",
        "workload=ocr_tiny,ocr_base",
        "workload.batch=1,4",
        "report.pictures=false",
        "report.layers=false",
        f"hydra.sweep.dir={tmp_path}/all",
        folder=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    merged = pd.read_parquet(tmp_path / "all" / "estimates.parquet")
    assert set(merged["workload"]) == {"ocr_tiny", "ocr_base"}
    assert not (tmp_path / "all" / "cost.png").exists()
    assert done.stderr == ""
    swept = list(itertools.product(("ocr_tiny", "ocr_base"), ("1", "4")))
    lines = done.stdout.splitlines()
    assert [line.split(": ")[:2] for line in lines[:4]] == [
        [str(run), f"workload={name} workload.batch={batch}"]
        for run, (name, batch) in enumerate(swept)
    ]
    assert [line.split()[:4] for line in lines if line[1:3].strip().isdigit()] == [
        [str(run), name, batch, "yes"] for run, (name, batch) in enumerate(swept)
    ]
    runs = pd.read_parquet(tmp_path / "all" / "runs.parquet").set_index("run")
    assert len(runs) == 4 and runs.index.is_unique
    assert set(zip(runs["batch"], runs["tokens"], strict=True)) == {
        (batch, tokens) for batch in (1, 4) for tokens in (83, 283)
    }
    sums = merged.groupby("run")[["flops", "bytes"]].sum().reindex(runs.index)
    assert runs["flops"].tolist() == pytest.approx(sums["flops"].tolist())
    assert runs["io_bytes"].tolist() == pytest.approx(sums["bytes"].tolist())
    assert (runs["wall_s"] >= runs["predicted_s"]).all()
    written, _ = merge_runs(tmp_path / "all", [tmp_path / "all" / run for run in runs.index])
    assert {path.name for path in written} == {"estimates.parquet", "runs.parquet", "cost.png"}


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["basic", "joblib"])
def test_ctrl_c_ends_many_runs_in_one_line_and_merges_what_is_done(tmp_path, launcher):
    """The signal goes to the whole group of processes, as a terminal sends it."""
    words = ["+hw=h200,rtx5090,l40s,a100", "workload.batch=1,2,4", "model=vit_l"]
    words += ["workload=image_224", "report.pictures=false", "report.layers=false"]
    words += [f"hydra.sweep.dir={tmp_path}/all", f"hydra/launcher={launcher}"]
    command = [sys.executable, "-m", "calib.run", "-m", *words, f"samples.dir={tmp_path}/samples"]
    piped = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, cwd=ROOT, start_new_session=True, **piped) as started:
        first = started.stdout.readline()
        os.killpg(started.pid, signal.SIGINT)
        rest, errors = started.communicate(timeout=120)
    assert started.returncode == 130, errors
    done = len(pd.read_parquet(tmp_path / "all" / "runs.parquet"))
    assert 1 <= done < 12 and first.split(":")[0].isdigit()
    assert errors == f"interrupted: {done} runs were done and are merged\n"
    assert "all runs: " in rest


def test_a_module_of_ones_own_in_one_line(tmp_path):
    file = tmp_path / "my_file.py"
    lines = ["import torch", "def make(workload):", "    x = torch.zeros(workload.batch, 64)"]
    file.write_text("\n".join([*lines, "    return torch.nn.Linear(64, 32), x", ""]), "utf-8")
    asked = ("+hw=h200", "model=module", f"module.path={file}:make", "workload.batch=5")
    done = calib(*asked, "pass=train", "report.pictures=false", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("Linear, 5x64 float32 on h200 (torch, eager)")
    assert "MFU" in done.stdout and "samples per second" in done.stdout
    table = pd.read_parquet(tmp_path / "run" / "estimates.parquet")
    assert list(dict.fromkeys(table["phase"])) == ["forward", "backward", "optimizer"]


def test_a_configuration_from_elsewhere_cannot_have_a_file_run(tmp_path):
    file, group = tmp_path / "their_file.py", tmp_path / "conf" / "experiment"
    file.write_text("raise SystemExit('it ran')", "utf-8")
    group.mkdir(parents=True)
    named = f"# @package _global_\nmodule:\n  path: {file}:make\n"
    named += f"hydra:\n  job:\n    env_set:\n      CALIB_NAMED_FILES: {file}:make\n"
    (group / "theirs.yaml").write_text(named, "utf-8")
    asked = ("+hw=h200", "model=module", "+experiment=theirs", f"--config-dir={tmp_path}/conf")
    done = calib(*asked, folder=tmp_path)
    assert done.returncode == 2 and done.stdout == ""
    assert f"module.path = '{file}:make': it is code, so it is run only where" in done.stderr


def test_a_run_that_fails_leaves_the_others_alone(tmp_path):
    """The rest finishes and is merged; what failed is told at the end, with its reason."""
    folder = tmp_path / "all"
    (folder / "0").mkdir(parents=True)
    (folder / "0" / "error.txt").write_text("of an earlier sweep into the same folder")
    sweep = ("+hw=rtx5090", "workload.batch=1,0,2", f"hydra.sweep.dir={folder}")
    done = calib("-m", *sweep, "report.pictures=false", "report.layers=false", folder=tmp_path)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    head, told = done.stderr.split("1 of 3 runs failed:\n")
    reason = "workload.batch = 0: expected a whole number from 1 to 1,048,576"
    assert told.strip() == f"1 (workload.batch=0): {reason}"
    assert f"error: {reason}" in head
    assert (folder / "1" / "error.txt").read_text("utf-8").strip() == reason
    assert set(pd.read_parquet(folder / "estimates.parquet")["run"]) == {"0", "2"}


def test_a_card_that_does_not_exist_is_left_out_and_the_others_run(tmp_path):
    sweep = ("+hw=rtx5090,nosuch", "mode=analytic", f"hydra.sweep.dir={tmp_path}/all")
    quick = ("report.pictures=false", "report.layers=false", "report.html=false")
    done = calib("-m", *sweep, *quick, folder=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("left out, hw=nosuch: expected one of ")
    assert len(done.stderr.splitlines()) == 1
    assert set(pd.read_parquet(tmp_path / "all" / "estimates.parquet")["hardware"]) == {"rtx5090"}


def test_without_a_card_the_analytic_mode_tells_costs_and_no_times(tmp_path):
    code = (
        "import sys\n"
        "from calib import run\n"
        "from calib.hardware import device\n"
        "device.detect_device = lambda: None\n"
        "sys.argv = ['calib.run', *sys.argv[1:]]\n"
        "run.main()\n"
        "print([n for n in ('torch', 'transformers', 'sklearn', 'scipy') if n in sys.modules])"
    )
    overrides = ["mode=analytic", "workload=ocr_gundam", f"hydra.run.dir={tmp_path}/run"]
    command = [sys.executable, "-c", code, *overrides, f"samples.dir={tmp_path}/samples"]
    done = subprocess.run(command, check=False, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[]"
    assert "No times: " in done.stdout and "+hw=<card>" in done.stdout
    assert "does not fit" not in done.stdout
    report = json.loads((tmp_path / "run" / "report.json").read_text("utf-8"))
    Draft202012Validator(json.loads(report_schema())).validate(report)
    root = report["module_metrics"][0]
    unknown = ("predicted_s", "total_time_ms", "share_of_model_time", "roofline_s", "measured_s")
    assert {root[name] for name in unknown} == {None}
    assert root["flops"] > 4e12 and root["io_bytes"] > 6e10 and root["weight_bytes"] > 6e9
    assert report["predicted_total_time_ms"] is None and report["provenance"] == "unknown"
    assert 0.9 < report["named_share"] <= 1
    kinds = root["operator_breakdown"]
    assert sum(k["share_of_module_flops"] for k in kinds) == pytest.approx(1)
    assert (tmp_path / "run" / "layers" / "index.md").is_file()
    assert not list((tmp_path / "run").glob("*.png"))
    text = (tmp_path / "run" / "report.md").read_text("utf-8")
    assert "nan" not in text and "None" not in text.replace("None of", "")
