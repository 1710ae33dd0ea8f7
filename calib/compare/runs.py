"""Two runs side by side: what changed, by component and operator, beyond the intervals or not.

Times are the clock's where both runs have it, else estimates. A change is beyond the intervals
where they do not overlap. An estimate brings its own; a measured time is taken to be known to the
drift of its machine or the spread of its repeats, whichever is more. Errors that both runs share
are in both intervals, so a change that is real may lie within them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from calib.errors import CalibError
from calib.report.record import known

if TYPE_CHECKING:
    import pandas as pd

ESTIMATE, MEASURED = "estimate", "measured"
FASTER, SLOWER, WITHIN, UNKNOWN = "faster", "slower", "within", "unknown"
GONE, NEW = "gone", "new"
"""Of what only one of the runs has."""
KEY = ["phase", "module", "kind", "dtype", "place"]
"""What makes operators of two runs the same: equal shapes, then others by their order."""


@dataclass(frozen=True)
class Run:
    """One run's folder as it was read. ``operators``: its ``estimates.parquet``."""

    folder: Path
    report: Mapping[str, Any]
    operators: pd.DataFrame

    @property
    def unsteady(self) -> float:
        """The part by which a measured time may be off."""
        found = self.report.get("measurement") or {}
        values = [found[name] for name in ("drift", "spread") if known(found.get(name))]
        return max(map(float, values), default=float("nan"))


@dataclass(frozen=True)
class Comparison:
    """``components``, ``operators``: a row each, name (or what makes an operator), before_s,
    before_low_s, before_high_s, the same ``after``, ratio (after / before), change.
    ``differences``: what was asked or installed otherwise: name, before, after. ``joules``: as
    ``components``, with before_joules and so on; no rows where a run has none."""

    basis: str
    components: pd.DataFrame
    operators: pd.DataFrame
    differences: list[tuple[str, str, str]]
    joules: pd.DataFrame

    def changed(self, how: tuple[str, ...] = (SLOWER, FASTER)) -> bool:
        """Whether a component, or the total, changed beyond the intervals."""
        return bool(self.components["change"].isin(how).any())


def read_run(folder: Path) -> Run:
    """Raises ``CalibError`` for a folder that holds no run."""
    import pandas as pd

    among = sorted(path.parent.name for path in folder.glob("*/report.json"))
    if among and not (folder / "report.json").exists():
        raise CalibError(
            f"{folder}: holds {len(among)} runs: expected one of them, such as {folder / among[0]}"
        )
    if (folder / "front.parquet").exists():
        raise CalibError(f"{folder}: holds a front of mode=serve: expected the folder of a run")
    try:
        report = json.loads((folder / "report.json").read_text("utf-8"))
        operators = pd.read_parquet(folder / "estimates.parquet")
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise CalibError(
            f"{folder}: cannot be read ({why}): expected the folder of a run"
        ) from None
    return Run(folder, report, operators)


def compare_runs(before: Run, after: Run, basis: str | None = None) -> Comparison:
    """``basis``: estimate or measured; None: the clock, where both runs have it.

    Raises ``CalibError`` for a clock that one of them lacks, and where no time is known.
    """
    clocks = [known(run.report.get("measured_total_s")) for run in (before, after)]
    if basis == MEASURED and not all(clocks):
        lacks = (before, after)[clocks.index(False)].folder
        raise CalibError(f"{lacks}: nothing was measured: expected two runs that did, or estimates")
    basis = basis or (MEASURED if all(clocks) else ESTIMATE)
    for run in (before, after):
        if not known(run.report["predicted_total_s"]):
            memory = run.report.get("memory") or {}
            why = "no time is known" if memory.get("fits", True) else "it does not fit its card"
            raise CalibError(f"{run.folder}: {why}: expected a run with times, on a known card")
    whole = joined(component_times(before, basis), component_times(after, basis), ["name"])
    each = joined(*placed(operator_times(before, basis), operator_times(after, basis)), KEY)
    return Comparison(
        basis,
        whole,
        by_size(each),
        differences(before.report, after.report),
        joules_of(before, after),
    )


