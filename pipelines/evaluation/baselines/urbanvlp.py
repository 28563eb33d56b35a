"""UrbanVLP: satellite images, street views, captions and coordinates of regions.

Hao et al., AAAI 2025, https://arxiv.org/abs/2403.16831; code at CityMind-Lab/UrbanVLP. Its vectors
contain coordinates by design, which are strong predictors if test regions adjoin training regions;
`urbanvlp-nocoord` is a variant without coordinates.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from dataset_builders.files import digest

from ..errors import InputError
from .base import FUSED, Provenance, RegionData, Use, View
from .image_text import (
    ImageTextSettings,
    Tokens,
    checkpoint_fingerprint,
    clip_model,
    pixel_values,
    tokenize,
    train_pairs,
)
from .sampling import view_of
from .two_views import RegionBatch, TextBatch, TwoViews, ViewFusion

MAX_MIXED_VIEWS = 25  # as in the published code


@dataclass(frozen=True)
class Settings(ImageTextSettings):
    """Settings of [`UrbanVLP`], besides those of [`ImageTextSettings`].

    Attributes:
        coordinates: Whether to use coordinates.
        view_fusion: Fusion of street views, see [`TwoViews`].
        max_views: Number of street views per region; further ones are ignored.
        location_width: Hidden size of the location encoder.
        satellite_weight: Weight of the loss of satellite captions.
        street_view_weight: Weight of the loss of street view captions.
    """

    coordinates: bool = True
    view_fusion: ViewFusion = "mean"
    max_views: int = MAX_MIXED_VIEWS
    location_width: int = 256
    satellite_weight: float = 0.5
    street_view_weight: float = 0.5


class UrbanVLP:
    """UrbanVLP; one fused vector per region.

    Regions may lack street views; regions without a satellite image get NaN.

    Args:
        settings: Settings of the system.
        seed: Seed of weights and shuffling.
        device: Device of the model.
    """

    def __init__(self, settings: Settings, seed: int, device: str):
        self.settings, self.seed, self.device = settings, seed, device
        self.name = "urbanvlp" if settings.coordinates else "urbanvlp-nocoord"
        weights = checkpoint_fingerprint(settings.model_name_or_path)
        self.fingerprint = digest("urbanvlp-1", asdict(settings), weights, seed)
        uses: set[Use] = {"satellite", "street_view", "captions"}
        self.provenance = Provenance(
            source="Hao et al. 2025 (arXiv 2403.16831); CityMind-Lab/UrbanVLP "
            "models/main_urbanvlp.py, models/models.py, open_clip_mine/loss.py",
            differs=_differences(settings),
            uses=frozenset(uses | {"coordinates"} if settings.coordinates else uses),
            pretrained=settings.model_name_or_path,
        )
        self.model: TwoViews | None = None
        self.losses: list[float] = []

    def fit(self, data: RegionData) -> None:
        """Train on all regions with a captioned satellite image.

        Raises:
            InputError: A view is missing, or there are fewer than two such regions.
        """
        regions = _Regions(data, self.settings, self.device)
        rows, satellite, street_view = regions.captions()
        if len(rows) < 2:
            raise InputError(
                f"{self.name} needs captions, and {data.city} has {len(rows)} captioned satellite "
                "images. Caption them first: python -m pipelines.captioning run ..."
            )
        tokens = tokenize(
            [*satellite, *street_view],
            self.settings.max_length,
            self.settings.model_name_or_path is None,
        )
        has_text = torch.tensor([bool(text) for text in street_view])
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            self.model = self._build(tokens).to(self.device)

        def loss(batch: torch.Tensor) -> torch.Tensor:
            assert self.model is not None
            losses = self.model.losses(
                regions.batch(rows[batch.numpy()]),
                TextBatch(
                    *tokens.batch(batch, self.device),
                    *tokens.batch(len(rows) + batch, self.device),
                    has_text[batch].to(self.device),
                ),
            )
            return (
                self.settings.satellite_weight * losses["satellite_loss"]
                + self.settings.street_view_weight * losses["street_view_loss"]
            )

        self.losses = train_pairs(self.model, loss, len(rows), self.settings, self.seed, self.name)

    @torch.inference_mode()
    def encode(self, data: RegionData) -> dict[str, NDArray[np.float32]]:
        """Sum of projected views and location, not normalised, as "both".

        Raises:
            InputError: The system is not fitted, or a view is missing.
        """
        if self.model is None:
            raise InputError(f"{self.name} is not fitted: call fit first.")
        regions = _Regions(data, self.settings, self.device)
        rows = np.flatnonzero(regions.satellite_of >= 0)
        vectors: NDArray[np.float32] | None = None
        for chunk in _chunks(rows, self.settings.batch_size):
            embedded = self.model.embed(regions.batch(chunk)).float().cpu().numpy()
            if vectors is None:
                vectors = np.full((len(data.region_ids), embedded.shape[1]), np.nan, np.float32)
            vectors[chunk] = embedded
        if vectors is None:
            raise InputError(f"No region of {data.city} has a satellite image.")
        return {FUSED: vectors}

    def _build(self, tokens: Tokens) -> TwoViews:
        return TwoViews(
            clip_model(self.settings, tokens.vocab_size),
            clip_model(self.settings, tokens.vocab_size),
            self.settings.view_fusion,
            self.settings.max_views,
            self.settings.location_width if self.settings.coordinates else None,
        )


class _Regions:
    """Satellite image, street views, captions and coordinates by region."""

    def __init__(self, data: RegionData, settings: Settings, device: str):
        self.data, self.settings, self.device = data, settings, device
        self.satellite = view_of(data, "satellite", "UrbanVLP")
        self.street_view = view_of(data, "street_view", "UrbanVLP")
        self.satellite_of = np.full(len(data.region_ids), -1, dtype=np.int64)
        first, index = np.unique(self.satellite.region, return_index=True)
        self.satellite_of[first] = index
        self.views_of: list[list[int]] = [[] for _ in data.region_ids]
        for image, region in enumerate(self.street_view.region):
            if len(self.views_of[region]) < settings.max_views:
                self.views_of[region].append(image)

    def captions(self) -> tuple[NDArray[np.int64], list[str], list[str]]:
        """Rows of captioned regions; their satellite and joined street view captions."""
        texts = [
            self.satellite.captions[image] if image >= 0 else None for image in self.satellite_of
        ]
        rows = np.array([row for row, text in enumerate(texts) if text], dtype=np.int64)
        joint = [
            " ".join(
                caption
                for image in self.views_of[row]
                if (caption := self.street_view.captions[image])
            )
            for row in rows
        ]
        return rows, [str(texts[row]) for row in rows], joint

    def batch(self, rows: NDArray[np.int64]) -> RegionBatch:
        """Model inputs of regions, all of which have a satellite image."""
        owner, slot, images, places, place_owner, place_slot = [], [], [], [], [], []
        for number, row in enumerate(rows):
            views = self.views_of[row]
            images += views
            owner += [number] * len(views)
            slot += list(range(len(views)))
            places.append(self.street_view.lonlat[views] if views else self.data.lonlat[[row]])
            place_owner += [number] * max(len(views), 1)
            place_slot += list(range(max(len(views), 1)))
        return RegionBatch(
            satellite=self._pixel_values(self.satellite, self.satellite_of[rows]),
            street_view=self._pixel_values(self.street_view, np.array(images, dtype=np.int64)),
            owner=torch.tensor(owner, dtype=torch.int64, device=self.device),
            slot=torch.tensor(slot, dtype=torch.int64, device=self.device),
            lonlat=torch.from_numpy(np.concatenate(places)).to(self.device),
            place_owner=torch.tensor(place_owner, dtype=torch.int64, device=self.device),
            place_slot=torch.tensor(place_slot, dtype=torch.int64, device=self.device),
        )

    def _pixel_values(self, view: View, rows: NDArray[np.int64]) -> torch.Tensor:
        return pixel_values(view.pixels[rows], self.settings.image_size, self.device)


def _chunks(rows: NDArray[np.int64], size: int) -> Iterator[NDArray[np.int64]]:
    for start in range(0, len(rows), size):
        yield rows[start : start + size]


def _differences(settings: Settings) -> tuple[str, ...]:
    differs = [
        "Padding tokens are masked in the token loss; the published code includes them.",
        "Location embeddings are projected to the width of image embeddings; the dimensions of the "
        "published layers do not match.",
        "The location encoder is randomly initialised and trained; its published weights are not "
        "available.",
        "Vectors come from the trained encoders; the published probe sums those of open_clip.",
        "Trained on all regions for all epochs, without validation split.",
    ]
    if settings.view_fusion == "mean":
        differs.append(
            "Street views are encoded separately and averaged; the published code mixes the pixels "
            "of 25 street views before the encoder."
        )
    if not settings.coordinates:
        differs.append("No location encoder and no coordinates.")
    if settings.model_name_or_path is None:
        differs.append(
            "A small model trained from scratch, with the vocabulary of the captions, instead of "
            "pretrained weights."
        )
    return tuple(differs)


SYSTEM = UrbanVLP

__all__ = ["SYSTEM", "Settings", "UrbanVLP"]
