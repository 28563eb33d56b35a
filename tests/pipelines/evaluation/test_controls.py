import numpy as np
import pytest
from sklearn.neighbors import KNeighborsRegressor

from pipelines.evaluation.controls import NEIGHBOURS, fit_coordinates, fit_mean
from pipelines.evaluation.probing import Task


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


def test_coordinates_equal_scikit_learns_neighbours_of_the_best_k(field):
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
