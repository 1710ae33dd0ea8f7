"""How right joules are: ``python -m benchmarks.energy``.

    python -m benchmarks.energy --write docs/energy.md
    python -m benchmarks.energy --land FOLDER   # what benchmarks.card.models left, into --data

Offline, half a minute. Operators by fits that saw none of their group, beside two baselines; whole
phases, of which no fit saw any, by the clock's seconds and by calib's own. The last line is one
JSON object.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.energy import intervals, operators, sustained
from benchmarks.energy import phases as counted
from benchmarks.energy.landed import land
from benchmarks.recorded.__main__ import write
from calib.cards.energy import fitted as formula
from calib.cards.energy.counted import CountedCard, read_counted
from calib.cards.energy.fitted import Energy
from calib.cards.energy.fitting import fit_energy
from calib.checkout import ROOT
from calib.hardware.datasheet import Hardware, load_hardware
from calib.samples.host_costs import EAGER, GRAPH

DATA = ROOT / "benchmarks" / "data" / "h200" / "energy"
MARKS = ("<!-- python -m benchmarks.energy -->", "<!-- end of energy -->")


def main() -> None:
    asked = arguments()
    card = read_counted(asked.data / "operators.parquet")
    hardware = load_hardware(card.hardware)
    if asked.land:
        land(asked.land, asked.data, hardware)
    energy = fit_energy(card, hardware)
    phases = counted.read_phases(asked.data)
    rows = phase_rows(phases, energy, hardware, card)
    parts = [fit_words(energy), operator_table(card, hardware, asked.data)]
    parts += [exponent_table(card, hardware, phases), phase_table(rows), sum_table(rows)]
    found = intervals.factors(phases, energy)
    parts.append(interval_words(phases, found, rows))
    parts.append(sustained.tables(card, phases, energy, hardware, asked.data.parent))
    text = "\n\n".join(parts)
    print(text)
    if asked.write:
        write(asked.write, f"\n```text\n{text}\n```\n", MARKS)
    print(json.dumps({"operators": held_out(card, hardware), "phases": rows}))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.energy")
    parser.add_argument("--data", type=Path, default=DATA, help="the folder of what was counted")
    parser.add_argument("--land", type=Path, help="a folder of benchmarks.card.models to read in")
    parser.add_argument("--write", type=Path, help="a page to put the tables into")
    return parser.parse_args()


def phase_rows(
    phases: Sequence[counted.CountedPhase], energy: Energy, hardware: Hardware, card: CountedCard
) -> list[dict[str, Any]]:
    """A row a counted phase: joules of one pass, and relative errors by each way. ``inside``:
    whether the interval of calib's own estimate holds it; ``inside_at_wall``: that of its kernels
    within the clock's wall time."""
    own, rows = counted.own(hardware, energy), []
    watts = float(np.mean([row.joules / row.seconds for row in card.operators]))
    a_flop, a_byte = operators.slopes(card.operators, energy.idle_w)
    for one in phases:
        table = own[one.model, one.workload, one.phase, one.execution]
        predicted, at_wall = counted.predicted(table), counted.own_kernels(table, one, energy)
        idle_j = energy.idle_w * max(one.wall_s - one.kernel_s, 0.0)
        ways = {
            "clock": counted.by_clock(one, energy).joules,
            "clock_each": one.held_each(energy),
            "kernels": at_wall.joules,
            "own": predicted.joules,
            "mean_watts": watts * one.wall_s,
            "busy_watts": watts * one.kernel_s + idle_j,
            "plane": energy.idle_w * one.wall_s + a_flop * one.flops + a_byte * one.bytes,
        }
        rows.append(
            {
                "phase": one.name,
                "execution": one.execution,
                "joules": one.joules,
                "watts": one.joules / one.wall_s,
                **{way: joules / one.joules - 1 for way, joules in ways.items()},
                "inside": predicted.low <= one.joules <= predicted.high,
                "inside_at_wall": at_wall.low <= one.joules <= at_wall.high,
            }
        )
    return rows


WAYS = {
    "clock": "seconds of the clock",
    "clock_each": "the same, a ceiling an operator",
    "kernels": "calib's kernels, the clock's wall",
    "own": "calib's kernels and wall",
    "mean_watts": "mean watts x wall",
    "busy_watts": "mean watts x busy, idle x rest",
    "plane": "idle x wall + a FLOP + b bytes",
}


def fit_words(energy: Energy) -> str:
    watts = ", ".join(
        f"{name} {w:,.0f}" for name, w in zip(counted.RESOURCES, energy.watts, strict=True)
    )
    return (
        f"{energy.hardware}: {energy.operators} operators counted, idle {energy.idle_w:.1f} W.\n"
        f"Watts above idle at the datasheet's rates: {watts}; ceiling {energy.ceiling_w:,.0f}."
    )


