"""The module tree of a run with identical siblings folded: layers.1 to layers.11 become one node.

Two siblings are identical when they are of one class, do the same FLOPs on weights of the same
size, and so do all their parts. How many experts a layer happened to touch does not part it from
its neighbours; costs of a folded node are sums over its members, whatever each of them cost.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from calib.report.record import RunRecord, known

PROVENANCES = ("measured", "interpolated", "extrapolated", "transferred", "roofline", "unknown")
"""How an estimate may be known, from the strongest to the weakest."""
SUMS = (
    *("calls", "flops", "bytes", "roofline_s", "estimate_s", "low_s", "high_s"),
    *("estimate_unseen_s", "measured_s", "steady_s", "share", "wall_s", "idle_s", "graph_s"),
    *("joules", "joules_low", "joules_high"),
)
"""Columns that add up over modules side by side; so do weights and cache, but not over phases.
``steady_s`` is the measured time with the machine's drift taken out."""
Row = Mapping[str, Any]
Tally = dict[str, list[float]]
"""Per kind of operator: calls, FLOPs, bytes, seconds at the roofline, seconds estimated."""


@dataclass(frozen=True)
class Branch:
    """A node of the folded tree. ``paths``: the modules that it stands for, in order;
    ``at_least``: its sums hold an operator that no rule knows."""

    id: str
    name: str
    parent: str | None
    children: tuple[str, ...]
    phase: str
    paths: tuple[str, ...]
    depth: int
    count: int
    class_name: str
    mirrors: str
    params: dict[str, Any]
    provenance: str
    limited_by: str | None
    at_least: bool
    costs: dict[str, float | None]
    operators: Tally


def branches(record: RunRecord) -> list[Branch]:
    """All nodes, parents first: the model, its phases, their modules.

    Raises ``ValueError`` where a phase has no row for its root, the module with an empty path.
    """
    rows = record.modules.to_dict("records")
    tallies = operator_tallies(record)
    phases = list(dict.fromkeys(str(r["phase"]) for r in rows))
    below = [
        _Phase(p, [r for r in rows if r["phase"] == p], tallies).branches(record.model)
        for p in phases
    ]
    roots = [found[0] for found in below]
    return [_model(record, rows, roots), *(branch for found in below for branch in found)]


def operator_tallies(record: RunRecord) -> dict[tuple[str, str], Tally]:
    """What each module's operators cost by kind, those of all modules below it included."""
    columns = ["phase", "path", "kind", "calls", "flops", "bytes", "roofline_s", "estimate_s"]
    operators = record.operators.assign(calls=record.executions)
    own: dict[tuple[str, str], Tally] = {}
    cells = (operators[c].tolist() for c in columns)
    for phase, path, kind, *values in zip(*cells, strict=True):
        _add(own.setdefault((phase, path), {}), {kind: values})
    inclusive: dict[tuple[str, str], Tally] = {}
    for (phase, path), tally in own.items():
        for above in (path, *ancestors(path)):
            _add(inclusive.setdefault((phase, above), {}), tally)
    return inclusive


def ancestors(path: str) -> list[str]:
    """Every prefix of a dotted path, the longest first and the empty one last."""
    parts = path.split(".") if path else []
    return [".".join(parts[:end]) for end in range(len(parts) - 1, -1, -1)]


def _add(into: Tally, tally: Mapping[str, Iterable[float]]) -> None:
    for kind, values in tally.items():
        old = into.get(kind)
        into[kind] = [a + b for a, b in zip(old, values, strict=True)] if old else list(values)


