"""Error against the number of samples: shapes chosen by the sweep's rule, or drawn at random.

    python -m benchmarks.learning_curve                       # public tables and this CPU's samples
    python -m benchmarks.learning_curve --samples DIR ...     # stores of `calib.run mode=calibrate`

Candidates are what was measured: rows of public tables (the extra ``public``), or a CPU's samples.
A quarter of the groups of shapes is held out; each rule chooses among the rest, one fit is made of
what it has chosen, and its error is taken on the held-out rows. All rules see the same candidates
and held-out rows; each seed draws its own. ``start only`` is the rule without a fit to ask.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from calib.fit import Calibration, fit, group_of, measured_shapes
from calib.hardware import Hardware, load_hardware
from calib.measure.choice import choose
from calib.samples import Sample, read_samples

COUNTS = (25, 50, 100, 200)
CANDIDATES, HELD_OUT = 2000, 2000
PUBLIC = [(c, t) for c in ("h200", "rtx_pro_6000") for t in ("gemm", "context_attention")]
CPU_KINDS = ("matmul", "attention", "conv2d")


@dataclass(frozen=True)
class Table:
    """Measured shapes of one kind, dtype and implementation on one device."""

    name: str
    hardware: Hardware
    samples: list[Sample]


def public_tables() -> list[Table]:
    from calib.public import has_table, public_samples

    found = []
    for card, table in PUBLIC:
        if has_table(card, table):
            samples = public_samples(card, [table])
            most = pd.Series([s.implementation for s in samples]).mode()[0]
            kept = [s for s in samples if s.implementation == most]
            found.append(Table(f"{card} {table} ({most})", load_hardware(card), kept))
    return found


def cpu_tables(folders: Sequence[Path]) -> list[Table]:
    """One table a kind: the design's shapes of all stores, each brought to a typical speed."""
    from calib.host import detect_host, with_probes
    from calib.measure.probes import peaks

    probed = peaks()
    hardware = with_probes(load_hardware("cpu"), detect_host(), probed.peak_flops, probed.bandwidth)
    shapes: dict[tuple[str, str], dict[object, Sample]] = {}
    for folder in folders:
        samples = [s for s in read_samples(folder) if s.origin == "design" and s.status == "ok"]
        corrected = measured_shapes(samples, hardware)
        for s in samples:
            if s.op.operator in CPU_KINDS and vars(s.op)["dtype"] == "bfloat16":
                seconds = corrected[s.implementation, s.op, s.cache][0]
                plain = replace(s, seconds=[seconds], probe_flops=None, probe_bandwidth=None)
                shapes.setdefault((s.op.operator, s.implementation), {}).setdefault(s.op, plain)
    return [Table(f"CPU {k} ({i})", hardware, list(s.values())) for (k, i), s in shapes.items()]


def at_random(pool: list[Sample], have: list[int], count: int, _: Calibration | None) -> list[int]:
    """The pool is in random order."""
    return [i for i in range(len(pool)) if i not in set(have)][:count]


def by_design(pool: list[Sample], have: list[int], count: int, _: Calibration | None) -> list[int]:
    """The sweep's start: fill the space of shapes."""
    return choose([s.op for s in pool], [pool[i].op for i in have], count)


def actively(
    pool: list[Sample], have: list[int], count: int, known: Calibration | None
) -> list[int]:
    """The sweep's rule: the start, then where the fit is unsure."""
    uncertainty = None if known is None else spread_of(known, pool)
    return choose([s.op for s in pool], [pool[i].op for i in have], count, uncertainty)


def spread_of(known: Calibration, pool: Sequence[Sample]) -> np.ndarray:
    """[n] half of the interval's width, in log seconds."""
    table = estimate(known, pool)
    return np.log(table["high_s"] / table["low_s"]).to_numpy() / 2


def estimate(known: Calibration, some: Sequence[Sample]) -> pd.DataFrame:
    hot = [s.cache == "hot" for s in some]
    plain = replace(known, measured={})  # the fit, not the table of what was measured
    return plain.estimate([s.op for s in some], some[0].implementation, hot)


Rule = Callable[[list[Sample], list[int], int, Calibration | None], list[int]]
RULES: dict[str, Rule] = {"random": at_random, "start only": by_design, "active": actively}


