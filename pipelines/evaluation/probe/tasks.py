"""Inputs and outputs of probes and controls.

A *task* is one indicator under one split and one probe seed, with index arrays into the shared
matrix of embeddings.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Indices = NDArray[np.int64]


@dataclass(frozen=True)
class Task:
    """One indicator under one split and one probe seed.

    Attributes:
        y: `(N,)` targets on the transformed scale; NaN where missing.
        fit_rows: Rows of all training regions, labelled or not, used to standardise the inputs.
        train: Rows of the labelled training regions.
        validation: Rows of the labelled validation regions.
        test: Rows of the labelled test regions.
        seed: Seed of initial weights and batch order.
    """

    y: Array
    fit_rows: Indices
    train: Indices
    validation: Indices
    test: Indices
    seed: int = 0


@dataclass(frozen=True)
class Fit:
    """Result of a probe on one task, for the chosen hyper-parameters, on the scale of `Task.y`.

    Attributes:
        predictions: `(n_test,)` test predictions.
        validation_mse: Mean squared error on the validation set.
        hyperparameters: Hyper-parameters chosen on the validation set.
        validation_predictions: `(n_validation,)` validation predictions.
    """

    predictions: Array
    validation_mse: float
    hyperparameters: dict[str, float]
    validation_predictions: Array


__all__ = ["Array", "Fit", "Indices", "Task"]
