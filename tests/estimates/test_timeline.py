"""The replay: sequences worked out by hand, a plain loop beside it, and laws that always hold."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from calib.estimates.replay.first_time import Extra
from calib.estimates.replay.schedule import Launches, Rates, issue, replay, replay_passes
from calib.estimates.timeline import timeline_table, with_wall
from calib.samples.host_costs import COMPILED, EAGER, GRAPH, REPLAYED, Cost, HostCosts

COSTS = Rates(
    eager_operator=5.0,
    launch=2.0,
    dependent_gap=1.0,
    sync=4.0,
    graph_node=0.5,
    graph_launch=3.0,
    stream_gap=0.0,
    node_gap=0.0,
)

REPLAYED_COSTS = {name: getattr(COSTS, name) for name in REPLAYED}


def launches(host: list[float], device: list[float], sync: list[float] | None = None) -> Launches:
    return Launches(*(np.array(a, dtype=float) for a in (host, device, sync or [0] * len(host))))


def looped(given: Launches) -> tuple[list[float], float]:
    """The recurrence of the module's docstring, one launch at a time."""
    host = device = 0.0
    ends = []
    for issue_s, kernel, sync in zip(given.host_s, given.device_s, given.sync_s, strict=True):
        host += issue_s
        device = max(host, device) + kernel
        ends.append(device)
        if sync:
            host = max(host, device) + sync
    return ends, max(host, device)


SECONDS = st.floats(0, 100)


@st.composite
def sequences(draw: st.DrawFn) -> Launches:
    n = draw(st.integers(1, 30))
    host, device = (draw(hnp.arrays(float, n, elements=SECONDS)) for _ in range(2))
    waits = draw(hnp.arrays(bool, n))
    return Launches(host, device, np.where(waits, 7.0, 0.0))


def test_host_bound_by_hand() -> None:
    """Issued at 5, 10, 15; each kernel of 2 is done before the next arrives."""
    done = replay(launches([5, 5, 5], [2, 2, 2]))
    assert done.enqueued.tolist() == [5, 10, 15]
    assert done.start.tolist() == [5, 10, 15]
    assert done.end.tolist() == [7, 12, 17]
    assert done.wall_s == 17
    assert done.shares().tolist() == [7, 5, 5]


def test_device_bound_by_hand() -> None:
    """The second kernel waits for the first, the third for the second."""
    done = replay(launches([1, 1, 1], [10, 2, 3]))
    assert done.start.tolist() == [1, 11, 13]
    assert done.end.tolist() == [11, 13, 16]


def test_a_sync_drains_the_queue_by_hand() -> None:
    """Done at 11, then 4 to go on: the second is issued at 16."""
    done = replay(launches([1, 1, 1], [10, 2, 3], [4, 0, 0]))
    assert done.enqueued.tolist() == [1, 16, 17]
    assert done.end.tolist() == [11, 18, 21]
    ends_with_sync = replay(launches([1], [10], [4]))
    assert ends_with_sync.wall_s == 15
    assert ends_with_sync.shares().tolist() == [15]


@given(sequences())
def test_is_the_recurrence(given: Launches) -> None:
    ends, wall = looped(given)
    done = replay(given)
    assert done.end == pytest.approx(ends)
    assert done.wall_s == pytest.approx(wall)
    assert done.shares().sum() == pytest.approx(wall)
    assert (done.shares() >= given.device_s - 1e-9).all()


@given(sequences(), st.integers(1, 6))
def test_passes_are_a_long_sequence(given: Launches, repeat: int) -> None:
    whole = Launches(*(np.tile(getattr(given, f.name), repeat) for f in fields(given)))
    shares = replay_passes(given, repeat)
    assert shares.sum() == pytest.approx(looped(whole)[1])
    assert (shares >= -1e-9).all()


@given(sequences(), st.integers(0, 29), st.sampled_from(["host_s", "device_s", "sync_s"]))
def test_laws(given: Launches, at: int, what: str) -> None:
    wall = replay(given).wall_s
    assert wall >= max(given.host_s.sum(), given.device_s.sum()) - 1e-9
    assert wall <= given.host_s.sum() + given.device_s.sum() + given.sync_s.sum() + 1e-9
    values = getattr(given, what).copy()
    values[at % len(values)] += 3.0
    assert replay(replace(given, **{what: values})).wall_s >= wall - 1e-9


