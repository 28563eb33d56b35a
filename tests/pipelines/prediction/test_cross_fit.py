from itertools import product

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.prediction.cross_fit import cross_fit, make_folds
from pipelines.prediction.labels import Indicator
from pipelines.prediction.models import Ridge
from pipelines.prediction.place import make_place
from tests.wards import make_wards, touching_pairs

N, DIM = 90, 6


def nothing_near(rows, others):
    return np.zeros(len(rows), dtype=bool)


def neighbours_near(rows, others):
    """Rows with adjacent numbers are near."""
    return np.isin(rows, np.concatenate([others - 1, others + 1]))


def problem(seed: int = 0):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(N, DIM))
    Y = np.column_stack([X[:, 0] + rng.normal(size=N), rng.normal(size=N)])
    return X, Y, np.arange(N) // 6


def test_folds_are_balanced_and_hold_complete_districts():
    _, _, districts = problem()
    usable = np.arange(N) % 7 != 0
    folds = make_folds(usable, districts, nothing_near)
    assert (folds.number[~usable] == -1).all()
    for district in np.unique(districts):
        assert len(np.unique(folds.number[(districts == district) & usable])) == 1
    sizes = np.bincount(folds.number[usable])
    assert len(sizes) == 5
    assert sizes.max() - sizes.min() <= 6


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 10_000), district=st.integers(0, 14), near=st.booleans())
def test_labels_of_a_district_do_not_change_its_predictions(seed, district, near):
    X, Y, districts = problem(seed)
    folds = make_folds(np.ones(N, bool), districts, neighbours_near if near else nothing_near)
    before = cross_fit(Ridge(X), Y, folds)[0]
    fold = folds.number[districts == district][0]
    moved = Y.copy()
    moved[districts == district] += 100.0
    after = cross_fit(Ridge(X), moved, folds)[0]
    own = folds.number == fold
    np.testing.assert_array_equal(before[own], after[own])
    assert np.isfinite(before).all()
    assert not np.allclose(before[~own], after[~own])


def test_does_not_train_on_regions_near_a_district():
    X, Y, districts = problem()
    folds = make_folds(np.ones(N, bool), districts, neighbours_near)
    calls = []

    def spy(labels, train, out):
        calls.append((set(train.tolist()), set(out.tolist())))
        return Ridge(X)(labels, train, out)

    cross_fit(spy, Y, folds)
    for train, out in calls:
        assert not train & ({k - 1 for k in out} | {k + 1 for k in out} | out)
    assert len(calls) == 10 + 5  # each pair of folds, then each fold


def test_selects_hyperparameters_within_the_other_folds():
    """Compare with loops: every alpha on every other fold, by models trained on neither."""
    X, Y, districts = problem(3)
    folds = make_folds(np.ones(N, bool), districts, nothing_near)
    alphas = (0.1, 30.0, 3000.0)
    found = cross_fit(Ridge(X, alphas), Y, folds)[0]
    for fold, k in product(range(5), range(2)):
        errors = []
        for alpha in alphas:
            error = 0.0
            for other in set(range(5)) - {fold}:
                train = folds.rows(*(set(range(5)) - {fold, other}))
                rows = folds.rows(other)
                fitted = Ridge(X, (alpha,))(Y[:, [k]], train, rows)[0, :, 0]
                error += float(np.square(fitted - Y[rows, k]).sum())
            errors.append(error)
        alpha = alphas[int(np.argmin(errors))]
        test = folds.rows(fold)
        expected = Ridge(X, (alpha,))(Y[:, [k]], folds.training(fold), test)[0, :, 0]
        np.testing.assert_allclose(found[test, k], expected, rtol=1e-9)


def test_skips_folds_with_too_few_training_regions_and_limits_folds_to_districts():
    X, Y, _ = problem()
    usable = np.arange(N) < 12
    folds = make_folds(usable, np.arange(N) // 4, nothing_near)
    held_out = cross_fit(Ridge(X), Y, folds)[0]
    assert np.isfinite(held_out[:12]).all()
    folds = make_folds(usable, np.arange(N) // 6, nothing_near)
    assert np.isnan(cross_fit(Ridge(X), Y, folds)[0]).all()
    for districts in (1, 2):
        folds = make_folds(np.ones(N, bool), np.arange(N) % districts, nothing_near)
        assert len(folds.names) == districts


def test_folds_of_uneven_polygons_do_not_touch_their_training_regions():
    wards = make_wards(0)
    y = np.arange(len(wards), dtype=float)
    place = make_place(wards, [Indicator("t", "u", "identity", y)])
    folds = make_folds(np.ones(len(wards), bool), place.groups, place.near)
    assert len(folds.names) >= 3
    for name in folds.names:
        part = np.full(len(wards), None)
        part[folds.training(name)], part[folds.rows(name)] = "train", "test"
        assert touching_pairs(wards, part, "train", "test") == 0
