import numpy as np
import pytest
from scipy.fft import dctn
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.neighbors import KNeighborsRegressor

from pipelines.evaluation.probe.controls import (
    NEIGHBOURS,
    coordinate_basis,
    fit_boosting,
    fit_coordinates,
    fit_mean,
    tree_coordinates,
)
from pipelines.evaluation.probe.tasks import Task


@pytest.fixture
def field():
    rng = np.random.default_rng(0)
    xy = rng.uniform(0, 10_000, (300, 2))
    y = np.sin(xy[:, 0] / 1500) + rng.normal(0, 0.2, 300)
    order = rng.permutation(300)
    return xy, Task(y, order[:180], order[:180], order[180:240], order[240:])


def test_mean_predicts_the_training_mean(field):
    _, task = field
    (fit,) = fit_mean([task])
    np.testing.assert_array_equal(fit.predictions, np.full(60, task.y[task.train].mean()))


def test_coordinates_equal_scikit_learn_knn_with_the_best_k(field):
    xy, task = field
    (fit,) = fit_coordinates(xy, [task])
    errors = {}
    for k in NEIGHBOURS:
        model = KNeighborsRegressor(k).fit(xy[task.train], task.y[task.train])
        errors[k] = np.square(model.predict(xy[task.validation]) - task.y[task.validation]).mean()
    best = min(errors, key=lambda k: errors[k])
    model = KNeighborsRegressor(best).fit(xy[task.train], task.y[task.train])
    assert fit.hyperparameters == {"k": best}
    assert fit.validation_mse == pytest.approx(errors[best])
    np.testing.assert_allclose(fit.predictions, model.predict(xy[task.test]))


def test_coordinates_with_fewer_regions_than_neighbours(field):
    xy, task = field
    few = Task(task.y, task.fit_rows[:2], task.train[:2], task.validation[:1], task.test)
    (fit,) = fit_coordinates(xy, [few])
    assert fit.hyperparameters["k"] in (1, 2)
    assert np.isfinite(fit.predictions).all()


def test_boosting_equals_scikit_learn_with_the_best_size_and_number(field):
    xy, task = field
    (fit,) = fit_boosting(xy, [task], leaves=(4, 8))
    errors = {}
    for leaves in (4, 8):
        for trees in (1, 10, 30, 60, 100, int(fit.hyperparameters["trees"])):
            model = HistGradientBoostingRegressor(
                max_leaf_nodes=leaves, max_iter=trees, early_stopping=False
            ).fit(xy[task.train], task.y[task.train])
            validated = model.predict(xy[task.validation])
            mse = np.square(validated - task.y[task.validation]).mean()
            errors[leaves, trees] = mse, model.predict(xy[task.test]), validated
    best = min(errors, key=lambda key: errors[key][0])
    assert fit.hyperparameters == dict(zip(("leaves", "trees"), best, strict=True))
    assert fit.validation_mse == pytest.approx(errors[best][0])
    np.testing.assert_allclose(fit.predictions, errors[best][1])
    np.testing.assert_allclose(fit.validation_predictions, errors[best][2])


def test_boosting_of_two_regions_predicts_their_mean(field):
    xy, task = field
    few = Task(task.y, task.fit_rows[:2], task.train[:2], task.validation[:1], task.test)
    (fit,) = fit_boosting(xy, [few])
    np.testing.assert_allclose(fit.predictions, task.y[task.train[:2]].mean())


def test_tree_coordinates_include_rotated_axes(field):
    xy, _ = field
    turned = tree_coordinates(xy)[:, 2:] / np.sqrt(2)
    np.testing.assert_allclose(np.linalg.norm(turned, axis=1), np.linalg.norm(xy, axis=1))


def test_basis_equals_the_cosine_transform(field):
    side = 6
    grid = (np.arange(side) + 0.5) / side
    # the transform samples cell centres of [0, 1]; two corners fix the extent
    points = np.array([[0.0, 0.0], [1.0, 1.0], *((u, v) for u in grid for v in grid)]) * 5000
    basis = coordinate_basis(points + 123, side)[2:]
    assert basis.shape == (side * side, side * side - 1)
    for column, (i, j) in zip(basis.T, list(np.ndindex(side, side))[1:], strict=True):
        spectrum = dctn(column.reshape(side, side), norm="ortho")
        assert np.argmax(np.abs(spectrum)) == i * side + j
        assert np.abs(spectrum).sum() == pytest.approx(np.abs(spectrum).max())


def test_basis_of_a_single_location_is_finite():
    assert np.isfinite(coordinate_basis(np.zeros((3, 2)))).all()
