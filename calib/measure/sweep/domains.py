"""The shapes that models at large have, a domain for each use of a kind of operator.

A domain says which dimensions vary and over what range: those of decoders, mixtures of experts and
vision transformers, not of one model. Sizes snap to what models have (hidden sizes to multiples of
64, patches to the usual sides); lengths that kernels cut into tiles also lie at a tile's edge.
"""

from __future__ import annotations

from calib.measure.sweep.families.domain import Domain
from calib.measure.sweep.families.images import convolutions
from calib.measure.sweep.families.pointwise import others, pointwise
from calib.measure.sweep.families.products import attentions, products
from calib.measure.sweep.families.rows import rowwise


def domains(reach: int = 1) -> list[Domain]:
    """All of them. ``reach``: how many times longer than on a CPU lengths may be (4 on a card)."""
    return [
        *products(reach),
        *attentions(reach),
        *convolutions(),
        *rowwise(reach),
        *pointwise(reach),
        *others(),
    ]
