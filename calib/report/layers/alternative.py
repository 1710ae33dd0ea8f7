"""A row of the table *what if*, as ``report.json`` has it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from calib.report.layers.quantities import Provenance, Seconds
from calib.report.layers.schema import Doc


@dataclass(frozen=True)
class Alternative:
    """The same model and workload with one thing changed; the first is the run as it was asked."""

    group: Literal["asked", "execution", "batch", "weights", "norms", "layout", "card", "limit"]
    name: str
    batch: Annotated[int, Doc("sequences or inputs at once", minimum=1)]
    fits: bool
    needed_bytes: Annotated[float | None, Doc("of memory", minimum=0)]
    memory_bytes: Annotated[float | None, Doc("of the device", minimum=0)]
    first_s: Annotated[Seconds, Doc("all phases but decode [s]; null where it does not fit")]
    first_low_s: Seconds
    first_high_s: Seconds
    token_s: Annotated[Seconds, Doc("a decode step [s]; null where nothing is decoded")]
    token_low_s: Seconds
    token_high_s: Seconds
    rate: Annotated[
        float | None, Doc("tokens a second of all sequences; inputs where nothing is decoded")
    ]
    provenance: Provenance | None
    why: Annotated[str, Doc("why there is no time; else empty")]
