"""MuseCL: triplet networks of both views, fused by attention.

Yong and Zhou, "MuseCL: Predicting Urban Socioeconomic Indicators via Multi-Semantic Contrastive
Learning" (IJCAI 2024, https://arxiv.org/abs/2407.09523); code at XixianYong/MuseCL. The positive of
a satellite image is from the region with the most similar points of interest (POI). For street
views the paper uses taxi trips, which are not public; here they use POI too. Additive attention
over both vectors is then trained to predict POI counts.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional as F

from ..errors import InputError
from .base import FUSED, RegionData
from .sampling import Images, Rows, Shuffled, most_alike, poi_of, view_of
from .training import TrainedSystem, num_steps, train
from .trunk import Trunk, TrunkSettings, size_differences, turn_and_flip

VIEWS = ("satellite", "street_view")


@dataclass(frozen=True)
class Settings(TrunkSettings):
    """Settings of [`MuseCL`], besides those of [`TrunkSettings`].

    Attributes:
        dim: Vector dimension.
        margin: Margin of the triplet loss.
        learning_rate: Learning rate of Adam (AMSGrad).
        decay_every: Interval of the learning rate decay, in epochs.
        decay: Factor of the learning rate decay.
        num_triplets: Triplets per epoch.
        satellite_epochs: Epochs of the satellite network.
        satellite_batch_size: Triplets per batch of the satellite network.
        street_view_epochs: Epochs of the street view network.
        street_view_batch_size: Triplets per batch of the street view network.
        attention_dim: Hidden size of the attention.
        fusion_epochs: Epochs of the fusion.
        fusion_batch_size: Regions per batch of the fusion.
    """

    dim: int = 128
    margin: float = 5.0
    learning_rate: float = 5e-4
    decay_every: int = 10
    decay: float = 0.7
    num_triplets: int = 1000
    satellite_epochs: int = 8
    satellite_batch_size: int = 32
    street_view_epochs: int = 8
    street_view_batch_size: int = 32
    attention_dim: int = 64
    fusion_epochs: int = 50
    fusion_batch_size: int = 16


class ViewNetwork(nn.Module):
    """ResNet with a linear projection."""

    def __init__(self, settings: Settings):
        super().__init__()
        self.trunk = Trunk(settings)
        self.head = nn.Linear(self.trunk.dim, settings.dim)

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """`(B, 3, S, S)` to `(B, dim)`."""
        return self.head(self.trunk(values))


class Fusion(nn.Module):
    """Additive attention over the available views of a region.

    Args:
        dim: Vector dimension.
        attention_dim: Hidden size of the attention.
        num_targets: Number of POI categories to predict.
    """

    def __init__(self, dim: int, attention_dim: int, num_targets: int):
        super().__init__()
        self.inner = nn.Linear(dim, attention_dim)
        self.weight = nn.Linear(attention_dim, 1, bias=False)
        self.head = nn.Linear(dim, num_targets)

    def fuse(self, vectors: torch.Tensor, present: torch.Tensor) -> torch.Tensor:
        """Fuse vectors `(B, views, dim)` where `present`, `(B, views)`, is true, to `(B, dim)`."""
        scores = self.weight(torch.tanh(self.inner(vectors))).squeeze(2)
        shares = scores.masked_fill(~present, -torch.inf).softmax(dim=1)
        return (shares[:, :, None] * vectors).sum(dim=1)

    def forward(self, vectors: torch.Tensor, present: torch.Tensor) -> torch.Tensor:
        """Predict POI counts from the fused vectors, `(B, num_targets)`."""
        return self.head(self.fuse(vectors, present))


class MuseCL(TrainedSystem):
    """MuseCL without mobility data: one fused vector per region.

    Attributes:
        losses: Loss of each training step by stage: "satellite", "street_view", "fusion".
    """

    version = "musecl-1"
    source = "Yong and Zhou 2024 (arXiv 2407.09523); XixianYong/MuseCL"

    def __init__(self, settings: Settings, seed: int, device: str):
        differs = _differences(settings)
        super().__init__(settings, seed, device, "musecl-nomob", differs, (*VIEWS, "poi"))
        self.losses: dict[str, list[float]] = {}
        self._networks: dict[str, ViewNetwork] = {}
        self._fusion: Fusion | None = None

    def fit(self, data: RegionData) -> None:
        """Train the network of each view, then the fusion of their vectors.

        Raises:
            InputError: A view, the POI counts or the checkpoint is missing.
        """
        logs = np.log1p(poi_of(data, self.name))
        poi = (logs - logs.mean(axis=0)) / np.maximum(logs.std(axis=0), 1e-9)
        self.losses, self._networks = {}, {}
        for view in VIEWS:
            self._networks[view] = self._train_view(data, view, poi)
        vectors, present = self._stack(data)
        rows = np.flatnonzero(present.any(axis=1))
        self._fusion = self._train_fusion(vectors, present, poi, rows)

    def encode(self, data: RegionData) -> dict[str, NDArray[np.float32]]:
        """Fused vectors; for regions with one view, the vector of that view."""
        fusion = self.fitted(self._fusion)
        vectors, present = self._stack(data)
        rows = present.any(axis=1)
        fused = np.full((len(vectors), self.settings.dim), np.nan, dtype=np.float32)
        with torch.inference_mode():
            of_rows = torch.from_numpy(vectors[rows]).to(self.device)
            which = torch.from_numpy(present[rows]).to(self.device)
            fused[rows] = fusion.fuse(of_rows, which).cpu().numpy()
        return {FUSED: fused}

    def _train_view(
        self, data: RegionData, name: str, likeness: NDArray[np.float64]
    ) -> ViewNetwork:
        settings = self.settings
        view = view_of(data, name, self.name)
        images = Images(view, len(data.region_ids))
        if len(images.regions) < 3:
            raise InputError(
                f"{self.name} needs at least three regions with {name} images, and {data.city} has "
                f"{len(images.regions)}."
            )
        rng = np.random.default_rng([self.seed, VIEWS.index(name)])
        network = self.seeded(lambda: ViewNetwork(settings), VIEWS.index(name))
        batch_size, epochs = (getattr(settings, f"{name}_{s}") for s in ("batch_size", "epochs"))
        anchors = Shuffled(images.regions, batch_size, rng)

        def loss(step: int) -> torch.Tensor:
            anchor = anchors.take()
            positive = most_alike(likeness, images.regions, rng, of=anchor)
            negative = draw_others(images.regions, anchor, positive, rng)
            rows = images.draw(np.concatenate([anchor, positive, negative]), rng)
            values = self.pixel_values(view.pixels[rows])
            if name == "satellite":  # street views have an orientation
                values = turn_and_flip(values, rng)
            first, near, far = network(values).chunk(3)
            return F.triplet_margin_loss(first, near, far, margin=settings.margin)

        optimizer = torch.optim.Adam(network.parameters(), lr=settings.learning_rate, amsgrad=True)
        steps_an_epoch = num_steps(settings.num_triplets, 1, batch_size)
        scheduler = torch.optim.lr_scheduler.StepLR(
            optimizer, settings.decay_every * steps_an_epoch, settings.decay
        )
        bar = f"{self.name} ({name})"
        self.losses[name] = train(network, loss, optimizer, epochs * steps_an_epoch, bar, scheduler)
        return network

    def _stack(self, data: RegionData) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Vectors `(N, views, dim)`, 0 if missing, and their mask `(N, views)`."""
        vectors = [self.encode_view(self._networks[view], data, view) for view in VIEWS]
        stacked = np.stack(vectors, axis=1)
        present = np.asarray(np.isfinite(stacked).all(axis=2))
        return np.nan_to_num(stacked), present

    def _train_fusion(
        self,
        vectors: NDArray[np.float32],
        present: NDArray[np.bool_],
        poi: NDArray[np.float64],
        rows: Rows,
    ) -> Fusion:
        settings = self.settings
        rng = np.random.default_rng([self.seed, len(VIEWS)])
        sizes = settings.dim, settings.attention_dim, poi.shape[1]
        fusion = self.seeded(lambda: Fusion(*sizes))
        inputs = torch.from_numpy(vectors).to(self.device)
        which = torch.from_numpy(present).to(self.device)
        targets = torch.from_numpy(poi.astype(np.float32)).to(self.device)
        batches = Shuffled(rows, settings.fusion_batch_size, rng)

        def loss(step: int) -> torch.Tensor:
            batch = torch.from_numpy(batches.take()).to(self.device)
            return F.mse_loss(fusion(inputs[batch], which[batch]), targets[batch])

        optimizer = torch.optim.Adam(fusion.parameters(), lr=settings.learning_rate, amsgrad=True)
        steps = num_steps(len(rows), settings.fusion_epochs, settings.fusion_batch_size)
        bar = f"{self.name} (fusion)"
        self.losses["fusion"] = train(fusion, loss, optimizer, steps, bar)
        return fusion


