"""What joins cards: the link within a node, the network between nodes, and what both take.

    seconds = base + steps * latency + max(link_bytes / bandwidth, network_bytes / network)

``base`` is what a collective of NCCL costs however small it is, ``steps`` how often a ring passes
something on one after the other, ``latency`` that of a step, the network's where it leaves a node.
This is all that is known of a card without tables. What NCCL really took on nine cards is ``RANGE``
times that, the middle and the ends of 90% of the public rows (``python -m benchmarks.links``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from calib.errors import CalibError
from model.ops import Collective

BASE_S = 6.6e-6
"""NCCL's base latency of a ring under its low-latency protocol (``src/graph/tuning.cc``,
``baseLatencies``), by which it chooses algorithms."""
LATENCY_S = {"nvlink": 0.6e-6, "pcie": 1.0e-6, "network": 2.7e-6}
"""A ring's step under the same protocol (``hwLatencies`` of the same file)."""
RANGE = (0.91, 1.61, 3.98)
"""5th, 50th and 95th percentile of measured over the formula, each card with the same weight."""
WITHIN, BETWEEN = ("nvlink", "pcie"), "network"


Links = Mapping[str, Mapping[str, Any]]
"""A card's, as its file has them: kind -> bandwidth, of a card in one direction [bytes/s]; within a
node also how many cards share it."""


@dataclass(frozen=True)
class Link:
    """One of them. ``cards``: 0 of a network, which has no end."""

    kind: str
    bandwidth: float
    cards: int = 0

    @property
    def latency_s(self) -> float:
        return LATENCY_S[self.kind]


def within(links: Links) -> Link | None:
    """The link within a node, of two the wider; None: not known."""
    found = [Link(kind, **entry) for kind, entry in links.items() if kind in WITHIN]
    return max(found, key=lambda link: link.bandwidth, default=None)


def between(links: Links) -> Link | None:
    """That between nodes; None: not known."""
    return Link(BETWEEN, **links[BETWEEN]) if BETWEEN in links else None


def nodes_of(ranks: int, links: Links) -> int:
    """Nodes that ``ranks`` cards take."""
    inner = within(links)
    return 1 if inner is None else -(-ranks // inner.cards)


def bandwidth_seconds(op: Collective, links: Links) -> Any:
    """Bytes over the slower of the links that they cross [s]; an array for a grid.

    Raises ``CalibError`` for a card whose links are not known.
    """
    inner, outer = _both(op, links)
    seconds = op.link_bytes / inner.bandwidth
    if outer is None:
        return seconds
    crossing = np.where(np.greater(op.nodes, 1), op.network_bytes / outer.bandwidth, 0.0)
    return np.maximum(seconds, crossing)


def link_seconds(op: Collective, links: Links) -> Any:
    """The formula [s]; an array for a grid. Raises as :func:`bandwidth_seconds` does."""
    inner, outer = _both(op, links)
    crossed = op.steps * (op.nodes - 1) / np.maximum(op.ranks - 1, 1)
    hops = (op.steps - crossed) * inner.latency_s
    if outer is not None:
        hops = hops + crossed * outer.latency_s
    seconds = BASE_S + hops + bandwidth_seconds(op, links)
    return np.where(np.greater(op.ranks, 1), seconds, 0.0)


def by_link(op: Collective, links: Links) -> tuple[Any, Any, Any]:
    """Seconds, low and high of what no sample tells; arrays for a grid."""
    seconds = link_seconds(op, links)
    low, middle, high = (seconds * ratio for ratio in RANGE)
    return middle, low, high


def _both(op: Collective, links: Links) -> tuple[Link, Link | None]:
    inner, outer = within(links), between(links)
    if inner is None:
        raise CalibError(f"{op.operator}: expected a card with links (hw.links) for several cards")
    if outer is None and np.any(np.greater(op.nodes, 1)):
        raise CalibError(
            f"{op.operator} on {np.max(op.nodes)} nodes: expected at most {inner.cards} cards, or "
            "a network in hw.links"
        )
    return inner, outer


def read_links(value: Any) -> dict[str, dict[str, Any]]:
    """The ``links`` of a file. Raises ``ValueError`` for what they cannot be."""
    if not isinstance(value, Mapping):
        raise ValueError
    return {str(kind): _entry(kind, entry) for kind, entry in value.items()}


def _entry(kind: Any, entry: Any) -> dict[str, Any]:
    known = {"bandwidth", "cards"} if kind in WITHIN else {"bandwidth"}
    if kind not in LATENCY_S or not isinstance(entry, Mapping) or set(entry) != known:
        raise ValueError
    if any(isinstance(n, bool) or not isinstance(n, int | float) for n in entry.values()):
        raise ValueError
    bandwidth, cards = entry["bandwidth"], entry.get("cards", 1)
    if not 1e6 <= bandwidth <= 1e17 or not 1 <= cards <= 1e5 or cards != int(cards):
        raise ValueError
    whole = {"cards": int(cards)} if kind in WITHIN else {}
    return {"bandwidth": float(bandwidth), **whole}


ACCEPTED = (
    "a mapping: nvlink and pcie, each with bandwidth [bytes/s in one direction] and cards, and "
    "network with bandwidth"
)