def held_out(card: CountedCard, hardware: Hardware) -> dict[str, Any]:
    return {
        way.name: dict(zip(("mean", "median", "worst"), way.row, strict=True))
        for way in operators.ways(card, hardware)
    }


def operator_table(card: CountedCard, hardware: Hardware, folder: Path) -> str:
    ways, groups = operators.ways(card, hardware), np.array(operators.groups_of(card))
    lines = [f"{'operators, their group held out':32} {'n':>3}  mean median  worst"]
    lines += [f"{way.name:32} {len(groups):3} {_three(way.row)}" for way in ways]
    lines += ["", f"{'calib, by group':32}"]
    for group in dict.fromkeys(groups):
        some = operators.Errors("", ways[0].errors[groups == group])
        lines.append(f"{group:32} {int((groups == group).sum()):3} {_three(some.row)}")
    earlier = folder / "operators_first.parquet"
    if earlier.exists():
        again = operators.Errors("", operators.repeated(card, read_counted(earlier)))
        said = f"{'counted on another card, earlier':32} {len(again.errors):3} {_three(again.row)}"
        lines += ["", said + "  of joules above idle"]
    return "\n".join(lines)


def exponent_table(
    card: CountedCard, hardware: Hardware, phases: Sequence[counted.CountedPhase]
) -> str:
    """Mean errors by exponent; the phases by the clock's seconds."""
    lines = ["exponent   operators held out   graphs   eager   (mean error)"]
    for way in operators.by_exponent(card, hardware):
        with operators.constant(formula, "EXPONENT", float(way.name)):
            energy = fit_energy(card, hardware)
            off = {e: phase_error(phases, e, energy) for e in (GRAPH, EAGER)}
        shown = f"{off[GRAPH]:8.1%} {off[EAGER]:7.1%}"
        lines.append(f"{way.name:>8} {way.row[0]:20.1%} {shown}")
    return "\n".join(lines)


def phase_error(phases: Sequence[counted.CountedPhase], execution: str, energy: Energy) -> float:
    some = [one for one in phases if one.execution == execution]
    return float(
        np.mean([abs(counted.by_clock(one, energy).joules / one.joules - 1) for one in some])
    )


def phase_table(rows: Sequence[Mapping[str, Any]]) -> str:
    lines = [
        f"{'one pass':38} {'':5} {'joules':>7} {'watts':>5}  {'clock':>6} {'kernels':>7} {'own':>6}"
    ]
    for row in rows:
        said = f"{row['phase']:38} {row['execution']:5} {row['joules']:7.3g} {row['watts']:5.0f}"
        errors = f"{row['clock']:+7.1%} {row['kernels']:+7.1%} {row['own']:+6.0%}"
        lines.append(f"{said} {errors}{'' if row['inside'] else ' outside'}")
    return "\n".join(lines)


def sum_table(rows: Sequence[Mapping[str, Any]]) -> str:
    columns = "mean median  worst"
    lines = [f"{'whole phases':33} {'graphs':>20}   {'eager':>20}"]
    lines.append(f"{'':33} {columns:>20}   {columns:>20}")
    for way, name in WAYS.items():
        cells = []
        for execution in (GRAPH, EAGER):
            off = np.array([row[way] for row in rows if row["execution"] == execution])
            cells.append(_three(operators.Errors("", off).row))
        lines.append(f"{name:33} {cells[0]:>20}   {cells[1]:>20}")
    return "\n".join(lines)


def interval_words(
    phases: Sequence[counted.CountedPhase], found: np.ndarray, rows: Sequence[Mapping[str, Any]]
) -> str:
    inside = {e: [row["inside"] for row in rows if row["execution"] == e] for e in (GRAPH, EAGER)}
    held = ", ".join(f"{e} {sum(some)} of {len(some)}" for e, some in inside.items())
    at_wall = [row["inside_at_wall"] for row in rows]
    return (
        f"Width of phases over that of held-out operators: {intervals.needed(found):.2f} holds 90% "
        f"of {len(phases)};\nthat of the other models' phases holds "
        f"{intervals.held_by_others(phases, found):.0%} of a model's, by the clock's seconds.\n"
        f"Intervals of calib's own joules hold {held};\n"
        f"those of its kernels within the clock's wall time {sum(at_wall)} of {len(at_wall)}."
    )


def _three(row: tuple[float, float, float]) -> str:
    mean, median, worst = row
    return f"{mean:5.1%}  {median:5.1%} {worst:6.0%}"


if __name__ == "__main__":
    main()
