"""One row a module and phase."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from calib.estimates.sums import Sums
from model.layer import Layer, Node
from model.parallel.one_card import OneCard
from model.workload import Phase

if TYPE_CHECKING:
    import pandas as pd


def module_table(phases: Mapping[str, Phase], operators: pd.DataFrame) -> pd.DataFrame:
    """One row a module and phase, in order of execution: inclusive sums over the module's calls.

    ``calls``: how often the module runs in the workload; memory is that of one run, the largest.
    """
    import pandas as pd

    total, sums, rows = operators["estimate_s"].sum(skipna=False), Sums(operators), []
    known: dict[tuple[Layer, ...], dict[str, float]] = {}  # equal layers hold the same
    for phase, passes in phases.items():
        own = np.flatnonzero(operators["phase"] == phase)
        under = _rows_under(operators["path"].iloc[own].tolist())
        for node in passes.layer.nodes():
            some = own[under.get(node.path, [])]
            if node.runs not in known:
                known[node.runs] = _memory(node.runs)
            memory = known[node.runs]
            if not len(some) and not memory["weight_bytes"]:
                continue
            calls = len(node.runs) * passes.repeat
            own_columns = {**_module(node), **memory, "calls": calls}
            rows.append({"phase": phase, **own_columns, **sums.over(some)})
    table = pd.DataFrame(rows)
    unknown = ("measured_s", "measured_q1_s", "measured_q3_s", "steady_s", "error", "error_unseen")
    table = table.assign(**dict.fromkeys(unknown, float("nan")))
    return table.assign(share=table["estimate_s"] / total if total else 0.0)


def _module(node: Node) -> dict[str, Any]:
    layer = node.layer
    return {
        "path": node.path,
        "parent": node.parent,
        "class_name": layer.class_name,
        "mirrors": layer.mirrors,
        "depth": node.path.count(".") + 1 if node.path else 0,
        "params_json": json.dumps(_parameters(node.runs)),
    }


def _memory(runs: tuple[Layer, ...]) -> dict[str, float]:
    layer = runs[0]
    return {
        "weight_bytes": float(layer.weight_bytes()),
        "activation_bytes": float(max(run.activation_bytes() for run in runs)),
        "kv_cache_bytes": float(layer.kv_cache_bytes()),
    }


def _rows_under(paths: list[str]) -> dict[str, list[int]]:
    """Module path -> positions of the rows at or below it; the root is the empty path."""
    under: dict[str, list[int]] = {}
    for i, path in enumerate(paths):
        parts = path.split(".") if path else []
        for depth in range(len(parts) + 1):
            under.setdefault(".".join(parts[:depth]), []).append(i)
    return under


def of_one_card(layer: Layer) -> Layer:
    """The layer whose dimensions a card has."""
    while isinstance(layer, OneCard):
        layer = layer.of
    return layer


def _parameters(runs: tuple[Layer, ...]) -> dict[str, Any]:
    """Dimensions on which all runs agree."""
    plain = (int, float, str, bool, type(None))
    first, *others = (vars(of_one_card(run)) for run in runs)
    agreed = {n: v for n, v in first.items() if all(o.get(n) == v for o in others)}
    return {n: v for n, v in agreed.items() if isinstance(v, plain)}
