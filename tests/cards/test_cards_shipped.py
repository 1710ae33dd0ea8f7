"""The calibrations that ship: all of them, small, whole, and saying what they are."""

import numpy as np
import pytest

from calib.cards.engines.stored import ENGINES, engine_cards, load_engine
from calib.cards.shipped import (
    FOLDER,
    about_card,
    about_taught,
    load_card,
    load_taught,
    shipped_cards,
)
from calib.fit.calibration import TRANSFERRED, WEAKEST_FIRST
from calib.fit.physics.blocks.product_blocks import COSTS
from calib.fit.physics.features import features
from calib.fit.physics.one_wave import COSTS as OF_WAVES
from calib.hardware.datasheet import load_hardware
from model import ops

TABLED = (*("a100", "b200", "b300", "gb200", "gb300"), *("h100", "h200", "l40s", "rtx_pro_6000"))
LENT = (
    *("a10", "a100_pcie_40gb", "a100_pcie_80gb", "a10g", "a30", "a40", "h100_nvl", "h100_pcie"),
    *("h20", "h800", "l4", "l40"),
    *("rtx3090", "rtx4080", "rtx4090", "rtx5090", "rtx_6000_ada", "rtx_a6000"),
)
OLDER = ("p100", "p4", "t4", "v100_16gb", "v100_32gb", "v100_pcie_32gb")
SHIPPED = (*TABLED, *LENT, *OLDER)
STREAMED = ("elementwise", "gather", "copy", "other")
"""Those after the first have no samples on older cards."""
EVERY_KIND = [
    ops.Matmul(64, 1280, 1280),
    ops.Matmul(64, 1280, 1280, bias=True),
    ops.Matmul(64, 64, 1280, dtype="float32"),
    ops.Matmul(64, 1280, 1280, dtype="float16"),
    ops.Matmul(196, 14, 64, batch=12),
    ops.GroupedMatmul(8, 64, 6, 1792, 1280),
    ops.MoeMlp(8, 64, 6, 1280, 896),
    ops.Attention(1, 256, 256, 16, 16, 64),
    ops.Attention(1, 1, 500, 10, 10, 128),
    ops.Conv2d(1, 3, 768, 1024, 1024, kernel=16, stride=16),
    ops.Norm(64, 1280),
    ops.Norm(64, 1280, kind="layernorm"),
    ops.Softmax(64, 64, dtype="float32"),
    ops.Elementwise(100_000, inputs=2),
    ops.Gather(64, 1280),
    ops.Copy(100_000, out_dtype="float32"),
    ops.Other("sort", read=4096, written=8192, dtype="int64"),
]


def test_every_card_that_is_promised_ships_and_no_other_is_made_up():
    assert set(SHIPPED) == set(shipped_cards())
    assert load_card(load_hardware("cpu")) is None and about_card("cpu") is None


def test_what_ships_is_small():
    """Of cards, and of engines' kernels on the three cards that served measured runs, with the
    collectives of nine."""
    sizes = {path: path.stat().st_size for path in FOLDER.rglob("*.*")}
    engines = sum(size for path, size in sizes.items() if "engines" in path.parts)
    assert sum(sizes.values()) - engines <= 0.36e6 * len(SHIPPED)
    assert engines <= 1.2e7


def test_torchs_samples_ship_with_a_data_card():
    """For every card those of the H200, without the recorded models' own shapes."""
    for name in sorted(set(SHIPPED) - set(OLDER)):
        about = about_taught(load_hardware(name))
        assert about["card"] == "h200" and about["of_models_left_out"] > 200
        assert about["command"] == "python -m calib.cards.build torch:h200"


@pytest.mark.parametrize("name", OLDER)
def test_an_older_card_knows_float32_products_and_streams_and_says_roofline_of_the_rest(name):
    """A product of 2048 cubed at a fifth to nineteen twentieths of what its CUDA cores could do."""
    hardware = load_hardware(name)
    asked = [ops.Matmul(2048, 2048, 2048, dtype="float32", bias=True), *EVERY_KIND]
    table = load_card(hardware).estimate(asked, hot=False)
    is_float32 = [getattr(op, "dtype", "") == "float32" and op.operator == "matmul" for op in asked]
    streams = [op.operator in ("norm", "softmax", *STREAMED) for op in asked]
    told = np.logical_or(is_float32, streams)
    assert ((table["provenance"] == "roofline") == ~told).all()
    stands_in = np.array([op.operator in STREAMED[1:] for op in asked])
    assert (table["provenance"][stands_in] == TRANSFERRED).all()
    assert (table["low_s"] <= table["estimate_s"])[told].all()
    assert (table["estimate_s"] < table["high_s"])[told].all()
    assert 0.2 < table["efficiency"].iloc[0] < 0.95
    assert table["provenance"].iloc[0] == (
        TRANSFERRED if name in ("v100_16gb", "v100_32gb") else "interpolated"
    )