class _Phase:
    """One phase's rows, indexed by path, while they are folded."""

    def __init__(
        self, phase: str, rows: list[dict[Any, Any]], tallies: dict[tuple[str, str], Tally]
    ) -> None:
        self.phase, self.tallies = phase, tallies
        self.rows = {str(r["path"]): r for r in rows}
        if "" not in self.rows:
            raise ValueError(f"modules: phase {phase!r} has no row with an empty path, its root")
        self.below: dict[str, list[str]] = {}
        for path, row in self.rows.items():
            if path:
                self.below.setdefault(str(row["parent"]), []).append(path)
        self.signatures: dict[str, Any] = {}

    def branches(self, model: str) -> list[Branch]:
        return self.fold(("",), self.phase, self.phase, model, 1)

    def signature(self, path: str) -> Any:
        """Equal for modules that may be folded; hashes of parts keep it short."""
        if path not in self.signatures:
            row = self.rows[path]
            parts = [(p[len(path) :], self.signature(p)) for p in self.below.get(path, ())]
            own = (row["class_name"], row["flops"], row["weight_bytes"])
            self.signatures[path] = hash((own, tuple(parts)))
        return self.signatures[path]

    def fold(
        self, paths: tuple[str, ...], id_: str, name: str, parent: str | None, depth: int
    ) -> list[Branch]:
        """The node that stands for ``paths`` and all nodes below it."""
        separator = "." if depth > 1 else "/"
        groups = self.groups(paths)
        ids = [id_ + separator + group_name for group_name, _ in groups]
        rows = [self.rows[p] for p in paths]
        tally: Tally = {}
        for path in paths:
            _add(tally, self.tallies.get((self.phase, path), {}))
        node = Branch(
            id=id_,
            name=name,
            parent=parent,
            children=tuple(ids),
            phase=self.phase,
            paths=paths,
            depth=depth,
            count=len(paths),
            class_name=str(rows[0]["class_name"]),
            mirrors=str(rows[0]["mirrors"]),
            params=shared_params(rows),
            provenance=weakest(r["provenance"] for r in rows),
            limited_by=most((r["limited_by"], r["wall_s"]) for r in rows),
            at_least=any(r.get("at_least") for r in rows),
            costs=added_costs(rows),
            operators=tally,
        )
        found = [node]
        for child_id, (group_name, members) in zip(ids, groups, strict=True):
            found += self.fold(members, child_id, group_name, id_, depth + 1)
        return found

    def groups(self, paths: tuple[str, ...]) -> list[tuple[str, tuple[str, ...]]]:
        """The children of folded modules: (name in the parent, paths over all members)."""
        first = paths[0]
        lists: dict[Any, list[str]] = {}
        for path in self.below.get(first, ()):
            name = path[len(first) :].lstrip(".")
            stem = name.rstrip("0123456789")
            indexed = stem != name and stem.endswith(".")
            key = (stem, self.signature(path)) if indexed else name
            lists.setdefault(key, []).append(name)
        return [
            (folded_name(names), tuple(f"{p}.{n}".lstrip(".") for p in paths for n in names))
            for names in lists.values()
        ]


def folded_name(names: list[str]) -> str:
    """["layers.0", "layers.1", "layers.3"] -> "layers.[0-1,3]"; one name stays as it is."""
    if len(names) == 1:
        return names[0]
    stem = names[0].rstrip("0123456789")
    runs: list[list[int]] = []
    for number in (int(n[len(stem) :]) for n in names):
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    spans = (f"{r[0]}-{r[-1]}" if len(r) > 1 else str(r[0]) for r in runs)
    return f"{stem}[{','.join(spans)}]"


def shared_params(rows: list[dict[Any, Any]]) -> dict[str, Any]:
    """Constructor arguments on which all members agree."""
    first, *others = (json.loads(text) for text in {str(r["params_json"]) for r in rows})
    return {k: v for k, v in first.items() if all(o.get(k) == v for o in others)}


def weakest(provenances: Iterable[Any]) -> str:
    return max((str(p) for p in provenances), key=PROVENANCES.index)


def most(named: Iterable[tuple[Any, float]]) -> str | None:
    """The name that carries most seconds; null where one is."""
    carried: dict[str, float] = {}
    for name, wall_s in named:
        if not known(name):
            return None
        carried[str(name)] = carried.get(str(name), 0.0) + wall_s
    return max(carried, key=lambda name: carried[name])


def added_costs(rows: list[dict[Any, Any]]) -> dict[str, float | None]:
    """Sums over modules side by side, None where a term is not known; activations: the largest."""
    summed = (*SUMS, "weight_bytes", "kv_cache_bytes")
    costs = {column: _sum([r.get(column) for r in rows]) for column in summed}
    costs["activation_bytes"] = max(r["activation_bytes"] for r in rows)
    return costs


def _sum(values: list[Any]) -> float | None:
    return sum(values) if all(known(v) for v in values) else None


def _model(record: RunRecord, rows: list[dict[Any, Any]], roots: list[Branch]) -> Branch:
    """The whole, run once: phases add up, except for memory, which they share."""
    costs = {column: _sum([root.costs[column] for root in roots]) for column in SUMS}
    costs["calls"] = 1
    costs["weight_bytes"] = distinct_weight_bytes(rows)
    for column in ("activation_bytes", "kv_cache_bytes"):
        costs[column] = max(root.costs[column] or 0 for root in roots)
    tally: Tally = {}
    for root in roots:
        _add(tally, root.operators)
    return Branch(
        id=record.model,
        name=record.model,
        parent=None,
        children=tuple(root.id for root in roots),
        phase="",
        paths=("",),
        depth=0,
        count=1,
        class_name=record.architecture,
        mirrors="",
        params=scalars(record.model_config),
        provenance=str(record.total["provenance"]),
        limited_by=record.total["limited_by"],
        at_least=any(root.at_least for root in roots),
        costs=costs,
        operators=tally,
    )


def scalars(values: Mapping[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in values.items() if isinstance(v, int | float | str | bool)}


def distinct_weight_bytes(rows: list[dict[Any, Any]]) -> float:
    """Weights of the modules right below the roots, one that several phases use counted once."""
    largest: dict[str, float] = {}
    for row in rows:
        if row["path"] and not row["parent"]:
            path = str(row["path"])
            largest[path] = max(largest.get(path, 0), row["weight_bytes"])
    return sum(largest.values())
