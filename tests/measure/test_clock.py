"""The stop rule over made-up devices."""

import itertools

import numpy as np
import pytest

from calib.measure.clock import StopRule, in_turns, ratios, relative_error, time_repeats


class Device:
    """A clock that only moves when work is done; each call takes the next of ``durations``."""

    def __init__(self, durations):
        self.now, self.durations, self.calls = 0.0, iter(durations), 0

    def run(self):
        self.calls += 1
        self.now += next(self.durations)

    def clock(self):
        return self.now


def test_steady_device_stops_at_the_least_count():
    device = Device(itertools.repeat(1e-3))
    rule = StopRule(spread=0.01, cap_s=1.0, least=5, most=50)
    assert len(time_repeats(device.run, rule, warmups=2, clock=device.clock)) == 5
    assert device.calls == 7


def test_noisy_device_is_repeated_until_the_median_is_sure():
    noise = np.random.default_rng(0).lognormal(0, 0.2, 1000) * 1e-3
    device = Device(noise)
    found = time_repeats(device.run, StopRule(0.015, 10.0, 20, 900), 0, clock=device.clock)
    assert 20 < len(found) < 900
    assert relative_error(found) <= 0.015


def test_count_ends_what_noise_would_not():
    noise = np.random.default_rng(0).lognormal(0, 0.2, 1000) * 1e-3
    device = Device(noise)
    assert len(time_repeats(device.run, StopRule(1e-6, 10.0, 5, 60), 0, clock=device.clock)) == 60


def test_slow_device_is_capped_by_time():
    noise = np.random.default_rng(0).lognormal(0, 0.5, 1000)
    device = Device(noise)
    assert len(time_repeats(device.run, StopRule(0.001, 8.0, 5, 400), 0, clock=device.clock)) < 20


def test_an_outlier_moves_the_median_little():
    device = Device([1e-3] * 4 + [1.0] + [1e-3] * 100)
    found = time_repeats(device.run, StopRule(0.01, 10.0, 9, 50), 0, clock=device.clock)
    assert np.median(found) < 1.01e-3


def test_a_steady_device_is_repeated_for_the_least_time():
    device = Device(itertools.repeat(1e-3))
    rule = StopRule(spread=0.01, cap_s=1.0, least=5, most=500, least_s=0.1)
    found = time_repeats(device.run, rule, warmups=0, clock=device.clock)
    assert len(found) in (100, 101)


def test_what_is_compared_takes_turns_and_meets_the_same_drift():
    """A machine that slows by a tenth each call: medians of one after the other would differ by
    far more than the ratio of a round."""
    order, now = [], itertools.count()
    work = {"a": 1.0, "b": 2.0}
    runs = {name: lambda name=name: order.append(name) or work[name] for name in work}
    seconds = in_turns(runs, lambda run: run() * 1.1 ** next(now), 3)
    assert order == list("ababab")
    assert np.allclose(ratios(seconds["b"], seconds["a"]), 2 * 1.1)


def test_visits_share_what_a_sample_may_take():
    rule = StopRule(0.01, 0.15, 9, 50, 0.03)
    part = rule.split(3)
    assert (part.cap_s, part.least, part.most, part.least_s) == pytest.approx((0.05, 3, 17, 0.01))
    assert part.spread == pytest.approx(0.01 * 3**0.5)  # of three together: as of one
    assert rule.split(1) == rule
