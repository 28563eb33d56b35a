"""MLP and ridge probes on frozen embeddings, batched over seeds and indicators."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from math import ceil
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from .splits import Array, Fit, Task

HIDDEN_SIZES = (256,)
MAX_MODELS = 32  # trained in parallel; more exceed a CPU's cache
ROWS_AT_ONCE = 512  # per forward pass


@dataclass(frozen=True)
class MLPSettings:
    """Settings of the MLP probe: ReLU, AdamW, early stopping.

    The default is the "512-256-1" head of UrbanVLP, 512 being the size of its embeddings. A second
    hidden layer of width 512 costs four times as much and validates no better
    (benchmarks/README.md).

    Attributes:
        learning_rates: Grid of learning rates, chosen on validation with `weight_decays`.
        weight_decays: Grid of weight decays.
        batch_size: Maximum batch size; batches of an epoch have nearly equal sizes.
        max_epochs: Maximum number of epochs.
        patience: Number of steps without a lower validation MSE before a task stops, checked after
            each epoch. In steps because large cities converge in fewer epochs
            (benchmarks/README.md).
        hidden_sizes: Widths of the hidden layers.
    """

    learning_rates: tuple[float, ...] = (1e-3,)
    weight_decays: tuple[float, ...] = (1e-2, 1.0)
    batch_size: int = 128
    max_epochs: int = 200
    patience: int = 48
    hidden_sizes: tuple[int, ...] = HIDDEN_SIZES


@dataclass(frozen=True)
class RidgeSettings:
    """Settings of the ridge probe: the grid of `alphas`, chosen on validation."""

    alphas: tuple[float, ...] = field(
        default_factory=lambda: tuple(10.0**exponent for exponent in np.arange(-2, 6.5, 0.5))
    )


# --------------------------------------------------------------------------- MLP


def fit_mlp(
    X: Array, tasks: Sequence[Task], settings: MLPSettings | None = None, device: str = "cpu"
) -> list[Fit]:
    """Train an MLP for every task and grid point; hyper-parameters are chosen on validation.

    Tasks with the same training rows and seed, such as the indicators of one split, share batches
    and are trained in one computation, each with its own early stopping. The result of a task does
    not depend on the other tasks.

    Args:
        X: `(N, D)` embeddings, finite.
        tasks: Tasks with at least one training and one validation row each.
        settings: Grid and training settings.
        device: Torch device.

    Returns:
        One `Fit` per task, in order, with the hyper-parameters `lr`, `wd` and `epochs`.
    """
    settings = settings or MLPSettings()
    vectors = torch.as_tensor(X, dtype=torch.float32, device=device)
    fits: dict[int, Fit] = {}
    limit = max(1, MAX_MODELS // len(settings.weight_decays))
    groups = _grouped(tasks, lambda task: task.seed)
    for members in (own[i : i + limit] for own in groups for i in range(0, len(own), limit)):
        shared = [tasks[i] for i in members]
        points = [
            fitted
            for lr in settings.learning_rates
            for fitted in _MLPStack(vectors, shared, settings, lr).train()
        ]
        for index, candidates in zip(members, zip(*points, strict=True), strict=True):
            fits[index] = min(candidates, key=lambda fit: fit.validation_mse)
    return [fits[index] for index in range(len(tasks))]


def _grouped(tasks: Sequence[Task], key: Callable[[Task], Any]) -> Iterable[list[int]]:
    """Indices of the tasks that share training rows and a key."""
    groups: dict[Any, list[int]] = {}
    for index, task in enumerate(tasks):
        shared = task.fit_rows.tobytes(), task.train.tobytes(), key(task)
        groups.setdefault(shared, []).append(index)
    return groups.values()


def num_batches(n: int, batch_size: int) -> int:
    """Number of batches per epoch of n rows."""
    return ceil(n / batch_size)


def batch_order(n: int, num_batches: int, generator: torch.Generator) -> list[torch.Tensor]:
    """Random permutation of n rows, split into batches whose sizes differ by at most one."""
    return list(torch.randperm(n, generator=generator).tensor_split(num_batches))


def initial_weights(
    dim: int, hidden_sizes: Sequence[int], generator: torch.Generator
) -> list[torch.Tensor]:
    """Alternating weights `(fan_in, fan_out)` and biases `(fan_out,)`, as in `nn.Linear`."""
    weights: list[torch.Tensor] = []
    sizes = (dim, *hidden_sizes, 1)
    for fan_in, fan_out in pairwise(sizes):
        bound = fan_in**-0.5
        for shape in ((fan_in, fan_out), (fan_out,)):
            uniform = torch.rand(shape, generator=generator)
            weights.append((uniform * 2 - 1) * bound)
    return weights


class _MLPStack:
    """MLPs for tasks with the same training rows and seed and for all weight decays.

    The models share initial weights and batches, so the first and most expensive layer is one
    matrix product `(n, D) @ (D, M * H)`. Models are ordered by weight decay, then by task.
    """

    def __init__(
        self, vectors: torch.Tensor, tasks: Sequence[Task], settings: MLPSettings, lr: float
    ):
        self.vectors, self.tasks, self.settings, self.lr = vectors, tasks, settings, lr
        self.device = vectors.device
        self.generator = torch.Generator().manual_seed(tasks[0].seed)
        first, *others = initial_weights(vectors.shape[1], settings.hidden_sizes, self.generator)
        models = len(tasks) * len(settings.weight_decays)
        # (D, M, H), (M, H); then (M, fan_in, fan_out), (M, fan_out)
        self.weights = self._trainable(
            weight.to(self.device).expand(models, *weight.shape) for weight in (first, *others)
        )
        decays = torch.tensor(settings.weight_decays, device=self.device)
        self.kept = 1 - lr * decays.repeat_interleave(len(tasks))  # decay factor per step
        self.best_weights = [weight.detach().clone() for weight in self.weights]
        self.best_mse = torch.full((models,), torch.inf, device=self.device)
        self.best_epoch = torch.zeros(models, dtype=torch.int64, device=self.device)
        self.alive = torch.arange(models, device=self.device)  # models still in training
        self._standardise()

    def _standardise(self) -> None:
        """Scale inputs by all training regions of the split, and targets by the labelled ones."""
        rows = self.vectors[self._on_device(self.tasks[0].fit_rows)].double()
        scale = rows.std(0, correction=0)
        self.x_scale = torch.where(scale > 1e-12, scale, torch.ones_like(scale)).float()
        self.x_mean = rows.mean(0).float()
        y = np.stack([task.y for task in self.tasks], axis=1)
        train = y[self.tasks[0].train]
        self.y_mean = train.mean(0)
        deviations = np.array([one.std() for one in train.T])
        self.y_scale = np.where(deviations > 1e-12, deviations, 1.0)
        standard = torch.as_tensor((y - self.y_mean) / self.y_scale, dtype=torch.float32)
        self.y = standard.to(self.device).repeat(1, len(self.settings.weight_decays))  # (N, M)

    @staticmethod
    def _trainable(by_model: Iterable[torch.Tensor]) -> list[torch.Tensor]:
        return [weight.detach().requires_grad_() for weight in _by_layer(by_model)]

    def _on_device(self, array: NDArray[Any]) -> torch.Tensor:
        return torch.as_tensor(array, device=self.device)

    def _x(self, rows: torch.Tensor) -> torch.Tensor:
        return (self.vectors[rows] - self.x_mean) / self.x_scale

    def train(self) -> list[list[Fit]]:
        """Train all models; fits by weight decay, then by task."""
        rows = self._on_device(self.tasks[0].train)
        x, y = self._x(rows), self.y[rows]
        validation = self._validation()
        batches = num_batches(len(rows), self.settings.batch_size)
        patience = ceil(self.settings.patience / batches)
        optimizer = self._optimizer()
        for epoch in range(1, self.settings.max_epochs + 1):
            for batch in batch_order(len(rows), batches, self.generator):
                picked = batch.to(self.device)
                self._step(optimizer, x[picked], y[picked][:, self.alive])
            self._keep_best(*validation, epoch)
            optimizer = self._drop_finished(optimizer, epoch, patience)
            if not len(self.alive):
                break
        return self._fits()

    def _optimizer(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.weights, lr=self.lr, fused=True)

    def _step(self, optimizer: torch.optim.Optimizer, x: torch.Tensor, y: torch.Tensor) -> None:
        optimizer.zero_grad()
        # summing the models' mean losses keeps their gradients independent
        (self._forward(self.weights, x) - y).square().mean(0).sum().backward()
        with torch.no_grad():  # decoupled weight decay per model, as in AdamW
            for weight in _by_model(self.weights):
                weight.mul_(self.kept[self.alive].view(-1, *[1] * (weight.ndim - 1)))
        optimizer.step()

    def _forward(self, weights: Sequence[torch.Tensor], x: torch.Tensor) -> torch.Tensor:
        """`(n, M)` standardised predictions for `(n, D)` standardised rows."""
        first, bias, *others, last, last_bias = weights
        h = torch.addmm(bias.flatten(), x, first.flatten(1)).unflatten(1, bias.shape)
        for weight, bias in zip(others[::2], others[1::2], strict=True):
            h = torch.einsum("nmh,mhk->nmk", F.relu(h), weight) + bias
        return (F.relu(h) * last.squeeze(-1)).sum(-1) + last_bias.squeeze(-1)

    @torch.no_grad()
    def _predict(self, weights: Sequence[torch.Tensor], x: torch.Tensor) -> torch.Tensor:
        return torch.cat([self._forward(weights, piece) for piece in x.split(ROWS_AT_ONCE)])

    def _validation(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Standardised validation inputs and targets; targets of other tasks' rows are NaN."""
        rows = np.unique(np.concatenate([task.validation for task in self.tasks]))
        own = np.stack([np.isin(rows, task.validation) for task in self.tasks], axis=1)
        own = np.tile(own, (1, len(self.settings.weight_decays)))
        picked = self._on_device(rows)
        return self._x(picked), self.y[picked].where(self._on_device(own), torch.nan)

    @torch.no_grad()
    def _keep_best(self, x: torch.Tensor, y: torch.Tensor, epoch: int) -> None:
        mse = (self._predict(self.weights, x) - y[:, self.alive]).square().nanmean(0)
        better = mse < self.best_mse[self.alive]
        winners = self.alive[better]
        self.best_mse[winners], self.best_epoch[winners] = mse[better], epoch
        pairs = zip(_by_model(self.best_weights), _by_model(self.weights), strict=True)
        for best, weight in pairs:
            best[winners] = weight[better]

    @torch.no_grad()
    def _drop_finished(
        self, optimizer: torch.optim.Optimizer, epoch: int, patience: int
    ) -> torch.optim.Optimizer:
        """Remove models that have stopped early, with their optimizer state."""
        keep = epoch - self.best_epoch[self.alive] < patience
        if bool(keep.all()):
            return optimizer
        states = [optimizer.state[weight] for weight in self.weights]
        steps = [state["step"] for state in states]
        kept = {
            name: _by_layer(one[keep] for one in _by_model([state[name] for state in states]))
            for name in ("exp_avg", "exp_avg_sq")
        }
        self.alive = self.alive[keep]
        self.weights = self._trainable(weight[keep] for weight in _by_model(self.weights))
        smaller = self._optimizer()
        for index, weight in enumerate(self.weights):
            moments = {name: tensors[index] for name, tensors in kept.items()}
            smaller.state[weight] = {"step": steps[index], **moments}
        return smaller

    def _fits(self) -> list[list[Fit]]:
        used = np.unique(np.concatenate([[*one.test, *one.validation] for one in self.tasks]))
        predicted = self._predict(self.best_weights, self._x(self._on_device(used)))
        columns = iter(predicted.double().cpu().numpy().T)
        mses, epochs = iter(self.best_mse.tolist()), iter(self.best_epoch.tolist())
        fits: list[list[Fit]] = []
        for wd in self.settings.weight_decays:
            fits.append([])
            for t, task in enumerate(self.tasks):
                values = next(columns) * self.y_scale[t] + self.y_mean[t]
                tested, validated = (
                    values[np.searchsorted(used, rows)] for rows in (task.test, task.validation)
                )
                chosen = {"lr": self.lr, "wd": wd, "epochs": next(epochs)}
                mse = next(mses) * self.y_scale[t] ** 2
                fits[-1].append(Fit(tested, mse, chosen, validated))
        return fits