def draw_others(candidates: Rows, anchors: Rows, positives: Rows, rng: np.random.Generator) -> Rows:
    """Draw negatives that differ from anchor and positive, from at least three candidates."""
    drawn = rng.choice(candidates, len(anchors))
    while (same := (drawn == anchors) | (drawn == positives)).any():
        drawn[same] = rng.choice(candidates, int(same.sum()))
    return drawn


def _differences(settings: Settings) -> tuple[str, ...]:
    differs = [
        "A ResNet for street views too, instead of InceptionV3, and ImageNet normalisation.",
        "Points of interest are standardised ln(1 + count) by category instead of mean word2vec "
        "vectors; similarity is Euclidean distance.",
        "Triplets are sampled at every step, and each tile is rotated independently.",
        "No mobility data: positives of street views are chosen by points of interest too.",
    ]
    if settings.model_name_or_path is None:
        differs.append("Random initialisation instead of ImageNet weights.")
    if settings.fusion_batch_size > 1:
        differs.append(
            f"The batch size of the fusion is {settings.fusion_batch_size} regions, not one."
        )
    return (*differs, *size_differences(settings))


SYSTEM = MuseCL

__all__ = ["SYSTEM", "Fusion", "MuseCL", "Settings", "ViewNetwork", "draw_others"]
