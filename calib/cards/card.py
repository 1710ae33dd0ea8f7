"""A card's calibration as it ships: fitted to public tables, asked for what torch would take.

The tables are timed by inference engines, hot, and know some kinds only. An estimate therefore
goes through three steps, each of which says itself in the interval or in the provenance: the
operator's stand-in in the tables (:mod:`calib.cards.stand_ins`), from hot to cold
(:mod:`calib.cards.cold`), and the width by which engines disagree on the same shape of the same
card. Only where the table timed the very kernel that torch runs, an estimate keeps the provenance
of the fit; everything else is ``transferred``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

import numpy as np

from calib.cards.cold import hot_to_cold
from calib.cards.corrected import FLOAT32, NORMAL, Away, Carried, Corrected, Taught, kernels_of
from calib.cards.stand_ins import ANOTHER_KERNEL, TIMED_ON, StandIn, all_as_timed, stand_in
from calib.cards.times import (
    Figures,
    Times,
    as_plain,
    beside,
    better,
    by_floors,
    by_twins,
    by_windows,
    chosen,
    either_way,
    estimates_of,
    is_split,
    lesser,
    nearness,
    side_by_side,
    weighed,
)
from calib.fit.calibration import (
    EVERY,
    ROOFLINE,
    TRANSFERRED,
    WEAKEST_FIRST,
    Calibration,
    Estimates,
    Tabled,
    dtype_of,
    fitted_dtype,
    kind_of,
    linked,
    parted,
    wider,
)
from calib.fit.likeness import card_to_card
from calib.fit.physics.blocks.attention.flash import FLASH, backward
from calib.fit.physics.blocks.stream_blocks import walk_seconds
from calib.fit.physics.cuda_cores import as_lent, as_taught
from calib.fit.physics.features import stack
from calib.fit.physics.rounds import SMALLEST, knows_no_tiles, seconds_of_rounds
from calib.fit.physics.streams import streaming
from calib.fit.physics.widened import is_widened, plain_products, width
from calib.hardware.attention_backend import as_split, backends_of
from calib.hardware.convolutions import has_few
from calib.hardware.datasheet import Hardware, floor, least_seconds, load_hardware, peak
from calib.hardware.device import clocked
from model.ops import (
    REST,
    Attention,
    AttentionBackward,
    Collective,
    Conv2d,
    Elementwise,
    Matmul,
    MoeMlp,
    Operator,
    Other,
    is_grid,
)

if TYPE_CHECKING:
    import pandas as pd

TORCH = "torch"
ENGINE = "vllm"
"""Whose tables are fitted."""
SPLITS_SOME = f"{ENGINE}/flash_attn_2"  # the keys of one query, where its heads share them
CUDNN = "cudnn"  # the vendor's, which torch calls and the engine does not
NARROW = ("float8_e4m3fn", "float4_e2m1fn", "int8")
"""Products that engines time together with what makes their activations narrow."""
NO_BATCH = ("bfloat16", *NARROW)  # products that engines timed: one at a time
UNTOLD = float(np.log(2.0))
"""Width of a carried ratio of a kind that no two engines' tables tell of. A judgement."""