def curve(table: Table, rule: Rule, seed: int) -> list[dict[str, float]]:
    """Error on held-out groups at each of ``COUNTS`` samples, each batch chosen upon the last."""
    pool, held = split(table.samples, seed)
    have: list[int] = []
    known, rows = None, []
    for count in COUNTS:
        if count > 0.7 * len(pool):
            break
        have += rule(pool, have, count - len(have), known)
        known = fit([pool[i] for i in have], table.hardware)
        truth = np.array([s.median for s in held])
        error = np.abs(estimate(known, held)["estimate_s"].to_numpy() / truth - 1)
        figures = {"mean": error.mean(), "median": np.median(error), "p90": np.quantile(error, 0.9)}
        rows.append({"seed": seed, "samples": count, **figures})
    return rows


def split(samples: list[Sample], seed: int) -> tuple[list[Sample], list[Sample]]:
    """Candidates and held-out rows, no group in both; both in random order."""
    rng = np.random.default_rng(seed)
    groups = np.array([group_of(s) for s in samples])
    names = np.unique(groups)
    out = set(rng.permutation(names)[: len(names) // 4])
    order = rng.permutation(len(samples))
    held = [samples[i] for i in order if groups[i] in out]
    pool = [samples[i] for i in order if groups[i] not in out]
    return pool[:CANDIDATES], held[:HELD_OUT]


def run(tables: Sequence[Table], seeds: int) -> pd.DataFrame:
    rows = []
    for table in tables:
        for seed in range(seeds):
            for name, rule in RULES.items():
                for row in curve(table, rule, seed):
                    rows.append({"table": table.name, "rule": name, **row})
        some = pd.DataFrame(rows).query("table == @table.name")
        print(summary(some).to_string(float_format="{:.1%}".format), flush=True)
    return pd.DataFrame(rows)


def summary(results: pd.DataFrame) -> pd.DataFrame:
    """Mean over seeds of the mean and the median error, a column a rule."""
    means = results.groupby(["table", "samples", "rule"])[["mean", "median"]].mean().unstack()
    return means.reindex(columns=list(RULES), level=1)


def draw(results: pd.DataFrame, path: Path) -> None:
    """Mean error against samples, a panel a table; bars are the standard error over seeds."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    names = list(dict.fromkeys(results["table"]))
    columns = min(4, len(names))
    rows = -(-len(names) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(4 * columns, 3.2 * rows), squeeze=False)
    for axis in axes.flat[len(names) :]:
        axis.axis("off")
    for axis, name in zip(axes.flat, names, strict=False):
        for rule, marker in zip(RULES, "os^", strict=True):
            some = results.query("table == @name and rule == @rule").groupby("samples")["mean"]
            axis.errorbar(some.mean().index, 100 * some.mean(), 100 * some.sem(), marker=marker,
                          label=rule, capsize=3)  # fmt: skip
        axis.set(title=name, xscale="log", yscale="log", xlabel="samples")
        axis.set_xticks(COUNTS, [str(c) for c in COUNTS])
        axis.yaxis.set_major_formatter("{x:g}")
        axis.yaxis.set_minor_formatter("{x:g}")
        axis.tick_params(axis="y", which="both", labelsize=8)
    axes[0, 0].set_ylabel("mean held-out error [%]")
    axes[0, 0].legend()
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=Path, nargs="*", default=[], help="stores of a CPU")
    parser.add_argument("--public", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path("outputs/learning_curve"))
    chosen = parser.parse_args()
    tables = cpu_tables(chosen.samples) if chosen.samples else []
    tables += public_tables() if chosen.public else []
    chosen.out.mkdir(parents=True, exist_ok=True)
    results = run(tables, chosen.seeds)
    results.to_parquet(chosen.out / "learning_curve.parquet")
    draw(results, chosen.out / "learning_curve.png")
    (chosen.out / "learning_curve.md").write_text(markdown(summary(results)), "utf-8")


def markdown(means: pd.DataFrame) -> str:
    """Rows: table and number of samples; columns: each figure of each rule."""
    names = ["table", "samples", *(f"{rule}, {figure}" for figure, rule in means.columns)]
    lines = ["| " + " | ".join(names) + " |", "|" + "---|" * len(names)]
    for (table, count), row in means.iterrows():
        lines.append(f"| {table} | {count} | " + " | ".join(f"{v:.1%}" for v in row) + " |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
