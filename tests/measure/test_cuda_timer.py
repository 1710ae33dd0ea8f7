"""Timing on a simulated card: what was put in comes out, and nothing waits for ever."""

from __future__ import annotations

import itertools
import math
import statistics

import pytest
from simulated_gpu import (
    AFTER_MARK_S,
    EMPTY_S,
    GRAPH_S,
    NODE_GAP_S,
    RATED_HZ,
    STREAM_GAP_S,
    WRITE_BACK_S,
    Kernel,
    SimulatedCard,
    lognormal,
)

from calib.measure.clock import StopRule, in_turns, ratios, relative_error
from calib.measure.cuda.stream import DeviceHung, TorchStream, flush, wait
from calib.measure.cuda.timer import (
    LaunchesNothing,
    Timer,
    graph_copies,
    measure_spin,
    time_operator,
    timed_as_graph,
)

RULE = StopRule(spread=0.005, cap_s=0.5, least=10, most=400, least_s=0.0)
L2 = 50 * 2**20


def time_kernel(card, cold_s, hot_s, cold=True, rule=RULE, nbytes=2**20, **options):
    kernels = itertools.count()

    def make(copies):
        named = (Kernel(f"k{next(kernels)}", cold_s, hot_s, **options) for _ in range(copies))
        return [card.call(kernel) for kernel in named]

    return time_operator(Timer(card), make, cold, rule, nbytes=nbytes, written=0.0, l2_bytes=L2)


def test_spins_of_two_lengths_tell_clock_and_overhead():
    spin = measure_spin(SimulatedCard(clock=lambda t: 1.7e9))
    assert spin.clock_hz == pytest.approx(1.7e9, rel=1e-6)
    assert spin.overhead_s == pytest.approx(AFTER_MARK_S + EMPTY_S, rel=0.01)


def test_the_host_s_share_stays_outside():
    timed = time_kernel(SimulatedCard(), 30e-6, 30e-6, host_s=300e-6)
    assert timed.method == "events"
    assert statistics.median(timed.seconds) == pytest.approx(30e-6, rel=1e-6)
    assert timed.clock_hz == pytest.approx(RATED_HZ, rel=0.01)


def test_without_the_spin_it_would_leak():
    """What this guards against: the same kernel, the spin as good as left out."""
    card = SimulatedCard()
    run = card.call(Kernel("k", 30e-6, 30e-6, host_s=300e-6))
    repeat = Timer(card).repeat(run, cold=False, hold_s=0.0)
    assert not repeat.held and repeat.seconds > 300e-6


def test_a_host_that_is_held_up_is_noticed_and_the_repeat_does_not_count():
    card = SimulatedCard(hiccup_at={6, 9, 15})
    timed = time_kernel(card, 30e-6, 30e-6)
    assert timed.method == "events" and max(timed.seconds) == pytest.approx(30e-6, rel=1e-6)


def test_an_operator_that_waits_for_the_device_is_timed_as_it_is():
    card = SimulatedCard()
    timed = time_kernel(card, 30e-6, 30e-6, waits=True)
    assert (timed.method, timed.clock_hz) == ("unheld", None)
    assert min(timed.seconds) >= 60e-6 and len(timed.seconds) >= 10
    assert card.host < 1.0


def test_a_card_that_does_not_come_back_ends_in_an_error():
    card = SimulatedCard()
    card.call(Kernel("for ever", math.inf, math.inf))()
    with pytest.raises(DeviceHung, match="within 2 s"):
        wait(card, card.mark(), limit_s=2.0)
    assert card.host < 2.1


