"""A file of ``transformers`` that asks for what is not given: code, kernels, sizes, time."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from calib.errors import CalibError
from calib.trace.hf import load
from calib.trace.hf.guard import DEEPEST, LEFT_OUT, check_sizes, one_line, without_loaders
from model.workload import Workload

DATA = Path(__file__).parents[1] / "data" / "hf"
TEXT = Workload("text", prompt_tokens=8, decode_steps=2)


def changed(folder: Path, name: str = "llama_3_1_8b", **changes: Any) -> Path:
    given = json.loads((DATA / name / "config.json").read_text("utf-8"))
    text = json.dumps({**given, "num_hidden_layers": 1, **changes})
    (folder / "config.json").write_text(text, "utf-8")
    return folder / "config.json"


def test_keys_of_loaders_are_left_out_at_any_depth() -> None:
    given = dict.fromkeys(LEFT_OUT, "evil/kernel") | {"hidden_size": 8}
    nested = {**given, "text_config": given, "more": [given]}
    assert without_loaders(nested) == {
        "hidden_size": 8,
        "text_config": {"hidden_size": 8},
        "more": [{"hidden_size": 8}],
    }


def test_an_attention_of_the_hub_is_not_looked_for(tmp_path: Path) -> None:
    kernel = "kernels-community/flash-attn"
    keys = ("attn_implementation", "_attn_implementation", "_attn_implementation_internal")
    model = load(changed(tmp_path, **dict.fromkeys(keys, kernel), use_kernels=True))
    assert list(model.phases(TEXT)) == ["prefill", "decode"]
    assert model.config._attn_implementation != kernel


def test_a_quantization_that_is_not_known_is_left_out_and_said(tmp_path: Path) -> None:
    model = load(changed(tmp_path, quantization_config={"quant_method": "of tomorrow"}))
    assert any("left out (quant_method = 'of tomorrow')" in note for note in model.notes)
    stored = load(changed(tmp_path, quantization_config={"quant_method": "fp8"}))
    assert any("fp8: float8_e4m3fn" in note for note in stored.notes)
    assert load(changed(tmp_path)).notes == []


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"num_hidden_layers": 10**9}, "num_hidden_layers = 1000000000: expected at most 512"),
        ({"num_labels": 2**40}, "num_labels = .*: expected at most 1,048,576"),
        ({"hidden_size": float("inf")}, "hidden_size = inf: expected at most"),
        ({"vocab_size": float("nan")}, "vocab_size = nan: expected at most"),
        ({"text_config": {"vocab_size": 2**31}}, "text_config.vocab_size = .*: expected"),
        ({"layer_types": ["full_attention"] * 100_000}, "layer_types has 100,000 entries"),
        ({"hidden_act": "no_such"}, "LlamaForCausalLM cannot be built: KeyError: "),
        ({"num_attention_heads": 7}, "llama: .*: .*heads"),
        ({"architectures": [["x"]]}, r"architectures = .*: transformers has for llama"),
        ({"architectures": 5}, "architectures = .5.: transformers has for llama"),
        ({"dtype": [1]}, r"hf.dtype = \[1\]: expected bfloat16"),
    ],
)
def test_what_the_library_cannot_do_is_one_line(
    tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(CalibError, match=said) as caught:
        load(changed(tmp_path, **changes)).phases(TEXT)
    assert "\n" not in str(caught.value) and str(caught.value).startswith("hf.")


def test_a_nest_without_end_is_refused() -> None:
    given: Any = {}
    for _ in range(DEEPEST + 2):
        given = {"a": given}
    with pytest.raises(CalibError, match="nested deeper"):
        without_loaders(given)


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, "\0", '{"a":' * 10_000])
def test_a_broken_file_is_one_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_text(text, "utf-8")
    with pytest.raises(CalibError, match=r"^hf.config = .*: not JSON"):
        load(tmp_path)


@pytest.mark.parametrize("name", sorted(path.name for path in DATA.iterdir()))
def test_published_sizes_are_taken(name: str) -> None:
    check_sizes(json.loads((DATA / name / "config.json").read_text("utf-8")))


def test_a_build_has_its_time() -> None:
    started = time.monotonic()
    with (
        pytest.raises(CalibError, match=r"hf.config = it: not built within 0.1 s"),
        one_line("it", 0.1),
    ):
        while time.monotonic() < started + 60:
            pass
    assert signal.getitimer(signal.ITIMER_PROF)[0] == 0


@pytest.mark.parametrize(
    "given",
    [
        {"time_step_limit": [0.0, float("inf")]},
        {"gradient_clipping": 1e10},
        {"stage_in_channels": [48, 1024]},
        {"embed_dim_per_stage": [96, 768]},
    ],
)
def test_numbers_that_are_no_sizes_are_not_bounded(given: dict) -> None:
    check_sizes(given)
