"""What a server of an engine costs beside its kernels: ten numbers an engine, fitted to measured
serving runs (``python -m benchmarks.serving --ship``), the same for every model, card and layout:

    decode step = step + (gpu^4 + host^4)^(1/4)
    gpu  = kernels * decode's kernels + cards * its collectives + gap * launches
    host = base + request * running
    prompt = prompts * prompt's kernels, at least eager * launches a step that has one

``kernels`` and ``prompts`` are near one, ``cards`` is of collectives: a table's cards do nothing
but wait for one another, a server's come one after the other. ``queue`` scales the wait for the
first token, which comes later by ``front_token`` a token of the prompt.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from calib.cards.engines.stored import ENGINE_FOLDER
from calib.errors import CalibError

FILE = ENGINE_FOLDER / "serving.json"
_SHARP = 4.0
"""How sharply the slower of card and host takes over."""


@dataclass(frozen=True)
class Overheads:
    """By default nothing but kernels. ``spread``: of TPOT beside the kernels' own, in log;
    ``factor``: half-widths of a 90% interval over what is unsure."""

    kernels: float = 1.0
    cards: float = 1.0
    gap: float = 0.0
    step: float = 0.0
    base: float = 0.0
    request: float = 0.0
    prompts: float = 1.0
    eager: float = 0.0
    front_token: float = 0.0
    queue: float = 1.0
    spread: float = 0.0
    factor: float = 1.0

    def on_card(self, kernels: Any, collectives: Any, launches: Any) -> Any:
        """Seconds of a card in a step."""
        return self.kernels * kernels + self.cards * collectives + self.gap * launches

    def host(self, running: Any, passes: Any = 1.0) -> Any:
        """Seconds of the host in a step of ``running`` requests in ``passes`` parts."""
        return self.base * passes + self.request * running

    def decode(self, gpu: Any, host: Any) -> Any:
        """Seconds of a step, which the slower of both sets."""
        return self.step + (gpu**_SHARP + host**_SHARP) ** (1 / _SHARP)


def load_overheads(engine: str, path: Path = FILE) -> Overheads | None:
    """What ships of ``engine``; None where nothing does. Raises ``CalibError`` for a file that is
    not as it is written."""
    if not path.exists():
        return None
    try:
        found = json.loads(path.read_text("utf-8"))["engines"].get(engine)
        return found and Overheads(**{f.name: float(found[f.name]) for f in fields(Overheads)})
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CalibError(f"{path}: {error!r}: expected what --ship writes") from None
