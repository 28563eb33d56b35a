"""Regression heads on embeddings of up to 340,000 cells: streamed ridge and CityRep's MLP."""

import copy
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional as F

from pipelines.evaluation.probe.models import RidgeSettings

from .splits import Split
from .tasks import Floats, Ints

ROWS_AT_ONCE = 8192
# CityRep's head
HIDDEN_SIZE, LEARNING_RATE, BATCH_SIZE = 1024, 1e-3, 512
MAX_EPOCHS, PATIENCE, TOLERANCE = 100, 10, 1e-8
ALPHAS = RidgeSettings().alphas


def fit_ridge(
    X: NDArray[np.float32], y: NDArray[np.float32], splits: Sequence[Split]
) -> list[Floats]:
    """Ridge regression with intercept on standardised vectors, with alpha chosen on validation.

    Equals scikit-learn's `Ridge` on inputs standardised over the training cells. Three passes over
    the vectors serve all splits and alphas, with `(D, D)` matrices in memory.

    Args:
        X: Finite vectors `(N, D)`, as an array or a memory map.
        y: Labels `(N,)`.
        splits: Splits of the rows of X.

    Returns:
        Predictions of the test rows of each split.
    """
    moments = _moments(X, y, splits)
    solutions = [_solve(*one) for one in moments]
    weights = np.concatenate([weights for weights, _ in solutions], axis=1)  # (D, S * A)
    offsets = np.concatenate([offsets for _, offsets in solutions])
    errors = np.zeros((len(splits), len(ALPHAS)))
    validated = _masks(len(X), [split.validation for split in splits])
    for part, vectors in _chunks(X):
        rows = validated[:, part].any(0)
        fitted = (vectors[rows] @ weights + offsets).reshape(-1, len(splits), len(ALPHAS))
        squares = np.square(fitted - y[part][rows, None, None])
        errors += np.einsum("ns,nsa->sa", validated[:, part][:, rows].T, squares)
    best = errors.argmin(1) + len(ALPHAS) * np.arange(len(splits))
    fitted = np.empty((len(X), len(splits)))
    for part, vectors in _chunks(X):
        fitted[part] = vectors @ weights[:, best] + offsets[best]
    return [fitted[split.test, number] for number, split in enumerate(splits)]


def _chunks(X: NDArray[np.float32]) -> Iterator[tuple[slice, Floats]]:
    for start in range(0, len(X), ROWS_AT_ONCE):
        part = slice(start, start + ROWS_AT_ONCE)
        yield part, np.asarray(X[part], dtype=np.float64)


def _masks(n: int, rows: Sequence[Ints]) -> NDArray[np.bool_]:
    masks = np.zeros((len(rows), n), dtype=bool)
    for mask, own in zip(masks, rows, strict=True):
        mask[own] = True
    return masks


def _moments(
    X: NDArray[np.float32], y: NDArray[np.float32], splits: Sequence[Split]
) -> list[tuple[float, Floats, Floats]]:
    """Number, means and covariance of (X, y) over the training rows of each split.

    If most rows are training rows, the sums over the others are subtracted from the total.
    """
    trained = _masks(len(X), [split.train for split in splits])
    direct = trained.mean(1) < 0.5
    summed = np.where(direct[:, None], trained, ~trained)
    width = X.shape[1] + 2
    centre = np.append(np.asarray(X[:ROWS_AT_ONCE], dtype=np.float64).mean(0), 0.0)
    total, parts = np.zeros((width, width)), np.zeros((len(splits), width, width))
    for part, vectors in _chunks(X):
        labelled = np.column_stack([vectors, y[part]]) - centre
        columns = np.column_stack([labelled, np.ones(len(labelled))])
        total += columns.T @ columns
        for product, mask in zip(parts, summed[:, part], strict=True):
            product += columns[mask].T @ columns[mask]
    found = []
    for product, is_direct in zip(parts, direct, strict=True):
        sums = product if is_direct else total - product
        n = float(sums[-1, -1])
        mean = sums[-1, :-1] / n
        found.append((n, mean + centre, sums[:-1, :-1] / n - np.outer(mean, mean)))
    return found


def _solve(n: float, mean: Floats, covariance: Floats) -> tuple[Floats, Floats]:
    """Weights `(D, A)` and offsets `(A,)` for the unstandardised vectors and each alpha."""
    scale = np.sqrt(np.clip(np.diag(covariance)[:-1], 0, None))
    scale[scale < 1e-9] = np.inf  # ignore constant columns
    gram = covariance[:-1, :-1] / np.outer(scale, scale)
    values, vectors = np.linalg.eigh(gram)
    projected = vectors.T @ (covariance[:-1, -1] / scale)
    shrunk = projected[:, None] / (values.clip(0)[:, None] + np.array(ALPHAS) / n)
    weights = (vectors @ shrunk) / scale[:, None]
    return weights, mean[-1] - mean[:-1] @ weights


def fit_mlp(
    X: NDArray[np.float32], y: NDArray[np.float32], split: Split, seed: int, device: str = "cpu"
) -> Floats:
    """CityRep's head on one split: Linear-ReLU-Linear, Adam, early stopping on validation.

    Random numbers are drawn in the order of the release's `DataLoader`, so that equal vectors give
    equal scores on a CPU. Vectors are read one batch at a time.

    Args:
        X: Finite vectors `(N, D)`, as an array or a memory map.
        y: Standardised labels `(N,)`.
        split: Split of the rows of X.
        seed: Seed of the initial weights and of the order of batches.
        device: Torch device.

    Returns:
        Predictions of the test rows with the weights of the best validation loss.
    """
    torch.manual_seed(seed)
    head = nn.Sequential(
        nn.Linear(X.shape[1], HIDDEN_SIZE), nn.ReLU(), nn.Linear(HIDDEN_SIZE, 1)
    ).to(device)
    optimizer = torch.optim.Adam(head.parameters(), lr=LEARNING_RATE)

    def batches(rows: Ints) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        for start in range(0, len(rows), BATCH_SIZE):
            batch = rows[start : start + BATCH_SIZE]
            yield _tensor(X[batch], device), _tensor(y[batch], device)

    best, waited, weights = np.inf, 0, copy.deepcopy(head.state_dict())
    for _ in range(MAX_EPOCHS):
        _drawn_number()  # base seed of the training loader's workers
        order = torch.Generator().manual_seed(_drawn_number())
        shuffled = split.train[torch.randperm(len(split.train), generator=order).numpy()]
        for inputs, targets in batches(shuffled):
            optimizer.zero_grad(set_to_none=True)
            F.mse_loss(head(inputs)[:, 0], targets).backward()
            optimizer.step()
        _drawn_number()  # base seed of the validation loader's workers
        with torch.no_grad():
            losses = [float(F.mse_loss(head(x)[:, 0], t)) for x, t in batches(split.validation)]
        loss = sum(losses) / len(losses)
        if loss + TOLERANCE < best:
            best, waited = loss, 0
            weights = copy.deepcopy(head.state_dict())
        elif (waited := waited + 1) >= PATIENCE:
            break
    head.load_state_dict(weights)
    with torch.no_grad():
        return np.concatenate([head(x)[:, 0].cpu().numpy() for x, _ in batches(split.test)])


def _tensor(values: NDArray[np.float32], device: str) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(values)).to(device)


def _drawn_number() -> int:
    """Draw from the global generator as a `DataLoader` does."""
    return int(torch.empty((), dtype=torch.int64).random_())


__all__ = ["ALPHAS", "fit_mlp", "fit_ridge"]
