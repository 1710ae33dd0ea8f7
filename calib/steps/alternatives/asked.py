"""The run's operators and those of the cases beside it, asked for at once.

Most of what an estimate costs it costs once a call, so that the cases of one calibration cost
little more than the run alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from calib.estimates.tables import found_in_cache
from calib.fit.calibration import Estimates, Estimator, Over
from model.ops import Operator


@dataclass
class Asked(Over):
    """``whole``, with what it said of operators before by ``implementation``.

    ``place``: the row in ``found`` of an operator, hot or not.
    """

    whole: Estimator
    implementation: str
    place: dict[tuple[Operator, bool], int] = field(default_factory=dict)
    found: Estimates = field(default_factory=lambda: Estimates.nothing_of(0))

    def ask(self, ops: Iterable[Operator]) -> None:
        """Of ``ops`` as a model finds their inputs."""
        different = list(dict.fromkeys(ops))
        hot = [found_in_cache(op, self.hardware) for op in different]
        self.found = self.whole.estimates(different, self.implementation, hot)
        self.place = {
            (op, is_hot): i for i, (op, is_hot) in enumerate(zip(different, hot, strict=True))
        }

    def estimates(
        self,
        ops: Sequence[Operator] | Operator,
        implementation: str = "torch",
        hot: Sequence[bool] | np.ndarray | bool | None = None,
    ) -> Estimates:
        """As the whole says; it is asked again for what it was not."""
        if (
            implementation == self.implementation
            and isinstance(ops, list)
            and isinstance(hot, list)
        ):
            rows = [self.place.get(pair, -1) for pair in zip(ops, hot, strict=True)]
            if rows and min(rows) >= 0:
                return self.found.rows(np.array(rows))
        return self.whole.estimates(ops, implementation, hot)
