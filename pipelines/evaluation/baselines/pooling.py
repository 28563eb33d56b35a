"""From vectors of images to vectors of regions."""

import numpy as np
from numpy.typing import NDArray


def mean_by_region(
    vectors: NDArray[np.float32], region: NDArray[np.int64], num_regions: int
) -> NDArray[np.float32]:
    """The mean vector of each region's images.

    Args:
        vectors: `(M, D)`, one an image.
        region: `(M,)`, row of the image's region.
        num_regions: N.

    Returns:
        `(N, D)`; rows of nan where a region has no image.
    """
    sums = np.zeros((num_regions, vectors.shape[1]), dtype=np.float64)
    np.add.at(sums, region, vectors)
    counts = np.bincount(region, minlength=num_regions)[:, None].astype(np.float64)
    means = np.full_like(sums, np.nan)
    np.divide(sums, counts, out=means, where=counts > 0)
    return means.astype(np.float32)


__all__ = ["mean_by_region"]
