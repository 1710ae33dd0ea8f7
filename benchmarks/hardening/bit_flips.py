"""Single flipped bits in files of samples: refused, harmless, or read as something else.

    python -m benchmarks.hardening.bit_flips --each 1500

Files of 1, 34 and 300 samples: the smaller, the more of it is a footer that no checksum covers.
"""

from __future__ import annotations

import argparse
import random
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from benchmarks.hardening.sample_judge import Base, judge
from benchmarks.hardening.sample_mutants import flipped, samples
from calib.checkout import ROOT
from calib.samples import Sample, read_samples, write_samples

POOL = ROOT / "benchmarks" / "data" / "h200" / "pool.parquet"


def flips(some: Sequence[Sample], count: int, seed: int) -> tuple[Counter[str], list[str]]:
    """How many of so many flips were what (:func:`judge`), and what was said of those that count
    against us."""
    rng, found, bad = random.Random(seed), Counter[str](), []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "flipped.parquet"
        base = Base(list(some), write_samples(path, some).read_bytes(), None)
        for _ in range(count):
            mutant = flipped(rng, base)
            path.write_bytes(mutant.raw)
            verdict, said = judge(mutant, base, path)
            found[verdict] += 1
            if verdict not in ("clear", "right"):
                bad.append(said)
    return found, bad


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--each", type=int, default=1500, help="flips in each file")
    parser.add_argument("--seed", type=int, default=11)
    chosen = parser.parse_args()
    pool = list(read_samples(POOL))[:300]
    for some in (samples()[:1], samples(), pool):
        found, bad = flips(some, chosen.each, chosen.seed)
        print(f"{len(some)} samples: {dict(found)}", *bad[:5], sep="\n  ")


if __name__ == "__main__":
    main()
