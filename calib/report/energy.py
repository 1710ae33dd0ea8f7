"""What a run draws, in a line: where joules were counted on the card, and nothing elsewhere."""

from __future__ import annotations

from typing import Any

from calib.report.record import GROWS, RunRecord, known
from calib.report.units import UNKNOWN, digits, interval, percent


def energy_answer(record: RunRecord) -> str:
    """Joules a token and a request, average watts, the idle share; empty where not known."""
    use = record.energy
    if use is None:
        return ""
    each = [what for what in ("token", "request") if known(use.get(f"joules_a_{what}"))]
    said = [_each(use, what) for what in each]
    waits = f", {percent(use['idle_share'])} of the joules while no kernel runs"
    return f"{', '.join(said)}; {use['watts']:.0f} W on average{waits}."


def energy_basis(record: RunRecord) -> str:
    use = record.energy
    if use is None:
        return ""
    file = (record.environment.get("config") or {}).get("energy")
    where = f" ({file})" if file else ""
    basis = (
        f"Fitted to {use['operators_counted']} operators whose joules were counted on this card"
        f"{where}; operators that were held out err by {percent(use['median_error'])}, "
        f"idle {use['idle_w']:.0f} W."
    )
    if record.execution == "eager":
        basis += " Eager, joules are as unsure as the wall time, which hangs on the host"
        grows = any(GROWS in str(note) for note in record.notes)
        basis += "; planning new lengths comes on top." if grows else "."
    return basis


def energy_lines(record: RunRecord) -> list[str]:
    answer = energy_answer(record)
    return [f"Energy: {answer} {energy_basis(record)}"] if answer else []


def _each(use: dict[str, Any], what: str) -> str:
    joules, low, high = (use.get(f"joules{end}_a_{what}") for end in ("", "_low", "_high"))
    name = use["request"] if what == "request" else what
    article = "an" if name[0] in "aeiou" else "a"
    between = interval(low, high, "J")
    span = f" ({between})" if between != UNKNOWN else ""
    return f"{digits(float(joules or 0))} J {article} {name}{span}"
