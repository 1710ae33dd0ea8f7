"""A card's tables, asked for a grid of operators of one kind at a time.

What a table timed is told by its fit; all else by what stands in for it
(:mod:`calib.cards.tables.stand_ins`), scaled to its work, with the interval that standing in, other
engines and other cards add.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from calib.cards.tables.cold import hot_to_cold
from calib.cards.tables.figures import (
    CUDNN,
    ENGINE,
    NARROW,
    SPLITS_SOME,
    TORCH,
    Figures,
    nearness,
)
from calib.cards.tables.splits import is_split, side_by_side
from calib.cards.tables.stand_ins import (
    ANOTHER_KERNEL,
    TIMED_ON,
    StandIn,
    as_plain,
    stand_in,
)
from calib.cards.tables.times import Times, beside, better, chosen, estimates_of, lesser, weighed
from calib.fit.calibration import (
    EVERY,
    ROOFLINE,
    TRANSFERRED,
    WEAKEST_FIRST,
    Calibration,
    Estimates,
    fitted_dtype,
    kind_of,
    linked,
    wider,
)
from calib.fit.physics.blocks.attention.flash import FLASH, backward
from calib.fit.physics.blocks.stream_blocks import walk_seconds
from calib.fit.physics.features import stack
from calib.fit.physics.limits.cuda_cores import as_lent
from calib.fit.physics.limits.rounds import SMALLEST
from calib.fit.physics.limits.streams import streaming
from calib.fit.physics.widened import is_widened, plain_products, width
from calib.hardware.attention_backend import as_split, backends_of
from calib.hardware.datasheet import Hardware, floor, least_seconds, load_hardware, peak
from calib.hardware.device import clocked
from model.ops import (
    REST,
    Attention,
    AttentionBackward,
    Collective,
    Elementwise,
    Matmul,
    MoeMlp,
    Operator,
    Other,
    is_grid,
)


@dataclass(frozen=True)
class Lookup:
    """Of ``hardware``; ``about``: the data card of ``figures``."""

    hardware: Hardware
    figures: Figures
    about: dict[str, Any]

    @cached_property
    def calibration(self) -> Calibration:
        """The tables' fits, for the card as it clocks."""
        none: Any = None  # what a build reports of them is in the data card
        hardware = clocked(self._streaming, self.figures.clock_ratio)
        return Calibration(hardware, self.figures.kinds, none)

    @cached_property
    def _streaming(self) -> Hardware:
        """As its memory streams, where all of the tables' fits are other cards'."""
        is_lent = all(kind in self.figures.carried for _, kind, _ in self.figures.kinds)
        timed_on = load_hardware(TIMED_ON)
        return streaming(self.hardware, self.hardware, timed_on) if is_lent else self.hardware

    @cached_property
    def _as_lent(self) -> Hardware:
        """For the floors of what stands in."""
        share = self.about.get("share_of_peak_sustained")
        return as_lent(self.hardware, share and share * self.figures.clock_ratio)

    def estimates(
        self,
        ops: Sequence[Operator] | Operator,
        implementation: str,
        hot: Sequence[bool] | np.ndarray | bool | None,
    ) -> Estimates:
        """The roofline of what no table tells; ``hot``: None means as they were timed."""
        if isinstance(ops, Operator):
            ops = [ops] if not is_grid(ops) else ops
        grids: list[tuple[Operator, np.ndarray]]
        if isinstance(ops, Operator):
            floors = np.atleast_1d(floor(ops, self.hardware))
            grids = [(ops, np.arange(len(floors)))]
        else:
            grids, floors = stack(ops), np.zeros(len(ops))
        flags = np.broadcast_to(np.asarray(True if hot is None else hot, dtype=bool), len(floors))
        columns = np.full((4, len(floors)), np.nan)
        for grid, rows in grids:
            if isinstance(grid, Collective):
                known: Times | None = self.together(grid, implementation, flags[rows])
            else:
                known = self.alike(grid, implementation, flags[rows])
            floors[rows] = floor(grid, self.hardware)
            columns[:, rows] = np.broadcast_arrays(*vars(known).values()) if known else np.nan
        return estimates_of(floors, columns)

    def alike(self, op: Operator, implementation: str, hot: np.ndarray) -> Times | None:
        """Times of a grid of one kind; ``None`` where no table tells."""
        if self.figures.tells(op, implementation) or implementation not in (TORCH, ENGINE):
            return self._measured(op, [implementation], hot)
        if is_widened(op):
            return self._widened(op, implementation, hot)
        if isinstance(op, Other) and op.name == REST:
            return beside(op, self.hardware).widened(ANOTHER_KERNEL)
        direct = self._timed_as_it_is(op, implementation, hot)
        if direct is not None and fitted_dtype(op) != "float32":
            return direct
        stood = self._by_stand_in(op, implementation, hot)
        if direct is None or stood is None:
            return direct or stood
        # Of float32 strangers' events told, which say little of what is short.
        return chosen(np.asarray(vars(op)["batch"]) > 1, direct, weighed(direct, stood))

    def _by_stand_in(self, op: Operator, implementation: str, hot: np.ndarray) -> Times | None:
        if implementation == TORCH and type(op) is Attention and self._splits_some:
            op = as_split(op, self.hardware.compute_capability)
        meant = self._as_timed_here(stand_in(op))
        times: Times | None = None
        for stand in meant.ops:
            known = self._implementations(stand, implementation)
            found = self._measured(stand, known, hot)
            if implementation == TORCH and isinstance(stand, Attention):
                found = self._without_cudnn(op, stand, found, known, hot)
                found = self._dense(op, stand, found, hot)
            if found is None:
                return None
            times = found if times is None else times + found
        return self._as_meant(op, meant, times, implementation == TORCH) if times else None

    @cached_property
    def _splits_some(self) -> bool:
        """Whether FlashAttention 2 was timed, as engines call it."""
        return (SPLITS_SOME, Attention.operator, SMALLEST.dtype) in self.figures.kinds

    def together(self, op: Collective, implementation: str, hot: np.ndarray) -> Times:
        """Of what several cards do together: as it was timed, else by the link alone."""
        known = self._implementations(op)
        own = [implementation] if implementation in known else known
        times = self._measured(op, own, hot)
        if times is not None:
            return times
        seconds, low, high = linked(op, self.hardware)
        return Times(seconds, low, high, np.full(len(seconds), WEAKEST_FIRST.index(ROOFLINE)))

    def _timed_as_it_is(self, op: Operator, implementation: str, hot: np.ndarray) -> Times | None:
        """Products of a dtype that someone timed, narrow ones with what makes them narrow."""
        narrow = implementation == TORCH and vars(op).get("dtype") in NARROW
        if narrow or not isinstance(op, Matmul) or op.dtype == "bfloat16":
            return None
        return self._measured(op, self._implementations(op, implementation), hot)

    def _widened(self, op: Operator, implementation: str, hot: np.ndarray) -> Times | None:
        """Of a product that widens its weights, by plain ones."""
        parts = []
        for plain in plain_products(op, self.hardware):
            times = self.alike(plain.op, implementation, hot)
            if times is None:
                return None
            parts.append(times.scaled(plain.scale))
        return lesser(parts[0], parts[1]).widened(width(op, self.hardware))

    def _as_timed_here(self, meant: StandIn) -> StandIn:
        """``meant`` by torch's own maps where these were timed, and by expert layers that were: of
        bfloat16 where its dtype was not."""
        if (TORCH, Elementwise.operator, EVERY) in self.figures.kinds:
            return replace(meant, ops=tuple(as_plain(op) for op in meant.ops))
        layers = [o for o in meant.ops if isinstance(o, MoeMlp) and not self._implementations(o)]
        if not layers:
            return meant
        ops = tuple(replace(o, dtype="bfloat16") if o in layers else o for o in meant.ops)
        spread = np.maximum(meant.spread, ANOTHER_KERNEL)
        return replace(meant, ops=ops, spread=spread, by_floor=True, own_kernel=False)

    def _as_meant(self, op: Operator, meant: StandIn, times: Times, as_torch: bool) -> Times:
        """Scaled to the work of ``op``, the interval widened by what standing in adds, and for
        torch by how engines differ."""
        least = walk_seconds(op, self.hardware) / times.seconds
        runs = meant.runs(self._streaming, times.seconds)
        scale = np.maximum(meant.scale(op, self._as_lent) * runs, least)
        kind = meant.ops[0].operator
        differ = self.figures.disagreement.get(kind, 0.0) if as_torch else 0.0
        known = (differ, self.figures.carried.get(kind, 0.0))
        width = np.hypot(np.hypot(*known), meant.spread)
        low, high = wider(times.seconds, times.low, times.high, width)
        weakest = np.where(meant.own_kernel, np.inf, WEAKEST_FIRST.index(TRANSFERRED))
        rank = np.minimum(times.rank, weakest)
        bound = least_seconds(op, self.hardware)
        ends = (np.maximum(end * scale, bound) for end in (times.seconds, low, high))
        seconds, low, high = ends
        return Times(seconds, low, high, rank)

    def _without_cudnn(
        self, op: Operator, stand: Attention, found: Times | None, known: list[str], hot: np.ndarray
    ) -> Times | None:
        """``found`` by all of ``known``; what torch does not hand to cuDNN by the others."""
        others = [name for name in known if name != CUDNN]
        if found is None or not isinstance(op, Attention) or others == known or not others:
            return found
        rows = backends_of(op, self.hardware.compute_capability) == CUDNN
        without = self._measured(stand, others, hot)
        assert without is not None
        return chosen(np.broadcast_to(rows, found.rank.shape), found, without)

    def _dense(
        self, op: Operator, stand: Attention, paged: Times | None, hot: np.ndarray
    ) -> Times | None:
        """Of many queries by the kernel that torch calls, where samples of that are known; one
        query is told by the ``paged`` of engines, which torch splits in the same way."""
        known = self._measured(stand, [FLASH], hot)
        if known is None or paged is None:
            return paged
        # Few cards told of this kernel: what they say of another is no faster than its clock, nor,
        # where nothing is in cache, than its memory.
        least = stand.min_flops / peak(stand, self.hardware) / self.figures.clock_ratio
        fetched = np.asarray(stand.bytes, dtype=float) / self.hardware.bandwidth
        least = np.maximum(least, np.where(hot, 0.0, fetched))
        known, many = known.at_least(least), np.greater(stand.q_len, 1)
        if isinstance(op, AttentionBackward):
            known = known.scaled(backward(op))
        elif isinstance(op, Attention) and (split := is_split(op, self.hardware)).any():
            # A block of a split walk has fewer rows than one of a whole one, at the most as many.
            short = self._measured(side_by_side(stand, self.hardware), [FLASH], hot)
            assert short is not None
            rows = np.broadcast_to(split, known.rank.shape)
            known = chosen(rows, lesser(known, short.at_least(least)), known)
        return chosen(np.broadcast_to(many, known.rank.shape), known, paged)

    def _implementations(self, op: Operator, implementation: str = ENGINE) -> list[str]:
        """Those that were fitted for the kind of ``op``, nearest to torch first."""
        wanted = (kind_of(op), fitted_dtype(op))
        known = {i for i, *k in self.figures.kinds if tuple(k) == wanted}
        others = {FLASH} if implementation == TORCH else {FLASH, CUDNN}
        return sorted(known - others, key=nearness)

    def _measured(
        self, op: Operator, implementations: Sequence[str], hot: np.ndarray
    ) -> Times | None:
        """What the tables' fits say: of the first implementation that was sampled around a shape,
        else of the first; with the weights brought to main memory where they are not ``hot``."""
        times: Times | None = None
        for implementation in implementations:
            found = self._fitted(op, implementation)
            if found is not None:
                times = better(times, found)
        if times is None:
            return None
        caches = self.figures.caches.get(op.operator)
        if caches is None or hot.all():
            return times
        cold = hot_to_cold(times.seconds, times.low, times.high, op, self.hardware, caches)
        kept = (times.seconds, times.low, times.high)
        mixed = [np.where(hot, h, c) for h, c in zip(kept, cold, strict=True)]
        return Times(mixed[0], mixed[1], mixed[2], times.rank)

    def _fitted(self, op: Operator, implementation: str) -> Times | None:
        if (implementation, kind_of(op), fitted_dtype(op)) not in self.figures.kinds:
            return None
        found = self.calibration.estimates(op if is_grid(op) else [op], implementation, True)
        rank = np.array([WEAKEST_FIRST.index(p) for p in found.known_as])
        return Times(found.seconds, found.low, found.high, rank)
