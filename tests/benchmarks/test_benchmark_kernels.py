"""The bench of the kernels without a card: statistics, tables, and a whole run on tiny shapes.

The device is the interpreter and the clock a stub, so the times mean nothing; that every case can
be built, checked against its reference and put in a table does.
"""

from __future__ import annotations

import warnings
from pathlib import Path

import pandas as pd
import pytest
import torch

from benchmarks import kernel_cases
from benchmarks import kernels as bench
from model import ops

CEILINGS = bench.Ceilings(flops=1e12, bandwidth=1e9)


def timings(kind: str = "linear", **seconds: list[float]) -> bench.Timings:
    return bench.Timings(kind, "m=1", floor=1.0, bytes=1e9, seconds=seconds, refused={"x": "why"})


def test_quartiles_interpolate() -> None:
    assert bench.quartiles([4.0, 1.0, 3.0, 2.0, 5.0]) == (2.0, 3.0, 4.0)
    assert bench.quartiles([1.0, 2.0]) == (1.25, 1.5, 1.75)
    assert bench.quartiles([7.0]) == (7.0, 7.0, 7.0)


def test_a_row_compares_with_the_best_vendor_round_by_round() -> None:
    row = bench.row(timings(ours=[2.0, 2.0, 4.0], slow=[9.0, 9.0, 9.0], fast=[1.0, 2.0, 8.0]))
    assert row["vendor"] == "fast"
    assert (row["ratio_q1"], row["ratio"], row["ratio_q3"]) == (0.75, 1.0, 1.5)
    assert row["share_of_ceiling"] == 0.5  # a floor of 1 s, a median of 2 s
    assert row["refused"] == "x: why"


def test_a_row_without_a_vendor() -> None:
    row = bench.row(timings(ours=[2.0]))
    assert row["vendor"] == "" and row["ratio"] != row["ratio"]


def test_summary_is_geometric_and_judges_by_the_mark() -> None:
    rows = [bench.row(timings(ours=[1.0], cuBLAS=[r])) for r in (0.5, 2.0)]
    rows.append(bench.row(timings("conv2d", ours=[1.0], cuDNN=[0.99])))
    lines = bench.summarise(pd.DataFrame(rows)).set_index("kind")
    assert lines.loc["linear", "ratio"] == pytest.approx(1.0)
    assert lines.loc["linear", "reached"] == "yes"
    assert lines.loc["conv2d", "reached"] == "no"


def test_a_kind_without_a_mark_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(bench.MARKS, "attention, backward", ("ratio", None))
    row = bench.row(timings("attention, backward", ours=[1.0], cuDNN=[0.5]))
    line = bench.summarise(pd.DataFrame([row])).iloc[0]
    assert (line["ratio"], line["mark"], line["reached"]) == (0.5, "-", "-")


def test_small_norms_are_shown_and_not_counted() -> None:
    small = bench.Timings("norm", "1 x 8", 1.0, 100.0, {"ours": [100.0]}, {})
    large = bench.Timings("norm", "big", 1.0, 1e9, {"ours": [1.0]}, {})
    lines = bench.summarise(pd.DataFrame([bench.row(small), bench.row(large)]))
    line, apart = lines.iloc[0], lines.iloc[1]
    assert (line["shapes"], line["share"], line["reached"]) == (1, 1.0, "yes")
    assert apart["kind"] == "norm, below 64 MB"
    assert (apart["shapes"], apart["mark"]) == (1, "-")
    assert apart["share"] == pytest.approx(0.01)


def test_floor_is_the_roofline() -> None:
    def nothing() -> torch.Tensor:
        return torch.zeros(1)

    case = kernel_cases.Case("linear", "", 3e12, 2e9, nothing, {}, nothing)
    assert CEILINGS.floor(case) == 3.0


def test_check_finds_a_hole_and_a_wrong_element() -> None:
    right = torch.ones(8)
    bench.check(lambda: right, right)
    with pytest.raises(ValueError, match="8 of 8 elements are wrong"):
        bench.check(lambda: torch.empty(8), right)
    with pytest.raises(ValueError, match="8 of 8"):
        bench.check(lambda: (right, right + 1), (right, right))
    wrong = right.clone()
    wrong[3] = 1.5
    with pytest.raises(ValueError, match="1 of 8"):
        bench.check(lambda: wrong, right)


def test_a_gradient_may_be_off_by_its_own_size_and_no_more() -> None:
    """Of keys under a causal mask: rounded as sums of half as many bits are, it passes; without one
    query's terms, with a tile left out, taken twice or of its neighbour, or with a hole, not."""
    torch.manual_seed(0)
    q, k, v, slope = (torch.randn(256, 64) for _ in range(4))
    q, k, v = (x.requires_grad_() for x in (q, k, v))
    hidden = torch.ones(256, 256).triu(1).bool()
    p = (q @ k.T / 8).masked_fill(hidden, float("-inf")).softmax(-1)
    ds = p * ((slope @ v.T) - (p @ v * slope).sum(-1, keepdim=True))
    want = (ds.T @ q / 8).detach()
    sizes = want.square().mean(-1).sqrt()
    assert sizes.max() > 4 * sizes.median()
    noise = torch.randn_like(want) * sizes[:, None] / 64
    bench.check((want + noise).bfloat16, want)
    lost, twice, other, hole = (want.clone() for _ in range(4))
    lost -= torch.outer(ds[40], q[40] / 8).detach()
    twice[64:80] *= 2
    other[64:80] = want[80:96]
    hole[255, 3] = float("nan")
    for wrong in (lost, twice, other, hole):
        with pytest.raises(ValueError, match="elements are wrong"):
            bench.check(wrong.bfloat16, want)


