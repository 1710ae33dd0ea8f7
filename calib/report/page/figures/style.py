"""What all figures share: colours by kind of operator, an empty figure, its size."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

Spec = dict[str, Any]

KINDS = {
    "matmul": "#3d7fc1",
    "attention": "#e0962f",
    "grouped_matmul": "#cf5c36",
    "moe_mlp": "#cf5c36",
    "conv2d": "#2f9e78",
    "norm": "#bd74ab",
    "elementwise": "#6fb1dd",
    "softmax": "#b3a129",
    "copy": "#8566b0",
    "gather": "#7d858f",
    "reduction": "#9c7358",
    "other": "#9aa1a9",
}
"""Colour of each kind, of a middle lightness: read on white and on black."""


def kind_scale(kinds: Iterable[str]) -> Spec:
    """The colours of ``kinds``, in the order of ``KINDS``; what has none is drawn as ``other``."""
    names = list(KINDS)
    shown = sorted(set(kinds), key=lambda k: names.index(k) if k in KINDS else len(names))
    return {"domain": shown, "range": [KINDS.get(kind, KINDS["other"]) for kind in shown]}


def figure(height: int, **rest: Any) -> Spec:
    """A figure as wide as its place on the page. Colours of text and lines are the page's."""
    return {"width": "container", "height": height, "background": "transparent", **rest}


def log_axis(title: str, **rest: Any) -> Spec:
    """Decades, each with a prefix of SI: 1k, 1M, 1G."""
    tick = "datum.value >= 0.9999 ? format(datum.value, '.0s') : format(datum.value, '~g')"
    return {"title": title, "labelExpr": tick, "grid": True, "labelFlush": False, **rest}


def decades(low: float, high: float) -> list[float]:
    """The powers of ten between ``low`` and ``high``."""
    found, power = [], -12
    while 10.0**power <= high:
        found += [10.0**power] if 10.0**power >= low else []
        power += 1
    return found
