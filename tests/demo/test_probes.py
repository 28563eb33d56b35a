"""Predictions of the page: that they are out of sample, and what their intervals hold."""

import geopandas as gpd
import numpy as np
import pytest
import shapely
from sklearn.linear_model import Ridge

from dataset_builders.splits import Neighbourhood
from demo.probes import ALPHAS, Probes, make_folds
from pipelines.evaluation.cities import City, Target
from tests.wards import make_wards, touching_pairs

SIDE = 12


def grid_city(y: np.ndarray, folds: bool = True) -> City:
    """A grid of 1 km cells; folds are columns of 3 x 4 blocks."""
    rows, columns = np.divmod(np.arange(SIDE * SIDE), SIDE)
    lon, lat = 10 + columns * 0.009, rows * 0.009
    frame = gpd.GeoDataFrame(
        {
            "region_id": [f"r{i:03d}" for i in range(len(lon))],
            "lon": lon,
            "lat": lat,
            "area_m2": 1e6,
            "fold_block": (columns // 4 + rows // 4) % 3 if folds else np.nan,
        },
        geometry=shapely.points(lon, lat),
        crs="EPSG:4326",
    )
    target = Target("population", "people", "ln1p", y)
    return City("town", "d", True, frame, [target], block_m=4000.0)


@pytest.fixture
def data():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(SIDE * SIDE, 6))
    return X, X @ rng.normal(size=6) + 0.3 * rng.normal(size=len(X)) + 5


def test_no_fold_is_fitted_on_its_own_regions_or_on_their_neighbours(data):
    X, y = data
    probes = Probes(grid_city(y), X)
    assert probes.protocol == "block"
    tested = np.concatenate([fold.test for fold in probes.folds])
    assert sorted(tested) == list(range(len(X)))
    rows, columns = np.divmod(np.arange(len(X)), SIDE)
    for fold in probes.folds:
        seen = np.concatenate([fold.fit, fold.validation])
        for row in fold.test:
            near = (abs(rows[seen] - rows[row]) <= 1) & (abs(columns[seen] - columns[row]) <= 1)
            assert not near.any()


def test_no_fold_of_uneven_polygons_is_fitted_on_what_touches_it():
    wards = make_wards(0)
    quarter = np.digitize(wards["lon"], np.quantile(wards["lon"], [0.25, 0.5, 0.75]))
    frame = wards.assign(fold_block=quarter)
    y = np.arange(len(frame), dtype=float)
    X = np.random.default_rng(0).normal(size=(len(frame), 3))
    probes = Probes(City("town", "d", True, frame, [Target("t", "u", "identity", y)]), X)
    assert probes.protocol == "block"
    for fold in probes.folds:
        part = np.full(len(frame), None)
        for name in ("fit", "validation", "test"):
            part[getattr(fold, name)] = name
        for one, other in (("fit", "test"), ("fit", "validation"), ("validation", "test")):
            assert touching_pairs(frame, part, one, other) == 0


def test_a_label_has_no_effect_on_its_own_prediction(data):
    X, y = data
    before = Probes(grid_city(y), X).held_out.values[17, 0]
    changed = y.copy()
    changed[17] += 100
    after = Probes(grid_city(changed), X).held_out.values
    assert after[17, 0] == before
    assert (after[:, 0] != Probes(grid_city(y), X).held_out.values[:, 0]).any()


def test_predictions_are_those_of_scikit_learn(data):
    X, y = data
    probes = Probes(grid_city(y), X)
    fold = probes.folds[0]
    mean, scale = X[fold.fit].mean(0), X[fold.fit].std(0)
    Z = (X - mean) / scale
    fits = [Ridge(alpha=alpha).fit(Z[fold.fit], y[fold.fit]) for alpha in ALPHAS]
    errors = [((fit.predict(Z[fold.validation]) - y[fold.validation]) ** 2).mean() for fit in fits]
    best = fits[int(np.argmin(errors))]
    np.testing.assert_allclose(
        probes.held_out.values[fold.test, 0], best.predict(Z[fold.test]), rtol=1e-6
    )


def test_intervals_hold_about_what_they_aim_at(data):
    X, y = data
    held_out = Probes(grid_city(y), X).held_out
    assert 0.85 <= held_out.coverage[0] <= 1
    assert held_out.r2[0] > 0.9
    widths = held_out.half_widths[:, 0]
    assert np.isfinite(widths).all()
    assert len(np.unique(widths)) <= 3  # one a fold, from the errors of the others


def test_without_stored_districts_folds_are_random_and_say_so(data):
    X, y = data
    probes = Probes(grid_city(y, folds=False), X)
    assert probes.held_out.protocol == "random"
    assert len(probes.folds) == 5
    assert np.isfinite(probes.held_out.values).all()


def test_a_vector_from_outside_is_predicted_as_the_same_region_would_be(data):
    X, y = data
    probes = Probes(grid_city(y), X)
    values, widths = probes.predict(X[40])
    alone = [probes._fit(X, fold, np.array([40]))[0, 0] for fold in probes.folds]
    assert values[0] == pytest.approx(np.mean(alone))
    assert widths[0] > 0


def test_regions_without_a_vector_or_label_have_none_and_harm_none(data):
    X, y = data
    X[5], y[7] = np.nan, np.nan
    held_out = Probes(grid_city(y), X).held_out
    assert np.isnan(held_out.values[5, 0])
    assert np.isfinite(held_out.values[7, 0])
    assert np.isfinite(held_out.r2[0])


def test_too_few_labels_give_no_prediction(data):
    X, y = data
    few = np.full(len(y), np.nan)
    few[:5] = y[:5]
    held_out = Probes(grid_city(few), X).held_out
    assert np.isnan(held_out.values).all()
    assert np.isnan(Probes(grid_city(few), X).predict(X[0])[0]).all()


def test_folds_too_small_to_fit_are_left_out():
    numbers = np.array([0, 1, 2])
    known = np.ones(3, bool)
    nowhere = Neighbourhood(np.full(3, None), 1.0)
    assert make_folds(numbers, known, nowhere, "random") == []