def test_contenders_take_turns_on_a_card_whose_clock_falls():
    card = SimulatedCard(clock=lambda t: RATED_HZ * (1.0 - 0.5 * min(t / 0.05, 1.0)))
    kernels = {"ours": (40e-6, 5e-6), "slow host": (40e-6, 900e-6), "twice": (80e-6, 5e-6)}
    runs = {n: card.call(Kernel(n, s, s / 2, host_s=h)) for n, (s, h) in kernels.items()}
    seconds = in_turns(runs, Timer(card).clock(cold=True), 30)
    assert card.executed[-6:] == [*kernels, *kernels]
    assert seconds["ours"][-1] == pytest.approx(2 * 40e-6, rel=0.05)  # cold, at half the clock
    for name, factor in (("slow host", 1.0), ("twice", 2.0)):
        found = statistics.median(ratios(seconds[name], seconds["ours"]))
        assert found == pytest.approx(factor, rel=0.03)
    waits = Timer(card).clock(cold=False)(card.call(Kernel("w", 1e-5, 1e-5, waits=True)))
    assert 0 < waits < 1e-3


def test_short_kernels_are_replayed_as_a_graph():
    timed = time_kernel(SimulatedCard(), 3e-6, 2e-6)
    assert timed.method == "graph"
    assert statistics.median(timed.seconds) == pytest.approx(3e-6, rel=0.01)


def test_events_begin_where_graphs_end():
    assert time_kernel(SimulatedCard(), 18e-6, 18e-6).method == "graph"
    assert time_kernel(SimulatedCard(), 22e-6, 22e-6).method == "events"


@pytest.mark.parametrize("cold_s", [3e-6, 50e-6])
def test_cold_and_hot_are_two_measures(cold_s):
    hot_s = cold_s / 2
    cold, hot = (time_kernel(SimulatedCard(), cold_s, hot_s, cold=c) for c in (True, False))
    assert statistics.median(cold.seconds) == pytest.approx(cold_s, rel=0.01)
    assert statistics.median(hot.seconds) == pytest.approx(hot_s, rel=0.01)


@pytest.mark.parametrize("true_s", [12e-6, 18e-6, 22e-6, 40e-6])
@pytest.mark.parametrize("cold", [True, False])
def test_by_events_and_by_graph_agree(true_s, cold):
    card = SimulatedCard()
    timer, kernels = Timer(card), itertools.count()

    def make(copies):
        named = (Kernel(f"k{next(kernels)}", true_s, true_s / 2) for _ in range(copies))
        return [card.call(kernel) for kernel in named]

    run, expected = make(1)[0], true_s if cold else true_s / 2
    by_events = statistics.median(timer.timed(run, cold, RULE).seconds)
    by_graph = statistics.median(timed_as_graph(timer, make, run, 40, cold, RULE).seconds)
    assert by_events == pytest.approx(expected, rel=0.01)
    assert by_graph == pytest.approx(expected, rel=0.01)


def test_a_flush_by_writing_would_leak():
    """What the flush guards against: the same kernel behind an L2 full of dirty lines."""
    card = SimulatedCard()
    run = card.call(Kernel("k", 30e-6, 15e-6))
    dirty, clean = Timer(card), Timer(card)
    card.write(2 * card.l2_bytes)
    leaks = dirty.repeat(run, cold=False, hold_s=1e-3).seconds - dirty.around.events.fixed_s
    assert leaks == pytest.approx(30e-6 + WRITE_BACK_S, rel=0.01)
    card.write(2 * card.l2_bytes)
    found = clean.repeat(run, cold=True, hold_s=1e-3).seconds - clean.around.events.fixed_s
    assert found == pytest.approx(30e-6, rel=0.01)


def test_a_flush_reads_more_than_twice_the_l2_and_writes_nothing():
    stream = TorchStream("cpu", 3000)
    flush(stream)
    lid, version = stream._lid, stream._lid._version
    flush(stream)
    assert stream._lid is lid and lid._version == version
    assert lid.nbytes > 2 * 3000


def test_a_host_too_slow_to_hold_many_links_takes_nothing_off():
    class SlowCard(SimulatedCard):
        def link(self):
            self.host += 1e-3
            super().link()

    timer = Timer(SlowCard())
    assert timer.around.events.fixed_s == 0.0 and not timer.around.profiled


