"""What a probe or a control is given, and what it gives back.

A *task* is one indicator under one split and one probe seed. Tasks differ in their regions
(splits, missing labels), so each carries its own index arrays into the shared matrix of vectors.
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


__all__ = ["Array", "Fit", "Indices", "Task"]