def joules_of(before: Run, after: Run) -> pd.DataFrame:
    """What components draw, always estimates; no rows unless both runs know it."""
    import pandas as pd

    times = {"s": "joules", "low_s": "joules_low", "high_s": "joules_high"}
    tables = []
    for run in (before, after):
        rows = [
            {"name": row["component"]} | {n: row.get(of) for n, of in times.items()}
            for row in run.report["components"]
        ]
        drawn = run.report.get("energy") is not None
        tables.append(pd.DataFrame(rows if drawn else [], columns=["name", *times]))
    first, second = tables if all(map(len, tables)) else (table[:0] for table in tables)
    both = joined(first, second, ["name"])
    sides = ("before", "after")
    return both.rename(columns={f"{s}_{n}": f"{s}_{of}" for s in sides for n, of in times.items()})


def component_times(run: Run, basis: str) -> pd.DataFrame:
    """A row a component, the total last: name, s, low_s, high_s (wall time)."""
    import pandas as pd

    rows = []
    for row in run.report["components"]:
        value = row[f"{basis}_s"]
        low, high = ends(run, basis, value, row["low_s"], row["high_s"])
        rows.append({"name": row["component"], "s": value, "low_s": low, "high_s": high})
    return pd.DataFrame(rows, columns=["name", "s", "low_s", "high_s"])


def operator_times(run: Run, basis: str) -> pd.DataFrame:
    """A row an operator and module, layers folded: ``KEY`` but its place, shape, and of the kernels
    s, low_s, high_s.

    The ends of a sum are those of ``calib.estimates.sums``.
    """
    import pandas as pd

    from calib.estimates.sums import Ends

    table = run.operators.reset_index(drop=True)
    table = table[table[f"{basis}_s"].notna()].reset_index(drop=True)
    table = table.assign(module=table["path"].map(lambda path: re.sub(r"\d+", "*", path)))
    sums = Ends(table)
    named = ["phase", "module", "kind", "dtype"]
    rows = []
    for key, own in table.groupby([*named, "shape"], sort=False).indices.items():
        words: list[Any] = list(key)  # type: ignore[call-overload]
        what, shape = tuple(words[:-1]), words[-1]
        value = float(table[f"{basis}_s"].to_numpy(dtype=float)[own].sum())
        below, above = sums.distances(own)
        low, high = ends(run, basis, value, value - below, value + above)
        found = {"shape": shape, "s": value, "low_s": low, "high_s": high}
        rows.append({**dict(zip(named, what, strict=True)), **found})
    return pd.DataFrame(rows, columns=[*named, "shape", "s", "low_s", "high_s"])