def kernels(*seconds: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return np.array(seconds), np.zeros(len(seconds), bool), np.zeros(len(seconds), bool)


def test_a_single_kernel_takes_its_time_after_it_is_issued() -> None:
    assert replay(issue(*kernels(100.0), EAGER, COSTS)).wall_s == 5 + 100
    assert replay(issue(*kernels(100.0), GRAPH, COSTS)).wall_s == 3 + 100


def test_tiny_kernels_are_as_far_apart_as_kernels_can_follow() -> None:
    assert replay(issue(*kernels(*[0.0] * 10), GRAPH, COSTS)).wall_s == pytest.approx(3 + 10 * 0.5)
    assert replay(issue(*kernels(*[0.0] * 10), EAGER, COSTS)).wall_s == pytest.approx(50 + 1)


def test_one_table_of_busy_times_gives_the_sum_the_graph_and_the_stream() -> None:
    """Ten kernels busy for 20; 0.7 lie between two in a stream and 0.1 in a graph."""
    gaps = replace(COSTS, stream_gap=0.7, node_gap=0.1)
    busy = kernels(*[20.0] * 10)
    assert replay(issue(*busy, GRAPH, gaps)).wall_s == pytest.approx(3 + 10 * 20.1)
    assert replay(issue(*busy, EAGER, gaps)).wall_s == pytest.approx(5 + 10 * 20.7)
    # A composite's kernels share its time, and each has a gap behind it.
    rows = table(estimate_s=[200.0], launches=[10])
    walled = with_wall(rows, {"decode": 1}, costs(node_gap=0.1, stream_gap=0.7), EAGER)
    assert walled["graph_s"].sum() == pytest.approx(3 + 10 * 20.1)
    assert walled["wall_s"].sum() == pytest.approx(5 + 10 * 20.7)
    assert walled["idle_s"].sum() == pytest.approx(5 + 10 * 0.7)


def test_a_host_that_is_slower_than_kernels_hides_their_gaps() -> None:
    gaps = replace(COSTS, stream_gap=0.7)
    assert replay(issue(*kernels(*[2.0] * 10), EAGER, gaps)).wall_s == pytest.approx(50 + 2.7)


def test_a_graph_ends_at_a_sync() -> None:
    seconds, sync, generated = kernels(10.0, 10.0, 10.0)
    sync[0] = True
    assert replay(issue(seconds, sync, generated, GRAPH, COSTS)).wall_s == (3 + 10 + 4) + (3 + 20)


@given(hnp.arrays(float, st.integers(1, 30), elements=SECONDS), st.data())
def test_neither_compiled_nor_graph_takes_longer_than_eager(
    seconds: np.ndarray, data: st.DataObject
) -> None:
    sync, generated = (data.draw(hnp.arrays(bool, len(seconds))) for _ in range(2))
    wall = {
        how: replay(issue(seconds, sync, generated, how, COSTS)).wall_s
        for how in (EAGER, COMPILED, GRAPH)
    }
    assert max(wall[GRAPH], wall[COMPILED]) <= wall[EAGER] + 1e-9


def table(**columns: list) -> pd.DataFrame:
    n = len(columns["estimate_s"])
    plain = {"phase": ["decode"] * n, "kind": ["matmul"] * n, "count": [1] * n}
    plain |= {"shape": [f"m={i}" for i in range(n)], "dtype": ["bfloat16"] * n}
    plain |= {"launches": [1] * n, "sync": [False] * n, "bound": ["memory"] * n, "unknown": False}
    plain |= {"provenance": ["interpolated"] * n}
    made = pd.DataFrame({**plain, **columns})
    ends = {"low_s": made["estimate_s"], "high_s": made["estimate_s"]}
    return made.assign(**{k: v for k, v in ends.items() if k not in made}, estimate_unseen_s=0.0)


def costs(**more: float) -> HostCosts:
    """Estimates as in COSTS and ``more``, ends at half and twice of them."""
    known = {**REPLAYED_COSTS, **more}
    return HostCosts(**{n: Cost(v, v / 2, v * 2, "measured", "a test") for n, v in known.items()})


def test_rows_add_up_to_the_wall_time() -> None:
    """Two passes of 4 launches, 5 each to issue: 2 * 4 * 5, then the last kernel's 1."""
    rows = table(estimate_s=[2.0, 6.0], count=[1, 3])
    walled = with_wall(rows, {"decode": 2}, costs(), EAGER)
    assert walled["wall_s"].sum() == pytest.approx(40 + 1)
    assert walled["wall_low_s"].sum() == pytest.approx(20 + 1)
    assert walled["wall_high_s"].sum() == pytest.approx(80 + 2)
    assert walled["graph_s"].sum() == pytest.approx(3 + 8)
    assert walled["idle_s"].sum() == pytest.approx(41 - 8)


def test_an_end_that_is_not_known() -> None:
    """A kernel without an upper end leaves the phase without one where it is most of the time."""
    rows = table(estimate_s=[100.0, 1.0], high_s=[110.0, np.nan])
    assert with_wall(rows, {"decode": 1}, costs(), EAGER)["wall_high_s"].sum() == 10 + 110 + 2
    rows = table(estimate_s=[100.0, 60.0], high_s=[110.0, np.nan])
    assert with_wall(rows, {"decode": 1}, costs(), EAGER)["wall_high_s"].isna().any()


def test_without_costs_wall_time_is_the_kernels() -> None:
    rows = table(estimate_s=[2.0, 6.0])
    walled = with_wall(rows, {"decode": 3}, None, EAGER)
    assert walled["wall_s"].tolist() == [2.0, 6.0]
    assert walled["idle_s"].sum() == 0
    assert walled["graph_s"].isna().all()


def test_a_cpu_keeps_its_interval_where_little_is_not_known() -> None:
    """A kernel without an upper end that is under a twentieth of its phase; and one that is not."""
    rows = table(estimate_s=[100.0, 1.0], high_s=[110.0, np.nan])
    assert with_wall(rows, {"decode": 1}, None, EAGER)["wall_high_s"].sum() == 110 + 1
    rows = table(estimate_s=[100.0, 60.0], high_s=[110.0, np.nan])
    assert with_wall(rows, {"decode": 1}, None, EAGER)["wall_high_s"].isna().any()


@pytest.mark.parametrize(("kernel", "limit"), [(4.0, "host"), (6.0, "memory")])
def test_the_host_bounds_what_faster_kernels_would_not_make_faster(
    kernel: float, limit: str
) -> None:
    """Issuing takes 5 a launch. Kernels of 4 leave the device idle a fifth of the time, and still
    nothing is gained by faster ones."""
    walled = with_wall(table(estimate_s=[kernel] * 8), {"decode": 1}, costs(), EAGER)
    assert walled["issue_s"].sum() == pytest.approx(8 * 5 + 1)
    work = dict.fromkeys(("flops", "bytes", "roofline_s"), 0.0)
    found = timeline_table(walled.assign(**work, provenance="measured"), {"decode": 1})
    assert found["limited_by"].tolist() == [limit]


def test_a_decode_step_has_a_wall_over_a_new_length_besides() -> None:
    """Two passes of four launches, which the host issues in 5 each; no other phase grows."""
    walled = with_wall(table(estimate_s=[1.0] * 4), {"decode": 2}, costs(), EAGER)
    work = dict.fromkeys(("flops", "bytes", "roofline_s"), 0.0)
    rows = walled.assign(**work, provenance="measured")
    (found,) = timeline_table(rows, {"decode": 2}, Extra(5.0, 4.0, 7.0)).to_dict("records")
    assert found["new_length_s"] == pytest.approx(found["wall_s"] + 5)
    assert found["new_length_low_s"] == pytest.approx(found["low_s"] + 4)
    assert found["new_length_high_s"] == pytest.approx(found["high_s"] + 7)
    other = timeline_table(rows.assign(phase="prefill"), {"prefill": 2}, Extra(5.0, 4.0, 7.0))
    assert other["new_length_s"].isna().all()
    assert timeline_table(rows, {"decode": 2}, Extra())["new_length_s"].isna().all()


def test_an_operator_is_issued_at_the_cost_of_its_class() -> None:
    """A product at 9, a copy at the eager operator's 5, a norm of two pointwise launches at 3."""
    some = {
        "product": Cost(9.0, 9.0, 9.0, "measured", ""),
        "pointwise": Cost(3.0, 3.0, 3.0, "", ""),
    }
    rows = table(estimate_s=[0.0] * 3, kind=["matmul", "copy", "norm"], launches=[1, 1, 2])
    walled = with_wall(rows, {"decode": 1}, replace(costs(), classes=some), EAGER)
    assert walled["issue_s"].sum() == pytest.approx(9 + 5 + 2 * 3 + 1)
    assert walled["wall_s"].tolist() == pytest.approx([10, 5, 6])
    graph = with_wall(rows, {"decode": 1}, replace(costs(), classes=some), GRAPH)
    assert graph["wall_s"].sum() == pytest.approx(3 + 4 * 0.5)
