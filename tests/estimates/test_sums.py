"""The ends of a sum lie between those of independent and of equal errors."""

import numpy as np
import pandas as pd
import pytest

from calib.estimates.replay.layout import narrowed
from calib.estimates.sums import CARRIED, SAMPLED, Ends, distance_of_sum, most_bound
from calib.fit.calibration import INTERPOLATED, MEASURED, ROOFLINE, TRANSFERRED

SHAPES, KINDS = np.array([0, 0, 1, 2]), np.array([0, 0, 0, 1])
D = np.array([1.0, 2.0, 4.0, 5.0])


def test_by_hand():
    def found(within, between):
        return distance_of_sum(D, SHAPES, KINDS, (within, between))

    assert found(1, 1) == pytest.approx(12)
    assert found(0, 0) == pytest.approx(np.sqrt(3**2 + 4**2 + 5**2))
    assert found(1, 0) == pytest.approx(np.sqrt(7**2 + 5**2))
    assert found(1, 0.5) == pytest.approx(np.sqrt(0.5 * 12**2 + 0.5 * (49 + 25)))
    assert distance_of_sum(D[:0], SHAPES[:0], KINDS[:0], (1, 1)) == 0


def test_what_was_carried_errs_more_as_one():
    """Two shapes of a kind of 3 and 4, correlation 1 and 0: sqrt(3)^2 is common, by hand."""
    shapes, kinds, d = np.array([0, 1, 2]), np.array([0, 0, 1]), np.array([3.0, 4.0, 5.0])
    whole = (1.0 * 3 + 0.5 * 4) ** 2 + 0.75 * 4**2
    mixed = distance_of_sum(d, shapes, kinds, np.array([[1.0, 0.25, 1.0], [0.0, 0.0, 0.0]]))
    assert mixed == pytest.approx(np.sqrt(whole + 25))
    same = np.array([[0.5] * 3, [0.1] * 3])
    assert distance_of_sum(d, shapes, kinds, same) == pytest.approx(
        distance_of_sum(d, shapes, kinds, (0.5, 0.1))
    )
    assert distance_of_sum(d, shapes, kinds, np.zeros((2, 3))) == pytest.approx(np.sqrt(50))


@pytest.mark.parametrize(
    ("how", "known"),
    [(ROOFLINE, CARRIED), (TRANSFERRED, CARRIED), (INTERPOLATED, SAMPLED), (MEASURED, SAMPLED)],
)
def test_how_a_row_is_known_says_how_errors_hang_together(how, known):
    table = pd.DataFrame({"estimate_s": [4.0] * 3, "low_s": [3.0] * 3, "high_s": [6.0] * 3})
    table = table.assign(kind=["a", "a", "b"], shape=["m", "n", "m"], dtype="x", provenance=how)
    assert Ends(table).distances(slice(None)) == pytest.approx(
        Ends(table).distances(slice(None), known)
    )
    assert SAMPLED < CARRIED


def rows(high=(3.0, 3.0, 9.0)):
    seconds = pd.DataFrame({"estimate_s": [2.0, 2.0, 8.0], "low_s": [1.0, 1.0, 6.0]})
    what = {"kind": ["a", "a", "b"], "shape": ["m", "m", "m"], "dtype": "bfloat16"}
    return seconds.assign(high_s=list(high), provenance=INTERPOLATED, **what)


def test_ends_go_apart_and_one_row_keeps_its_own():
    ends = Ends(rows())
    assert ends.distances([0]) == (1.0, 1.0)
    below, above = ends.distances(slice(None))
    what = (np.array([1.0, 1.0, 2.0]), np.array([0, 0, 1]), np.array([0, 0, 1]))
    assert below == pytest.approx(distance_of_sum(*what, (1, SAMPLED[1])))
    assert above < 3 and below < 4 and 0 <= SAMPLED[1] <= SAMPLED[0] <= 1


def test_an_end_that_is_not_known_leaves_the_sum_without_one():
    below, above = Ends(rows(high=(3.0, 3.0, np.nan))).distances(slice(None))
    assert below > 0 and np.isnan(above)


def test_narrowed_rows_add_up_to_the_ends_of_their_sum():
    table = rows()
    below, above = Ends(table).distances(slice(None))
    found = narrowed(table)
    assert found["low_s"].sum() == pytest.approx(table["estimate_s"].sum() - below)
    assert found["high_s"].sum() == pytest.approx(table["estimate_s"].sum() + above)
    exact = table.assign(low_s=table["estimate_s"], high_s=table["estimate_s"])
    pd.testing.assert_frame_equal(narrowed(exact), exact)


def test_a_whole_is_bound_by_what_bounds_most_of_its_parts():
    """SAM's 3 s and CLIP's 2 s compute, decode's 4 s wait: no part is bound by bandwidth."""
    parts = [("compute", 3.0), ("compute", 2.0), ("host", 4.0), (None, 9.0)]
    rows = [{"limited_by": limit, "wall_s": seconds} for limit, seconds in parts]
    assert most_bound(rows) == "compute"
    assert most_bound(rows[2:]) == "host"
    assert most_bound(rows[3:]) is None
