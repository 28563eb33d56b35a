import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import Ridge
from sklearn.neural_network import MLPRegressor
from sklearn.preprocessing import StandardScaler
from torch import nn

from pipelines.evaluation.probe import models as probing
from pipelines.evaluation.probe.controls import fit_boosting, fit_coordinates, fit_mean
from pipelines.evaluation.probe.models import (
    MLPSettings,
    RidgeSettings,
    batch_order,
    fit_mlp,
    fit_ridge,
    initial_weights,
    num_batches,
)
from pipelines.evaluation.probe.tasks import Task

SMALL = MLPSettings(
    weight_decays=(1e-2,), batch_size=16, max_epochs=30, patience=12, hidden_sizes=(24, 12)
)

FITS = {
    "mean": lambda X, tasks: fit_mean(tasks),
    "knn": lambda X, tasks: fit_coordinates(X[:, 1:3], tasks),
    "gbm": fit_boosting,
    "ridge": fit_ridge,
    "mlp": lambda X, tasks: fit_mlp(X, tasks, SMALL),
}


def make_tasks(n=90, dim=10, seeds=3, targets=2, seed=0):
    """Tasks with different splits, missing labels and a constant feature."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, dim)) * rng.uniform(0.1, 5, dim) + rng.normal(size=dim)
    X[:, 0] = 3.0
    tasks = []
    for s in range(seeds):
        order = rng.permutation(n)
        fit_rows, validation, test = (
            order[: n // 2],
            order[n // 2 : 3 * n // 4],
            order[3 * n // 4 :],
        )
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


def test_batched_mlp_equals_one_by_one():
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


def test_result_of_a_task_does_not_depend_on_other_tasks(monkeypatch):
    X, tasks = make_tasks(targets=3)
    together = fit_mlp(X, tasks, SMALL)
    monkeypatch.setattr(probing, "MAX_MODELS", 2)
    monkeypatch.setattr(probing, "ROWS_AT_ONCE", 5)
    in_chunks = fit_mlp(X, tasks[::-1], SMALL)[::-1]
    for one, other in zip(together, in_chunks, strict=True):
        np.testing.assert_allclose(one.predictions, other.predictions, atol=1e-5)


def test_mlp_chooses_the_grid_point_with_the_lowest_validation_error():
    X, tasks = make_tasks()
    grid = MLPSettings(
        **{**vars(SMALL), "learning_rates": (1e-3, 1e-5), "weight_decays": (0.0, 9.0)}
    )
    single = [
        fit_mlp(
            X, tasks, MLPSettings(**{**vars(grid), "learning_rates": (lr,), "weight_decays": (wd,)})
        )
        for lr in grid.learning_rates
        for wd in grid.weight_decays
    ]
    for index, fit in enumerate(fit_mlp(X, tasks, grid)):
        candidates = [fits[index] for fits in single]
        best = min(candidates, key=lambda candidate: candidate.validation_mse)
        assert fit.hyperparameters == best.hyperparameters
        np.testing.assert_allclose(fit.predictions, best.predictions, atol=1e-5)


@pytest.mark.parametrize("fit", FITS.values(), ids=FITS)
def test_probes_do_not_use_test_labels(fit):
    X, tasks = make_tasks(seeds=1)
    rng = np.random.default_rng(5)

    def other_truth(task):
        y = task.y.copy()
        y[task.test] = rng.normal(size=len(task.test)) * 1e3
        return Task(**{**vars(task), "y": y})

    for known, blind in zip(fit(X, tasks), fit(X, list(map(other_truth, tasks))), strict=True):
        assert known.hyperparameters == blind.hyperparameters
        np.testing.assert_array_equal(known.predictions, blind.predictions)


@pytest.mark.filterwarnings("ignore:Stochastic Optimizer")
def test_mlp_is_as_accurate_as_scikit_learn():
    X, tasks = make_tasks(n=1600, seeds=1, targets=1)
    for task, fit in zip(tasks, fit_mlp(X, tasks), strict=True):
        x = StandardScaler().fit(X[task.fit_rows]).transform(X)
        mean, std = task.y[task.train].mean(), task.y[task.train].std()
        other = MLPRegressor(hidden_layer_sizes=(256,), batch_size=128, max_iter=30, random_state=0)
        other.fit(x[task.train], (task.y[task.train] - mean) / std)
        error = other.predict(x[task.validation]) * std + mean - task.y[task.validation]
        assert fit.validation_mse < 1.15 * np.square(error).mean()
        assert fit.validation_mse < 0.5 * task.y[task.validation].var()


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 500), st.integers(1, 64), st.integers(0, 1000))
def test_batches_partition_rows_into_nearly_equal_sizes(n, batch_size, seed):
    count = num_batches(n, batch_size)
    batches = batch_order(n, count, torch.Generator().manual_seed(seed))
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


def test_ridge_with_fewer_rows_than_features_is_finite():
    X, tasks = make_tasks(n=12, dim=300, seeds=1, targets=1)
    (fit,) = fit_ridge(X, tasks)
    assert np.isfinite(fit.predictions).all()
