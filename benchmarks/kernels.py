"""Our Triton kernels beside the vendor's libraries on the device at hand.

    python -m benchmarks.kernels --out outputs/kernels
    python -m benchmarks.kernels --tune --budget 300     first tiles and ways timed on this card:
                                                         ``benchmarks.kernel_tuning``

Shapes are those of DeepSeek-OCR and LLaMA-3.1-8B, taken from ``model``; FLOPs and bytes come from
its operators. For each shape all contenders are checked once against float32 with poisoned
outputs, then timed in turn (A B A B ...) on random data with a cold L2. A ratio is the vendor's
time over ours of the same round: above 1 we are faster. The share of the ceiling is the roofline
time at the bandwidth and matrix rate measured first on the same card, over our time.

Exit status 2 where there is no CUDA device.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import triton

from benchmarks import kernel_tuning
from benchmarks.kernel_cases import Case, Outcome, Run, cases, model_operators, randn
from benchmarks.kernel_checks import check
from calib.errors import LOST_STATUS, DeviceLost
from calib.measure.clock import in_turns, ratios
from model import ops

if TYPE_CHECKING:
    import pandas as pd

Clock = Callable[[Run], float]
MARKS: dict[str, tuple[str, float | None]] = {
    "linear": ("ratio", 0.92),
    "linear, few rows": ("ratio", 1.0),
    "linear, one token": ("ratio", 1.0),
    "linear, float8": ("ratio", None),
    "attention, prefill": ("ratio", 0.92),
    "attention, decode": ("ratio", 1.05),
    "attention, backward": ("ratio", 0.8),
    "swiglu": ("ratio", 1.0),
    "norm": ("share", 0.92),
    "softmax": ("share", 0.92),
    "stream": ("share", 0.95),
    "conv2d": ("ratio", 1.0),
    "depthwise": ("ratio", 1.0),
    "grouped": ("ratio", 1.2),
}
"""What we aim at on Hopper, geometric mean over shapes: of the best vendor's time over ours, or
of the measured ceiling; None where nothing is aimed at. By share, shapes that move less than
``LARGE_BYTES`` stand in a line of their own without a mark: a ceiling of DRAM means nothing for
what the L2 holds or a launch outlasts."""
LARGE_BYTES = 64e6


@dataclass(frozen=True)
class Ceilings:
    """Measured on the card, just before: FLOP/s of a large product, bytes/s of a large copy."""

    flops: float
    bandwidth: float

    def floor(self, case: Case) -> float:
        """Seconds that the case takes at least."""
        return max(case.flops / self.flops, case.bytes / self.bandwidth)


@dataclass(frozen=True)
class Timings:
    """Seconds of every round by contender ("ours" among them), and who could not run, and why."""

    kind: str
    shape: str
    floor: float
    bytes: float
    seconds: dict[str, list[float]]
    refused: dict[str, str]


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """The first quartile, the median and the third, linear between order statistics."""

    def at(share: float) -> float:
        ordered, place = sorted(values), share * (len(values) - 1)
        low = math.floor(place)
        high = min(low + 1, len(ordered) - 1)
        return ordered[low] + (place - low) * (ordered[high] - ordered[low])

    return at(0.25), at(0.5), at(0.75)


def geometric_mean(values: Iterable[float]) -> float:
    logs = [math.log(v) for v in values]
    return math.exp(sum(logs) / len(logs)) if logs else math.nan


def best_vendor(timings: Timings) -> str | None:
    """The contender, ours left out, with the least median."""
    vendors = {n: quartiles(s)[1] for n, s in timings.seconds.items() if n != "ours"}
    return min(vendors, key=lambda n: vendors[n]) if vendors else None


def row(timings: Timings) -> dict[str, Any]:
    """One line of the table: our quartiles, the best vendor's median, the ratio, the share."""
    ours = quartiles(timings.seconds["ours"])
    vendor = best_vendor(timings)
    line: dict[str, Any] = {"kind": timings.kind, "shape": timings.shape, "bytes": timings.bytes}
    line |= dict(zip(("ours_q1_s", "ours_s", "ours_q3_s"), ours, strict=True))
    line |= {"share_of_ceiling": timings.floor / ours[1], "vendor": vendor or ""}
    line["vendor_s"] = quartiles(timings.seconds[vendor])[1] if vendor else math.nan
    ratio: tuple[float, ...] = (math.nan,) * 3
    if vendor:
        ratio = quartiles(ratios(timings.seconds[vendor], timings.seconds["ours"]))
    line |= dict(zip(("ratio_q1", "ratio", "ratio_q3"), ratio, strict=True))
    line["refused"] = "; ".join(f"{n}: {why}" for n, why in timings.refused.items())
    return (
        line
        | {"seconds": [list(map(float, s)) for s in timings.seconds.values()]}
        | {"contenders": list(timings.seconds)}
    )


