"""Random configurations of ``transformers``: published ones with keys dropped, of wrong types, of
huge sizes, of other architectures; keys that ask for code, kernels or weights; broken files.

In this process: the file is read, the class built and traced with a small workload.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Iterator
from copy import deepcopy
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

from benchmarks.hardening.outcome import Outcome
from benchmarks.hardening.tally import Tally, tried
from calib.checkout import ROOT
from calib.errors import CalibError, shown
from calib.steps.request import Subject, Traced
from calib.steps.subject import build_model, phases_of
from model.workload import Workload

LIMIT_S = 60.0
CONFIGS = ROOT / "tests" / "data" / "hf"
SMALL = {"num_hidden_layers": 1, "encoder_layers": 1, "decoder_layers": 1, "depths": [1, 1, 1, 1]}
"""In place of a published depth: a trial is a trace."""
VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, 1, 2, 3, 7, 64, 1000, -1, 2**20, 2**31, 2**40, 2**63, 10**30, 0.5, 1e9),
    *(1e300, float("nan"), float("inf"), "", "x", "gelu", "os.system", "../x", "a\nb", [], [1]),
    *([1, 2], ["a"], [[1]], [0] * 100_000, {}, {"a": 1}, {"model_type": "llama"}, "ü" * 5000),
)
LOADERS: dict[str, Any] = {
    "auto_map": {"AutoModel": "modeling.Evil", "AutoConfig": "configuration.Evil"},
    "attn_implementation": "kernels-community/flash-attn",
    "_attn_implementation": "kernels-community/flash-attn:forward",
    "_attn_implementation_internal": "flash_attention_2",
    "experts_implementation": "kernels-community/megablocks",
    "quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 128]},
    "use_kernels": True,
    "kernel_config": {"kernel_mapping": {"RMSNorm": "evil/kernel"}},
    "_name_or_path": "evil/model",
    "trust_remote_code": True,
    "backbone": "evil/backbone",
    "use_pretrained_backbone": True,
    "use_timm_backbone": True,
    "torch_dtype": "float8_e4m3fn",
    "dtype": "os",
    "architectures": ["Evil"],
    "is_encoder_decoder": True,
    "output_attentions": True,
    "torchscript": True,
    "pruned_heads": {"0": [0, 1]},
    "chunk_size_feed_forward": 3,
}
BROKEN = (b"", b"{", b"[1]", b"null", b"\xff\xfe{}", b'{"a":' * 5000, b"[" * 100_000, b"\0" * 50)
WORKLOADS = (
    Workload("text", prompt_tokens=8, decode_steps=2),
    Workload("image", side=224, prompt_tokens=2, decode_steps=2),
)


def run(seconds: float, seed: int) -> list[Outcome]:
    tally, random = Tally("configurations of transformers"), Random(seed)
    end = time.monotonic() + seconds
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "config.json"
        while time.monotonic() < end:
            told = written(random, file)
            workload = random.choice(WORKLOADS)
            how, why = tried(lambda f=file, w=workload: traced(f, w), LIMIT_S)
            tally.add(how, f"{told}: {why}")
    return [tally.outcome()]


def traced(file: Path, workload: Workload) -> None:
    try:
        model = build_model(Subject(architecture="hf"), Traced(config=file))
        phases_of(model, workload)
        _ = (model.dimensions, model.notes, model.formulas(workload), model.working(workload))
    except (ValueError, OSError) as error:  # which calib.run says like its own
        raise CalibError(str(error)) from None


def written(random: Random, file: Path) -> str:
    """Write a configuration that is changed; what was."""
    if random.random() < 0.03:
        broken = random.choice(BROKEN)
        file.write_bytes(broken)
        return f"bytes {shown(broken)}"
    given, told = start(random)
    changes = [told]
    for _ in range(random.choice((1, 1, 2, 4))):
        changes.append(change(random, given))
    file.write_text(json.dumps(given), "utf-8")
    return "; ".join(changes)


def start(random: Random) -> tuple[dict[str, Any], str]:
    """A published configuration made shallow, or that of any architecture by its defaults."""
    if random.random() < 0.3:
        kind = random.choice(architectures())
        return {"model_type": kind, **SMALL}, kind
    name = random.choice(sorted(path.name for path in CONFIGS.iterdir()))
    return shallow(json.loads((CONFIGS / name / "config.json").read_text("utf-8"))), name


@cache
def architectures() -> tuple[str, ...]:
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

    return tuple(CONFIG_MAPPING_NAMES)


def shallow(given: Any) -> Any:
    for key, value in given.items():
        if key in SMALL:
            given[key] = SMALL[key]
        elif isinstance(value, dict):
            shallow(value)
    return given


def change(random: Random, given: dict[str, Any]) -> str:
    node = random.choice([given, *parts(given)])
    how, key = random.random(), random.choice(list(node) or ["model_type"])
    if how < 0.2:
        node.pop(key, None)
        return f"~{key}"
    if how < 0.4:
        key = random.choice(list(LOADERS))
        node[key] = deepcopy(LOADERS[key])
    elif how < 0.5:
        node[key] = random.choice(architectures())
    elif how < 0.7 and isinstance(node.get(key), int):
        node[key] = max(int(node[key] * random.choice((0.5, 2, 3, 10, 1e3, 1e6))), 0)
    else:
        node[key] = deepcopy(random.choice(VALUES))
    return f"{key} = {shown(node[key])}"


def parts(node: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for value in node.values():
        if isinstance(value, dict):
            yield value
            yield from parts(value)
