"""Types of the fields of ``report.json``: a unit, bounds, what null means."""

from __future__ import annotations

from typing import Annotated, Literal

from calib.report.layers.schema import Doc

TERABITS = "[terabit: 1e12 bits, not terabytes; io_bytes says the same in bytes]"
Seconds = Annotated[float | None, Doc("[s]; null where it is not known", minimum=0)]
Error = Annotated[
    float | None,
    Doc("estimate / measured - 1, the machine's drift taken out; null where nothing was measured"),
]
Milliseconds = Annotated[float | None, Doc("[ms]; null where it is not known", minimum=0)]
Share = Annotated[
    float | None, Doc("a fraction of the whole; null without times", minimum=0, maximum=1.000001)
]
Joules = Annotated[float | None, Doc("[J]; null where nothing was counted on the card", minimum=0)]
Provenance = Annotated[
    Literal["measured", "interpolated", "extrapolated", "transferred", "roofline", "unknown"],
    Doc("how the estimate is known, from the strongest to the weakest; unknown: there is none"),
]


Limit = Annotated[
    Literal["host", "compute", "memory", "link"] | None, Doc("what most of the wall time goes to")
]
