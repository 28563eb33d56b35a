"""UrbanVLP: satellite images, street views, captions and coordinates of regions.

Hao et al., AAAI 2025, https://arxiv.org/abs/2403.16831; code at CityMind-Lab/UrbanVLP. Its vectors
contain coordinates by design, which are strong predictors if test regions adjoin training regions;
`urbanvlp-nocoord` is a variant without coordinates.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional as F
from transformers import CLIPModel

from pipelines.common.encoders.geoclip import LocationEncoder

from ..errors import InputError
from .base import FUSED, RegionData
from .image_text import (
    SMALL,
    ImageTextSettings,
    clip_model,
    end_states,
    info_nce,
    require_captions,
    text_states,
    tokenize,
    train_pairs,
)
from .sampling import view_of
from .training import CLIP, TrainedSystem

LOCATION_DIM = 512

ViewFusion = Literal["mean", "pixel25"]
Text = tuple[torch.Tensor, torch.Tensor]  # ids and mask, as in [`Tokens`]


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
    max_views: int = 25  # as in the published code
    location_width: int = 256
    satellite_weight: float = 0.5
    street_view_weight: float = 0.5


@dataclass(frozen=True)
class RegionBatch:
    """Inputs of B regions, with their street views and points concatenated.

    Attributes:
        satellite: Satellite images, `(B, 3, S, S)`.
        street_view: Street views, `(M, 3, S, S)`; M may be 0.
        owner: Batch index of each street view's region, `(M,)`, int64.
        slot: Index of each street view within its region, `(M,)`, int64.
        lonlat: Longitude and latitude of the street views, or of the region if it has none, in
            degrees, `(P, 2)`, float64.
        place_owner: Batch index of each point's region, `(P,)`, int64.
        place_slot: Index of each point within its region, `(P,)`, int64.
    """

    satellite: torch.Tensor
    street_view: torch.Tensor
    owner: torch.Tensor
    slot: torch.Tensor
    lonlat: torch.Tensor
    place_owner: torch.Tensor
    place_slot: torch.Tensor


class TwoViews(nn.Module):
    """Network of UrbanVLP.

    Args:
        satellite: CLIP of satellite images and captions.
        street_view: CLIP of street views and captions.
        fusion: "mean": average of encoded street views. "pixel25": learned weighted sum of the
            pixels of up to 25 street views before the encoder, as in the published code.
        max_views: Maximum number of street views per region; number of weights of "pixel25".
        location_width: Hidden size of the location encoder; None: no location encoder.
    """

    def __init__(
        self,
        satellite: CLIPModel,
        street_view: CLIPModel,
        fusion: ViewFusion,
        max_views: int,
        location_width: int | None,
    ):
        super().__init__()
        self.satellite, self.street_view, self.fusion = satellite, street_view, fusion
        self.mixing = nn.Linear(max_views, 1) if fusion == "pixel25" else None
        self.location: LocationEncoder | None = None
        if location_width is not None:
            self.location = LocationEncoder(LOCATION_DIM, location_width)
            dim = street_view.visual_projection.out_features
            self.location_projection = nn.Linear(LOCATION_DIM, dim)

    def fuse(
        self, values: torch.Tensor, owner: torch.Tensor, slot: torch.Tensor, num_regions: int
    ) -> torch.Tensor:
        """Fuse values by region: mean, or learned weighted sum.

        Args:
            values: Values to fuse, `(M, ...)`.
            owner: Batch index of each value's region, `(M,)`.
            slot: Index of each value within its region, `(M,)`.
            num_regions: Number of regions, B.

        Returns:
            Fused values, `(B, ...)`; missing values count as zero.
        """
        fused = values.new_zeros(num_regions, *values.shape[1:])
        ones = (-1,) + (1,) * (values.ndim - 1)
        if self.mixing is not None:
            weights = self.mixing.weight[0][slot].view(ones)
            return fused.index_add(0, owner, weights * values) + self.mixing.bias
        counts = torch.bincount(owner, minlength=num_regions).clamp(min=1)
        return fused.index_add(0, owner, values) / counts.view(ones)

    def street_view_tokens(self, batch: RegionBatch) -> tuple[torch.Tensor, torch.Tensor]:
        """Projected image `(B, D)` and image tokens `(B, tokens, D)` of the street views."""
        num_regions = len(batch.satellite)
        if self.mixing is not None:
            mixed = self.fuse(batch.street_view, batch.owner, batch.slot, num_regions)
            tokens = _image_tokens(self.street_view, mixed)
        else:
            views = _image_tokens(self.street_view, batch.street_view)
            tokens = self.fuse(views, batch.owner, batch.slot, num_regions)
        return tokens[:, 0], tokens

    def place(self, batch: RegionBatch) -> torch.Tensor | float:
        """Projected location embedding, `(B, D)`; 0 without a location encoder."""
        if self.location is None:
            return 0.0
        places = self.location(batch.lonlat)
        fused = self.fuse(places, batch.place_owner, batch.place_slot, len(batch.satellite))
        return self.location_projection(fused)

    def embed(self, batch: RegionBatch) -> torch.Tensor:
        """Sum of satellite, street view and location embeddings, `(B, D)`, not normalised."""
        satellite = _image_tokens(self.satellite, batch.satellite)[:, 0]
        return satellite + self.street_view_tokens(batch)[0] + self.place(batch)

    def losses(
        self, batch: RegionBatch, satellite_text: Text, street_view_text: Text, rows: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        """Compute `satellite_loss` (InfoNCE of the sum) and `street_view_loss` (token-wise).

        Args:
            batch: Inputs of B regions.
            satellite_text: Captions of the satellite images.
            street_view_text: Joined captions of the street views.
            rows: Whether a region takes part in the street view loss, `(B,)`, bool.
        """
        satellite = _image_tokens(self.satellite, batch.satellite)[:, 0]
        street_view, tokens = self.street_view_tokens(batch)
        # as in the published code: image embeddings are normalised, the location is not
        summed = (
            F.normalize(satellite, dim=-1) + F.normalize(street_view, dim=-1) + self.place(batch)
        )
        ids, mask = satellite_text
        states = text_states(self.satellite, ids)
        text = self.satellite.text_projection(end_states(states, mask))
        losses = {
            "satellite_loss": info_nce(
                summed, F.normalize(text, dim=-1), self.satellite.logit_scale.exp()
            ),
            "street_view_loss": summed.new_zeros(()),
        }
        if rows.sum() > 1:
            ids, mask = (part[rows] for part in street_view_text)
            words = self.street_view.text_projection(text_states(self.street_view, ids))
            losses["street_view_loss"] = token_loss(tokens[rows], words, mask)
        return losses


def token_similarity(
    image_tokens: torch.Tensor, text_tokens: torch.Tensor, text_mask: torch.Tensor
) -> torch.Tensor:
    """Token-wise image-to-text similarity (FILIP).

    Args:
        image_tokens: Image tokens, `(B, P, D)`.
        text_tokens: Text tokens, `(C, L, D)`.
        text_mask: Mask of text tokens, `(C, L)`, bool.

    Returns:
        Mean over image tokens of the maximum cosine over text tokens, `(B, C)`.
    """
    images, texts = F.normalize(image_tokens, dim=-1), F.normalize(text_tokens, dim=-1)
    cosines = torch.einsum("bpd,cld->bcpl", images, texts)
    cosines = cosines.masked_fill(~text_mask[None, :, None], -torch.inf)
    return cosines.amax(dim=-1).mean(dim=-1)


def token_loss(
    image_tokens: torch.Tensor, text_tokens: torch.Tensor, text_mask: torch.Tensor
) -> torch.Tensor:
    """Symmetric contrastive loss of [`token_similarity`], without temperature.

    As in the published code, text to image is the transpose, not a maximum over image tokens.
    """
    similarity = token_similarity(image_tokens, text_tokens, text_mask)
    own = torch.arange(len(similarity), device=similarity.device)
    return (F.cross_entropy(similarity, own) + F.cross_entropy(similarity.T, own)) / 2


def _image_tokens(model: CLIPModel, pixel_values: torch.Tensor) -> torch.Tensor:
    """Projected tokens, `(B, tokens, D)`, the class token first."""
    if len(pixel_values) == 0:  # attention in transformers fails on empty batches
        return _image_tokens(model, pixel_values.new_zeros(1, *pixel_values.shape[1:]))[:0]
    states = model.vision_model(pixel_values=pixel_values).last_hidden_state
    return model.visual_projection(model.vision_model.post_layernorm(states))


class UrbanVLP(TrainedSystem):
    """UrbanVLP; one fused vector per region.

    Regions may lack street views; regions without a satellite image get NaN.

    Attributes:
        losses: Mean loss of each epoch.
    """

    version = "urbanvlp-1"
    source = (
        "Hao et al. 2025 (arXiv 2403.16831); CityMind-Lab/UrbanVLP models/main_urbanvlp.py, "
        "models/models.py, open_clip_mine/loss.py"
    )
    moments = CLIP

    def __init__(self, settings: Settings, seed: int, device: str):
        name, uses = "urbanvlp-nocoord", ["satellite", "street_view", "captions"]
        if settings.coordinates:
            name, uses = "urbanvlp", [*uses, "coordinates"]
        super().__init__(settings, seed, device, name, _differences(settings), uses)
        self.model: TwoViews | None = None
        self.losses: list[float] = []

    def fit(self, data: RegionData) -> None:
        """Train on all regions with a captioned satellite image.

        Raises:
            InputError: A view is missing, or there are fewer than two such regions.
        """
        settings, regions = self.settings, _Regions(self, data)
        rows, satellite, street_view = regions.captions()
        require_captions(rows, data, self.name)
        scratch = settings.model_name_or_path is None
        tokens = tokenize([*satellite, *street_view], settings.max_length, scratch)
        has_text = torch.tensor([bool(text) for text in street_view])
        model = self.model = self.seeded(
            lambda: TwoViews(
                clip_model(settings, tokens.vocab_size),
                clip_model(settings, tokens.vocab_size),
                settings.view_fusion,
                settings.max_views,
                settings.location_width if settings.coordinates else None,
            )
        )

        def loss(batch: torch.Tensor) -> torch.Tensor:
            losses = model.losses(
                regions.batch(rows[batch.numpy()]),
                tokens.batch(batch, self.device),
                tokens.batch(len(rows) + batch, self.device),
                has_text[batch].to(self.device),
            )
            return (
                settings.satellite_weight * losses["satellite_loss"]
                + settings.street_view_weight * losses["street_view_loss"]
            )

        self.losses = train_pairs(model, loss, len(rows), settings, self.seed, self.name)

    @torch.inference_mode()
    def encode(self, data: RegionData) -> dict[str, NDArray[np.float32]]:
        """Sum of projected views and location, not normalised, as "both"."""
        model, size = self.fitted(self.model), self.settings.batch_size
        regions = _Regions(self, data)
        rows = np.flatnonzero(regions.satellite_of >= 0)
        if not len(rows):
            raise InputError(f"No region of {data.city} has a satellite image.")
        embedded = [
            model.embed(regions.batch(rows[start : start + size])).float().cpu()
            for start in range(0, len(rows), size)
        ]
        found = torch.cat(embedded).numpy()
        vectors = np.full((len(data.region_ids), found.shape[1]), np.nan, np.float32)
        vectors[rows] = found
        return {FUSED: vectors}


class _Regions:
    """Satellite image, street views, captions and coordinates by region."""

    def __init__(self, system: UrbanVLP, data: RegionData):
        self.data, self._values, self._device = data, system.pixel_values, system.device
        self.satellite = view_of(data, "satellite", system.name)
        self.street_view = view_of(data, "street_view", system.name)
        self.satellite_of = np.full(len(data.region_ids), -1, dtype=np.int64)
        first, index = np.unique(self.satellite.region, return_index=True)
        self.satellite_of[first] = index
        self.views_of: list[list[int]] = [[] for _ in data.region_ids]
        for image, region in enumerate(self.street_view.region):
            if len(self.views_of[region]) < system.settings.max_views:
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
        views = [self.views_of[row] for row in rows]
        seen = [view or [-1] for view in views]  # a region without street views is one place
        places = [
            self.street_view.lonlat[own] if own[0] >= 0 else self.data.lonlat[[row]]
            for row, own in zip(rows, seen, strict=True)
        ]
        images = np.array([image for own in views for image in own], dtype=np.int64)

        def index(groups: list[list[int]], slot: bool = False) -> torch.Tensor:
            pairs = [(n, i) for n, own in enumerate(groups) for i in range(len(own))]
            return torch.tensor([pair[slot] for pair in pairs], dtype=torch.int64).to(self._device)

        return RegionBatch(
            satellite=self._values(self.satellite.pixels[self.satellite_of[rows]]),
            street_view=self._values(self.street_view.pixels[images]),
            owner=index(views),
            slot=index(views, slot=True),
            lonlat=torch.from_numpy(np.concatenate(places)).to(self._device),
            place_owner=index(seen),
            place_slot=index(seen, slot=True),
        )


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
        differs.append(SMALL)
    return tuple(differs)


SYSTEM = UrbanVLP

__all__ = ["SYSTEM", "Settings", "UrbanVLP"]
