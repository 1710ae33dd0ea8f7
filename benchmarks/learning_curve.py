"""Error against the number of samples: shapes chosen by the sweep's rule, and by others.

    python -m benchmarks.learning_curve --first 10            # public tables, seeds 10 to 14
    python -m benchmarks.learning_curve --no-public --samples DIR ...   # a CPU's stores
    ... --also outputs/learning_curve                         # one page and picture of both

Candidates are what was measured: rows of public tables (the extra ``public``), or a CPU's samples.
A quarter of the groups of shapes is held out, of public tables as in ``benchmarks.accuracy``: of
its development groups only. Each rule chooses among the rest, batch by batch; each batch is chosen
upon a fit to those before it, and the fit's error is taken on the held-out rows. All rules see the
same candidates and held-out rows, and rules that start at random the same first batch; each seed
draws its own. A rule is compared with random draws seed by seed.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from calib.fit.calibration import Calibration
from calib.fit.fitting import fit, measured_shapes
from calib.fit.held_out import group_of
from calib.hardware.datasheet import Hardware, load_hardware
from calib.measure.sweep.choice import choose
from calib.samples.files import read_samples
from calib.samples.sample import Sample

COUNTS = (50, 100, 200, 300)
CANDIDATES, HELD_OUT = 2000, 2000
PUBLIC = [
    (table, card)
    for table in ("gemm", "context_attention", "generation_attention")
    for card in ("h200", "rtx_pro_6000")
]
TICKS = [*range(1, 11), 12, 15, 20, 25, 30, 40, 50, 70, 100]
CPU_KINDS = ("matmul", "attention", "conv2d")
Parts = tuple[list[Sample], list[Sample]]
"""Candidates and held-out samples, no group in both; both in random order."""


@dataclass(frozen=True)
class Table:
    """Measured shapes of one kind, dtype and implementation on one device. ``split``: by seed."""

    name: str
    hardware: Hardware
    split: Callable[[int], Parts]


def public_tables() -> Iterator[Table]:
    from benchmarks.scoring.cases import TITLES, Case

    for table, card in PUBLIC:
        name = f"{TITLES[table]}, {card.replace('_', ' ').upper()}"
        yield Table(name, load_hardware(card), Development(Case(table, card, None)))


@dataclass(frozen=True)
class Development:
    """The development groups of a case of ``benchmarks.accuracy``."""

    case: Any

    def __call__(self, seed: int) -> Parts:
        from benchmarks.scoring.score import setting

        rng, found = np.random.default_rng(seed), setting(self.case, seed, final=False)
        return some(found.pool.samples(), CANDIDATES, rng), some(
            found.held_out.samples(), HELD_OUT, rng
        )


@dataclass(frozen=True)
class OfGroups:
    """A quarter of the groups held out."""

    samples: list[Sample]

    def __call__(self, seed: int) -> Parts:
        rng = np.random.default_rng(seed)
        groups = np.array([group_of(s) for s in self.samples])
        names = np.unique(groups)
        out = np.isin(groups, rng.permutation(names)[: len(names) // 4])
        pool = [s for s, is_out in zip(self.samples, out, strict=True) if not is_out]
        held = [s for s, is_out in zip(self.samples, out, strict=True) if is_out]
        return some(pool, CANDIDATES, rng), some(held, HELD_OUT, rng)


def some(samples: Sequence[Sample], most: int, rng: np.random.Generator) -> list[Sample]:
    return [samples[i] for i in rng.permutation(len(samples))[:most]]


def cpu_tables(folders: Sequence[Path]) -> Iterator[Table]:
    """One table a kind: the design's shapes of all stores, each brought to a typical speed."""
    from calib.hardware.host import detect_host, with_probes
    from calib.measure.probes import peaks

    probed = peaks()
    hardware = with_probes(load_hardware("cpu"), detect_host(), probed.peak_flops, probed.bandwidth)
    shapes: dict[str, dict[object, Sample]] = {}
    for folder in folders:
        samples = [s for s in read_samples(folder) if s.origin == "design" and s.status == "ok"]
        corrected = measured_shapes(samples, hardware)
        for s in samples:
            if s.op.operator in CPU_KINDS and vars(s.op)["dtype"] == "bfloat16":
                seconds = corrected[s.implementation, s.op, s.cache][0]
                plain = replace(s, seconds=[seconds], probe_flops=None, probe_bandwidth=None)
                shapes.setdefault(s.op.operator, {}).setdefault(s.op, plain)
    for kind, known in shapes.items():
        yield Table(f"{kind}, CPU", hardware, OfGroups(list(known.values())))


