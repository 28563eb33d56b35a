"""Tile2Vec: triplet learning from spatially near and far tiles (Jean et al., AAAI 2019).

https://arxiv.org/abs/1805.02855, equation 1; code at ermongroup/tile2vec (MIT), whose second
example gives the hyper-parameters: margin 10, norm penalty 0.01.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from ..errors import InputError
from .base import RegionData
from .sampling import Images, Neighbourhood, Shuffled, view_of
from .training import TrainedSystem, num_steps, train
from .trunk import Trunk, TrunkSettings, size_differences, turn_and_flip


@dataclass(frozen=True)
class Settings(TrunkSettings):
    """Settings of [`Tile2Vec`], besides those of [`TrunkSettings`].

    Attributes:
        view: View of the training images.
        margin: Margin of the triplet loss.
        l2: Weight of the norm penalty.
        far_rings: Far regions are beyond this ring of cells.
        learning_rate: Learning rate of Adam.
        betas: Betas of Adam.
        batch_size: Triplets per batch.
        epochs: Number of epochs; every region is the anchor once per epoch.
    """

    view: Literal["satellite", "street_view"] = "satellite"
    margin: float = 10.0
    l2: float = 0.01
    far_rings: int = 3
    learning_rate: float = 1e-3
    betas: tuple[float, float] = (0.5, 0.999)
    batch_size: int = 50
    epochs: int = 20


class Tile2Vec(TrainedSystem):
    """Tile2Vec with a ResNet.

    Attributes:
        losses: Loss of each training step.
    """

    version = "tile2vec-1"
    source = "Jean et al. 2019 (arXiv 1805.02855), equation 1; example 2 of ermongroup/tile2vec"

    def __init__(self, settings: Settings, seed: int, device: str):
        name = "tile2vec-street-view" if settings.view == "street_view" else "tile2vec"
        uses = settings.view, "coordinates"
        super().__init__(settings, seed, device, name, _differences(settings), uses)
        self.losses: list[float] = []
        self._trunk: Trunk | None = None

    def fit(self, data: RegionData) -> None:
        """Train on triplets of regions.

        Raises:
            InputError: Fewer than three regions have images and coordinates, or the checkpoint does
                not exist.
        """
        settings = self.settings
        view = view_of(data, settings.view, self.name)
        rng = np.random.default_rng(self.seed)
        images = Images(view, len(data.region_ids))
        place = Neighbourhood(data, images.regions, settings.far_rings)
        if len(place.candidates) < 3:
            raise InputError(
                f"{self.name} needs at least three regions with {settings.view} images and "
                f"coordinates, and {data.city} has {len(place.candidates)}."
            )
        trunk = self.seeded(lambda: Trunk(settings))
        anchors = Shuffled(place.candidates, settings.batch_size, rng)

        def loss(step: int) -> torch.Tensor:
            anchor = anchors.take()
            regions = np.concatenate([anchor, place.near(anchor, rng), place.far(anchor, rng)])
            values = self.pixel_values(view.pixels[images.draw(regions, rng)])
            vectors, near, far = trunk(turn_and_flip(values, rng)).chunk(3)
            return triplet_loss(vectors, near, far, settings.margin, settings.l2)

        optimizer = torch.optim.Adam(
            trunk.parameters(), lr=settings.learning_rate, betas=settings.betas
        )
        steps = num_steps(len(place.candidates), settings.epochs, settings.batch_size)
        self.losses = train(trunk, loss, optimizer, steps, self.name)
        self._trunk = trunk

    def encode(self, data: RegionData) -> dict[str, NDArray[np.float32]]:
        """Mean vector of each region's images."""
        view = self.settings.view
        return {view: self.encode_view(self.fitted(self._trunk), data, view)}


def triplet_loss(
    anchor: torch.Tensor, near: torch.Tensor, far: torch.Tensor, margin: float, l2: float
) -> torch.Tensor:
    """Triplet loss (equation 1) plus a norm penalty, mean over triplets.

    Args:
        anchor: Anchor vectors, `(B, D)`.
        near: Near vectors, `(B, D)`.
        far: Far vectors, `(B, D)`.
        margin: Margin of the triplet loss.
        l2: Weight of |anchor| + |near| + |far|.
    """
    norms = sum(vectors.norm(dim=1).mean() for vectors in (anchor, near, far))
    return F.triplet_margin_loss(anchor, near, far, margin=margin) + l2 * norms


def _differences(settings: Settings) -> tuple[str, ...]:
    differs = [
        "Tiles are the regions: near tiles are the eight neighbours, far tiles lie beyond ring "
        f"{settings.far_rings}; the published tiles are cut from one mosaic.",
        "A ResNet with global pooling instead of TileNet, which pools 4 x 4 cells and gives longer "
        "vectors for larger images.",
        "The penalty is the norm of each vector, mean over triplets; the published code uses the "
        "norm of the batch.",
    ]
    if settings.view == "street_view":
        differs.append("Street views instead of satellite images.")
    return (*differs, *size_differences(settings))


SYSTEM = Tile2Vec

__all__ = ["SYSTEM", "Settings", "Tile2Vec", "triplet_loss"]
