"""PG-SimCLR: contrastive learning with positives by points of interest (POI) and by adjacency.

Xi et al., "Beyond the First Law of Geography: Learning Representations of Satellite Imagery by
Leveraging Point-of-Interests" (WWW 2022); code at axin1301/satellite-imagery-POI (MIT): NT-Xent at
temperature 0.5 on a projection 512-512-64 without bias, Adam at 3e-4, random crops and flips. One
network is trained per kind of positive.
"""

import copy
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional as F

from ..errors import InputError
from .base import RegionData
from .sampling import Images, Neighbourhood, Rows, Shuffled, most_alike, poi_of, view_of
from .training import TrainedSystem, num_steps, train
from .trunk import Trunk, TrunkSettings, crop_and_flip, size_differences

Positive = Literal["poi", "adjacency"]


@dataclass(frozen=True)
class Settings(TrunkSettings):
    """Settings of [`PGSimCLR`], besides those of [`TrunkSettings`].

    Attributes:
        view: View of the training images.
        positives: Kinds of positives, one network each, whose vectors are concatenated. "poi": the
            region with the most similar POI counts; "adjacency": a neighbour.
        temperature: Temperature of NT-Xent.
        projection_dim: Dimension of the projection.
        learning_rate: Learning rate of Adam.
        batch_size: Pairs per batch.
        simclr_epochs: Epochs of plain SimCLR, from which all networks start.
        epochs: Epochs of each network after that.
    """

    view: Literal["satellite", "street_view"] = "satellite"
    positives: tuple[Positive, ...] = ("poi", "adjacency")
    temperature: float = 0.5
    projection_dim: int = 64
    learning_rate: float = 3e-4
    batch_size: int = 128
    simclr_epochs: int = 10
    epochs: int = 20

    def __post_init__(self) -> None:
        """Validate the settings."""
        super().__post_init__()
        if not self.positives or len(set(self.positives)) < len(self.positives):
            raise InputError(
                f"positives takes some of {', '.join(get_args(Positive))}, each once; got "
                f"{self.positives}."
            )


class Contrasted(nn.Module):
    """Trunk with a projection head for training."""

    def __init__(self, settings: Settings):
        super().__init__()
        self.trunk = Trunk(settings)
        dim = self.trunk.dim
        self.projection = nn.Sequential(
            nn.Linear(dim, dim, bias=False),
            nn.ReLU(),
            nn.Linear(dim, settings.projection_dim, bias=False),
        )

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """`(B, 3, S, S)` to `(B, projection_dim)`."""
        return self.projection(self.trunk(values))


