"""Regression metrics in numpy, vectorised over leading axes.

In the folder of the `evaluate` metric because `evaluate.load` copies its relative imports.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import rankdata

METRICS = ("r2", "rmse", "mae", "spearman")


def regression_metrics(
    predictions: ArrayLike, references: ArrayLike
) -> dict[str, NDArray[np.float64]]:
    """R2, RMSE, MAE and Spearman's rank correlation over the last axis.

    Equal to scikit-learn's `r2_score` and scipy's `spearmanr`, except that undefined values are
    NaN: R2 of constant references, and Spearman if either side is constant.

    Args:
        predictions: `(..., n)` predictions, n >= 1.
        references: `(..., n)` true values; leading axes are broadcast.

    Returns:
        Metric name to array of the leading shape, for each of `METRICS`.

    Raises:
        ValueError: There are no samples, the numbers of samples differ, or values are not finite.
    """
    y_hat = np.asarray(predictions, dtype=np.float64)
    y = np.asarray(references, dtype=np.float64)
    _check(y_hat, y)
    y_hat, y = np.broadcast_arrays(y_hat, y)
    error = y_hat - y
    squared = np.square(error).sum(-1)
    total = np.square(y - y.mean(-1, keepdims=True)).sum(-1)
    # not `total == 0`, because of rounding errors of the mean
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
