"""Layer documents: formulas against the numbers they stand for, pages against the model."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest
from report_record import run
from sympy import sympify

from calib.report.layers.analytic_report import AnalyticModelReport
from calib.report.layers.build import build_report
from calib.report.layers.formulas import (
    DTYPE_FIELDS,
    OPERATOR_FIELDS,
    PROPERTIES,
    costs_of,
    executed,
    layer_form,
    layer_totals,
    operator_form,
    operator_formulas,
    symbolic_layer,
)
from calib.report.layers.pages import Use, layer_uses, markdown_of, write_layer_docs
from calib.report.layers.tree import branches
from model.decoder import SelfAttention, SwiGlu
from model.layer import Call, Layer, Step, call
from model.linear import Linear
from model.ops import ITEM_BYTES, OPERATORS, Attention, Conv2d, Copy, GroupedMatmul, Matmul, Norm
from model.sam import SamAttention


@cache
def report() -> AnalyticModelReport:
    return build_report(run("measured"), branches(run("measured")))


@cache
def uses() -> dict[type[Layer], list[Use]]:
    return layer_uses(report())


def written(op: object) -> dict[str, str]:
    return {f.name: f.latex for f in operator_formulas(op).formulas}  # type: ignore[arg-type]


def test_formulas_read_as_in_a_textbook() -> None:
    """Derived by hand; the order of factors is sympy's."""
    assert written(Matmul(2, 3, 4)) == {
        "F_{tensor}": "2 B k m n",
        "R_{weights}": "B k n s",
        "R": "B k m s + B k n s",
        "W": "B m n s",
    }
    half = r"\left\lfloor{\frac{q \left(q - 1\right)}{2}}\right\rfloor"
    causal = written(Attention(1, 8, 8, 2, 2, 16, causal=True))
    assert causal["F_{min}"] == rf"4 B d h \left(l q - {half}\right)"
    assert "F_{min}" not in written(Attention(1, 8, 8, 2, 2, 16))
    expected = r"1 - \left(1 - \frac{t}{E}\right)^{T}"
    grouped = written(GroupedMatmul(5, 8, 2, 16, 16))
    assert grouped["R_{weights}"] == rf"E k n s \left({expected}\right)"
    assert written(Norm(3, 5, kind="layernorm"))["F_{cuda}"] == "7 c r"
    quantised = written(Matmul(2, 3, 4, weight_dtype="int4"))
    assert quantised["R"] == "B k m s + B k n s_{w}"


def test_a_form_is_told_from_another() -> None:
    assert operator_form(Matmul(2, 3, 4)) == operator_form(Matmul(5, 6, 7, dtype="float32"))
    for other in (Matmul(2, 3, 4, bias=True), Matmul(2, 3, 4, weight_dtype="int8")):
        assert operator_form(other) != operator_form(Matmul(2, 3, 4))
    assert operator_formulas(Matmul(2, 3, 4, bias=True)).title == "Matmul (with bias)"
    assert operator_formulas(Norm(2, 3)).title == "Norm (rmsnorm)"


def test_every_symbol_is_defined() -> None:
    """Each letter of a formula stands in its list of symbols, once."""
    for op in (
        Matmul(2, 3, 4),
        Conv2d(1, 3, 8, 16, 16, 3, bias=True),
        GroupedMatmul(5, 8, 2, 4, 4),
    ):
        found = operator_formulas(op)
        letters = [letter for letter, _ in found.symbols]
        assert len(letters) == len(set(letters))
        for formula in found.formulas:
            commands = r"\\(?:left|right|lfloor|rfloor|frac)(?![a-z])"
            text = re.sub(commands, " ", formula.latex)
            for letter in sorted(letters, key=len, reverse=True):
                text = text.replace(letter, " ")
            assert not re.search(r"[A-Za-z]", text), (formula, text)


def test_every_size_of_every_operator_has_a_letter() -> None:
    for cls in OPERATORS.values():
        hints = {n: h for n, h in cls.__annotations__.items() if "ClassVar" not in str(h)}
        sizes = [n for n, h in hints.items() if "int" in str(h) or "float" in str(h)]
        assert set(sizes) <= set(OPERATOR_FIELDS), cls
        assert {n for n in hints if n.endswith("dtype")} <= set(DTYPE_FIELDS), cls
        letters = [OPERATOR_FIELDS[n][0] for n in sizes] + [s for s, _ in DTYPE_FIELDS.values()]
        assert len(letters) == len(set(letters)), f"{cls}: a letter stands for two sizes"


def test_dtypes_are_as_before() -> None:
    before = dict(ITEM_BYTES)
    operator_formulas(Matmul(2, 3, 4, weight_dtype="int8"))
    assert before == ITEM_BYTES
    with pytest.raises(ValueError, match="dtype = 's'"):
        Matmul(2, 3, 4, dtype="s")


def test_formulas_of_layers_give_their_numbers() -> None:
    """Every layer of the model: its sizes put into its formulas give its costs."""
    seen = 0
    for found in uses().values():
        for layer in (use.layer for use in found):
            symbolic, names = symbolic_layer(layer)
            values = {letter: vars(layer)[name] for name, letter in names.items()}
            for formula, number in zip(executed(symbolic), executed(layer), strict=True):
                if isinstance(formula, Call) and isinstance(number, Call):
                    for symbol, value in zip(costs_of(formula), costs_of(number), strict=True):
                        sizes = sympify(symbol).free_symbols
                        given = sympify(symbol).subs({s: values[s.name] for s in sizes})
                        assert float(given) == pytest.approx(float(value)), (layer, number)
                        seen += 1
    assert seen > 1000


