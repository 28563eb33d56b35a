"""Probes on frozen vectors: MLP and ridge, for all seeds and indicators at once.

A *task* is one indicator under one split and one probe seed. Tasks differ in their regions
(splits, missing labels), so each carries its own index arrays into the shared matrix of vectors.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby, pairwise
from math import ceil

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

Array = NDArray[np.float64]
Indices = NDArray[np.int64]

HIDDEN_SIZES = (256,)
# so many are trained side by side: on a CPU, as many as its cache holds with their moments
MAX_MODELS_ON_CPU, MAX_MODELS_ON_ACCELERATOR = 16, 512
ROWS_AT_ONCE = 512  # of each model, in a forward pass


@dataclass(frozen=True)
class Task:
    """One indicator under one split and one probe seed.

    Attributes:
        y: `(N,)` target on the scale that is scored; nan where there is no label.
        fit_rows: rows of the split's training regions, labelled or not: inputs are standardised
            on them.
        train: rows to train on, labelled.
        validation: rows that stop training and choose hyper-parameters, labelled.
        test: rows that are scored, labelled.
        seed: of the initial weights and the order of batches.
    """

    y: Array
    fit_rows: Indices
    train: Indices
    validation: Indices
    test: Indices
    seed: int = 0


@dataclass(frozen=True)
class Fit:
    """What a probe made of one task.

    Attributes:
        predictions: `(n_test,)`, on the scale of `Task.y`.
        validation_mse: on the scale of `Task.y`, of the hyper-parameters chosen.
        hyperparameters: those chosen on validation.
        validation_predictions: `(n_validation,)`, of the hyper-parameters chosen.
    """

    predictions: Array
    validation_mse: float
    hyperparameters: dict[str, float]
    validation_predictions: Array


@dataclass(frozen=True)
class MLPSettings:
    """The MLP probe: 512-256-1, ReLU, AdamW, early stopping.

    The 512 are the numbers of a vector, as in UrbanVLP's head of that name: one hidden layer of
    256. A second one, 512 wide, quadruples the work and validates no better (benchmarks/README.md).

    Attributes:
        learning_rates: grid, chosen on validation together with `weight_decays`.
        weight_decays: grid.
        batch_size: upper limit; a task's rows are dealt into batches of nearly equal size.
        max_epochs: upper limit.
        patience: epochs without a better validation MSE after which a task stops.
        hidden_sizes: widths of the hidden layers.
    """

    learning_rates: tuple[float, ...] = (1e-3,)
    weight_decays: tuple[float, ...] = (1e-2, 1.0)
    batch_size: int = 128
    max_epochs: int = 200
    patience: int = 10
    hidden_sizes: tuple[int, ...] = HIDDEN_SIZES


@dataclass(frozen=True)
class RidgeSettings:
    """The ridge probe: `alphas` is the grid of which validation chooses."""

    alphas: tuple[float, ...] = field(
        default_factory=lambda: tuple(10.0**exponent for exponent in np.arange(-2, 6.5, 0.5))
    )


# --------------------------------------------------------------------------- MLP


def fit_mlp(
    X: Array, tasks: Sequence[Task], settings: MLPSettings | None = None, device: str = "cpu"
) -> list[Fit]:
    """Train an MLP for every task and every point of the grid; validation chooses.

    Models of equal input width and equal batches an epoch are stacked and trained as one batched
    computation; each stops for itself. A task's result does not depend on which others run.

    Args:
        X: `(N, D)` vectors, finite.
        tasks: each needs at least one row to train on and one to validate on.
        settings: grid and training.
        device: where it is computed.

    Returns:
        One `Fit` a task, in order; its hyper-parameters are `lr`, `wd` and `epochs`.
    """
    settings = settings or MLPSettings()
    best: list[Fit | None] = [None] * len(tasks)
    for lr in settings.learning_rates:
        for wd in settings.weight_decays:
            for index, fit in enumerate(_fit_mlp_point(X, tasks, settings, lr, wd, device)):
                known = best[index]
                if known is None or fit.validation_mse < known.validation_mse:
                    best[index] = fit
    return [fit for fit in best if fit is not None]


def num_batches(n: int, batch_size: int) -> int:
    """Batches an epoch of n rows."""
    return ceil(n / batch_size)


def batch_order(n: int, num_batches: int, generator: torch.Generator) -> list[torch.Tensor]:
    """One epoch: a permutation of n rows, dealt into batches whose sizes differ by one at most."""
    return list(torch.randperm(n, generator=generator).tensor_split(num_batches))


def initial_weights(
    dim: int, hidden_sizes: Sequence[int], generator: torch.Generator
) -> list[torch.Tensor]:
    """Weights and biases in turn, `(fan_in, fan_out)` and `(fan_out,)`, drawn as `nn.Linear`'s."""
    weights: list[torch.Tensor] = []
    sizes = (dim, *hidden_sizes, 1)
    for fan_in, fan_out in pairwise(sizes):
        bound = fan_in**-0.5
        for shape in ((fan_in, fan_out), (fan_out,)):
            uniform = torch.rand(shape, generator=generator)
            weights.append((uniform * 2 - 1) * bound)
    return weights


