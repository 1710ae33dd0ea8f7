"""Sentences of a run about itself: where its times come from, and what was assumed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from calib.hardware.datasheet import hardware_names
from calib.samples.host_costs import HostCosts
from calib.steps.target import Target
from model.workload import Workload

if TYPE_CHECKING:
    import pandas as pd

    from calib.estimates.fusion import Fusion


def source_notes(target: Target, operators: pd.DataFrame, implementation: str) -> list[str]:
    """Where the times come from: the user's samples, the card that ships, or nothing."""
    from calib.cards.card import TORCH
    from calib.cards.shipped import about_card, about_taught
    from calib.estimates.sums import known_by

    if target.hardware.unprobed:
        return [
            "No times: mode=analytic never measures, and only probes tell what this CPU can do. "
            "For times give a card, +hw=<card>, one of "
            f"{', '.join(n for n in hardware_names() if n != 'cpu')}, or measure with mode=run."
        ]
    name, notes = target.hardware.name, []
    about = about_card(name)
    sampled = any(s.implementation == implementation for s in target.samples)
    if about and implementation == TORCH:
        behind = "Your samples correct the" if sampled else "The"
        taught = about_taught(target.hardware)
        beside = f" {taught['summary']}" if taught else ""
        notes.append(f"{behind} calibration that ships: {about['summary']}{beside}")
    elif about:
        lacking = "kinds that your samples lack take" if sampled else "every kernel takes"
        notes.append(
            f"What ships for {name} is of torch's operators: by implementation={implementation} "
            f"{lacking} the roofline, a lower bound."
        )
    if not (sampled or about):
        of = "" if implementation == TORCH else f" of {implementation}"
        notes.append(
            f"{name} has no samples{of} and no calibration that ships, so every kernel takes its "
            "roofline: a lower bound, often 2-5x below the clock. To calibrate it, put a Parquet "
            f"file of its samples{of} (calib.samples.sample) into {target.store.folder}."
        )
    if about and (sampled or implementation == TORCH):
        notes.append(f"How the times of each kind are known: {known_by(operators)}.")
    return notes


def issue_notes(costs: HostCosts | None, fused: Mapping[str, Fusion]) -> list[str]:
    notes = []
    if costs and costs.published:
        operator = costs.eager_operator
        notes.append(
            f"Host costs are published ranges, not measured ({', '.join(costs.published)}); an "
            f"eager operator takes {operator.low_s * 1e6:.1f}-{operator.high_s * 1e6:.1f} "
            f"microseconds of the host ({operator.known_by})."
        )
    for phase, fusion in fused.items():
        notes.append(
            f"Compiled, a pass of {phase} launches {fusion.launches} kernels in place of "
            f"{fusion.launches_before} and moves {fusion.saved_bytes / 1e6:.3g} MB less."
        )
    return notes


def image_notes(model: str, workload: Workload) -> list[str]:
    """What a model that looks at no image leaves of a workload that has one."""
    if not workload.side:
        return []
    return [
        f"{model} looks at no image: of {workload.name} only the tokens are asked, and not its "
        f"{workload.side} pixels."
    ]


def module_code_notes(host_s: float, operators: pd.DataFrame) -> list[str]:
    """What eager module code adds on a CPU; nothing where it was not measured."""
    if not host_s:
        return []
    launches = int((operators["launches"] * operators["count"]).sum())
    return [
        f"Eager module code adds {host_s * 1e6:.1f} microseconds to each of the {launches} "
        "launches of one pass of all phases (measured on a miniature model)."
    ]