def test_a_vendor_that_refuses_is_named_and_ours_may_not() -> None:
    def refuses() -> torch.Tensor:
        raise RuntimeError("no such head\nat all")

    right = torch.ones(8)
    case = kernel_cases.Case("linear", "", 1, 1, lambda: right, {"lib": refuses}, lambda: right)
    done = bench.compete(case, lambda run: 1.0, CEILINGS, 2)
    assert done.refused == {"lib": "no such head"} and list(done.seconds) == ["ours"]
    case = kernel_cases.Case("linear", "", 1, 1, refuses, {}, lambda: right)
    with pytest.raises(RuntimeError):
        bench.compete(case, lambda run: 1.0, CEILINGS, 2)


DEPTHWISE = ops.Conv2d(1, 8, 8, 5, 5, kernel=3, padding=1, groups=8)
TINY = [
    ops.Matmul(5, 33, 40, bias=True),
    ops.Matmul(3, 33, 40),
    ops.Matmul(1, 33, 40),
    ops.GroupedMatmul(9, 4, 2, 33, 40),
    ops.Attention(1, 9, 9, 2, 1, 16, causal=True),
    ops.Attention(1, 9, 9, 2, 2, 16, bias=True),
    ops.Attention(1, 1, 9, 2, 1, 16),
    ops.Conv2d(1, 3, 8, 8, 8, kernel=4, stride=4, bias=True),
    ops.Conv2d(1, 8, 8, 5, 5, kernel=3, padding=1),
    ops.Norm(3, 40),
    ops.Norm(3, 40, kind="layernorm"),
    ops.Copy(5),  # has no case of its own
]


def test_a_whole_run_on_tiny_shapes(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, device: str
) -> None:
    """In float16: the interpreter's bfloat16 products are wrong."""
    monkeypatch.setattr(kernel_cases, "DTYPE", torch.float16)
    monkeypatch.setattr(
        kernel_cases, "swiglu_case", lambda *_: whole_swiglu_case(3, 33, 40, device)
    )
    monkeypatch.setattr(kernel_cases, "stream_cases", lambda *_: whole_stream_cases(999, device))
    monkeypatch.setattr(kernel_cases, "SOFTMAXES", ((3, 40),))
    monkeypatch.setattr(kernel_cases, "LARGE_NORMS", ())
    monkeypatch.setattr(kernel_cases, "FLOAT8", (ops.Matmul(6, 16, 32, dtype="float8_e4m3fn"),))
    monkeypatch.setattr(kernel_cases, "FEW_ROWS", 5)
    monkeypatch.setattr(kernel_cases, "DEPTHWISE", (DEPTHWISE,))
    rows = [
        bench.row(bench.compete(case, lambda run: 1e-3, CEILINGS, 2))
        for case in kernel_cases.cases(TINY, device)
    ]
    table = pd.DataFrame(rows)
    assert set(table["kind"]) == set(bench.MARKS)
    text = bench.markdown(table, CEILINGS, "a stub")
    bench.write(tmp_path, table, text)
    assert "| linear, one token | m=1 n=33 k=40 | 1000.0 (1000.0-1000.0) | cuBLAS |" in text
    read = pd.read_parquet(tmp_path / "kernels.parquet")
    gradients, softmaxes, depthwise, float8 = 1, 1, 1, 1
    assert len(read) == len(TINY) - 1 + 4 + 4 + gradients + softmaxes + depthwise + float8
    assert "| attention, backward | b=1 h=2/1 q=9 kv=9 d=16, causal |" in text
    assert [len(s) for s in read["seconds"][0]] == [2, 2]


whole_swiglu_case, whole_stream_cases = kernel_cases.swiglu_case, kernel_cases.stream_cases


def test_the_shapes_are_those_of_the_models() -> None:
    """Spot checks against published dimensions: SAM's patches, an expert, LLaMA's up projection."""
    operators = bench.model_operators()
    kinds = {type(op).__name__ for op in operators}
    assert {"Matmul", "GroupedMatmul", "Attention", "Conv2d", "Norm"} <= kinds
    assert any(isinstance(o, ops.Conv2d) and o.kernel == o.stride == 16 for o in operators)
    shapes = [(o.m, o.n, o.k) for o in operators if isinstance(o, ops.Matmul)]
    assert (2048, 14336, 4096) in shapes and (1, 1280, 6848) in shapes


def test_without_a_card_it_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert bench.main(["--out", str(tmp_path / "out")]) == 2
    assert "no CUDA device" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_refusal_says_what_torch_said_and_nothing_is_left_on_the_terminal() -> None:
    def refuses() -> torch.Tensor:
        for text in (
            "Flash attention kernel not used because: (Triggered internally at sdp_utils.cpp:801.)",
            "Flash Attention does not support non-null attn_mask. (Triggered internally at x:1.)",
            "cuDNN attention kernel not used because: (Triggered internally at x:2.)",
            "cuDNN attention has been runtime disabled. (Triggered internally at x:3.)",
        ):
            warnings.warn(text, UserWarning, stacklevel=1)
        raise RuntimeError("No available kernel. Aborting execution.")

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        why = bench.refusal(refuses, torch.ones(2))
    assert why == (
        "No available kernel. Aborting execution.; "
        "Flash Attention does not support non-null attn_mask."
    )


def test_warnings_of_a_vendor_that_runs_are_not_hidden() -> None:
    def warns() -> torch.Tensor:
        warnings.warn("this result may change", UserWarning, stacklevel=1)
        return torch.ones(2)

    with pytest.warns(UserWarning, match="may change"):
        assert bench.refusal(warns, torch.ones(2)) == ""