def _fit_mlp_point(
    X: Array, tasks: Sequence[Task], settings: MLPSettings, lr: float, wd: float, device: str
) -> list[Fit]:
    vectors = torch.as_tensor(X, dtype=torch.float32, device=device)
    limit = MAX_MODELS_ON_CPU if device == "cpu" else MAX_MODELS_ON_ACCELERATOR

    def batches(index: int) -> int:
        return num_batches(len(tasks[index].train), settings.batch_size)

    fits: dict[int, Fit] = {}
    for _, group in groupby(sorted(range(len(tasks)), key=batches), key=batches):
        members = list(group)
        for start in range(0, len(members), limit):
            chunk = members[start : start + limit]
            stack = _MLPStack(vectors, [tasks[i] for i in chunk], settings, lr, wd)
            fits.update(zip(chunk, stack.train(), strict=True))
    return [fits[index] for index in range(len(tasks))]


@dataclass(frozen=True)
class _Rows:
    """Rows of several tasks as one padded table, `(M, longest)`, with a mask of what is real."""

    index: torch.Tensor
    mask: torch.Tensor
    lengths: torch.Tensor

    @classmethod
    def pad(cls, rows: Sequence[Indices | torch.Tensor], device: torch.device) -> "_Rows":
        tensors = [torch.as_tensor(r, dtype=torch.int64) for r in rows]
        lengths = torch.tensor([len(t) for t in tensors], device=device)
        index = torch.nn.utils.rnn.pad_sequence(tensors, batch_first=True).to(device)
        mask = torch.arange(index.shape[1], device=device) < lengths[:, None]
        return cls(index, mask.float(), lengths)

    def of(self, models: torch.Tensor) -> "_Rows":
        return _Rows(self.index[models], self.mask[models], self.lengths[models])


