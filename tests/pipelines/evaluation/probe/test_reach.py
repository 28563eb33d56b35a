"""Coverage by decile and area of applicability."""

import numpy as np

from pipelines.evaluation.probe.reach import covered_by_decile, unlike


def test_coverage_by_decile_equals_a_manual_calculation():
    labels = np.r_[np.arange(20.0), np.nan]
    has_image = np.r_[np.arange(20) >= 3, True]
    assert covered_by_decile(labels, has_image) == (0.0, 0.5, *[1.0] * 8)


def test_equal_labels_share_a_decile():
    labels = np.r_[np.zeros(5), 1.0, 2, 3, 4, 5]
    covered = covered_by_decile(labels, np.r_[True, np.zeros(9, bool)])
    assert covered[2] == 0.2  # mean rank of five zeros among ten
    assert np.isnan([*covered[:2], *covered[3:5]]).all()
    assert covered[5:] == (0.0,) * 5


def test_outlier_is_outside_the_area_of_applicability():
    rng = np.random.default_rng(3)
    X = np.r_[rng.normal(size=(100, 4)), rng.normal(size=(3, 4)), [[30.0] * 4]]
    folds = np.r_[np.arange(100) % 5, [-1] * 4]
    assert unlike(X, folds, np.arange(100, 104)).tolist() == [False, False, False, True]
