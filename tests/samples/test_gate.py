"""The gate: what cannot be is refused by name, on both ways, and what can be comes back."""

import json
import logging
from dataclasses import fields, replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from calib.errors import CalibError
from calib.samples import Sample, read_samples, write_samples
from calib.samples.parts.columns import RANGES
from calib.samples.parts.shapes import MAY_LACK, Refused, op_to_json, parse
from calib.samples.sample import CACHES, ORIGINS, STATUSES, TIMED, Kernel
from model import ops

SAMPLE = Sample(ops.Matmul(3, 5, 7), [2e-3, 1e-3, 4e-3], "h200", "torch", device="a card")
FILES = settings(
    deadline=None, max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def changed(path, column, row, value):
    """The file at ``path`` with another value, as any program that knows Parquet may write it."""
    table = pq.read_table(path)
    values = table.column(column).to_pylist()
    values[row] = value
    field = table.schema.field(column)
    place = table.column_names.index(column)
    pq.write_table(table.set_column(place, field, pa.array(values, field.type)), path)


@st.composite
def possible(draw):
    """A sample of which every field may be."""
    numbers = {
        name: draw(st.none() | st.floats(*bounds))
        for name, bounds in RANGES.items()
        if name not in ("threads", "discarded")
    }
    status = draw(st.sampled_from(STATUSES))
    seconds = st.floats(0, 3600, exclude_min=True, exclude_max=True)
    sizes = st.lists(st.integers(1, 2**31), max_size=3).map(tuple)
    kernel = st.builds(Kernel, st.text("ab c"), sizes, sizes, st.floats(0, 1))
    return Sample(
        op=ops.Matmul(*(draw(st.integers(1, 2**16)) for _ in range(3))),
        seconds=draw(st.lists(seconds, min_size=status in TIMED, max_size=4)),
        hardware=draw(st.sampled_from(["h200", "cpu"])),
        implementation="torch",
        cache=draw(st.sampled_from(CACHES)),
        origin=draw(st.sampled_from(ORIGINS)),
        status=status,
        threads=draw(st.none() | st.integers(1, 512)),
        discarded=draw(st.integers(0, 100)),
        kernels=tuple(draw(st.lists(kernel, max_size=3))),
        started=draw(st.sampled_from(["", "2026-11-27T10:00:00.125+00:00"])),
        versions=draw(st.dictionaries(st.text("ab"), st.text("12."), max_size=2)),
        **numbers,
    )


@FILES
@given(some=st.lists(possible(), max_size=5))
def test_what_can_be_comes_back_as_it_was(tmp_path, some):
    assert read_samples(write_samples(tmp_path / "s.parquet", some)) == some


BAD = [
    ("seconds", [1e-3, float("nan")]),
    ("seconds", [float("inf")]),
    ("seconds", [0.0]),
    ("seconds", [3600.0]),
    ("seconds", [1e308]),
    ("seconds", [None]),
    ("seconds", []),
    ("seconds", None),
    ("probe_flops", float("nan")),
    ("probe_bandwidth", -1.0),
    ("probe_host", float("inf")),
    ("sm_clock_hz", 0.0),
    ("power_w", 1e308),
    ("temperature_c", float("nan")),
    ("threads", 0),
    ("discarded", -1),
    ("discarded", None),
    ("status", "OK"),
    ("cache", "warm"),
    ("origin", None),
    ("kind", "matmull"),
    ("hardware", ""),
    ("started", "yesterday"),
    ("versions", "[1]"),
    ("versions", "[" * 100_000),
    ("kernels", None),
    ("kernels", [{"name": "k", "grid": [0], "block": [1], "share": 0.5}]),
    ("shape", "{"),
    ("shape", "[" * 100_000),
]


@pytest.mark.parametrize(("column", "value"), BAD, ids=lambda v: str(v)[:24])
def test_a_row_that_cannot_be_is_named_and_can_be_left_out(tmp_path, caplog, column, value):
    caplog.set_level(logging.WARNING)
    rows = [replace(SAMPLE, op=ops.Matmul(m, 5, 7)) for m in (1, 2, 3)]
    path = write_samples(tmp_path / "s.parquet", rows)
    changed(path, column, 1, value)
    with pytest.raises(CalibError, match=rf"s\.parquet: row 1: {column}.* = .*: expected "):
        read_samples(path)
    found = read_samples(path, on_error="skip")
    assert (found, found.left_out) == ([rows[0], rows[2]], 1)
    assert f"{path}: 1 rows are left out: row 1: {column}" in caplog.text


def test_all_bad_rows_of_a_folder_are_counted(tmp_path):
    for name in ("a", "b"):
        path = write_samples(tmp_path / f"{name}.parquet", [SAMPLE] * 4)
        changed(path, "power_w", 0, -1.0)
        changed(path, "status", 2, "fine")
    with pytest.raises(CalibError, match=r"a\.parquet: row 0: power_w = -1\.0.*1 more rows"):
        read_samples(tmp_path)
    found = read_samples(tmp_path, on_error="skip")
    assert (len(found), found.left_out) == (4, 4)
    with pytest.raises(CalibError, match="expected raise or skip"):
        read_samples(tmp_path, on_error="ignore")


@pytest.mark.parametrize(
    "bad",
    [
        {"seconds": [float("nan")]},
        {"seconds": []},
        {"probe_flops": float("nan")},
        {"status": "fine"},
        {"threads": "two"},
        {"hardware": None},
        {"op": None},
        {"versions": {"a": {1}}},
    ],
    ids=str,
)
def test_what_could_not_be_read_again_is_not_written(tmp_path, bad):
    with pytest.raises(CalibError, match=r"cannot write .*s\.parquet: row 1"):
        write_samples(tmp_path / "s.parquet", [SAMPLE, replace(SAMPLE, **bad)])
    assert not (tmp_path / "s.parquet").exists()


@pytest.mark.parametrize("name", [f.name for f in fields(Sample) if f.name != "op"])
def test_a_column_that_is_missing_twice_or_of_another_type_is_named(tmp_path, name):
    path = write_samples(tmp_path / "s.parquet", [SAMPLE])
    table = pq.read_table(path)
    place = table.column_names.index(name)
    for broken in (
        table.drop_columns([name]),
        table.append_column(name, table.column(name)),
        table.set_column(place, name, pa.array([b""])),
    ):
        pq.write_table(broken, path)
        with pytest.raises(CalibError, match=rf"s\.parquet: column {name} = .*: expected "):
            read_samples(path)


def test_columns_beside_ours_are_not_read(tmp_path):
    path = write_samples(tmp_path / "s.parquet", [SAMPLE])
    pq.write_table(pq.read_table(path).append_column("note", pa.array(["mine"])), path)
    assert read_samples(path) == [SAMPLE]


SHAPES = (
    ops.AllReduce(8192, 8, nodes=2),
    ops.Matmul(3, 5, 7, bias=True),
    ops.Attention(1, 9, 9, 4, 2, 64, causal=True, window=3),
    ops.Conv2d(1, 8, 16, 7, 7, 3, padding=1, groups=2),
    ops.GroupedMatmul(9, 8, 2, 5, 7, max_load=2.5),
    ops.MoeMlp(9, 8, 2, 5, 7, distribution="power_law_1.2"),
    ops.Elementwise(81, 0, broadcast=9),
    ops.Other("sort", 80.0, 160.0),
)
ANY = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=3)
    | st.lists(st.integers(), max_size=2)
)


