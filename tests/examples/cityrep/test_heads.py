import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge
from sklearn.preprocessing import StandardScaler
from torch.utils.data import DataLoader, TensorDataset

from examples.cityrep import heads
from examples.cityrep.heads import ALPHAS, fit_mlp, fit_ridge
from examples.cityrep.splits import Split


@pytest.fixture
def problem():
    rng = np.random.default_rng(0)
    X = (rng.normal(size=(900, 12)) * rng.uniform(0.1, 5, 12) + 3).astype(np.float32)
    X[:, 5] = 0.25  # constant
    y = (X @ rng.normal(size=12) * 0.3 + rng.normal(size=900)).astype(np.float32)
    order = rng.permutation(900)
    wide = Split(order[:600], order[600:700], order[700:])
    narrow = Split(order[:100], order[100:160], order[800:])
    return X, y, [wide, narrow]


def test_streamed_ridge_equals_scikit_learn(problem, monkeypatch, tmp_path):
    X, y, splits = problem
    monkeypatch.setattr(heads, "ROWS_AT_ONCE", 128)
    stored = np.lib.format.open_memmap(tmp_path / "X.npy", "w+", np.float32, X.shape)
    stored[:] = X
    for predicted, split in zip(fit_ridge(stored, y, splits), splits, strict=True):
        scaler = StandardScaler().fit(X[split.train])
        models = [
            Ridge(alpha).fit(scaler.transform(X[split.train]), y[split.train]) for alpha in ALPHAS
        ]
        validation = scaler.transform(X[split.validation])
        errors = [np.square(m.predict(validation) - y[split.validation]).mean() for m in models]
        best = models[int(np.argmin(errors))]
        expected = best.predict(scaler.transform(X[split.test]))
        assert predicted == pytest.approx(expected, abs=1e-4)  # scikit-learn computes in float32


def test_mlp_equals_training_with_data_loaders(problem, monkeypatch):
    """Equal scores need the random numbers of the benchmark's shuffling loaders."""
    X, y, splits = problem
    monkeypatch.setattr(heads, "MAX_EPOCHS", 6)
    monkeypatch.setattr(heads, "BATCH_SIZE", 64)
    split = splits[0]
    torch.manual_seed(24)
    parts = [
        TensorDataset(*(torch.from_numpy(a[rows]) for a in (X, y))) for rows in vars(split).values()
    ]
    head = torch.nn.Sequential(torch.nn.Linear(12, 1024), torch.nn.ReLU(), torch.nn.Linear(1024, 1))
    optimizer = torch.optim.Adam(head.parameters(), lr=1e-3)
    train, validation = DataLoader(parts[0], 64, shuffle=True), DataLoader(parts[1], 64)
    losses, predictions = [], []
    for _ in range(6):
        for inputs, targets in train:
            optimizer.zero_grad()
            torch.nn.functional.mse_loss(head(inputs)[:, 0], targets).backward()
            optimizer.step()
        with torch.no_grad():
            batches = [float(((head(a)[:, 0] - b) ** 2).mean()) for a, b in validation]
            predictions.append(head(torch.from_numpy(X[split.test]))[:, 0].numpy())
        losses.append(np.mean(batches))
    expected = predictions[int(np.argmin(losses))]
    assert fit_mlp(X, y, split, seed=24) == pytest.approx(expected, abs=1e-4)
    assert fit_mlp(X, y, split, seed=42) != pytest.approx(expected, abs=1e-2)


def test_mlp_stops_early(problem, monkeypatch):
    X, _, splits = problem
    noise = Split(splits[0].train[:40], splits[0].validation, splits[0].test)
    rng = np.random.default_rng(1)
    targets = rng.normal(size=900).astype(np.float32)
    short = fit_mlp(X, targets, noise, seed=0)
    monkeypatch.setattr(heads, "MAX_EPOCHS", 10_000)
    assert np.array_equal(fit_mlp(X, targets, noise, seed=0), short)
