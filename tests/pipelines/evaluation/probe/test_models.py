from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.fft import dctn
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.linear_model import Ridge
from sklearn.neighbors import KNeighborsRegressor
from sklearn.preprocessing import StandardScaler
from torch import nn

from pipelines.evaluation.probe import controls
from pipelines.evaluation.probe import models as probing
from pipelines.evaluation.probe.models import (
    MLPSettings,
    RidgeSettings,
    batch_order,
    fit_mlp,
    fit_ridge,
    initial_weights,
    num_batches,
)
from pipelines.evaluation.probe.splits import Task

SMALL = MLPSettings(
    weight_decays=(1e-2,), batch_size=16, max_epochs=30, patience=12, hidden_sizes=(24, 12)
)


def make_tasks(n=90, dim=10, seeds=3, targets=2, seed=0):
    """Tasks with different splits, missing labels and a constant feature."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, dim)) * rng.uniform(0.1, 5, dim) + rng.normal(size=dim)
    X[:, 0] = 3.0
    tasks = []
    for s in range(seeds):
        order = rng.permutation(n)
        fit_rows, validation, test = np.split(order, [n // 2, 3 * n // 4])
        for t in range(targets):
            y = np.tanh(X @ rng.normal(size=dim) / 3) + rng.normal(0, 0.1, n) + 5
            y[rng.random(n) < 0.15 * t] = np.nan
            rows = [r[np.isfinite(y[r])] for r in (fit_rows, validation, test)]
            tasks.append(Task(y, fit_rows, *rows, seed=s))
    return X, tasks


def train_alone(X, task, settings, lr, wd):
    """Reference implementation in plain PyTorch."""
    generator = torch.Generator().manual_seed(task.seed)
    weights = initial_weights(X.shape[1], settings.hidden_sizes, generator)
    layers = []
    for weight, bias in zip(weights[::2], weights[1::2], strict=True):
        linear = nn.Linear(*weight.shape)
        linear.weight.data, linear.bias.data = weight.T.clone(), bias.clone()
        layers += [linear, nn.ReLU()]
    net = nn.Sequential(*layers[:-1])
    x = torch.tensor(StandardScaler().fit(X[task.fit_rows]).transform(X), dtype=torch.float32)
    mean, std = task.y[task.train].mean(), task.y[task.train].std()
    y = torch.tensor((task.y - mean) / std, dtype=torch.float32)
    optimizer = torch.optim.AdamW(net.parameters(), lr=lr, weight_decay=wd)
    best, best_epoch, predictions = np.inf, 0, None
    batches = num_batches(len(task.train), settings.batch_size)
    for epoch in range(1, settings.max_epochs + 1):
        for batch in batch_order(len(task.train), batches, generator):
            rows = task.train[batch.numpy()]
            optimizer.zero_grad()
            nn.functional.mse_loss(net(x[rows])[:, 0], y[rows]).backward()
            optimizer.step()
        with torch.no_grad():
            mse = nn.functional.mse_loss(net(x[task.validation])[:, 0], y[task.validation]).item()
            if mse < best:
                best, best_epoch = mse, epoch
                predictions = net(x[task.test])[:, 0].numpy() * std + mean
        if (epoch - best_epoch) * batches >= settings.patience:
            break
    return predictions, best * std**2, best_epoch


def test_batched_mlp_equals_one_by_one(monkeypatch):
    X, tasks = make_tasks()
    together = fit_mlp(X, tasks, SMALL)
    epochs = set()
    for task, fit in zip(tasks, together, strict=True):
        predictions, mse, epoch = train_alone(X, task, SMALL, 1e-3, 1e-2)
        np.testing.assert_allclose(fit.predictions, predictions, atol=1e-4)
        assert fit.validation_mse == pytest.approx(mse, abs=1e-4)
        assert fit.hyperparameters == {"lr": 1e-3, "wd": 1e-2, "epochs": epoch}
        epochs.add(epoch)
    assert len({len(task.train) for task in tasks}) > 1
    assert len(epochs) > 1, "all stopped at once: early stopping of single models is not tested"
    monkeypatch.setattr(probing, "MAX_MODELS", 2)
    monkeypatch.setattr(probing, "ROWS_AT_ONCE", 20)
    in_chunks = fit_mlp(X, tasks[::-1], SMALL)[::-1]
    for one, other in zip(together, in_chunks, strict=True):
        np.testing.assert_allclose(one.predictions, other.predictions, atol=1e-5)


def test_mlp_chooses_the_grid_point_with_the_lowest_validation_error():
    X, tasks = make_tasks(seeds=1)
    grid = replace(SMALL, learning_rates=(1e-3, 1e-5), weight_decays=(0.0, 9.0), max_epochs=10)
    single = [
        fit_mlp(X, tasks, replace(grid, learning_rates=(lr,), weight_decays=(wd,)))
        for lr in grid.learning_rates
        for wd in grid.weight_decays
    ]
    for fit, *candidates in zip(fit_mlp(X, tasks, grid), *single, strict=True):
        best = min(candidates, key=lambda candidate: candidate.validation_mse)
        assert fit.hyperparameters == best.hyperparameters
        np.testing.assert_allclose(fit.predictions, best.predictions, atol=1e-5)


@settings(max_examples=30)
@given(st.integers(1, 500), st.integers(1, 64), st.integers(0, 1000))
def test_batches_partition_rows_into_nearly_equal_sizes(n, batch_size, seed):
    batches = batch_order(n, num_batches(n, batch_size), torch.Generator().manual_seed(seed))
    assert sorted(torch.cat(batches).tolist()) == list(range(n))
    sizes = [len(batch) for batch in batches]
    assert max(sizes) <= batch_size
    assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize("dim", [6, 200])  # fewer and more features than rows
def test_ridge_equals_scikit_learn(dim):
    X, tasks = make_tasks(dim=dim)
    alphas = (0.1, 1.0, 30.0, 1e3)
    for task, fit in zip(tasks, fit_ridge(X, tasks, RidgeSettings(alphas)), strict=True):
        x = StandardScaler().fit(X[task.fit_rows]).transform(X)
        models = [Ridge(alpha=a).fit(x[task.train], task.y[task.train]) for a in alphas]
        errors = [
            np.square(m.predict(x[task.validation]) - task.y[task.validation]).mean()
            for m in models
        ]
        best = int(np.argmin(errors))
        assert fit.hyperparameters == {"alpha": alphas[best]}
        assert fit.validation_mse == pytest.approx(errors[best], abs=1e-6)
        np.testing.assert_allclose(fit.predictions, models[best].predict(x[task.test]), atol=1e-6)


# ---- controls ----


@pytest.fixture
def field():
    rng = np.random.default_rng(0)
    xy = rng.uniform(0, 10_000, (300, 2))
    y = np.sin(xy[:, 0] / 1500) + rng.normal(0, 0.2, 300)
    order = rng.permutation(300)
    return xy, Task(y, order[:180], order[:180], order[180:240], order[240:])


def best_on_validation(models, xy, task):
    """Key and model with the lowest validation error, and this error."""
    errors = {}
    for key, model in models.items():
        model.fit(xy[task.train], task.y[task.train])
        errors[key] = np.square(model.predict(xy[task.validation]) - task.y[task.validation]).mean()
    best = min(errors, key=lambda key: errors[key])
    return best, models[best], errors[best]


def test_knn_equals_scikit_learn_with_the_best_k(field):
    xy, task = field
    (fit,) = controls.fit_coordinates(xy, [task])
    models = {k: KNeighborsRegressor(k) for k in controls.NEIGHBOURS}
    best, model, mse = best_on_validation(models, xy, task)
    assert fit.hyperparameters == {"k": best}
    assert fit.validation_mse == pytest.approx(mse)
    np.testing.assert_allclose(fit.predictions, model.predict(xy[task.test]))


def test_boosting_equals_scikit_learn_with_the_best_size_and_number(field):
    xy, task = field
    (fit,) = controls.fit_boosting(xy, [task], leaves=(4, 8))
    models = {
        (leaves, trees): HistGradientBoostingRegressor(
            max_leaf_nodes=leaves, max_iter=trees, early_stopping=False
        )
        for leaves in (4, 8)
        for trees in (1, 10, 20)
    }
    best, model, mse = best_on_validation(models, xy, task)
    assert fit.hyperparameters == dict(zip(("leaves", "trees"), best, strict=True))
    assert fit.validation_mse == pytest.approx(mse)
    np.testing.assert_allclose(fit.predictions, model.predict(xy[task.test]))
    np.testing.assert_allclose(fit.validation_predictions, model.predict(xy[task.validation]))


def test_controls_of_two_regions(field):
    xy, task = field
    (fit,) = controls.fit_mean([task])
    np.testing.assert_array_equal(fit.predictions, np.full(60, task.y[task.train].mean()))
    few = Task(task.y, task.fit_rows[:2], task.train[:2], task.validation[:1], task.test)
    (fit,) = controls.fit_boosting(xy, [few])
    np.testing.assert_allclose(fit.predictions, task.y[few.train].mean())
    (fit,) = controls.fit_coordinates(xy, [few])
    assert fit.hyperparameters["k"] in (1, 2)
    assert np.isfinite(fit.predictions).all()


def test_tree_coordinates_include_rotated_axes(field):
    xy, _ = field
    turned = controls.tree_coordinates(xy)[:, 2:] / np.sqrt(2)
    np.testing.assert_allclose(np.linalg.norm(turned, axis=1), np.linalg.norm(xy, axis=1))


def test_basis_equals_the_cosine_transform():
    side = 6
    grid = (np.arange(side) + 0.5) / side
    # the transform samples cell centres of [0, 1]; two corners fix the extent
    points = np.array([[0.0, 0.0], [1.0, 1.0], *((u, v) for u in grid for v in grid)]) * 5000
    basis = controls.coordinate_basis(points + 123, side)[2:]
    assert basis.shape == (side * side, side * side - 1)
    for column, (i, j) in zip(basis.T, list(np.ndindex(side, side))[1:], strict=True):
        spectrum = dctn(column.reshape(side, side), norm="ortho")
        assert np.argmax(np.abs(spectrum)) == i * side + j
        assert np.abs(spectrum).sum() == pytest.approx(np.abs(spectrum).max())
    assert np.isfinite(controls.coordinate_basis(np.zeros((3, 2)))).all()  # a single location