def test_what_decides_stays_a_number() -> None:
    """SAM's windows are copied where there are several: their number is kept, and said."""
    layer = SamAttention(9, 14, 768, 12, 14)
    symbolic, names = symbolic_layer(layer)
    assert set(names) == {"grid", "hidden", "heads", "table_grid"}
    assert symbolic.batch == 9  # type: ignore[attr-defined]
    assert layer_form(symbolic) == layer_form(layer)


@dataclass(frozen=True)
class Choosy(Layer):
    """Asks whether a size equals a number: a symbol never does, and says so without an error."""

    rows: int
    special: int

    def forward(self) -> Iterator[Step]:
        yield call(Copy(self.rows))
        if self.special == 3:
            yield call(Norm(self.rows, 8))


def test_a_silent_change_of_what_runs_is_noticed() -> None:
    assert set(symbolic_layer(Choosy(5, 3))[1]) == {"rows"}
    assert set(symbolic_layer(Choosy(5, 4))[1]) == {"rows", "special"}


def test_totals_of_a_layer() -> None:
    """SwiGLU has three products; a projection's parameters are its matrix and its bias."""
    layer = SwiGlu(5, 8, 12)
    total = layer_totals(layer, *symbolic_layer(layer))["F_{tensor}"]
    words = [r"\mathrm{hidden}", r"\mathrm{intermediate}", r"\mathrm{rows}"]
    assert total == r" \cdot ".join(["6", *words])
    linear = Linear(5, 8, 12, bias=True)
    parameters = layer_totals(linear, *symbolic_layer(linear))["P"]
    assert parameters == r"\mathrm{inputs} \cdot \mathrm{outputs} + \mathrm{outputs}"


def test_pages(tmp_path: Path) -> None:
    """A page a class, each with what the task of a page is; links and chains are whole."""
    paths = write_layer_docs(report(), tmp_path / "layers")
    pages = {path.stem: path.read_text("utf-8") for path in paths}
    assert set(pages) == {cls.__name__ for cls in uses()} | {"index"}
    for name, text in pages.items():
        links = re.findall(r"\]\(([^)]+)\)", text)
        assert all((tmp_path / "layers" / link).exists() for link in links), name
        assert text.count("```") % 2 == 0
    for cls in uses():
        text = pages[cls.__name__]
        for mirrored in cls.mirrors.split(", "):
            assert mirrored in text
        assert "```mermaid\nflowchart TD\n" in text
        assert "## In this run" in text
        assert text.splitlines()[2] == markdown_of(str(cls.__doc__)).splitlines()[0]
        for chart in re.findall(r"```mermaid\n(.*?)```", text, re.DOTALL):
            boxes = re.findall(r"^    (s\d+)[\[(]", chart, re.MULTILINE)
            chain = re.findall(r"s\d+", chart.splitlines()[-1])
            assert len(boxes) == 1 or chain == boxes


def test_a_page_holds_this_runs_numbers(tmp_path: Path) -> None:
    write_layer_docs(report(), tmp_path)
    text = (tmp_path / "SelfAttention.md").read_text("utf-8")
    modules = run("measured").modules
    mine = modules[(modules["class_name"] == "SelfAttention") & (modules["phase"] == "decode")]
    from calib.report.units import flops, nbytes, seconds

    cells = [flops(mine["flops"].sum()), nbytes(mine["bytes"].sum())]
    cells += [seconds(mine[c].sum()) for c in ("roofline_s", "estimate_s", "measured_s")]
    row = next(line for line in text.splitlines() if line.startswith("| decode |"))
    assert all(f"| {cell} |" in row for cell in cells), row
    assert "| `context` | 83 | 91.5 |" in text
    index = (tmp_path / "index.md").read_text("utf-8")
    assert "[SelfAttention](SelfAttention.md)" in index
    assert "a multiply-add is 2 FLOP" in index


def test_operators_of_a_page_are_those_of_the_layer(tmp_path: Path) -> None:
    write_layer_docs(report(), tmp_path)
    text = (tmp_path / "SelfAttention.md").read_text("utf-8")
    layer = next(u.layer for u in uses()[SelfAttention])
    kinds = {type(step.op).__name__ for step in executed(layer) if isinstance(step, Call)}
    assert kinds == set(re.findall(r"^### (\w+)$", text, re.MULTILINE))
    assert set(PROPERTIES.values()) >= set(re.findall(r"^([FRW][_{}a-z]*) &=", text, re.MULTILINE))


def test_from_a_record_as_from_a_report(tmp_path: Path) -> None:
    write_layer_docs(report(), tmp_path / "a")
    write_layer_docs(run("measured"), tmp_path / "b")
    for path in (tmp_path / "a").iterdir():
        assert path.read_text("utf-8") == (tmp_path / "b" / path.name).read_text("utf-8")


def test_docstrings_become_markdown() -> None:
    assert markdown_of("``a`` and :class:`Call` and :func:`grid`") == "`a` and `Call` and `grid`"