def placed(before: pd.DataFrame, after: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Both with places such that equal shapes have the same one. A batch changes every shape, which
    then keep their order; a compiler leaves some, and takes others away between them."""
    named = KEY[:-1]
    keys = [list(table[[*named, "shape"]].itertuples(index=False)) for table in (before, after)]
    seen = set(keys[0])
    both = {key: place for place, key in enumerate(key for key in keys[1] if key in seen)}
    found = []
    for table, own in zip((before, after), keys, strict=True):
        others: dict[Any, int] = {}
        places = []
        for key in own:
            place = both.get(key)
            if place is None:
                what = tuple(key)[:-1]
                place = len(both) + others.setdefault(what, 0)
                others[what] += 1
            places.append(place)
        found.append(table.assign(place=places))
    return found[0], found[1]


def ends(run: Run, basis: str, value: Any, low: Any, high: Any) -> tuple[float, float]:
    """Of an estimate its own; of a measured time what its run is unsteady by."""
    nothing = float("nan")
    if basis == MEASURED and known(value):
        return value * (1 - run.unsteady), value * (1 + run.unsteady)
    return (low, high) if known(low) and known(high) and low != high else (nothing, nothing)


def joined(before: pd.DataFrame, after: pd.DataFrame, on: list[str]) -> pd.DataFrame:
    """Rows of both in the order of the later run, after those that only the earlier one has."""
    times = ["s", "low_s", "high_s"]
    first, second = (
        table.rename(columns={name: f"{side}_{name}" for name in times}).rename(
            columns={"shape": f"{side}_shape"}
        )
        for side, table in (("before", before), ("after", after))
    )
    both = second.merge(first, on=on, how="outer", sort=False)
    lists = [[tuple(key) for key in table[on].itertuples(index=False)] for table in (before, after)]
    gone = [key for key in lists[0] if key not in set(lists[1])]
    order = {key: i for i, key in enumerate([*gone, *lists[1]])}
    places = [order[tuple(key)] for key in both[on].itertuples(index=False)]
    both = both.iloc[sorted(range(len(both)), key=places.__getitem__)].reset_index(drop=True)
    both["ratio"] = both["after_s"] / both["before_s"]
    both["change"] = [change(row) for row in both.to_dict("records")]
    return both


def change(row: Mapping[Any, Any]) -> str:
    """faster or slower beyond the intervals, within them, or unknown, for want of one."""
    if not known(row["before_s"]) or not known(row["after_s"]):
        return NEW if known(row["after_s"]) else GONE if known(row["before_s"]) else UNKNOWN
    if row["before_s"] == row["after_s"]:
        return WITHIN
    edges = [row[f"{side}_{end}_s"] for side in ("before", "after") for end in ("low", "high")]
    if not all(map(known, edges)):
        return UNKNOWN
    before_low, before_high, after_low, after_high = edges
    return SLOWER if after_low > before_high else FASTER if after_high < before_low else WITHIN


def by_size(table: pd.DataFrame) -> pd.DataFrame:
    """The largest change in seconds first."""
    size = (table["after_s"].fillna(0) - table["before_s"].fillna(0)).abs()
    return table.loc[size.sort_values(ascending=False, kind="stable").index].reset_index(drop=True)


ASKED: dict[str, Callable[[Mapping[str, Any]], Any]] = {
    "model": lambda report: report["model"]["model_id"],
    "hardware": lambda report: report["hardware"]["name"],
    "device": lambda report: report["environment"].get("device"),
    "execution": lambda report: report["execution"],
    "implementation": lambda report: report["implementation"],
}
NOT_ASKED = ("workload", "execution", "implementation", "report", "hw.sources")
"""Keys of a configuration that say nothing more: of ``ASKED`` and of the workload's settings, of
what is written, and in whose words. Every other key is compared."""
OF_ANOTHER = {"model": "model", "hardware": "hw"}
"""Whose figures all differ where the name among ``ASKED`` does."""


def keys_of(config: Mapping[str, Any], at: str = "") -> dict[str, Any]:
    """ "parallel.tp" -> 8, of the keys that are compared."""
    found: dict[str, Any] = {}
    for name, value in config.items():
        key = f"{at}.{name}".lstrip(".")
        if key not in NOT_ASKED:
            found |= keys_of(value, key) if isinstance(value, Mapping) else {key: value}
    return found


def asked_otherwise(
    before: Mapping[str, Any], after: Mapping[str, Any], without: Collection[str]
) -> list[tuple[str, Any, Any]]:
    """Keys of two configurations, of groups that both of them have. ``without``: these groups."""
    groups = [name for name in after if name in before and name not in without]
    groups = [n for n in groups if isinstance(before[n], Mapping) == isinstance(after[n], Mapping)]
    first, second = (keys_of({name: given[name] for name in groups}) for given in (before, after))
    return [(key, first.get(key), second.get(key)) for key in {**first, **second}]


def differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """What was asked, and what was installed, otherwise."""
    pairs = [(name, get(before), get(after)) for name, get in ASKED.items()]
    others = [OF_ANOTHER[name] for name, a, b in pairs if a != b and name in OF_ANOTHER]
    given = [report["environment"].get("config", {}) for report in (before, after)]
    pairs += asked_otherwise(given[0], given[1], others)
    settings = [report["workload"]["settings"] for report in (before, after)]
    pairs += [(n, settings[0].get(n), settings[1].get(n)) for n in settings[1]]
    places = [report["environment"] for report in (before, after)]
    versions = [n for n, v in places[1].items() if isinstance(v, str) and n not in ASKED]
    pairs += [(n, places[0].get(n), places[1].get(n)) for n in versions]
    return [(name, str(a), str(b)) for name, a, b in pairs if a != b]