def test_what_lies_around_a_kernel_is_measured():
    around = Timer(SimulatedCard()).around
    assert around.events.fixed_s == pytest.approx(AFTER_MARK_S, rel=0.01)
    assert around.events.gap_s == pytest.approx(STREAM_GAP_S, rel=0.01)
    assert around.graph.fixed_s == pytest.approx(GRAPH_S, rel=0.05)
    assert around.graph.gap_s == pytest.approx(NODE_GAP_S, rel=0.02)
    assert around.profiled


def test_what_launches_nothing_is_found_out_before_its_graph_would_be_empty():
    card = SimulatedCard()

    def capture(runs):
        raise AssertionError("captured")

    timer = Timer(card)
    card.capture = capture
    with pytest.raises(LaunchesNothing):
        time_operator(
            timer, lambda n: [lambda: None] * n, True, RULE, nbytes=1.0, written=0.0, l2_bytes=L2
        )


def test_the_shortest_kernel_is_a_kernel():
    timed = time_kernel(SimulatedCard(), EMPTY_S, EMPTY_S)
    assert statistics.median(timed.seconds) == pytest.approx(EMPTY_S, rel=0.05)


def test_copies_of_a_cold_graph_have_inputs_of_their_own():
    card = SimulatedCard()
    time_kernel(card, 3e-6, 2e-6, nbytes=4 * 2**20)
    copies = graph_copies(3e-6, 4 * 2**20, L2)
    assert len(set(card.executed[-copies:])) == copies


def test_copies_hide_the_launch_and_overflow_the_l2_within_reason():
    assert graph_copies(10e-6, 2**20, L2) == 250  # five times 50 MiB
    assert graph_copies(2e-6, 16 * 2**20, L2) == 200  # 400 us
    assert graph_copies(16e-6, math.inf, L2) == 25
    assert graph_copies(1e-6, 1, L2) == 256
    assert graph_copies(50e-6, math.inf, L2) == 20
    assert graph_copies(200e-6, math.inf, L2) == 10  # 2 ms
    assert graph_copies(4e-3, math.inf, L2) == 5


def test_what_cannot_be_captured_is_timed_by_events():
    card = SimulatedCard()
    refuses = Kernel("k", 5e-6, 5e-6)

    def run():
        if card.captured is not None:
            from calib.measure.cuda.stream import Uncapturable

            raise Uncapturable("no")
        card.call(refuses)()

    timed = time_operator(
        Timer(card), lambda n: [run] * n, True, RULE, nbytes=1.0, written=0.0, l2_bytes=L2
    )
    assert timed.method == "events"
    assert statistics.median(timed.seconds) == pytest.approx(5e-6, rel=1e-3)


def test_noise_is_repeated_away_and_its_median_is_sure():
    rule = StopRule(0.005, 5.0, 10, 4000)
    timed = time_kernel(SimulatedCard(noise=lognormal(0.05, 3)), 50e-6, 50e-6, rule=rule)
    assert 20 < len(timed.seconds) < 4000
    assert relative_error(timed.seconds) <= 0.005
    assert statistics.median(timed.seconds) == pytest.approx(50e-6, rel=0.02)


def test_outliers_do_not_move_the_median():
    turns = itertools.cycle([1.0] * 9 + [20.0])
    timed = time_kernel(SimulatedCard(noise=lambda: next(turns)), 50e-6, 50e-6)
    assert statistics.median(timed.seconds) == pytest.approx(50e-6, rel=1e-6)


def test_the_clock_of_a_falling_card_is_the_median_over_the_repeats():
    ready = SimulatedCard()
    Timer(ready)

    def falling(t):
        return 2e9 - 2e8 * min(max(t - ready.host, 0.0) / 0.02, 1.0)

    rule = StopRule(0.0, 0.05, 10, 10_000)
    timed = time_kernel(SimulatedCard(clock=falling), 50e-6, 50e-6, rule=rule)
    assert timed.clock_hz == pytest.approx(1.8e9, rel=0.02)
    assert timed.seconds[-1] / timed.seconds[0] > 1.05
