"""Which model of ours a recorded phase is, and what was asked of it, read off the recorded rows.

A model is known by its name: ``conf/model/<name>.yaml``, else the configuration of ``transformers``
under ``tests/data/hf/<name>``, which is traced. What was asked is in the shapes: tokens and batch
in the prefill's embedding, the side of an image in the first convolution, logits of one or all
tokens in the last product, steps in the phase's passes. Of any other model the recorded rows
themselves are the operators (:mod:`benchmarks.recorded.rows`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import yaml

from benchmarks.recorded.record import REFERENCE, Record, Recorded
from benchmarks.recorded.routing import of_random_weights
from benchmarks.recorded.rows import recorded_phase
from benchmarks.recorded.shapes import shapes_of
from calib.checkout import CONF, ROOT
from calib.errors import CalibError
from calib.trace import hf
from model.architectures import build
from model.workload import Phase, Workload

HF = ROOT / "tests" / "data" / "hf"


def phases_of(
    record: Record, uniform: bool = False, by_rows: bool = False
) -> dict[tuple[str, str], dict[str, Phase]]:
    """By (model, workload) the passes whose operators are estimated, by their recorded names.

    ``uniform``: experts touched are those of uniform routing, even where others were recorded, or
    counted for a model of random weights. ``by_rows``: as if no model were known.
    """
    pairs: dict[tuple[str, str], list[Recorded]] = {}
    for one in record.phases:
        pairs.setdefault((one.model, one.workload), []).append(one)
    return {pair: _phases(record, pair, some, uniform, by_rows) for pair, some in pairs.items()}


def _phases(
    record: Record, pair: tuple[str, str], some: Sequence[Recorded], uniform: bool, by_rows: bool
) -> dict[str, Phase]:
    model, name = ("", pair[1]) if by_rows else pair
    if model == REFERENCE and name in record.measured:
        measured = record.measured[name]
        ours: Any = model_of(model)
        touched = None if uniform else measured.experts_touched
        found = ours.phases(Workload(**measured.workload), touched)
    else:
        found = known_phases(model, workload_of(name, some))
        found = {one.phase: found.get(one.phase) or recorded_phase(one) for one in some}
        if not uniform:
            found = {phase: of_random_weights(model, one) for phase, one in found.items()}
    return {one.phase: found.get(one.phase) or recorded_phase(one) for one in some}


def known_phases(model: str, workload: Workload | None) -> dict[str, Phase]:
    """Those of a model that is known by its name; nothing where it is not, or cannot do it."""
    known = model_of(model) if model else None
    if known is None or workload is None:
        return {}
    try:
        found: dict[str, Phase] = known.phases(workload)
    except CalibError:
        return {}
    return found


def model_of(name: str) -> Any:
    ours, theirs = CONF / "model" / f"{name}.yaml", HF / name / "config.json"
    if ours.exists():
        given = yaml.safe_load(ours.read_text("utf-8"))
        others = ("name", "architecture", "defaults")
        dimensions = {k: v for k, v in given.items() if k not in others}
        return build(given["architecture"], **dimensions)
    return hf.load(theirs, "bfloat16") if theirs.exists() else None


def workload_of(name: str, some: Sequence[Recorded]) -> Workload | None:
    """What the recorded shapes say was asked; None where they do not."""
    by_phase = {one.phase: one for one in some}
    if "vision" in by_phase:
        if len(by_phase) > 1:  # a prefill over features does not say how many are an image's
            return None
        batch, _, side, _ = first_shapes(by_phase["vision"], "convolution", 4)[0]
        return Workload(name, side=side, batch=batch, prompt_tokens=0, decode_steps=1)
    if "prefill" not in by_phase:
        return None
    prefill = by_phase["prefill"]
    table = first_shapes(prefill, "embedding", 2)
    if len(table) < 2:
        return None
    (batch, tokens), last = table[1], last_product(prefill)
    steps = by_phase["decode"].repeat if "decode" in by_phase else 1
    logits = "last" if last is not None and last < batch * tokens else "all"
    return Workload(name, prompt_tokens=tokens, batch=batch, decode_steps=steps, logits=logits)


def first_shapes(one: Recorded, aten: str, dimensions: int) -> list[tuple[int, ...]]:
    """Of the first operator so named whose first input has so many dimensions; else none."""
    rows = one.operators
    for text in rows.loc[rows["aten"].str.startswith(aten), "shapes"]:
        shapes = shapes_of(text)
        if shapes and len(shapes[0]) == dimensions:
            return shapes
    return []


def last_product(one: Recorded) -> int | None:
    """Rows of the last matrix product: what the head reads."""
    products = one.operators[one.operators["kind"] == "matmul"]
    if not len(products):
        return None
    shapes = [s for s in shapes_of(products["shapes"].iloc[-1]) if len(s) > 1]
    return shapes[0][-2] if shapes else None