@dataclass(frozen=True)
class State:
    """What a rule may know: the candidates, those it has, the fit to those; a generator."""

    pool: list[Sample]
    have: list[int]
    known: Calibration | None
    rng: np.random.Generator

    def drawn(self, count: int, weights: np.ndarray) -> list[int]:
        """``count`` more, each with a chance in proportion to its weight."""
        weights = weights.copy()
        weights[self.have] = 0.0
        some = self.rng.choice(len(weights), count, replace=False, p=weights / weights.sum())
        return [int(i) for i in some]

    def chosen(self, count: int, spread: np.ndarray | None) -> list[int]:
        """``count`` more by the sweep's rule."""
        ops = [s.op for s in self.pool]
        seed = int(self.rng.integers(2**31))
        return choose(ops, [ops[i] for i in self.have], count, spread, seed=seed)

    @property
    def spread(self) -> np.ndarray | None:
        """[n] half of the interval's width, in log seconds; None without a fit."""
        return None if self.known is None else spread_of(self.known, self.pool)


def at_random(state: State, count: int) -> list[int]:
    return state.drawn(count, np.ones(len(state.pool)))


def evenly(state: State, count: int) -> list[int]:
    """The sweep's rule without a fit to ask: the space of shapes is filled."""
    return state.chosen(count, None)


def largest(state: State, count: int) -> list[int]:
    """Where the fit is least sure, nothing else asked."""
    if state.spread is None:
        return at_random(state, count)
    order = np.argsort(-state.spread)
    have = set(state.have)
    return [int(i) for i in order if int(i) not in have][:count]


def in_proportion(state: State, count: int) -> list[int]:
    """Drawn one by one in proportion to the spread."""
    return at_random(state, count) if state.spread is None else state.drawn(count, state.spread)


def actively(state: State, count: int) -> list[int]:
    """The sweep's rule: evenly, then in proportion to the spread, spread out."""
    return state.chosen(count, state.spread)


Rule = Callable[[State, int], list[int]]
RANDOM, ACTIVE = "random", "active"
RULES: dict[str, Rule] = {
    RANDOM: at_random,
    "largest spread": largest,
    "in proportion": in_proportion,
    "even": evenly,
    ACTIVE: actively,
}


def spread_of(known: Calibration, pool: Sequence[Sample]) -> np.ndarray:
    """[n] half of the interval's width, in log seconds."""
    table = estimate(known, pool)
    return np.log(table["high_s"] / table["low_s"]).to_numpy() / 2


def estimate(known: Calibration, some: Sequence[Sample]) -> pd.DataFrame:
    hot = [s.cache == "hot" for s in some]
    plain = replace(known, measured={})  # the fit, not the table of what was measured
    return plain.estimate([s.op for s in some], some[0].implementation, hot)


def curve(table: Table, rule: Rule, seed: int, counts: Sequence[int]) -> Iterator[dict[str, float]]:
    """Error on held-out groups at each of ``counts`` samples, each batch chosen upon the last."""
    pool, held = table.split(seed)
    truth = np.array([s.median for s in held])
    state = State(pool, [], None, np.random.default_rng(seed))
    for count in counts:
        if count > 0.7 * len(pool):
            return
        have = state.have + rule(state, count - len(state.have))
        known = fit([pool[i] for i in have], table.hardware)
        state = replace(state, have=have, known=known)
        error = np.abs(estimate(known, held)["estimate_s"].to_numpy() / truth - 1)
        figures = {"mean": error.mean(), "median": np.median(error), "max": error.max()}
        yield {"seed": seed, "samples": count, **figures}


def run(
    tables: Iterator[Table], rules: Sequence[str], seeds: Sequence[int], counts: Sequence[int]
) -> pd.DataFrame:
    rows: list[dict[str, object]] = []
    for table in tables:
        for seed in seeds:
            for name in rules:
                new = (
                    {"table": table.name, "rule": name, **r}
                    for r in curve(table, RULES[name], seed, counts)
                )
                rows.extend(new)
        print(markdown(pd.DataFrame(rows).query("table == @table.name")), flush=True)
    return pd.DataFrame(rows)


def advantage(results: pd.DataFrame, rule: str) -> pd.DataFrame:
    """[table, samples]: mean over seeds of ln(error / error of random draws), and its standard
    error; a negative mean: ``rule`` is better."""
    errors = results.pivot_table(
        index=["table", "samples", "seed"], columns="rule", values="mean", sort=False
    )
    ratio = np.log(errors[rule] / errors[RANDOM])
    return ratio.groupby(["table", "samples"], sort=False).agg(["mean", "sem"])