@pytest.mark.parametrize("name", sorted(set(SHIPPED) - set(OLDER)))
def test_a_shipped_card_knows_every_kind(name):
    hardware = load_hardware(name)
    found = load_card(hardware)
    with np.load(FOLDER / f"{name}.npz", allow_pickle=False) as held:
        assert all(held[n].dtype != object for n in held.files)
    table = found.estimate(EVERY_KIND, hot=False)
    assert table["estimate_s"].between(5e-7, 5e-3).all()
    assert (table["low_s"] <= table["estimate_s"]).all()
    assert (table["estimate_s"] <= table["high_s"]).all()
    assert set(table["provenance"]) <= set(WEAKEST_FIRST[1:])
    if name in LENT:
        own = ["float32" in str(op) and name == "a100_pcie_40gb" for op in EVERY_KIND]
        assert set(table["provenance"][[not known for known in own]]) == {TRANSFERRED}
    else:
        assert table["provenance"].iloc[0] == "interpolated"


@pytest.mark.parametrize("name", SHIPPED)
def test_a_data_card_says_what_went_in_and_how_well_it_does(name):
    about = about_card(name)
    assert about["summary"].startswith(f"{name}: ")
    assert about["source"]["package"] == "aiconfigurator-core" and about["source"]["version"]
    assert (name in TABLED) == bool(about["rows"])
    assert name in OLDER or {"matmul", "attention", "moe_mlp", "elementwise"} <= {
        r["kind"] for r in about["held_out"]
    }
    for row in about["held_out"]:
        assert 0 < row["median_error"] < row["roofline_median_error"]
    assert about["command"] == f"python -m calib.cards.build {name}"


EXAMPLES = (
    *EVERY_KIND,
    ops.AllReduce(2**20, 8),
    ops.AllGather(2**20, 8),
    ops.ReduceScatter(2**20, 8),
    ops.AllToAll(2**20, 8),
    ops.LatentAttention(1, 1, 500, 128, 1, 576, v_head_dim=512),
    ops.ChannelNorm(4096, 64),
    ops.Reduction(64, 1280),
    ops.Elementwise(640, 2, broadcast=64, axes=2),
)


def stored_fits():
    """(where, kind, fit) of all that ships: cards, torch's samples, engines."""
    for name in shipped_cards():
        for key, fitted in load_card(load_hardware(name), taught=False).figures.kinds.items():
            yield name, key[1], fitted
    for key, fitted in load_taught(load_hardware("h200")).kinds.items():
        yield "torch", key[1], fitted
    for card in engine_cards():
        for engine in ENGINES:
            figures = load_engine(card, engine)
            for key, fitted in figures.kinds.items() if figures else ():
                yield f"{card}/{engine}", key[1], fitted


def test_every_fit_that_ships_reads_what_todays_physics_makes():
    """A column that nothing makes any more counts as nothing, in silence: its file is to be
    fitted anew."""
    h200, made = load_hardware("h200"), {}
    for op in EXAMPLES:
        made.setdefault(op.operator, set()).update(features(op, h200, False).columns)
    read = {}
    for where, kind, fitted in stored_fits():
        names = set(fitted.prior.costs) - {*COSTS, *OF_WAVES}
        for missing in names - made.get(kind, names):
            read.setdefault((kind, missing), []).append(where)
    assert not read
    assert {"matmul", "attention", "moe_mlp", "elementwise"} <= set(made)


@pytest.mark.parametrize("name", [n for n in SHIPPED if n not in OLDER])
def test_torchs_samples_of_one_card_make_no_other_cards_products_what_they_are_not(name):
    """What is carried is a correction: kernels that only the samples' card has are none of it. Most
    differs an L4, of whose 72 W an H200's samples do not know."""
    hardware = load_hardware(name)
    carried, tables = load_card(hardware), load_card(hardware, taught=False)
    shapes = [
        ops.Matmul(m, n, k) for m in (256, 2048, 8192) for n, k in ((1024, 4096), (8192, 8192))
    ]
    seconds = [
        c.estimate(shapes, "torch", True)["estimate_s"].to_numpy() for c in (carried, tables)
    ]
    np.testing.assert_array_less(np.abs(np.log(seconds[0] / seconds[1])), np.log(1.4))


@pytest.mark.parametrize("name", [n for n in SHIPPED if n not in OLDER])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_weights_that_are_cold_come_no_faster_than_main_memory(name, dtype):
    """Small experts of one token fit an L2 of 96 MB, where replayed kernels found them."""
    hardware = load_hardware(name)
    shapes = [ops.GroupedMatmul(n, 128, 8, 1536, 2048, dtype=dtype) for n in (1, 2, 8)]
    shapes += [ops.Matmul(1, 4096, 4096, dtype=dtype)]
    card = load_card(hardware)
    found = card.estimate(shapes, "torch", [False] * len(shapes))
    least = np.array([op.weight_bytes_read / hardware.bandwidth for op in shapes])
    assert (found["low_s"].to_numpy() >= least * (1 - 1e-9)).all()
