"""Pooling of image vectors by region."""

import numpy as np
from numpy.typing import NDArray


def mean_by_region(
    vectors: NDArray[np.float32], region: NDArray[np.int64], num_regions: int
) -> NDArray[np.float32]:
    """Mean vector of each region's images.

    Args:
        vectors: Image vectors, `(M, D)`.
        region: Row index of each image's region, `(M,)`.
        num_regions: Number of regions, N.

    Returns:
        Region vectors, `(N, D)`; NaN for regions without images.
    """
    sums = np.zeros((num_regions, vectors.shape[1]), dtype=np.float64)
    np.add.at(sums, region, vectors)
    counts = np.bincount(region, minlength=num_regions)[:, None].astype(np.float64)
    means = np.full_like(sums, np.nan)
    np.divide(sums, counts, out=means, where=counts > 0)
    return means.astype(np.float32)


__all__ = ["mean_by_region"]