def _by_model(weights: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Views of a stack's weights or moments with the models on the first axis."""
    return [weights[0].transpose(0, 1), *weights[1:]]


def _by_layer(weights: Iterable[torch.Tensor]) -> list[torch.Tensor]:
    """Inverse of [`_by_model`], contiguous in memory."""
    first, *others = weights
    return [one.contiguous() for one in (first.transpose(0, 1), *others)]


# ------------------------------------------------------------------------- ridge


def fit_ridge(
    X: Array, tasks: Sequence[Task], settings: RidgeSettings | None = None, device: str = "cpu"
) -> list[Fit]:
    """Ridge regression with intercept for every task; alpha is chosen on the validation set.

    Tasks with the same training rows share one eigendecomposition for all alphas and targets.
    Equivalent to scikit-learn's `Ridge` on standardised inputs.

    Args:
        X: `(N, D)` embeddings, finite.
        tasks: Tasks with at least one training and one validation row each.
        settings: Grid of alphas.
        device: Torch device; computed in float64, on the CPU if the device is MPS.

    Returns:
        One `Fit` per task, in order, with the hyper-parameter `alpha`.
    """
    settings = settings or RidgeSettings()
    device = "cpu" if device == "mps" else device
    vectors = torch.as_tensor(X, dtype=torch.float64, device=device)
    fits: dict[int, Fit] = {}
    for members in _grouped(tasks, lambda task: None):
        shared = [tasks[i] for i in members]
        fits.update(zip(members, _fit_ridge_group(vectors, shared, settings.alphas), strict=True))
    return [fits[index] for index in range(len(tasks))]


def _fit_ridge_group(
    vectors: torch.Tensor, tasks: Sequence[Task], alphas: Sequence[float]
) -> list[Fit]:
    device = vectors.device
    fit_rows = vectors[torch.as_tensor(tasks[0].fit_rows, device=device)]
    scale = fit_rows.std(0, correction=0)
    scale = torch.where(scale > 1e-12, scale, torch.ones_like(scale))
    standard = (vectors - fit_rows.mean(0)) / scale
    train = torch.as_tensor(tasks[0].train, device=device)
    centre = standard[train].mean(0)
    standard = standard - centre  # the intercept is not penalised
    y = torch.stack([torch.as_tensor(task.y, device=device) for task in tasks], dim=1)
    y_mean = y[train].mean(0)
    coefficients = _ridge_coefficients(standard[train], y[train] - y_mean, alphas)
    fits = []
    for k, task in enumerate(tasks):
        rows = torch.as_tensor(task.validation, device=device)
        fitted = standard[rows] @ coefficients[:, :, k].T + y_mean[k]
        mse = (fitted - y[rows, k, None]).square().mean(0)
        best = int(mse.argmin())
        tested = standard[torch.as_tensor(task.test, device=device)] @ coefficients[best, :, k]
        predictions = (tested + y_mean[k]).cpu().numpy()
        chosen = {"alpha": float(alphas[best])}
        validated = fitted[:, best].cpu().numpy()
        fits.append(Fit(predictions, float(mse[best]), chosen, validated))
    return fits


def _ridge_coefficients(X: torch.Tensor, Y: torch.Tensor, alphas: Sequence[float]) -> torch.Tensor:
    """`(A, D, K)` ridge coefficients for each alpha, from centred X `(n, D)` and Y `(n, K)`.

    Eigendecomposition Q L Q^T of the smaller Gram matrix: `Q (L + alpha)^-1 Q^T X^T Y` for
    `X^T X`, and `X^T Q (L + alpha)^-1 Q^T Y` for `X X^T`.
    """
    n, dim = X.shape
    values, Q = torch.linalg.eigh(X @ X.T if n < dim else X.T @ X)
    grid = torch.tensor(alphas, dtype=X.dtype, device=X.device)
    # zero eigenvalues may be slightly negative due to rounding
    shrink = 1 / (values.clamp_min(0) + grid[:, None])
    projected = Q.T @ (Y if n < dim else X.T @ Y)
    basis = X.T @ Q if n < dim else Q
    return basis @ (shrink[:, :, None] * projected)


__all__ = [
    "MLPSettings",
    "RidgeSettings",
    "batch_order",
    "fit_mlp",
    "fit_ridge",
    "initial_weights",
    "num_batches",
]
