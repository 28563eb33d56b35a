"""UrbanVLP's network: one CLIP per view, fusion of street views, and a location encoder."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn
from torch.nn import functional as F
from transformers import CLIPModel

from pipelines.common.encoders.geoclip import LocationEncoder

from .image_text import end_states, info_nce, text_states

ViewFusion = Literal["mean", "pixel25"]
LOCATION_DIM = 512


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


@dataclass(frozen=True)
class TextBatch:
    """Tokenized captions of B regions; ids and masks as in [`Tokens`].

    Attributes:
        satellite_ids: Token ids of satellite captions, `(B, L)`.
        satellite_mask: Mask of `satellite_ids`, `(B, L)`.
        street_view_ids: Token ids of joined street view captions, `(B, L)`.
        street_view_mask: Mask of `street_view_ids`, `(B, L)`.
        has_street_view_text: Whether a region takes part in the street view loss, `(B,)`, bool.
    """

    satellite_ids: torch.Tensor
    satellite_mask: torch.Tensor
    street_view_ids: torch.Tensor
    street_view_mask: torch.Tensor
    has_street_view_text: torch.Tensor


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

    def losses(self, batch: RegionBatch, texts: TextBatch) -> dict[str, torch.Tensor]:
        """Compute `satellite_loss` (InfoNCE of the sum) and `street_view_loss` (token-wise)."""
        satellite = _image_tokens(self.satellite, batch.satellite)[:, 0]
        street_view, tokens = self.street_view_tokens(batch)
        # as in the published code: image embeddings are normalised, the location is not
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


__all__ = [
    "RegionBatch",
    "TextBatch",
    "TwoViews",
    "ViewFusion",
    "token_loss",
    "token_similarity",
]
