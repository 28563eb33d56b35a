"""UrbanVLP's network: a tower pair for each view, the views of a region made one, the place."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn
from torch.nn import functional as F
from transformers import CLIPModel

from pipelines.common.encoders.geoclip import LocationEncoder

from .image_text import end_states, info_nce, text_states

ViewFusion = Literal["mean", "pixel25"]
LOCATION_DIM = 512  # of GeoCLIP's encoder


@dataclass(frozen=True)
class RegionBatch:
    """B regions; the street views of all of them lie in one row after another.

    Attributes:
        satellite: `(B, 3, S, S)`.
        street_view: `(M, 3, S, S)`; M may be 0.
        owner: `(M,)` int64, the region of each street view in the batch.
        slot: `(M,)` int64, its number within the region.
        lonlat: `(P, 2)` float64 degrees: of the street views, or of a region that has none.
        place_owner: `(P,)` int64, whose they are.
        place_slot: `(P,)` int64.
    """

    satellite: torch.Tensor
    street_view: torch.Tensor
    owner: torch.Tensor
    slot: torch.Tensor
    lonlat: torch.Tensor
    place_owner: torch.Tensor
    place_slot: torch.Tensor


@dataclass(frozen=True)
class TextBatch:
    """Captions of B regions.

    Attributes:
        satellite_ids: `(B, L)` and its mask, as in [`Tokens`].
        satellite_mask: see above.
        street_view_ids: `(B, L)` and its mask.
        street_view_mask: see above.
        has_street_view_text: `(B,)` bool: regions without are left out of the second loss.
    """

    satellite_ids: torch.Tensor
    satellite_mask: torch.Tensor
    street_view_ids: torch.Tensor
    street_view_mask: torch.Tensor
    has_street_view_text: torch.Tensor


class TwoViews(nn.Module):
    """Two CLIPs, a fusion of street views, and a location encoder or none.

    Args:
        satellite: CLIP of satellite images and their captions.
        street_view: CLIP of street views and theirs.
        fusion: "mean" over encoded views; "pixel25": pixels of up to 25 views mixed by 25 learnt
            weights before the tower, as the public code does.
        max_views: of a region, which have a weight of their own under "pixel25".
        location_width: of the location encoder's layers; None: the model sees no coordinates.
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
        """Bring values of views together by region: their mean, or the learnt mixture.

        Args:
            values: `(M, ...)`.
            owner: `(M,)`, region of each.
            slot: `(M,)`, number of each within its region.
            num_regions: B.

        Returns:
            `(B, ...)`; where a region has none, 0 by mean, and the mixture of zeros.
        """
        fused = values.new_zeros(num_regions, *values.shape[1:])
        ones = (-1,) + (1,) * (values.ndim - 1)
        if self.mixing is not None:
            weights = self.mixing.weight[0][slot].view(ones)
            return fused.index_add(0, owner, weights * values) + self.mixing.bias
        counts = torch.bincount(owner, minlength=num_regions).clamp(min=1)
        return fused.index_add(0, owner, values) / counts.view(ones)

    def street_view_tokens(self, batch: RegionBatch) -> tuple[torch.Tensor, torch.Tensor]:
        """Projected: the pooled image `(B, D)`, and all image tokens `(B, tokens, D)`."""
        num_regions = len(batch.satellite)
        if self.mixing is not None:
            mixed = self.fuse(batch.street_view, batch.owner, batch.slot, num_regions)
            tokens = _image_tokens(self.street_view, mixed)
        else:
            views = _image_tokens(self.street_view, batch.street_view)
            tokens = self.fuse(views, batch.owner, batch.slot, num_regions)
        return tokens[:, 0], tokens

    def place(self, batch: RegionBatch) -> torch.Tensor | float:
        """The projected place `(B, D)`; 0 without a location encoder."""
        if self.location is None:
            return 0.0
        places = self.location(batch.lonlat)
        fused = self.fuse(places, batch.place_owner, batch.place_slot, len(batch.satellite))
        return self.location_projection(fused)

    def embed(self, batch: RegionBatch) -> torch.Tensor:
        """The vector of a region, `(B, D)`: satellite + street view + place, not normalised."""
        satellite = _image_tokens(self.satellite, batch.satellite)[:, 0]
        return satellite + self.street_view_tokens(batch)[0] + self.place(batch)

    def losses(self, batch: RegionBatch, texts: TextBatch) -> dict[str, torch.Tensor]:
        """`satellite_loss` (InfoNCE of the sum) and `street_view_loss` (token by token)."""
        satellite = _image_tokens(self.satellite, batch.satellite)[:, 0]
        street_view, tokens = self.street_view_tokens(batch)
        # as in pretraining of the public code: normalised images, a place of any length
        summed = (
            F.normalize(satellite, dim=-1) + F.normalize(street_view, dim=-1) + self.place(batch)
        )
        states = text_states(self.satellite, texts.satellite_ids)
        text = self.satellite.text_projection(end_states(states, texts.satellite_mask))
        losses = {
            "satellite_loss": info_nce(
                summed, F.normalize(text, dim=-1), self.satellite.logit_scale.exp()
            ),
            "street_view_loss": summed.new_zeros(()),
        }
        rows = texts.has_street_view_text
        if rows.sum() > 1:
            ids, mask = texts.street_view_ids[rows], texts.street_view_mask[rows]
            words = self.street_view.text_projection(text_states(self.street_view, ids))
            losses["street_view_loss"] = token_loss(tokens[rows], words, mask)
        return losses


def token_similarity(
    image_tokens: torch.Tensor, text_tokens: torch.Tensor, text_mask: torch.Tensor
) -> torch.Tensor:
    """How well the tokens of every image find a counterpart in every text (FILIP, image side).

    Args:
        image_tokens: `(B, P, D)`.
        text_tokens: `(C, L, D)`.
        text_mask: `(C, L)` bool; padding is no counterpart.

    Returns:
        `(B, C)`: mean over image tokens of the largest cosine over text tokens.
    """
    images, texts = F.normalize(image_tokens, dim=-1), F.normalize(text_tokens, dim=-1)
    cosines = torch.einsum("bpd,cld->bcpl", images, texts)
    cosines = cosines.masked_fill(~text_mask[None, :, None], -torch.inf)
    return cosines.amax(dim=-1).mean(dim=-1)


def token_loss(
    image_tokens: torch.Tensor, text_tokens: torch.Tensor, text_mask: torch.Tensor
) -> torch.Tensor:
    """Contrast of [`token_similarity`] in both directions, with no temperature.

    Text to image is the transpose, not a maximum over image tokens: so the public code does.
    """
    similarity = token_similarity(image_tokens, text_tokens, text_mask)
    own = torch.arange(len(similarity), device=similarity.device)
    return (F.cross_entropy(similarity, own) + F.cross_entropy(similarity.T, own)) / 2


def _image_tokens(model: CLIPModel, pixel_values: torch.Tensor) -> torch.Tensor:
    """All tokens in the common space, `(B, tokens, D)`; the first is the image as a whole."""
    if len(pixel_values) == 0:  # the attention of the library takes no empty batch
        return _image_tokens(model, pixel_values.new_zeros(1, *pixel_values.shape[1:]))[:0]
    states = model.vision_model(pixel_values=pixel_values).last_hidden_state
    return model.visual_projection(model.vision_model.post_layernorm(states))


__all__ = [
    "RegionBatch",
    "TextBatch",
    "TwoViews",
    "ViewFusion",
    "token_loss",
    "token_similarity",
]
