"""Where calib is far off: the held-out groups of a case with the largest mean error.

    python -m benchmarks.scoring.worst moe-h200-all

Final groups, seed 0: to be asked after the final scoring only.
"""

from __future__ import annotations

import sys

import numpy as np

from benchmarks.scoring.cases import CASES
from benchmarks.scoring.score import operators, random_rows, setting
from calib.fit.fitting import fit
from calib.hardware.datasheet import load_hardware

_SHOWN = 10


def main() -> None:
    case = {case.name: case for case in CASES if not case.donors}[sys.argv[1]]
    s = setting(case, 0, final=True)
    calibration = fit(random_rows(s).samples(), load_hardware(case.card))
    implementation = str(s.held_out.frame["implementation"].iloc[0])
    table = calibration.estimate(operators(s.held_out), implementation=implementation)
    error = 100 * (table["estimate_s"].to_numpy() / s.held_out.seconds - 1)
    rows = s.held_out.frame.assign(signed=error, size=np.abs(error)).groupby("group")
    groups = rows.agg(error=("size", "mean"), signed=("signed", "mean"), rows=("size", "size"))
    print(groups.sort_values("error", ascending=False).head(_SHOWN).round(1).to_string())


if __name__ == "__main__":
    main()
