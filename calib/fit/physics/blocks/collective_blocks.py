"""What cards that work together wait for beside their link: one another.

The link's bandwidth is in a collective's memory floor (:func:`calib.hardware.datasheet.floors`). A
small message is gathered whole by every card instead of being passed round, which takes one
exchange and moves ``ranks - 1`` messages into each: one exchange is what the least message costs,
and each further card adds a signal to wait for.
"""

from __future__ import annotations

import numpy as np

from model.ops import Collective

SIGNALS = "added signals exchanged"
GATHERED = "tile gathered"
"""Bytes that a card gathers where it does so at once; what libraries choose their algorithm by."""


def collective_columns(op: Collective) -> dict[str, np.ndarray]:
    """Columns of a collective, each [n] or [1]; the cost of a signal is fitted."""
    gathered = np.maximum(np.asarray(op.message_bytes * (op.ranks - 1), dtype=float), 1.0)
    columns = {SIGNALS: op.ranks - 1.0, GATHERED: np.log(gathered)}
    return {name: np.atleast_1d(np.asarray(v, dtype=float)) for name, v in columns.items()}
