"""Coverage by decile and the area of applicability, by hand."""

import numpy as np

from pipelines.evaluation.probe.reach import covered_by_decile, unlike


def test_coverage_by_decile_by_hand():
    labels = np.r_[np.arange(20.0), np.nan]
    has_image = np.r_[np.arange(20) >= 3, True]
    assert covered_by_decile(labels, has_image) == (0.0, 0.5, *[1.0] * 8)


def test_equal_labels_share_a_decile():
    labels = np.r_[np.zeros(5), 1.0, 2, 3, 4, 5]
    covered = covered_by_decile(labels, np.r_[True, np.zeros(9, bool)])
    assert covered[2] == 0.2  # the mean rank of five zeros among ten
    assert np.isnan([*covered[:2], *covered[3:5]]).all()
    assert covered[5:] == (0.0,) * 5


def test_a_row_far_from_all_labelled_ones_is_unlike_them():
    rng = np.random.default_rng(3)
    X = np.r_[rng.normal(size=(100, 4)), rng.normal(size=(3, 4)), [[30.0] * 4]]
    folds = np.r_[np.arange(100) % 5, [-1] * 4]
    assert unlike(X, folds, np.arange(100, 104)).tolist() == [False, False, False, True]
