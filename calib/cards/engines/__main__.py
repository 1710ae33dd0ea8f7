"""Fit the engines' tables: ``python -m calib.cards.engines [card/engine ...]``.

Writes ``data/engines/<card>/<engine>.npz`` and beside it a data card with the error of every fit
on groups of shapes that it never saw.
"""

from __future__ import annotations

import argparse
import json
import sys
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from calib.cards.engines.stored import (
    ENGINE_FOLDER,
    ENGINES,
    LIBRARY,
    EngineFigures,
    file_of,
    load_engine,
)
from calib.cards.stored import write_record
from calib.errors import CalibError
from calib.fit.fitting import fit
from calib.hardware.datasheet import load_hardware
from calib.samples.engines.reading import engine_samples, library_samples
from calib.samples.engines.tables import EAGER
from calib.samples.public import PACKAGE, engine_version
from calib.samples.sample import Sample
from model.ops import AllReduce

CARDS = ("h100", "h200", "b200")
"""Cards that served what :mod:`benchmarks.serving` asks for."""
LATER = ("a100", "b300", "gb200", "gb300", "l40s", "rtx_pro_6000")
"""Others with tables; of these the collectives alone ship, as they run within a CUDA graph."""
WITHOUT = ("l40s/vllm",)
"""What no table of a collective is of."""


def build(
    card: str, engine: str, folder: Path = ENGINE_FOLDER, kind: str | None = None
) -> dict[str, Any]:
    """Fit and store one engine on one card; its data card. ``kind``: only that one, or the kernels
    of that name (``/mla``), the others as they are. Raises ``CalibError`` for a name that is not
    known, or where the tables' package is not installed."""
    samples = library_samples(card) if engine == LIBRARY else engine_samples(card, engine)
    wanted = AllReduce.operator if card in LATER and engine != LIBRARY else kind
    if card in LATER:
        samples = [s for s in samples if not s.implementation.endswith(EAGER)]
    samples = [s for s in samples if _is(s, wanted)]
    if not samples:
        raise CalibError(f"{card}/{engine}: no table: expected another card or engine")
    found = fit(samples, load_hardware(card), lambda name: print(name, file=sys.stderr, flush=True))
    path = file_of(card, engine, folder)
    before = load_engine(card, engine, folder) if kind else None
    kinds = (before.kinds if before else {}) | found.kinds
    held_out = json.loads(found.held_out.to_json(orient="records"))
    if before:
        rows = json.loads(path.with_suffix(".json").read_text("utf-8"))["held_out"]
        names = ("implementation", "kind", "dtype")
        held_out = [
            row for row in rows if tuple(row[n] for n in names) not in found.kinds
        ] + held_out
    path.parent.mkdir(parents=True, exist_ok=True)
    write_record(path, EngineFigures(card, engine, kinds))
    about = {
        "card": card,
        "engine": engine,
        "version": "" if engine == LIBRARY else engine_version(card, engine),
        "created": datetime.now(UTC).date().isoformat(),
        "command": f"python -m calib.cards.engines {card}/{engine}",
        "source": {"package": PACKAGE, "version": version(PACKAGE), "licence": "Apache-2.0"},
        "held_out": held_out,
    }
    text = json.dumps(about, indent=1) + "\n"
    path.with_suffix(".json").write_text(text, "utf-8")
    return about


def _is(sample: Sample, wanted: str | None) -> bool:
    """Of the kind, or by a kernel of the name."""
    if wanted is None or sample.op.operator == wanted:
        return True
    return wanted.startswith("/") and f"{sample.implementation}/".find(f"{wanted}/") > 0


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    every = [f"{card}/{engine}" for card in CARDS for engine in (*ENGINES, LIBRARY)]
    later = [f"{card}/{engine}" for card in LATER for engine in (LIBRARY, *ENGINES)]
    every += [name for name in later if name not in WITHOUT]
    parser.add_argument("names", nargs="*", metavar="card/engine", help=f"default: {every}")
    parser.add_argument("--kind", help="fit this only: all_reduce, /mla")
    parser.add_argument("--folder", type=Path, default=ENGINE_FOLDER)
    arguments = parser.parse_args()
    try:
        for name in arguments.names or every:
            card, _, engine = name.partition("/")
            for row in build(card, engine, arguments.folder, arguments.kind)["held_out"]:
                kind = f"{row['implementation']} {row['kind']} {row['dtype']}"
                print(f"{card}: {kind}: median {row['median_error']:.1%}", flush=True)
    except CalibError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
