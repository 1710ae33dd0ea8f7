"""An engine's kernels on a card, asked for seconds.

What the engine's own tables tell comes first, of collectives also those of cards joined as this one
is (:mod:`calib.cards.engines.lent`); then another engine's kernel of the same name on this card,
wider by how engines differ on the same shapes; then what ships of the card itself, which knows
every kind and says how. Each estimate says which it was.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from calib.cards.card import Card
from calib.cards.engines.lent import Lent, lent_engine
from calib.cards.engines.stored import (
    ENGINES,
    LIBRARY,
    EngineFigures,
    held_out_of,
    load_engine,
)
from calib.cards.shipped import load_card
from calib.cards.tables.cold import hot_to_cold
from calib.cards.tables.stand_ins import stand_in
from calib.errors import CalibError
from calib.fit.calibration import (
    HELD_OUT_COLUMNS,
    Calibration,
    Estimates,
    Key,
    Tabled,
    fitted_dtype,
    kind_of,
    listed,
)
from calib.fit.physics.features import stack
from calib.hardware.datasheet import Hardware, load_hardware
from calib.samples.engines.tables import MLA
from model.ops import (
    AllReduce,
    Collective,
    Elementwise,
    Matmul,
    Operator,
    TensorCoreOperator,
    grid_points,
    is_grid,
)

ANOTHER_ENGINE = {"matmul": 0.23, "attention": 0.6, "latent_attention": 0.6, "moe_mlp": 0.6}
"""Half-width in log seconds that another engine's kernel adds: about the largest of the 90th
percentiles by which engines differ on the same shapes of these cards (``engines_disagree`` in the
cards' own data cards)."""
ANOTHER_STREAM = 0.7
"""The same of pointwise kernels, without SGLang's."""
SHIPPED = "vllm"
"""The implementation under which a card's own file is asked."""
Fits = Calibration | Lent


@dataclass(frozen=True)
class EngineCard(Tabled):
    """What ``engine`` takes on ``hardware``: by its ``figures``, by ``others``, by ``base``."""

    hardware: Hardware
    engine: str
    figures: EngineFigures | None
    others: tuple[EngineFigures, ...]
    base: Card
    held_out: pd.DataFrame = field(default_factory=pd.DataFrame)

    def estimates(
        self,
        ops: Sequence[Operator] | Operator,
        implementation: str = "",
        hot: Sequence[bool] | np.ndarray | bool | None = None,
    ) -> Estimates:
        """As ``Calibration.estimates``; ``implementation``: what follows the engine's name, e.g.
        ``/block``. ``hot``: None means cold, as a model's operators find their inputs."""
        if isinstance(ops, Operator) and is_grid(ops):
            if np.ndim(hot):  # type: ignore[arg-type]
                return self.estimates(list(grid_points(ops)), implementation, hot)
            return self._alike(ops, implementation, bool(hot))
        some = listed(ops)
        found = Estimates.nothing_of(len(some))
        flags = np.broadcast_to(np.asarray(False if hot is None else hot, dtype=bool), len(some))
        for flag in (False, True):
            places = np.flatnonzero(flags == flag)
            for grid, rows in stack([some[int(i)] for i in places]):
                found.put(places[rows], self._alike(grid, implementation, flag))
        return found

    def _alike(self, op: Operator, name: str, hot: bool) -> Estimates:
        """Of a grid of one kind."""
        asked = op if isinstance(op, TensorCoreOperator | Collective) else _streamed(op)
        known = self._known(asked, name)
        if not known:
            return self.base.estimates(op, SHIPPED, np.full(_points(op), hot))
        shared = self._shared(asked) or self._lacks_latent(known)
        times = [self._by(asked, *way) for way in (known if shared else known[:1])]
        found = times[0] if len(times) == 1 else _least(times)
        return found if hot else self._cold(found, asked)

    def _by(self, op: Operator, key: Key, calibration: Fits, width: float) -> Estimates:
        found = calibration.estimates(op, key[0], True)
        return found.stood_in(found.floor, width) if width else found

    def _shared(self, op: Operator) -> bool:
        """Whether all engines call the same libraries for it, so that the least of their tables
        counts: TensorRT-LLM's float8 products take 7 us longer than the others' however small they
        are, since its table holds the narrowing of the input, and vLLM's by block never less than
        57 us, which are the host's. So for what streams: SGLang's table of scaling is of a kernel
        ten times slower than the others'."""
        narrow = isinstance(op, Matmul) and op.dtype != "bfloat16"
        return narrow or isinstance(op, Elementwise)

    def _lacks_latent(self, known: Sequence[tuple[Key, Fits, float]]) -> bool:
        """Whether other engines alone tell of attention over a latent: the least of theirs counts.
        SGLang over a latent in float8 takes up to eight times what TensorRT-LLM does, whose
        time whole blocks of vLLM confirm (``python -m benchmarks.latent``)."""
        key, fits, _ = known[0]
        return fits is not self.own and MLA in key[0]

    def _known(self, op: Operator, name: str) -> list[tuple[Key, Fits, float]]:
        """Fits of the operator's kind and kernel, the engine's own first; another kernel of the
        same engine before one of the same name elsewhere. Over several nodes nothing was timed."""
        if isinstance(op, Collective) and np.any(np.greater(op.nodes, 1)):
            return []
        kind, dtype = kind_of(op), fitted_dtype(op)
        apart = ANOTHER_ENGINE.get(kind, ANOTHER_STREAM)
        wanted: list[tuple[str, Fits, float]] = [(f"{self.engine}{name}", self.own, 0.0)]
        if isinstance(op, Collective):
            wanted += [(f"{engine}{name}", c, 0.0) for engine, c in self._lent.items()]
        wanted += [(f"{engine}{name}", c, apart) for engine, c in self._other.items()]
        keys = [((i, kind, dtype), c, width) for i, c, width in wanted]
        known = [(key, c, width) for key, c, width in keys if key in c.kinds]
        if known or not name:
            return known
        plain = self._known(op, "")
        return [(key, c, float(np.hypot(width, apart))) for key, c, width in plain]

    @cached_property
    def own(self) -> Calibration:
        """The fits to the engine's own tables."""
        return Calibration(self.hardware, self.figures.kinds if self.figures else {}, self.held_out)

    @property
    def is_told(self) -> bool:
        """Whether a table of the engine tells of more on this card than of collectives."""
        known = self.figures.kinds if self.figures else {}
        return any(kind != AllReduce.operator for _, kind, _ in known)

    @cached_property
    def _other(self) -> dict[str, Calibration]:
        return {f.engine: Calibration(self.hardware, f.kinds, self.held_out) for f in self.others}

    @cached_property
    def _lent(self) -> dict[str, Lent]:
        """By engine: its own, and the library where this card has no run of it."""
        known = {figures.engine for figures in (self.figures, *self.others) if figures}
        names = [name for name in (self.engine, LIBRARY) if name not in known]
        found = {name: lent_engine(self.hardware, name) for name in names}
        return {name: fits for name, fits in found.items() if fits}

    def _cold(self, found: Estimates, op: Operator) -> Estimates:
        """Weights and cache brought from main memory, where the table found them in the L2; what a
        kernel streams was written by the one before it, and is there."""
        caches = self.base.figures.caches.get(op.operator)
        if caches is None or not isinstance(op, TensorCoreOperator):
            return found
        seconds = hot_to_cold(found.seconds, found.low, found.high, op, self.hardware, caches)
        return Estimates(found.floor, *seconds, found.known_as)


def _least(times: Sequence[Estimates]) -> Estimates:
    """Of each point the least."""
    seconds = np.stack([t.seconds for t in times])
    best = seconds.argmin(axis=0)
    rows = np.arange(len(best))
    picked = (
        np.stack(column)[best, rows]
        for column in zip(*(vars(t).values() for t in times), strict=True)
    )
    return Estimates(*picked)


def _points(op: Operator) -> int:
    return len(np.atleast_1d(np.asarray(op.bytes)))


def _streamed(op: Operator) -> Operator:
    """The tables' pointwise kernel that moves as many bytes."""
    meant = stand_in(op).ops[0]
    return meant if isinstance(meant, Elementwise) else op


def load_engine_card(card: str, engine: str) -> EngineCard:
    """What ships of ``engine`` on ``card``. Raises ``CalibError`` for an engine that is not known,
    or a card that nothing ships for."""
    if engine not in ENGINES:
        raise CalibError(f"engine = {engine!r}: expected one of {', '.join(ENGINES)}")
    hardware = load_hardware(card)
    base = load_card(hardware, taught=False)
    if base is None:
        raise CalibError(f"hw = {card!r}: nothing ships for it: expected another card")
    others = [load_engine(card, name) for name in (*ENGINES, LIBRARY) if name != engine]
    known: Any = tuple(figures for figures in others if figures)
    held_out = pd.DataFrame(held_out_of(card, engine), columns=HELD_OUT_COLUMNS)
    return EngineCard(hardware, engine, load_engine(card, engine), known, base, held_out)