class PGSimCLR(TrainedSystem):
    """PG-SimCLR: one network per kind of positive, with concatenated features.

    Attributes:
        losses: Loss of each training step by stage.
    """

    version = "pg-simclr-1"
    source = "Xi et al. 2022 (WWW), section 4; axin1301/satellite-imagery-POI"

    def __init__(self, settings: Settings, seed: int, device: str):
        inputs = {"poi": "poi", "adjacency": "coordinates"}
        uses = settings.view, *(inputs[positive] for positive in settings.positives)
        super().__init__(settings, seed, device, _name(settings), _differences(settings), uses)
        self.losses: dict[str, list[float]] = {}
        self._trunks: list[Trunk] = []

    def fit(self, data: RegionData) -> None:
        """Train plain SimCLR, then one network per kind of positive starting from it.

        Raises:
            InputError: POI counts or the checkpoint are missing, or fewer than two regions have
                images.
        """
        settings = self.settings
        if "poi" in settings.positives:
            poi_of(data, self.name, "Use --system simclr-adjacency instead.")
        images = Images(view_of(data, settings.view, self.name), len(data.region_ids))
        if len(images.regions) < 2:
            raise InputError(
                f"{self.name} needs at least two regions with {settings.view} images, and "
                f"{data.city} has {len(images.regions)}."
            )
        start = self.seeded(lambda: Contrasted(settings))
        self.losses, self._trunks = {}, []
        self._train(start, images, data, "image", settings.simclr_epochs)
        for positive in settings.positives:
            network = copy.deepcopy(start)
            self._train(network, images, data, positive, settings.epochs)
            self._trunks.append(network.trunk)

    def encode(self, data: RegionData) -> dict[str, NDArray[np.float32]]:
        """Mean features of each region's images, concatenated over networks."""
        view, trunks = self.settings.view, self.fitted(self._trunks)
        vectors = [self.encode_view(trunk, data, view) for trunk in trunks]
        return {view: np.concatenate(vectors, axis=1)}

    def _train(
        self, network: Contrasted, images: Images, data: RegionData, positive: str, epochs: int
    ) -> None:
        settings, pixels = self.settings, data.views[self.settings.view].pixels
        rng = np.random.default_rng([self.seed, ["image", *get_args(Positive)].index(positive)])
        place = Neighbourhood(data, images.regions)
        regions = place.candidates if positive == "adjacency" else images.regions
        if len(regions) < 2:
            raise InputError(f"Fewer than two regions of {data.city} have coordinates.")
        anchors = Shuffled(regions, settings.batch_size, rng)

        def positives(anchor: Rows) -> Rows:
            if positive == "adjacency":
                return place.near(anchor, rng)
            return most_alike(poi_of(data, self.name), regions, rng, of=anchor)

        def loss(step: int) -> torch.Tensor:
            anchor = anchors.take()
            rows = images.draw(anchor, rng)
            others = rows if positive == "image" else images.draw(positives(anchor), rng)
            values = self.pixel_values(pixels[np.concatenate([rows, others])])
            first, second = network(crop_and_flip(values, rng)).chunk(2)
            return nt_xent(first, second, settings.temperature)

        optimizer = torch.optim.Adam(network.parameters(), lr=settings.learning_rate)
        steps = num_steps(len(regions), epochs, settings.batch_size)
        bar = f"{self.name} ({positive})"
        self.losses[positive] = train(network, loss, optimizer, steps, bar)


def nt_xent(first: torch.Tensor, second: torch.Tensor, temperature: float) -> torch.Tensor:
    """Normalised temperature-scaled cross-entropy (Chen et al. 2020, equation 1).

    Args:
        first: Projections, `(B, D)`.
        second: Projections of the positives, in the same order, `(B, D)`.
        temperature: Temperature of the softmax.

    Returns:
        Mean over the 2B vectors.
    """
    vectors = F.normalize(torch.cat([first, second]), dim=1)
    logits = vectors @ vectors.T / temperature
    logits.fill_diagonal_(-torch.inf)
    partners = torch.arange(len(vectors), device=vectors.device).roll(len(first))
    return F.cross_entropy(logits, partners)


def _name(settings: Settings) -> str:
    if set(settings.positives) == set(get_args(Positive)):
        name = "pg-simclr"
    else:
        name = f"simclr-{settings.positives[0]}"
    return name + ("-street-view" if settings.view == "street_view" else "")


def _differences(settings: Settings) -> tuple[str, ...]:
    differs = [
        "Initialised by plain SimCLR on the same city, as the published initial checkpoint is not "
        "available."
        if settings.simclr_epochs
        else "Random initialisation, as the published initial checkpoint is not available.",
    ]
    if len(settings.positives) > 1:
        differs.append(
            "The features of both networks are concatenated; the published probe weighs them by "
            "attention trained on labels."
        )
    else:
        differs.append(f"Variant with one network: positives by {settings.positives[0]} only.")
    if "poi" in settings.positives:
        differs.append("POI categories are those of the dataset.")
    if settings.view == "street_view":
        differs.append("Street views instead of satellite images.")
    return (*differs, *size_differences(settings))


SYSTEM = PGSimCLR

__all__ = ["SYSTEM", "Contrasted", "PGSimCLR", "Settings", "nt_xent"]