@settings(deadline=None, max_examples=100)
@given(op=st.sampled_from(SHAPES), data=st.data())
def test_a_shape_is_refused_or_an_operator_of_its_very_values(op, data):
    values = json.loads(op_to_json(op))
    name = data.draw(st.sampled_from([*values, "other"]))
    values[name] = data.draw(ANY)
    try:
        found = parse(op.operator, json.dumps(values), MAY_LACK["3"])
    except Refused as refused:
        assert "shape" in str(refused) and "expected" in str(refused)
    else:
        assert json.loads(op_to_json(found)) == values
        assert 0 <= found.bytes < 2**53 and 0 <= found.flops < 2**63


@pytest.mark.parametrize("op", SHAPES, ids=lambda op: op.operator)
def test_a_field_is_missing_only_in_files_from_before_there_was_one(op):
    values = json.loads(op_to_json(op))
    for name in values:
        rest = json.dumps({k: v for k, v in values.items() if k != name})
        if name not in MAY_LACK["3"]:
            with pytest.raises(Refused, match=name):
                parse(op.operator, rest, MAY_LACK["3"])
        if name in MAY_LACK["2"]:
            assert parse(op.operator, rest, MAY_LACK["2"])


def test_files_of_version_3_are_read_whenever_they_were_written():
    """The fields that operators had when it began: a file may hold no others."""
    begun = {
        "matmul": "m n k batch dtype weight_dtype bias",
        "grouped_matmul": "tokens experts top_k n k dtype active_experts max_load weight_dtype",
        "moe_mlp": "tokens experts top_k hidden intermediate dtype distribution",
        "attention": "batch q_len kv_len heads kv_heads head_dim dtype causal window bias mask",
        "conv2d": "batch in_channels out_channels height width kernel stride padding groups dtype "
        "bias planar",
        "convolution": "batch in_channels out_channels in_positions out_positions taps groups "
        "transposed dtype bias",
        "norm": "rows cols kind dtype transposed",
        "channel_norm": "elements channels kind dtype vectors",
        "softmax": "rows cols dtype out_dtype",
        "reduction": "rows cols dtype out_dtype outputs",
        "elementwise": "elements inputs outputs flops_per_element dtype broadcast out_dtype "
        "transposed axes",
        "gather": "rows cols dtype",
        "copy": "elements dtype out_dtype out_elements transposed axes",
        "other": "name read written arithmetic dtype",
    }
    begun["attention_backward"] = begun["attention"] + " recompute"
    begun["grouped_matmul_weight_gradient"] = begun["grouped_matmul"]
    for kind, names in begun.items():
        now = {f.name for f in fields(ops.OPERATORS[kind])}
        assert now - set(names.split()) <= MAY_LACK["3"], f"{kind}: add to _SINCE_3"


@pytest.mark.parametrize(
    ("kind", "shape", "named"),
    [
        ("conv2d", {"kernel": 99}, "kernel"),
        ("conv2d", {"groups": 3}, "groups"),
        ("attention", {"kv_heads": 3}, "kv_heads"),
        ("grouped_matmul", {"top_k": 9}, "top_k"),
        ("moe_mlp", {"distribution": "fair"}, "distribution"),
        ("matmul", {"m": 2**39, "n": 2**39}, "2.53 bytes"),
        ("matmul", {"dtype": "bf16"}, "bfloat16"),
    ],
)
def test_sizes_that_do_not_go_together_are_refused(kind, shape, named):
    op = next(op for op in SHAPES if op.operator == kind)
    with pytest.raises(Refused, match=named):
        parse(kind, json.dumps(json.loads(op_to_json(op)) | shape), MAY_LACK["3"])