def summarise(table: pd.DataFrame) -> pd.DataFrame:
    """A line a kind: geometric means of ratio and share, the mark, and whether it is reached."""
    import pandas as pd

    lines = []
    for kind, group in table.groupby("kind", sort=False):
        measure, mark = MARKS[str(kind)]
        is_large = (group["bytes"] >= LARGE_BYTES) | (measure == "ratio")
        lines.append(summary_line(str(kind), group[is_large], measure, mark))
        if not is_large.all():
            small = f"{kind}, below {LARGE_BYTES / 1e6:.0f} MB"
            lines.append(summary_line(small, group[~is_large], measure, None))
    return pd.DataFrame(lines)


def summary_line(
    kind: str, counted: pd.DataFrame, measure: str, mark: float | None
) -> dict[str, Any]:
    means = {
        "ratio": geometric_mean(counted["ratio"].dropna()),
        "share": geometric_mean(counted["share_of_ceiling"]),
    }
    line = {"kind": kind, "shapes": len(counted), **means, "mark": "-", "reached": "-"}
    if mark is not None:
        line["mark"] = f"{measure} >= {mark:.2f}"
        if not math.isnan(means[measure]):
            line["reached"] = "yes" if means[measure] >= mark else "no"
    return line


def markdown(table: pd.DataFrame, ceilings: Ceilings, device: str) -> str:
    """The summary, then every shape. Microseconds here only."""
    lines = [
        f"# Triton kernels beside the vendor's on {device}",
        "",
        f"Ceilings measured here: {ceilings.flops / 1e12:.0f} TFLOP/s in bfloat16, "
        f"{ceilings.bandwidth / 1e9:.0f} GB/s of copy (read + written). Ratios are the best "
        "vendor's time over ours, round by round: above 1 we are faster.",
        "",
        "| kind | shapes | ratio | share of ceiling | mark | reached |",
        "|---|---|---|---|---|---|",
    ]
    for s in summarise(table).itertuples():
        lines.append(
            f"| {s.kind} | {s.shapes} | {s.ratio:.2f} | {s.share:.2f} | {s.mark} | {s.reached} |"
        )
    lines += [
        "",
        "| kind | shape | ours, us (quartiles) | vendor | vendor, us | ratio (quartiles) ",
    ]
    lines[-1] += "| share of ceiling | refused |"
    lines.append("|---|---|---|---|---|---|---|---|")
    for r in table.itertuples():
        lines.append(
            f"| {r.kind} | {r.shape} | {r.ours_s * 1e6:.1f} ({r.ours_q1_s * 1e6:.1f}-"
            f"{r.ours_q3_s * 1e6:.1f}) | {r.vendor or '-'} | {r.vendor_s * 1e6:.1f} "
            f"| {r.ratio:.2f} ({r.ratio_q1:.2f}-{r.ratio_q3:.2f}) | {r.share_of_ceiling:.2f} "
            f"| {r.refused or '-'} |"
        )
    return "\n".join(lines) + "\n"


def where(card: str) -> str:
    """The card and what our kernels were compiled with, for the head of a table."""
    return f"{card}, torch {torch.__version__}, triton {triton.__version__}"


def compete(case: Case, clock: Clock, ceilings: Ceilings, rounds: int, warmup: int = 3) -> Timings:
    """Check, warm up and time one case. A vendor that refuses the shape is left out by name; our
    own kernel may not refuse or be wrong: that raises."""
    reference = case.reference()
    check(case.ours, reference)
    contenders, refused = {"ours": case.ours}, {}
    for name, run in case.vendors.items():
        if why := refusal(run, reference):
            refused[name] = why
        else:
            contenders[name] = run
    del reference
    in_turns(contenders, clock, warmup)
    seconds = in_turns(contenders, clock, rounds)
    floor = ceilings.floor(case)
    return Timings(case.kind, case.shape, floor, case.bytes, seconds, refused)