def over_all(results: pd.DataFrame, rule: str) -> tuple[float, float]:
    """The advantage over all tables and counts: its mean over seeds and standard error."""
    errors = results.pivot_table(
        index=["seed", "table", "samples"], columns="rule", values="mean", sort=False
    )
    by_seed = np.log(errors[rule] / errors[RANDOM]).groupby("seed").mean()
    return float(by_seed.mean()), float(by_seed.sem())


def markdown(results: pd.DataFrame) -> str:
    """Mean held-out error and its deviation over seeds, a column a rule; active against random."""
    rules = list(dict.fromkeys(results["rule"]))
    lines = ["| table | samples | " + " | ".join(rules) + " | active over random |"]
    lines.append("|---|---|" + "---|" * (len(rules) + 1))
    gain = advantage(results, ACTIVE)
    groups = results.groupby(["table", "samples"], sort=False)
    for (table, count), group in groups:
        by_rule = group.groupby("rule")["mean"].agg(["mean", "std"])
        cells = [
            f"{by_rule['mean'][r]:.1%} ± {100 * by_rule['std'][r]:.1f}"
            if r in by_rule.index
            else "-"
            for r in rules
        ]
        mean, sem = gain.loc[(table, count)]
        cells.append(f"{np.expm1(mean):+.0%} ± {100 * sem:.0f}")
        lines.append(f"| {table} | {count} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def draw(results: pd.DataFrame, path: Path) -> None:
    """Mean error against samples, a panel a table; bars are the standard error over seeds."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.ticker import FixedLocator, NullLocator

    names = list(dict.fromkeys(results["table"]))
    columns = min(3, len(names))
    rows = -(-len(names) // columns)
    size = (3.6 * columns, 2.9 * rows + 0.4)
    figure, axes = plt.subplots(rows, columns, figsize=size, squeeze=False, layout="constrained")
    for axis in axes.flat[len(names) :]:
        axis.axis("off")
    for axis, name in zip(axes.flat, names, strict=False):
        table = results[results["table"] == name]
        for rule, some in table.groupby("rule", sort=False):
            i = list(RULES).index(rule)
            errors = 100 * some.pivot_table(index="samples", columns="seed", values="mean")
            axis.errorbar(
                errors.index * 1.02 ** (i - 2),  # beside one another, so that all bars are seen
                errors.mean(axis=1),
                errors.sem(axis=1),
                marker="o^vsD"[i],
                color=f"C{i}",
                markersize=4,
                linewidth=2 if rule == ACTIVE else 1,
                label=rule,
                capsize=2,
            )
        axis.set_title(name, fontsize=10)
        axis.set(xscale="log", yscale="log")
        axis.xaxis.set_major_locator(FixedLocator(sorted(set(table["samples"]))))
        axis.xaxis.set_minor_locator(NullLocator())
        axis.yaxis.set_major_locator(FixedLocator(TICKS))
        axis.yaxis.set_minor_locator(NullLocator())
        axis.xaxis.set_major_formatter("{x:g}")
        axis.yaxis.set_major_formatter("{x:g}")
        axis.grid(alpha=0.3)
    figure.supxlabel("samples", fontsize=10)
    figure.supylabel("mean held-out error [%]", fontsize=10)
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=len(labels), fontsize=9)
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=Path, nargs="*", default=[], help="stores of a CPU")
    parser.add_argument("--public", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--rules", nargs="*", choices=list(RULES), default=list(RULES))
    parser.add_argument("--seeds", type=int, default=5, help="how many")
    parser.add_argument("--counts", type=int, nargs="*", default=COUNTS, help="of samples")
    parser.add_argument("--first", type=int, default=0, help="the first of them")
    parser.add_argument("--also", type=Path, help="another run's folder, shown beside")
    parser.add_argument("--out", type=Path, default=Path("outputs/learning_curve"))
    chosen = parser.parse_args()
    tables = itertools.chain(
        public_tables() if chosen.public else (),
        cpu_tables(chosen.samples) if chosen.samples else (),
    )
    chosen.out.mkdir(parents=True, exist_ok=True)
    seeds = range(chosen.first, chosen.first + chosen.seeds)
    results = run(tables, chosen.rules, seeds, chosen.counts)
    for rule in chosen.rules:
        mean, sem = over_all(results, rule)
        print(f"{rule}, over all: {np.expm1(mean):+.1%} ± {100 * sem:.1f} against random draws")
    if chosen.also:
        earlier = pd.read_parquet(chosen.also / "learning_curve.parquet")
        results = pd.concat([earlier, results], ignore_index=True)
    results.to_parquet(chosen.out / "learning_curve.parquet")
    draw(results, chosen.out / "learning_curve.png")
    (chosen.out / "learning_curve.md").write_text(markdown(results), "utf-8")


if __name__ == "__main__":
    main()
