"""Random numbers that belong to a place: the same whatever was drawn before them, and by whom."""

import zlib

import numpy as np

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)


def name_key(name: str) -> int:
    """A number for a name, equal in every process (Python's `hash` is not)."""
    return zlib.crc32(name.encode())


def generator(seed: int, city: str, *place: int | str) -> np.random.Generator:
    """The generator of one item.

    Args:
        seed: of the dataset.
        city: its name.
        place: what tells the item from the others of its city: region, view, purpose.
    """
    keys = [name_key(part) if isinstance(part, str) else part for part in (city, *place)]
    return np.random.default_rng(np.random.SeedSequence([seed, *keys]))


def lattice_uniform(key: int, i: np.ndarray, j: np.ndarray, salt: int) -> np.ndarray:
    """Uniform numbers in [0, 1) of lattice points: a hash (splitmix64), not a stream.

    Two tiles that share a lattice point get the same number, with nothing stored.

    Args:
        key: of the world.
        i: integers, any shape.
        j: integers, the same shape.
        salt: which of the numbers of the point.
    """
    with np.errstate(over="ignore"):
        state = np.uint64(key & 0xFFFFFFFFFFFFFFFF) + _GOLDEN * np.uint64(salt + 1)
        for part in (i, j):
            state = _mix(state ^ (np.asarray(part).astype(np.int64).astype(np.uint64) + _GOLDEN))
    return (state >> np.uint64(11)).astype(np.float64) / float(1 << 53)


def _mix(state: np.ndarray) -> np.ndarray:
    state = (state + _GOLDEN).astype(np.uint64)
    state = (state ^ (state >> np.uint64(30))) * _MIX_1
    state = (state ^ (state >> np.uint64(27))) * _MIX_2
    return state ^ (state >> np.uint64(31))


__all__ = ["generator", "lattice_uniform", "name_key"]
