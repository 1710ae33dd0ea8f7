"""A card's calibration as it ships: fitted to public tables, asked for what torch would take.

The tables are timed by inference engines, hot, and know some kinds only. An estimate therefore
goes through three steps, each of which says itself in the interval or in the provenance: the
operator's stand-in in the tables (:mod:`calib.cards.tables.stand_ins`), from hot to cold
(:mod:`calib.cards.tables.cold`), and the width by which engines disagree on the same shape of the
same card. Only where the table timed the very kernel that torch runs, an estimate keeps the
provenance of the fit; everything else is ``transferred``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

import numpy as np

from calib.cards.asked import by_floors, by_twins, by_windows, either_way
from calib.cards.corrected import FLOAT32, NORMAL, Away, Carried, Corrected, Taught, kernels_of
from calib.cards.tables.figures import (
    ENGINE,
    NO_BATCH,
    TORCH,
    Figures,
)
from calib.cards.tables.lookup import Lookup
from calib.cards.tables.stand_ins import (
    all_as_timed,
    stand_in,
)
from calib.fit.calibration import (
    EVERY,
    Calibration,
    Estimates,
    Tabled,
    dtype_of,
    fitted_dtype,
    kind_of,
    listed,
    parted,
)
from calib.fit.likeness import card_to_card
from calib.fit.physics.limits.cuda_cores import as_taught
from calib.fit.physics.limits.rounds import SMALLEST, knows_no_tiles, seconds_of_rounds
from calib.fit.physics.limits.streams import streaming
from calib.hardware.attention_backend import backends_of
from calib.hardware.convolutions import has_few
from calib.hardware.datasheet import Hardware, load_hardware
from calib.hardware.device import clocked
from model.ops import (
    Attention,
    Conv2d,
    Matmul,
    Operator,
)

if TYPE_CHECKING:
    import pandas as pd

UNTOLD = float(np.log(2.0))
"""Width of a carried ratio of a kind that no two engines' tables tell of. A judgement."""


@dataclass(frozen=True)
class Card(Tabled):
    """The shipped calibration of ``hardware``; ``about`` is its data card.

    ``taught``: what torch's samples tell, of this card or of another; without it torch is what the
    tables' engine takes. ``in_rounds``: whether products are held to whole tiles
    (:mod:`calib.fit.physics.limits.rounds`); not what samples correct, which had none.
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
        """What carrying torch's samples to this card costs, for operators of one kind and dtype.

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
        each = listed(ops)
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
    def tables(self) -> Lookup:
        return Lookup(self.hardware, self.figures, self.about)

    @property
    def calibration(self) -> Calibration:
        """The tables' fits, for the card as it clocks."""
        return self.tables.calibration

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
        return self.tables.estimates(ops, implementation, hot)

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
