"""Which models are run at full size on a card, and on what, in order of worth."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.trace_coverage import CONFIGS
from model.workload import Workload

TEXT = Workload("text", prompt_tokens=512, decode_steps=32, logits="last")
IMAGE = Workload("image", side=224, prompt_tokens=0, decode_steps=1)
SPEECH = Workload("speech", prompt_tokens=4, decode_steps=32)


@dataclass(frozen=True)
class Asked:
    """A model by the folder of its configuration, and what is asked of it."""

    model: str
    config: Path
    workload: Workload
    dtype: str = "bfloat16"

    @property
    def name(self) -> str:
        return f"{self.model}.{self.workload.name}"


def plan() -> list[Asked]:
    """In order of worth: text, images, then what takes longest to build."""
    listed = [
        ("llama_3_1_8b", TEXT),
        ("llama_3_1_8b", replace(TEXT, name="text_b16", batch=16)),
        ("vit_l", IMAGE),
        ("vit_l", replace(IMAGE, name="image_b32", batch=32)),
        ("resnet_50", IMAGE),
        ("resnet_50", replace(IMAGE, name="image_b32", batch=32)),
        ("whisper_large_v3", SPEECH),
        ("qwen3_30b_a3b", TEXT),
        ("gemma_3_12b", TEXT),
        ("sam_vit_b", replace(IMAGE, name="image_1024", side=1024)),
        ("mixtral_8x7b", TEXT),
    ]
    return [Asked(name, CONFIGS / name, workload) for name, workload in listed]


def chosen(only: str, config: Path | None, workload: Workload, dtype: str) -> list[Asked]:
    """What the command line asks for. Raises ``ValueError`` for a name that is not listed."""
    if config is not None:
        folder = config if config.is_dir() else config.parent
        return [Asked(folder.resolve().name, config, workload, dtype)]
    listed = plan()
    names = [name for name in only.split(",") if name]
    if unknown := set(names) - {one.name for one in listed}:
        raise ValueError(
            f"--only {','.join(sorted(unknown))}: expected of {', '.join(o.name for o in listed)}"
        )
    return [one for one in listed if not names or one.name in names]
