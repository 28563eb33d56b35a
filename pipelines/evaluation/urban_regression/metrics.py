"""Regression metrics in numpy, vectorised over models.

The only definition of the metrics in the project. It lies beside the `evaluate` metric module
because `evaluate.load` copies that module's relative imports along with it.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import rankdata

METRICS = ("r2", "rmse", "mae", "spearman")


def regression_metrics(
    predictions: ArrayLike, references: ArrayLike
) -> dict[str, NDArray[np.float64]]:
    """R2, RMSE, MAE and Spearman's rank correlation over the last axis.

    R2 is `1 - SS_res / SS_tot`, as scikit-learn's `r2_score`; Spearman takes average ranks of
    ties, as scipy's `spearmanr`. What is not defined is nan: R2 where the references are constant
    (scikit-learn returns 0 or 1 there), Spearman where either side is constant.

    Args:
        predictions: `(..., n)`, n >= 1.
        references: `(..., n)`; the leading axes broadcast against those of `predictions`.

    Returns:
        One array of the leading shape for each of `METRICS`.

    Raises:
        ValueError: no sample, another number of predictions than references, or a value that is
            not finite.
    """
    y_hat = np.asarray(predictions, dtype=np.float64)
    y = np.asarray(references, dtype=np.float64)
    _check(y_hat, y)
    y_hat, y = np.broadcast_arrays(y_hat, y)
    error = y_hat - y
    squared = np.square(error).sum(-1)
    total = np.square(y - y.mean(-1, keepdims=True)).sum(-1)
    # not `total == 0`: the mean of equal numbers need not equal them to the last bit
    constant = y.max(-1) == y.min(-1)
    return {
        "r2": np.where(constant, np.nan, 1 - squared / np.where(constant, 1.0, total)),
        "rmse": np.sqrt(squared / y.shape[-1]),
        "mae": np.abs(error).mean(-1),
        "spearman": _spearman(y_hat, y),
    }


def _check(y_hat: NDArray[np.float64], y: NDArray[np.float64]) -> None:
    if y_hat.ndim == 0 or y.ndim == 0 or y_hat.shape[-1] != y.shape[-1]:
        raise ValueError(
            "Predictions and references must hold the same number of samples in their last axis, "
            f"got shapes {y_hat.shape} and {y.shape}."
        )
    if y.shape[-1] == 0:
        raise ValueError("Metrics are undefined for no samples: predictions are empty.")
    for name, values in (("predictions", y_hat), ("references", y)):
        if not np.isfinite(values).all():
            raise ValueError(
                f"{int((~np.isfinite(values)).sum())} {name} are nan or infinite; drop regions "
                "without a label first."
            )


def _spearman(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    constant = (a.max(-1) == a.min(-1)) | (b.max(-1) == b.min(-1))
    ranks = [rankdata(values, axis=-1) for values in (a, b)]
    x, y = (r - r.mean(-1, keepdims=True) for r in ranks)
    norm = np.sqrt(np.square(x).sum(-1) * np.square(y).sum(-1))
    return np.where(constant, np.nan, (x * y).sum(-1) / np.where(constant, 1.0, norm))


__all__ = ["METRICS", "regression_metrics"]
