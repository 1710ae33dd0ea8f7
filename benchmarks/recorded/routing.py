"""Experts as a recorded model of random weights touched them, in place of uniform routing.

Which experts tokens went to is not in a record of operators. What random weights do is known all
the same (:mod:`benchmarks.random_routing`): few experts get all tokens, fewer from layer to layer.
"""

from __future__ import annotations

import re
from dataclasses import replace

from benchmarks.random_routing import known
from calib.trace.tree import TracedLayer
from model.layer import Call
from model.ops import GroupedMatmul
from model.workload import Phase

LAYER = re.compile(r"\blayers\.(\d+)\b")


def of_random_weights(model: str, phase: Phase) -> Phase:
    """``phase`` with the counted experts, where those of ``model`` were counted with as many rows;
    as it is otherwise. Layers beyond those counted are taken for the last one of them."""
    layers = known().get(model, [])
    if not layers:
        return phase

    def touched(call: Call) -> Call:
        place, op = LAYER.search(call.path), call.op
        if place is None or not isinstance(op, GroupedMatmul):
            return call
        found = layers[min(int(place[1]), len(layers) - 1)]
        if found["rows"] != op.rows:
            return call
        seen = replace(op, active_experts=found["touched"], max_load=found["busiest"])
        return replace(call, op=seen)

    calls = tuple(touched(call) for call in phase.layer.calls())
    return replace(phase, layer=TracedLayer(model, calls))
