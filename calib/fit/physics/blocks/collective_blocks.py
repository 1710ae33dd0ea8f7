"""What cards that work together wait for: their link, and one another.

A ring passes every byte on, twice for a sum (``link_bytes``): the link's bandwidth bounds it. A
small message is gathered whole by every card instead, which takes one exchange and moves
``ranks - 1`` messages into each; so one exchange is what the least message costs, and each further
card adds a signal to wait for.
"""

from __future__ import annotations

import numpy as np

from model.ops import Collective

_LINK, _SIGNALS = "bound link exchanged", "added signals exchanged"
GATHERED = "tile gathered"
"""Bytes that every card gathers where it does so at once; what engines choose by."""


def collective_columns(op: Collective) -> dict[str, np.ndarray]:
    """Columns of a collective, each [n] or [1]; the costs of a byte and of a signal are fitted."""
    gathered = op.message_bytes * (op.ranks - 1)
    columns = {
        _LINK: np.log(np.maximum(np.asarray(op.link_bytes, dtype=float), 1.0)),
        _SIGNALS: op.ranks - 1.0,
        GATHERED: np.log(np.maximum(np.asarray(gathered, dtype=float), 1.0)),
    }
    return {name: np.atleast_1d(np.asarray(v, dtype=float)) for name, v in columns.items()}
