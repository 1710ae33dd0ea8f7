"""How many cards, and in which ways they share the model: the keys ``parallel.*``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from calib.errors import CalibError, wrong
from calib.hardware.datasheet import Hardware
from calib.hardware.links import between, within
from calib.steps.settings.words import Part

if TYPE_CHECKING:
    from model.parallel import Layout

Cards = Annotated[int, Field(strict=True, ge=1, le=4096)]


class ParallelRequest(Part):
    """``microbatches`` None: as many as the pipeline has stages. ``overlap``: the share of what
    cards tell each other that runs beside other work."""

    tp: Cards = 1
    pp: Cards = 1
    ep: Cards = 1
    dp: Cards = 1
    microbatches: Annotated[int, Field(strict=True, ge=1, le=64)] | None = None

    overlap: Annotated[float, Field(strict=True, ge=0, le=1)] = 0.0

    @property
    def sizes(self) -> dict[str, Any]:
        """Of a layout."""
        return {key: value for key, value in self if key != "overlap"}

    @property
    def cards(self) -> int:
        return self.tp * self.pp * self.dp

    @property
    def first(self) -> tuple[str, Any]:
        """The first key that asks for several cards, and its value."""
        return next((k, v) for k, v in self.sizes.items() if v not in (None, 1))


def layout_on(asked: ParallelRequest, hardware: Hardware) -> Layout:
    """The layout on cards like ``hardware``.

    Raises ``CalibError`` for what cannot be: more cards than the links of ``hardware`` join.
    """
    from model.parallel import Layout, LayoutError

    key, value = asked.first
    inner = within(hardware.links)
    if inner is None:
        accepted = f"1 on {hardware.name}, whose links to others are not known (hw.links)"
        raise CalibError(wrong(f"parallel.{key}", value, accepted))
    if asked.cards > inner.cards and between(hardware.links) is None:
        accepted = (
            f"no more than {inner.cards} cards in all on {hardware.name}, whose network is not "
            f"known (hw.links), and not {asked.cards}"
        )
        raise CalibError(wrong(f"parallel.{key}", value, accepted))
    try:
        return Layout(**asked.sizes, node_cards=inner.cards)
    except LayoutError as error:
        raise CalibError(str(error)) from None
