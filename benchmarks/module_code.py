"""What Python takes between the operators of a model, and what it goes by.

    python -m benchmarks.module_code --write docs/timeline.md     # two minutes of one core

Models of ``tests/data/hf`` with all their layers and next to no width, on this CPU, so that
operators are short. A pass is timed, and a loop over the very calls into torch that it made (its
top-level functions, views among them, on the tensors that they had): the difference is module code,
what ``nn.Module.__call__``, the models' own Python and their caches take. Seconds are of the
thread's own clock and the least of many repeats, since other work on a machine only adds to them.
Beside them what they might go by: modules called, and computing operators. What a ``torch.func``
transform did cannot be done again and counts as Python: so masks are made, by a prompt's first
layer and by every step of the miniature.
"""

from __future__ import annotations

import argparse
import gc
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.card.asked import IMAGE, SPEECH, TEXT
from benchmarks.recorded.text import lines
from benchmarks.trace_coverage import CONFIGS
from benchmarks.traced_models import with_values
from model.workload import Workload

if TYPE_CHECKING:
    import torch

REPEATS, WARM_UPS, PROMPT = 25, 2, 16
TEXT_WIDTHS = {
    **{"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4, "head_dim": 16},
    **{"num_key_value_heads": 2, "vocab_size": 256, "query_pre_attn_scalar": 16},
    **{"moe_intermediate_size": 64, "num_experts": 8, "num_experts_per_tok": 2},
}
SPEECH_WIDTHS = {
    **{"d_model": 64, "encoder_ffn_dim": 128, "decoder_ffn_dim": 128, "max_source_positions": 16},
    **{"encoder_attention_heads": 4, "decoder_attention_heads": 4},
}
IMAGE_WIDTHS = {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4}
MODELS: dict[str, tuple[dict[str, Any], Workload]] = {
    "llama_3_1_8b": (TEXT_WIDTHS, replace(TEXT, prompt_tokens=PROMPT)),
    "qwen3_30b_a3b": (TEXT_WIDTHS, replace(TEXT, prompt_tokens=PROMPT)),
    "gemma_3_12b": (TEXT_WIDTHS, replace(TEXT, prompt_tokens=PROMPT)),
    "vit_l": ({**IMAGE_WIDTHS, "image_size": 32}, replace(IMAGE, side=32)),
    "whisper_large_v3": (SPEECH_WIDTHS, SPEECH),
    "resnet_50": ({"embedding_size": 8, "hidden_sizes": [16, 32, 32, 64]}, replace(IMAGE, side=64)),
}
BEGIN, END = "<!-- module code -->", "<!-- end of module code -->"
Run = Callable[[], Any]


@dataclass(frozen=True)
class Found:
    """Of one pass: seconds of its Python, modules called, operators that compute."""

    name: str
    seconds: float
    modules: int
    operators: int


def least_seconds(run: Run) -> float:
    """Of the thread, the garbage collector kept out."""
    for _ in range(WARM_UPS):
        run()
    gc.collect()
    gc.disable()
    found = []
    for _ in range(REPEATS):
        start = time.thread_time()
        run()
        found.append(time.thread_time() - start)
    gc.enable()
    return min(found)


def calls_of(run: Run) -> list[Run]:
    """The calls into torch that ``run`` makes, those that can be made again."""
    from torch.overrides import TorchFunctionMode

    made: list[Run] = []

    class Listening(TorchFunctionMode):
        def __torch_function__(
            self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
        ) -> Any:
            made.append(lambda: func(*args, **(kwargs or {})))
            return func(*args, **(kwargs or {}))

    with Listening():
        run()
    return [call for call in made if _again(call)]


def _again(call: Run) -> bool:
    try:
        call()
    except RuntimeError:
        return False
    return True


def counted(module: torch.nn.Module, run: Run) -> tuple[int, int]:
    """Modules that are called, and operators that compute."""
    from torch.utils._python_dispatch import TorchDispatchMode

    from calib.trace.recorder import Calls
    from calib.trace.rules.rows import asks_only, is_view

    operators: list[Any] = []
    modules: list[str] = []

    class Counting(TorchDispatchMode):
        def __torch_dispatch__(
            self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
        ) -> Any:
            if not is_view(func) and not asks_only(func):
                operators.append(func)
            return func(*args, **(kwargs or {}))

    paths = {id(part): name for name, part in module.named_modules()}
    watch = Calls(paths, lambda path, *_: modules.append(path), lambda: None)
    try:
        with Counting():
            run()
    finally:
        watch.remove()
    return len(modules), len(operators)


def measured(name: str, module: torch.nn.Module, run: Run) -> Found:
    run()
    calls = calls_of(run)

    def again() -> None:
        for call in calls:
            call()

    pairs = [(least_seconds(run), least_seconds(again)) for _ in range(2)]
    whole, torchs = (min(side) for side in zip(*pairs, strict=True))
    return Found(name, whole - torchs, *counted(module, run))


def small(name: str, folder: Path) -> Path:
    """The configuration of ``name`` at next to no width."""
    given, widths = json.loads((CONFIGS / name / "config.json").read_text("utf-8")), MODELS[name][0]
    for part in (given, given.get("text_config", {})):
        part.update({k: v for k, v in widths.items() if k in part or part is not given})
    (folder / name).mkdir()
    (folder / name / "config.json").write_text(json.dumps(given), "utf-8")
    return folder / name


def passes() -> Iterator[Found]:
    from calib.trace import hf
    from calib.trace.passes import passes_of

    yield miniature()
    for name, (_, workload) in MODELS.items():
        with tempfile.TemporaryDirectory() as folder:
            module = with_values(hf.load(small(name, Path(folder)), "bfloat16").build())
        for one in passes_of(module, "bfloat16", workload):
            yield measured(f"{name} {one.name}", module, one.run)


def miniature() -> Found:
    """A decode step of the model that module code is measured on."""
    from calib.measure.reference.miniature import MINIATURE
    from calib.measure.reference.model import build_reference
    from calib.measure.reference.passes import Passes, make_inputs

    workload = Workload("miniature", side=64, decode_steps=1, prompt_tokens=32)
    reference = build_reference(MINIATURE, workload)
    made = Passes(reference, workload, make_inputs(reference, workload))
    state = [made.prefill()]
    return measured(
        "miniature decode", reference.model, lambda: state.append(made.step(state.pop()))
    )


def table(found: Iterator[Found]) -> str:
    rows = [
        [one.name, f"{one.seconds * 1e3:.2f}", str(one.modules), str(one.operators)]
        + [f"{one.seconds / n * 1e6:.1f}" for n in (one.modules, one.operators)]
        for one in found
    ]
    headers = ["a pass", "Python ms", "modules", "operators", "us a module", "an operator"]
    return lines(headers, rows)


def main() -> None:
    import torch

    from benchmarks.recorded.__main__ import write

    parser = argparse.ArgumentParser(prog="python -m benchmarks.module_code", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--write", type=Path, help="a page to put the table into")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    with torch.no_grad():
        shown = table(passes())
    print(shown)
    if asked.write:
        write(asked.write, f"\n```text\n{shown}\n```\n", (BEGIN, END))


if __name__ == "__main__":
    main()