class _MLPStack:
    """M MLPs of one shape and one number of batches an epoch, trained side by side."""

    def __init__(
        self,
        vectors: torch.Tensor,
        tasks: Sequence[Task],
        settings: MLPSettings,
        lr: float,
        wd: float,
    ):
        self.vectors, self.tasks, self.settings = vectors, tasks, settings
        self.lr, self.wd = lr, wd
        self.device = vectors.device
        self.batches = num_batches(len(tasks[0].train), settings.batch_size)
        self.generators = [torch.Generator().manual_seed(task.seed) for task in tasks]
        dim = vectors.shape[1]
        drawn = [initial_weights(dim, settings.hidden_sizes, g) for g in self.generators]
        self.weights = [
            torch.stack(layer).to(self.device).requires_grad_()
            for layer in zip(*drawn, strict=True)
        ]
        self.best_weights = [weight.detach().clone() for weight in self.weights]
        self.best_mse = torch.full((len(tasks),), torch.inf, device=self.device)
        self.best_epoch = torch.zeros(len(tasks), dtype=torch.int64, device=self.device)
        self.alive = torch.arange(len(tasks), device=self.device)  # models still in training
        self._standardise()

    def _standardise(self) -> None:
        """Inputs on the training regions of the split, targets on those with a label."""
        mean, scale = zip(*self._input_moments(), strict=True)
        self.x_mean, self.x_scale = torch.stack(mean), torch.stack(scale)
        y = np.stack([task.y for task in self.tasks])
        train = [task.y[task.train] for task in self.tasks]
        self.y_mean = np.array([values.mean() for values in train])
        self.y_scale = np.array([_safe_scale(values.std()) for values in train])
        standard = np.nan_to_num((y - self.y_mean[:, None]) / self.y_scale[:, None])
        self.y = torch.as_tensor(standard, dtype=torch.float32, device=self.device)

    def _input_moments(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        known: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        for task in self.tasks:  # tasks of one split share the array itself
            if id(task.fit_rows) not in known:
                rows = self.vectors[torch.as_tensor(task.fit_rows, device=self.device)].double()
                scale = rows.std(0, correction=0)
                scale = torch.where(scale > 1e-12, scale, torch.ones_like(scale))
                known[id(task.fit_rows)] = (rows.mean(0).float(), scale.float())
            yield known[id(task.fit_rows)]

    def train(self) -> list[Fit]:
        optimizer = self._optimizer()
        validation = _Rows.pad([task.validation for task in self.tasks], self.device)
        for epoch in range(1, self.settings.max_epochs + 1):
            for rows in self._epoch_batches():
                optimizer.zero_grad()
                # a sum over models of each one's mean: no model feels another's gradient
                self._mse(self.weights, self.alive, rows).sum().backward()
                optimizer.step()
            self._keep_best(validation, epoch)
            optimizer = self._drop_finished(optimizer, epoch)
            if not len(self.alive):
                break
        return self._fits()

    def _optimizer(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.weights, lr=self.lr, weight_decay=self.wd, fused=True)

    def _epoch_batches(self) -> Iterator[_Rows]:
        models = self.alive.tolist()
        orders = [
            batch_order(len(self.tasks[m].train), self.batches, self.generators[m]) for m in models
        ]
        for batch in range(self.batches):
            picked = [
                torch.as_tensor(self.tasks[m].train)[order[batch]]
                for m, order in zip(models, orders, strict=True)
            ]
            yield _Rows.pad(picked, self.device)

    def _forward(
        self, weights: Sequence[torch.Tensor], models: torch.Tensor, index: torch.Tensor
    ) -> torch.Tensor:
        """Standardised predictions, `(M, n)`, of `index` `(M, n)` by each of `models` `(M,)`."""
        pieces = [
            self._forward_piece(weights, models, piece) for piece in index.split(ROWS_AT_ONCE, 1)
        ]
        return torch.cat(pieces, dim=1)

    def _forward_piece(
        self, weights: Sequence[torch.Tensor], models: torch.Tensor, index: torch.Tensor
    ) -> torch.Tensor:
        h = (self.vectors[index] - self.x_mean[models, None]) / self.x_scale[models, None]
        last = len(weights) - 2
        for layer in range(0, len(weights), 2):
            h = torch.baddbmm(weights[layer + 1][:, None], h, weights[layer])
            if layer < last:
                h = F.relu(h)
        return h.squeeze(-1)

    def _mse(
        self, weights: Sequence[torch.Tensor], models: torch.Tensor, rows: _Rows
    ) -> torch.Tensor:
        truth = self.y[models[:, None], rows.index]
        squared = (self._forward(weights, models, rows.index) - truth).square() * rows.mask
        return squared.sum(1) / rows.lengths

    @torch.no_grad()
    def _keep_best(self, validation: _Rows, epoch: int) -> None:
        mse = self._mse(self.weights, self.alive, validation.of(self.alive))
        better = mse < self.best_mse[self.alive]
        winners = self.alive[better]
        self.best_mse[winners], self.best_epoch[winners] = mse[better], epoch
        for best, weight in zip(self.best_weights, self.weights, strict=True):
            best[winners] = weight[better]

    @torch.no_grad()
    def _drop_finished(self, optimizer: torch.optim.Optimizer, epoch: int) -> torch.optim.Optimizer:
        """Take models whose patience is over out of the stack, with their optimizer state."""
        keep = epoch - self.best_epoch[self.alive] < self.settings.patience
        if bool(keep.all()):
            return optimizer
        states = [optimizer.state[weight] for weight in self.weights]
        self.alive = self.alive[keep]
        self.weights = [weight.detach()[keep].requires_grad_() for weight in self.weights]
        smaller = self._optimizer()
        for weight, state in zip(self.weights, states, strict=True):
            smaller.state[weight] = {
                name: value if name == "step" else value[keep] for name, value in state.items()
            }
        return smaller

    @torch.no_grad()
    def _fits(self) -> list[Fit]:
        everyone = torch.arange(len(self.tasks), device=self.device)
        test, validation = (
            self._forward(self.best_weights, everyone, _Rows.pad(rows, self.device).index)
            .double()
            .cpu()
            .numpy()
            for rows in zip(*((task.test, task.validation) for task in self.tasks), strict=True)
        )
        fits = []
        for m, task in enumerate(self.tasks):
            tested, validated = (
                values[m, : len(rows)] * self.y_scale[m] + self.y_mean[m]
                for values, rows in ((test, task.test), (validation, task.validation))
            )
            chosen = {"lr": self.lr, "wd": self.wd, "epochs": int(self.best_epoch[m])}
            mse = float(self.best_mse[m]) * float(self.y_scale[m]) ** 2
            fits.append(Fit(tested, mse, chosen, validated))
        return fits


# ------------------------------------------------------------------------- ridge


def fit_ridge(
    X: Array, tasks: Sequence[Task], settings: RidgeSettings | None = None, device: str = "cpu"
) -> list[Fit]:
    """Ridge regression with intercept for every task; validation chooses alpha.

    Tasks with the same training rows share one eigendecomposition, which serves every alpha and
    every target at once. Equal to scikit-learn's `Ridge` on standardised inputs.

    Args:
        X: `(N, D)` vectors, finite.
        tasks: each needs at least one row to train on and one to validate on.
        settings: the grid of alphas.
        device: where it is computed, in float64 (on the CPU where a device has none).

    Returns:
        One `Fit` a task, in order; its hyper-parameter is `alpha`.
    """
    settings = settings or RidgeSettings()
    device = "cpu" if device == "mps" else device
    vectors = torch.as_tensor(X, dtype=torch.float64, device=device)
    groups: dict[tuple[bytes, bytes], list[int]] = {}
    for index, task in enumerate(tasks):
        groups.setdefault((task.fit_rows.tobytes(), task.train.tobytes()), []).append(index)
    fits: dict[int, Fit] = {}
    for members in groups.values():
        shared = [tasks[i] for i in members]
        fits.update(zip(members, _fit_ridge_group(vectors, shared, settings.alphas), strict=True))
    return [fits[index] for index in range(len(tasks))]


def _fit_ridge_group(
    vectors: torch.Tensor, tasks: Sequence[Task], alphas: Sequence[float]
) -> list[Fit]:
    """Ridge of tasks that share `fit_rows` and `train`."""
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
    """Ridge solutions `(A, D, K)` of centred X `(n, D)` and Y `(n, K)` for each alpha.

    By the eigenvectors Q of the smaller Gram matrix: `Q (L + alpha)^-1 Q^T X^T Y` of `X^T X`, or
    `X^T Q (L + alpha)^-1 Q^T Y` of `X X^T`.
    """
    n, dim = X.shape
    values, Q = torch.linalg.eigh(X @ X.T if n < dim else X.T @ X)
    grid = torch.tensor(alphas, dtype=X.dtype, device=X.device)
    # rounding makes zero eigenvalues slightly negative
    shrink = 1 / (values.clamp_min(0) + grid[:, None])
    projected = Q.T @ (Y if n < dim else X.T @ Y)
    basis = X.T @ Q if n < dim else Q
    return basis @ (shrink[:, :, None] * projected)


def _safe_scale(scale: float) -> float:
    return float(scale) if scale > 1e-12 else 1.0


__all__ = [
    "Fit",
    "MLPSettings",
    "RidgeSettings",
    "Task",
    "batch_order",
    "fit_mlp",
    "fit_ridge",
    "initial_weights",
    "num_batches",
]