def refusal(run: Run, reference: Outcome) -> str:
    """Why a vendor cannot run the case, or does so wrongly; empty where it can.

    Torch says why a backend of attention was refused in warnings, one for each backend that it
    might have taken; those of a refusal are part of the answer here, and all others are warned.
    """
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        try:
            check(run, reference)
            why = ""
        except (RuntimeError, ValueError) as error:
            why = (str(error).splitlines() or [type(error).__name__])[0][:80]
    messages = [str(w.message).split(" (Triggered")[0] for w in said]
    if why:
        reasons = [m for m in messages if not m.endswith(_NO_REASON)]
        return "; ".join([why, *dict.fromkeys(m[:120] for m in reasons)])
    for warning in said:
        warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
    return ""


_NO_REASON = ("kernel not used because:", "has been runtime disabled.")
"""How warnings end that only say that the other backends were not asked for."""


def cuda_clock() -> Clock:
    """That of the sweep: seconds on the device, after the L2 was flushed clean, the host's share
    outside."""
    from calib.measure.cuda.stream import TorchStream
    from calib.measure.cuda.timer import Timer

    l2_bytes = torch.cuda.get_device_properties(0).L2_cache_size
    return Timer(TorchStream("cuda", l2_bytes)).clock()


def measure_ceilings(clock: Clock, device: str) -> Ceilings:
    """Medians of 20: a product of 8192 cubed after as many to warm up, a copy of 1 GiB."""
    product = ops.Matmul(8192, 8192, 8192)
    x, w = randn(product.m, product.k, device=device), randn(product.n, product.k, device=device)
    flat = randn(1 << 29, device=device)
    target = torch.empty_like(flat)
    runs: dict[str, Run] = {"flops": lambda: x @ w.T, "copy": lambda: target.copy_(flat)}
    in_turns(runs, clock, 20)
    seconds = {name: quartiles(s)[1] for name, s in in_turns(runs, clock, 20).items()}
    bandwidth = ops.Copy(flat.numel()).bytes / seconds["copy"]
    return Ceilings(product.flops / seconds["flops"], bandwidth)


def write(folder: Path, table: pd.DataFrame, text: str) -> None:
    """kernels.parquet and kernels.md, each to a temporary name, then renamed."""
    folder.mkdir(parents=True, exist_ok=True)
    table.to_parquet(folder / "kernels.parquet.part")
    os.replace(folder / "kernels.parquet.part", folder / "kernels.parquet")
    (folder / "kernels.md.part").write_text(text, encoding="utf-8")
    os.replace(folder / "kernels.md.part", folder / "kernels.md")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.kernels", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--out", type=Path, default=Path("outputs/kernels"))
    parser.add_argument("--rounds", type=int, default=50, help="samples a contender and shape")
    parser.add_argument("--most", type=int, help="only so many shapes")
    parser.add_argument(
        "--tune",
        action="store_true",
        help="first time our tiles and ways, once a class of shapes, and write the table of them",
    )
    parser.add_argument("--budget", type=float, default=300.0, help="seconds of tuning at most")
    parser.add_argument(
        "--again",
        nargs="+",
        default=[],
        metavar="KERNEL",
        help="with --tune: classes that have a choice and are timed again, as in linear decode",
    )
    parser.add_argument(
        "--kinds", nargs="+", default=[""], metavar="KIND", help="compare these only, as in linear"
    )
    parser.add_argument("--tune-only", action="store_true", help="tune, and compare nothing")
    options = parser.parse_args(arguments)
    if not torch.cuda.is_available():
        sys.stderr.write(
            "benchmarks.kernels: no CUDA device: kernels are compared on a card or not at all; "
            "what can be said without one is written by python -m kernels.resources\n"
        )
        return 2
    import pandas as pd

    torch.manual_seed(0)
    torch.backends.cudnn.benchmark = True  # the vendor's best algorithm, found in the first call
    clock, place = cuda_clock(), where(torch.cuda.get_device_name())
    if options.tune or options.tune_only:
        try:
            kernel_tuning.tune_card(clock, refusal, options.out, options.budget, options.again)
        except DeviceLost as error:
            sys.stderr.write(f"benchmarks.kernels: {error}: run again, and it goes on\n")
            return LOST_STATUS
        if options.tune_only:
            return 0
    ceilings = measure_ceilings(clock, "cuda")
    rows = []
    wanted = (
        c for c in cases(model_operators(), "cuda") if c.kind.startswith(tuple(options.kinds))
    )
    for case in islice(wanted, options.most):
        rows.append(row(compete(case, clock, ceilings, options.rounds)) | {"where": place})
        table = pd.DataFrame(rows)
        write(options.out, table, markdown(table, ceilings, place))
    sys.stdout.write(summarise(pd.DataFrame(rows)).to_string(index=False) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
