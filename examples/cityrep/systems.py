"""Systems under comparison: location-only controls, and embeddings with a trained head.

`CONTROLS` and `ENCODERS` are the registries.
"""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from pipelines.common.encoders.geoclip import SHA256, encode_places, load_location_encoder
from pipelines.common.errors import InputError
from pipelines.evaluation.probe.controls import coordinate_basis, fit_boosting, tree_coordinates
from pipelines.evaluation.probe.splits import Task as ProbeTask

from .heads import fit_ridge
from .splits import Split
from .tasks import Floats, Ints, Task

ROWS_AT_ONCE = 16_384
NEIGHBOURS = 20
LEAVES = (16, 128)  # leaves per tree, chosen on the validation set
FREQUENCIES, SHORTEST, LONGEST = 64, 0.001, 360.0  # PE of the release, degrees
NORM_EPSILON, NO_VECTOR = 1e-6, 1e-8  # as in the release

Vector = NDArray[np.float32]


@dataclass(frozen=True)
class Control:
    """Baseline that predicts from location only, or from nothing.

    Attributes:
        name: Name in the tables.
        probe: Name of the method.
        predict: Function from a task and splits to predictions for the test cells of each split.
    """

    name: str
    probe: str
    predict: Callable[[Task, Sequence[Split]], list[Floats]]


class Vectors(Protocol):
    """System with one vector per cell.

    Attributes:
        name: Name in the tables.
        fingerprint: Hash of all inputs of the vectors except the task.
    """

    name: str
    fingerprint: str

    def chunks(self, task: Task) -> Iterator[tuple[Ints, Vector]]:
        """Yield rows of the task and their vectors `(n, D)`, NaN if missing.

        Raises:
            NoVectorsError: The system has no vectors for this city.
        """


class NoVectorsError(InputError):
    """Raised if a system has no vectors for a city; its other cities are still scored."""


def predict_mean(task: Task, splits: Sequence[Split]) -> list[Floats]:
    """Predict the mean of the training cells."""
    return [np.full(len(one.test), task.target[one.train].mean(dtype=float)) for one in splits]


def predict_neighbours(task: Task, splits: Sequence[Split]) -> list[Floats]:
    """Predict by the 20 nearest training cells, weighted by inverse distance."""
    found = []
    for split in splits:
        tree = cKDTree(task.metres[split.train])
        labels = task.target[split.train].astype(np.float64)
        distance, nearest = tree.query(
            task.metres[split.test], k=np.arange(1, min(NEIGHBOURS, len(labels)) + 1)
        )
        weights = 1 / np.maximum(distance, 1e-9)
        found.append((weights * labels[nearest]).sum(1) / weights.sum(1))
    return found


def predict_trees(task: Task, splits: Sequence[Split]) -> list[Floats]:
    """Predict by gradient-boosted trees on x, y and the diagonals."""
    target = task.target.astype(np.float64)
    tasks = [ProbeTask(target, s.train, s.train, s.validation, s.test) for s in splits]
    return [fit.predictions for fit in fit_boosting(tree_coordinates(task.metres), tasks, LEAVES)]


def predict_waves(task: Task, splits: Sequence[Split]) -> list[Floats]:
    """Predict by ridge regression on products of cosines of x and y."""
    return fit_ridge(coordinate_basis(task.metres).astype(np.float32), task.target, splits)


@dataclass
class PositionalEncoding:
    """Positional encoding of CityRep's row PE: sphereC features of Sphere2Vec.

    The features are `sin(lat/s)`, `cos(lat/s) cos(lon/s)` and `cos(lat/s) sin(lon/s)` for 64
    wavelengths s, geometrically spaced from 0.001 to 360 degrees. Mai et al. 2023,
    https://arxiv.org/abs/2306.17624; parameters from the release's embedding manifest.
    """

    name: str = "pe"
    fingerprint: str = "sphereC 64 0.001 360"

    def chunks(self, task: Task) -> Iterator[tuple[Ints, Vector]]:
        """See [`Vectors`]."""
        scales = np.geomspace(SHORTEST, LONGEST, FREQUENCIES)
        for start in range(0, len(task), ROWS_AT_ONCE):
            angles = np.radians(task.lonlat[start : start + ROWS_AT_ONCE, :, None] / scales)
            lon, lat = angles[:, 0], angles[:, 1]
            waves = [np.sin(lat), np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon)]
            vectors = np.stack(waves, axis=-1).reshape(len(angles), -1)
            yield np.arange(start, start + len(angles)), vectors.astype(np.float32)


@dataclass
class GeoCLIP:
    """GeoCLIP's location encoder, pretrained on geotagged photos: 512 dimensions.

    Raises:
        InputError: Its weights are not installed.
    """

    name: str = "geoclip"
    fingerprint: str = SHA256

    def __post_init__(self) -> None:
        load_location_encoder()

    def chunks(self, task: Task) -> Iterator[tuple[Ints, Vector]]:
        """See [`Vectors`]."""
        for start in range(0, len(task), ROWS_AT_ONCE):
            lon, lat = task.lonlat[start : start + ROWS_AT_ONCE].T
            yield np.arange(start, start + len(lon)), encode_places(lon, lat)[0]


CONTROLS = (
    Control("mean", "mean", predict_mean),
    Control("coordinates", "knn", predict_neighbours),
    Control("coordinates", "trees", predict_trees),
    Control("coordinates", "ridge", predict_waves),
)
ENCODERS: dict[str, Callable[[], Vectors]] = {"pe": PositionalEncoding, "geoclip": GeoCLIP}


@contextmanager
def aligned(system: Vectors, task: Task, scratch: Path) -> Iterator[tuple[Vector, int]]:
    """L2-normalised vectors of a task's cells as a temporary memory map.

    Cells without a vector get zeros, as in the release, so that the intercept predicts them.

    Args:
        system: System with vectors.
        task: Task with cells.
        scratch: Folder for the memory map.

    Yields:
        Vectors `(N, D)` in float32, and the number of cells without a vector.

    Raises:
        NoVectorsError: No cell has a vector, or a dimension is missing for all cells.
    """
    with tempfile.TemporaryFile(dir=scratch) as file:
        matrix, there, finite = None, 0, np.zeros(0, np.int64)
        for rows, vectors in system.chunks(task):
            if matrix is None:
                shape = (len(task), vectors.shape[1])
                matrix = np.memmap(file, np.float32, "w+", shape=shape)
                finite = np.zeros(shape[1], np.int64)
            known = np.isfinite(vectors)
            finite += known.sum(0)
            vectors = np.where(known.all(1, keepdims=True), vectors, 0).astype(np.float32)
            norm = np.linalg.norm(vectors, axis=1, keepdims=True)
            there += int((norm > NO_VECTOR).sum())
            matrix[rows] = vectors / np.maximum(norm, NORM_EPSILON)
        if finite.any() and not finite.all():
            bands = ", ".join(str(one + 1) for one in np.flatnonzero(finite == 0)[:5])
            raise NoVectorsError(
                f"{system.name}: dimension {bands} is missing everywhere in {task.city}. Remove it "
                "from the embeddings."
            )
        if matrix is None or not there:
            raise NoVectorsError(f"{system.name} has no vector for any cell of {task.task_id}.")
        yield matrix, len(task) - there
        del matrix


__all__ = [
    "CONTROLS",
    "ENCODERS",
    "Control",
    "NoVectorsError",
    "PositionalEncoding",
    "Vectors",
    "aligned",
]
