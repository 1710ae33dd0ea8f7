"""What a transfer learns from: like cards more, each tested as the target is foretold."""

import numpy as np

from calib.fit.likeness import distance, likeness, plan_over_devices
from calib.fit.plan import CONFIDENCE, conformal, over_devices
from calib.hardware.datasheet import load_hardware

H100, H200, A100, L40S, RTX = (
    load_hardware(name) for name in ("h100", "h200", "a100", "l40s", "rtx_pro_6000")
)


def test_cards_of_one_generation_are_the_likest():
    assert np.argmax(likeness(H200, [A100, RTX, H100], "bfloat16")) == 2
    assert np.argmax(likeness(L40S, [A100, RTX, H100], "bfloat16")) == 1
    np.testing.assert_allclose(likeness(H200, [A100, RTX, H100], "bfloat16").sum(), 1.0)


def test_cards_of_one_instruction_are_likelier_than_their_figures_say():
    """An A100's figures are nearer to an H100's, its kernels to those of an RTX PRO 6000."""
    assert distance(A100, H100, "bfloat16") < distance(A100, RTX, "bfloat16")
    assert np.argmax(likeness(A100, [H100, H200, RTX], "bfloat16")) == 2


def test_a_device_that_is_no_gpu_tells_as_much_as_any_other():
    even = likeness(load_hardware("cpu"), [H100, RTX], "bfloat16")
    np.testing.assert_allclose(even, 0.5)


def test_no_device_is_foretold_from_its_own_samples():
    counts = [5000, 4000, 3000]
    plan = plan_over_devices(H200, [H100, A100, RTX], counts, "bfloat16")
    device = np.repeat([0, 1, 2], counts)
    for number, (asked, learned) in enumerate(plan.held_out):
        assert set(device[asked]) == {number} and number not in set(device[learned])
    learned_of = np.bincount(device[plan.learned], minlength=3)
    assert learned_of[0] > learned_of[2] > 0


def test_a_compacted_plan_names_the_same_samples():
    plan = plan_over_devices(H200, [H100, A100, RTX], [9000, 9000, 9000], "bfloat16")
    used, compact = plan.compacted()
    np.testing.assert_array_equal(used[compact.learned], plan.learned)
    for (asked, learned), (small, few) in zip(plan.held_out, compact.held_out, strict=True):
        np.testing.assert_array_equal(used[small], asked)
        np.testing.assert_array_equal(used[few], learned)


def test_unlike_devices_widen_the_interval_beyond_the_pooled_quantile():
    rng = np.random.default_rng(0)
    devices = np.repeat(np.arange(4), 1000)
    alike = np.abs(rng.normal(size=4000))
    unlike = alike * np.repeat([0.5, 0.8, 1.2, 2.0], 1000)
    assert over_devices(alike, devices) < 1.2 * conformal(alike)
    assert over_devices(unlike, devices) > 1.2 * conformal(unlike)
    assert np.mean(unlike <= over_devices(unlike, devices)) >= CONFIDENCE
