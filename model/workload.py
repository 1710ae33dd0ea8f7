"""What is asked of a model: an image in one of its modes, a prompt, and tokens to decode."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from model.layer import Layer

LOGITS = ("all", "last")
TASKS = ("encode", "decode", "generate")


@dataclass(frozen=True)
class Workload:
    """One page: an image of ``side`` pixels, in ``tiles`` = (rows, columns) of ``tile_side`` too.

    A model that reads text only takes ``prompt_tokens`` and no ``side``.

    ``logits``: whether the prefill computes them for ``all`` tokens, as the vendor's code does,
    or for the ``last`` one only, as serving engines do.

    ``task``: what is asked of a model that could do more: to ``encode`` (one forward), to
    ``generate`` (read the prompt and decode), to ``decode`` only. None: what the model is for.
    """

    name: str
    side: int | None = None
    tiles: tuple[int, int] | None = None
    tile_side: int = 640
    prompt_tokens: int = 10
    batch: int = 1
    decode_steps: int = 16
    logits: str = "all"
    task: str | None = None

    def __post_init__(self) -> None:
        for key in ("side", "tile_side", "batch", "decode_steps"):
            if getattr(self, key) is not None or key != "side":
                check_at_least(key, getattr(self, key), 1)
        check_at_least("prompt_tokens", self.prompt_tokens, 0)
        check_tiles(self.tiles)
        check_logits(self.logits)
        if self.task is not None and self.task not in TASKS:
            raise ValueError(f"task = {self.task!r}: expected one of {', '.join(TASKS)}, or null")


@dataclass(frozen=True)
class Phase:
    """A pass through ``layer``, executed ``repeat`` times."""

    layer: Layer
    repeat: int = 1


def beyond(tokens: int, positions: int | None) -> list[str]:
    """What is to be said of ``tokens`` of a sequence, prompt and decoded, on a model that was made
    for ``positions`` of them, which it does not learn one by one; None: as many as one likes."""
    if not positions or tokens <= positions:
        return []
    return [
        f"{tokens:,} tokens, prompt and decoded, are beyond the model's {positions:,} positions: "
        "these are the costs of a pass that the model was not made for."
    ]


def check_at_least(key: str, value: Any, least: int) -> None:
    """Raises ``ValueError`` for anything but an integer >= ``least``."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{key} = {value!r}: expected an integer >= {least}")


def check_tiles(tiles: Any) -> None:
    """Raises ``ValueError`` for anything but None or (rows, columns), each at least 1."""
    if tiles is None:
        return
    if not isinstance(tiles, tuple) or len(tiles) != 2:
        raise ValueError(f"tiles = {tiles!r}: expected None or (rows, columns)")
    for count in tiles:
        check_at_least("tiles", count, 1)


def check_logits(logits: str) -> None:
    if logits not in LOGITS:
        raise ValueError(f"logits = {logits!r}: expected one of {', '.join(LOGITS)}")