@dataclass(frozen=True)
class Card(Tabled):
    """The shipped calibration of ``hardware``; ``about`` is its data card.

    ``taught``: what torch's samples tell, of this card or of another; without it torch is what the
    tables' engine takes. ``in_rounds``: whether products are held to whole tiles
    (:mod:`calib.fit.physics.rounds`); not what samples correct, which had none.
    """

    hardware: Hardware
    figures: Figures
    about: dict[str, Any] = field(default_factory=dict)
    taught: Taught | None = None
    in_rounds: bool = True

    @cached_property
    def torch(self) -> Corrected | None:
        """torch's own samples over the tables."""
        if self.taught is None:
            return None
        clocks, none = clocked(self.hardware, self.figures.clock_ratio), self.held_out
        hardware = as_taught(clocks, self.hardware, self._teacher)
        hardware = streaming(hardware, self.hardware, self._teacher)
        is_alike = hardware.compute_capability == self._teacher.compute_capability
        kinds = self.taught.kinds | ({} if is_alike else self.taught.elsewhere)
        own = Calibration(hardware, kinds, none)
        is_own = self.taught.hardware == self.hardware.name
        away = None if is_own else self._away
        tables = replace(self, taught=None, in_rounds=False)
        timed = {key[2] for key in self.figures.kinds if key[1] == Matmul.operator}
        return Corrected(tables, own, self.taught.blends, away, timed.difference(NO_BATCH))

    def _away(self, ops: Sequence[Operator] | Operator) -> Away:
        """What carrying torch's samples to this card costs, for operators of one kind.

        Where another kernel stands in, what the samples correct is mostly that, and it is carried
        whole; how that carries, no engine's ratios of the kernel itself tell. So is how far it was
        trusted, near the samples, to a card that runs the very kernels. Not so where a product
        stands in for a convolution on a card of another compute capability: matrix units have
        kernels of their own there (the samples' are ``sm90_xmma_fprop``), for either.
        """
        assert self.taught is not None
        first = ops if isinstance(ops, Operator) else ops[0]
        kind, stands_in = stand_in(first).ops[0].operator, self._stands_in(first)
        told = (self.taught.carried.get((card, first.operator)) for card in self._relatives)
        carried = next((c for c in told if c), Carried(0.0, UNTOLD))
        another = kind != first.operator
        share = np.where(another & ~self._by_other_units(ops), 1.0, carried.share)
        apart = card_to_card(self.hardware, [self._teacher], dtype_of(first))
        # What no table of this card tells was transferred before anything is carried.
        width = float(np.hypot(carried.width, self.figures.carried.get(kind, 0.0)))
        return Away(apart / NORMAL, share, width / NORMAL, stands_in)

    def _stands_in(self, op: Operator) -> bool:
        """Whether bfloat16 stands in for float32 here as it does on the samples' card, by whose
        kernels float32 is computed."""
        is_alike = self.hardware.compute_capability == self._teacher.compute_capability
        known = (kind_of(op), fitted_dtype(op)) in {tuple(k) for _, *k in self.figures.kinds}
        return is_alike and not known and kernels_of(op).endswith(FLOAT32)

    def _by_other_units(self, ops: Sequence[Operator] | Operator) -> Any:
        """[n] bool: whether they are convolutions for which a product of matrix units stands in,
        elsewhere than on the samples' compute capability."""
        each = [ops] if isinstance(ops, Operator) else ops
        is_alike = self.hardware.compute_capability == self._teacher.compute_capability
        if is_alike or not any(isinstance(op, Conv2d) for op in each):
            return np.array(False)
        are = [isinstance(op, Conv2d) and ~np.atleast_1d(has_few(op)) for op in each]
        return np.concatenate([np.atleast_1d(one) for one in are])

    @cached_property
    def _relatives(self) -> list[str]:
        """This card, those of its compute capability, and "" for all."""
        assert self.taught is not None
        names = dict.fromkeys(card for card, _ in self.taught.carried if card)
        same = self.hardware.compute_capability
        alike = [c for c in names if load_hardware(c).compute_capability == same]
        return [self.hardware.name, *alike, ""]

    @cached_property
    def _teacher(self) -> Hardware:
        assert self.taught is not None
        return load_hardware(self.taught.hardware)

    @cached_property
    def _as_lent(self) -> Hardware:
        """For the floors of what stands in."""
        share = self.about.get("share_of_peak_sustained")
        return as_lent(self.hardware, share and share * self.figures.clock_ratio)

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

    @property
    def held_out(self) -> pd.DataFrame:
        """One row a fit: its error on groups that it never saw, as the data card has it."""
        import pandas as pd

        return pd.DataFrame(self.about.get("held_out", []))

    def estimates(
        self,
        ops: Sequence[Operator] | Operator,
        implementation: str = TORCH,
        hot: Sequence[bool] | np.ndarray | bool | None = None,
    ) -> Estimates:
        """As ``Calibration.estimate``; ``hot``: None means as the tables were timed, which is hot.

        Implementations other than torch are those of the tables, ``vllm`` whichever of its kernels
        serves an operator best; all else is the roofline.
        """
        found = self._estimates(ops, implementation, hot)
        least = self._rounds(ops)
        seconds, high = (np.fmax(s, least) for s in (found.seconds, found.high))
        return replace(found, seconds=seconds, high=np.where(least > 0, high, found.high))

    def _rounds(self, ops: Sequence[Operator] | Operator) -> Any:
        """[n] seconds that no product is faster than, 0 where nothing says so."""
        if self._call_s is None:
            return 0.0
        rounds = seconds_of_rounds(ops, self._fastest)
        return np.where(rounds > 0, self._call_s + rounds, 0.0)

    @cached_property
    def _call_s(self) -> float | None:
        """What a product takes however small, on a card whose fit knows no tiles; else None."""
        fit = self.figures.kinds.get((ENGINE, Matmul.operator, SMALLEST.dtype))
        if not self.in_rounds or fit is None or not knows_no_tiles(fit.prior, self.hardware):
            return None
        return float(self.calibration.estimates([SMALLEST], ENGINE, True).seconds[0])

    @cached_property
    def _fastest(self) -> Hardware:
        """At the clock that the fits take it to run at; at what its published products need."""
        share = self.about.get("share_of_peak_sustained") or 0.0
        return clocked(self.hardware, self.figures.clock_ratio * max(1.0, share))

    def _estimates(
        self,
        ops: Sequence[Operator] | Operator,
        implementation: str,
        hot: Sequence[bool] | np.ndarray | bool | None,
    ) -> Estimates:
        is_torch = implementation == TORCH
        if is_torch and (refused := by_floors(ops, self.hardware, self.estimates, hot)):
            return refused
        ask = partial(self.estimates, implementation=implementation, hot=hot)
        if is_torch and (cut := by_twins(ops, self._told, self.hardware, ask)):
            return cut
        if uncut := by_windows(ops, ask, one=is_torch):
            return uncut
        ops = all_as_timed(ops, self._told, self.hardware)
        if is_torch and self.torch is not None:
            return either_way(self._taught(self.torch, ops, hot), ops, self.hardware)
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
                known: Times | None = self._together(grid, implementation, flags[rows])
            else:
                known = self._alike(grid, implementation, flags[rows])
            floors[rows] = floor(grid, self.hardware)
            columns[:, rows] = np.broadcast_arrays(*vars(known).values()) if known else np.nan
        return estimates_of(floors, columns)

    def _taught(
        self,
        torch: Corrected,
        ops: Sequence[Operator] | Operator,
        hot: Sequence[bool] | np.ndarray | bool | None,
    ) -> Estimates:
        """What torch's samples tell; of attention by a kernel that none of them is of, tables."""
        told, untold = torch.estimates, torch.base.estimates
        if not isinstance(ops, Operator):
            rows = np.array([bool(np.all(self.is_untold(op))) for op in ops], dtype=bool)
            if rows.any():
                return parted(ops, rows, untold, told, TORCH, hot)
            return told(ops, TORCH, hot)
        points = np.asarray(self.is_untold(ops))
        if points.all():
            return untold(ops, TORCH, hot)
        found = told(ops, TORCH, hot)
        if points.any():
            found.put(points, untold(ops, TORCH, hot).rows(points))
        return found

    def is_untold(self, op: Operator) -> Any:
        """[n] bool: whether torch runs it here by a kernel that none of its samples is of."""
        if not isinstance(op, Attention):
            return False
        assert self.taught is not None
        here = backends_of(op, self.hardware.compute_capability)
        return ~np.isin(here, self.taught.attention)

    @cached_property
    def _told(self) -> set[tuple[str, ...]]:
        """(kind, dtype) that were fitted, but for those whose dtypes are fitted together."""
        kinds = [*self.figures.kinds, *(self.taught.kinds if self.taught else ())]
        return {tuple(key) for _, *key in kinds if key[1] != EVERY}

    def _alike(self, op: Operator, implementation: str, hot: np.ndarray) -> Times | None:
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

    def _together(self, op: Collective, implementation: str, hot: np.ndarray) -> Times:
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
            times = self._alike(plain.op, implementation, hot)
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
