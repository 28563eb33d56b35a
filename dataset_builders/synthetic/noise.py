"""Randomness that is a pure function of place: the same everywhere it is asked for."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating[Any]]
Ints = NDArray[np.integer[Any]]
Bools = NDArray[np.bool_]
WAVES = 40


class SmoothField:
    """A smooth random field of mean 0 and variance about 1, defined at every point of the plane.

    A sum of cosines of random direction and phase whose wave vectors are normal: the field's
    covariance is a Gaussian of the given length (random Fourier features, Rahimi and Recht 2007).

    Args:
        rng: draws the waves.
        length_km: distance over which values are alike.
    """

    def __init__(self, rng: np.random.Generator, length_km: float):
        self.vectors = rng.normal(size=(2, WAVES)) / length_km
        self.phases = rng.uniform(0, 2 * np.pi, WAVES)

    def __call__(self, x: Floats, y: Floats) -> Floats:
        """Values at points in km; x and y broadcast.

        An open grid, x `(1, W)` and y `(H, 1)`, is much faster than as many single points,
        and computed in float32.
        """
        if x.ndim == y.ndim == 2 and x.shape[0] == 1 and y.shape[1] == 1:
            # cos(a + b) = cos a cos b - sin a sin b: one matrix product for the whole grid
            a = x[0] * self.vectors[0][:, None] + self.phases[:, None]
            b = y * self.vectors[1]
            left = np.concatenate([np.cos(b), -np.sin(b)], axis=1) * np.sqrt(2 / WAVES)
            right = np.concatenate([np.cos(a), np.sin(a)])
            return left.astype(np.float32) @ right.astype(np.float32)
        x, y = np.broadcast_arrays(np.asarray(x, float), np.asarray(y, float))
        points = np.stack([x.ravel(), y.ravel()], axis=1)
        values = np.cos(points @ self.vectors + self.phases).sum(axis=1)
        return (values * np.sqrt(2 / WAVES)).reshape(x.shape)


def hash_uniform(seed: int, *keys: Ints | int) -> NDArray[np.float64]:
    """Uniform numbers in [0, 1), a function of the seed and the whole numbers given alone.

    The finaliser of SplitMix64 (Steele et al. 2014).
    """
    arrays = np.broadcast_arrays(*(np.asarray(key, dtype=np.int64) for key in keys))
    state = np.full(arrays[0].shape, seed & 0xFFFFFFFFFFFF, dtype=np.uint64)
    with np.errstate(over="ignore"):
        for array in arrays:
            state = (state ^ array.view(np.uint64)) + np.uint64(0x9E3779B97F4A7C15)
            state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            state ^= state >> np.uint64(31)
    return (state >> np.uint64(11)).astype(np.float64) / 2**53


__all__ = ["Bools", "Floats", "Ints", "SmoothField", "hash_uniform"]
