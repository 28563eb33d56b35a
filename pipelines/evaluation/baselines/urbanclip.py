"""UrbanCLIP: contrastive learning and captioning of satellite images (Yan et al., WWW 2024).

https://arxiv.org/abs/2310.18340; code at StupidBuluchacha/UrbanCLIP, whose `main.py` trains
open_clip's `coca_ViT-L-14` with contrastive and caption loss at weight 1 each: a contrastive
captioner (CoCa, Yu et al. 2022, https://arxiv.org/abs/2205.01917), here on transformers' CLIP.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional as F
from transformers import CLIPModel

from .base import RegionData
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

IGNORED = -100  # ignore_index of cross-entropy
# a Latin full stop must be followed by whitespace, so that 3.5 is not split
SENTENCE_END = re.compile(r"(?<=[.!?])\s+|(?<=[。！？])")


@dataclass(frozen=True)
class Settings(ImageTextSettings):
    """Settings of [`UrbanCLIP`], besides those of [`ImageTextSettings`].

    Attributes:
        text: "sentence": one random sentence per caption, drawn once, as in the published code;
            "full": complete captions.
        num_queries: Number of queries of the pooler.
        pooler_heads: Number of attention heads of the pooler.
        decoder_layers: Number of layers of the caption decoder.
        decoder_heads: Number of attention heads of the caption decoder.
        contrastive_weight: Weight of the contrastive loss.
        caption_weight: Weight of the caption loss.
    """

    text: Literal["sentence", "full"] = "sentence"
    num_queries: int = 17
    pooler_heads: int = 4
    decoder_layers: int = 2
    decoder_heads: int = 4
    contrastive_weight: float = 1.0
    caption_weight: float = 1.0


class AttentionalPooler(nn.Module):
    """Cross-attention from learned queries to image tokens.

    Args:
        width: Output width.
        context_width: Width of the image tokens.
        heads: Number of attention heads; must divide `width`.
        num_queries: Number of queries; the first one pools the image, the others feed the decoder.
    """

    def __init__(self, width: int, context_width: int, heads: int, num_queries: int):
        super().__init__()
        self.queries = nn.Parameter(torch.randn(num_queries, width))
        self.attention = nn.MultiheadAttention(
            width, heads, kdim=context_width, vdim=context_width, batch_first=True
        )
        self.norm_queries, self.norm_context = nn.LayerNorm(width), nn.LayerNorm(context_width)
        self.norm = nn.LayerNorm(width)

    def forward(self, context: torch.Tensor) -> torch.Tensor:
        """`(B, tokens, context_width)` to `(B, num_queries, width)`."""
        keys = self.norm_context(context)
        queries = self.norm_queries(self.queries).expand(len(context), -1, -1)
        return self.norm(self.attention(queries, keys, keys, need_weights=False)[0])


class CoCa(nn.Module):
    """CLIP encoders with an attentional pooler and a caption decoder.

    Args:
        clip: CLIP whose encoders are used and trained.
        num_queries: Number of queries of the pooler.
        pooler_heads: Number of attention heads of the pooler.
        decoder_layers: Number of decoder layers: causal self-attention over text states, then
            cross-attention to the image.
        decoder_heads: Number of attention heads of the decoder.
    """

    def __init__(
        self,
        clip: CLIPModel,
        num_queries: int,
        pooler_heads: int,
        decoder_layers: int,
        decoder_heads: int,
    ):
        super().__init__()
        self.clip = clip
        config: Any = clip.config  # transformers types the encoder configs as optional
        vision, text = config.vision_config, config.text_config
        width = text.hidden_size
        self.pooler = AttentionalPooler(width, vision.hidden_size, pooler_heads, num_queries)
        self.image_projection = nn.Linear(width, config.projection_dim, bias=False)
        layer = nn.TransformerDecoderLayer(
            width, decoder_heads, 4 * width, 0.0, "gelu", batch_first=True, norm_first=True
        )
        self.decoder = nn.TransformerDecoder(layer, decoder_layers, nn.LayerNorm(width))
        self.to_vocabulary = nn.Linear(width, text.vocab_size, bias=False)

    def pool_image(self, pixel_values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Projected image `(B, D)`, and image tokens for the decoder `(B, queries - 1, W)`."""
        tokens = self.clip.vision_model(pixel_values=pixel_values).last_hidden_state
        pooled = self.pooler(tokens)
        return self.image_projection(pooled[:, 0]), pooled[:, 1:]

    def decode(self, states: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
        """Next-token logits, `(B, L, vocabulary)`."""
        length = states.shape[1]
        later = torch.ones(length, length, dtype=torch.bool, device=states.device).triu(1)
        decoded = self.decoder(states, image, tgt_mask=later, tgt_is_causal=True)
        return self.to_vocabulary(decoded)

    def forward(
        self, pixel_values: torch.Tensor, ids: torch.Tensor, mask: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """L2-normalised image and text embeddings `(B, D)`, and logits `(B, L, vocabulary)`.

        `ids` and `mask` are those of [`Tokens`].
        """
        image_embeds, image = self.pool_image(pixel_values)
        states = text_states(self.clip, ids)
        text_embeds = self.clip.text_projection(end_states(states, mask))
        logits = self.decode(states, image)
        return F.normalize(image_embeds, dim=-1), F.normalize(text_embeds, dim=-1), logits

    def losses(
        self, pixel_values: torch.Tensor, ids: torch.Tensor, mask: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        """Compute `contrastive_loss` and `caption_loss` (mean over all tokens but the first)."""
        image_embeds, text_embeds, logits = self(pixel_values, ids, mask)
        following = ids[:, 1:].masked_fill(~mask[:, 1:], IGNORED)
        return {
            "contrastive_loss": info_nce(image_embeds, text_embeds, self.clip.logit_scale.exp()),
            "caption_loss": F.cross_entropy(
                logits[:, :-1].flatten(0, 1), following.flatten(), ignore_index=IGNORED
            ),
        }


class UrbanCLIP(TrainedSystem):
    """UrbanCLIP; region vectors are means of projected image embeddings.

    Attributes:
        losses: Mean loss of each epoch.
    """

    version = "urbanclip-1"
    source = (
        "Yan et al. 2024 (arXiv 2310.18340), equations of section 4; CoCaLoss of "
        "StupidBuluchacha/UrbanCLIP main.py"
    )
    moments = CLIP

    def __init__(self, settings: Settings, seed: int, device: str):
        name, uses = f"urbanclip-{settings.text}", ("satellite", "captions")
        super().__init__(settings, seed, device, name, _differences(settings), uses)
        self.model: CoCa | None = None
        self.losses: list[float] = []

    def fit(self, data: RegionData) -> None:
        """Train on all captioned satellite images.

        Raises:
            InputError: The city has no satellite images, or fewer than two captions.
        """
        settings, view = self.settings, view_of(data, "satellite", self.name)
        rows = np.array([i for i, caption in enumerate(view.captions) if caption], dtype=np.int64)
        require_captions(rows, data, self.name)
        captions = [str(view.captions[i]) for i in rows]
        if settings.text == "sentence":
            captions = draw_sentences(captions, self.seed)
        tokens = tokenize(captions, settings.max_length, settings.model_name_or_path is None)
        heads = settings.pooler_heads, settings.decoder_layers, settings.decoder_heads
        model = self.model = self.seeded(
            lambda: CoCa(clip_model(settings, tokens.vocab_size), settings.num_queries, *heads)
        )

        def loss(batch: torch.Tensor) -> torch.Tensor:
            pixels = self.pixel_values(view.pixels[rows[batch.numpy()]])
            losses = model.losses(pixels, *tokens.batch(batch, self.device))
            return (
                settings.contrastive_weight * losses["contrastive_loss"]
                + settings.caption_weight * losses["caption_loss"]
            )

        self.losses = train_pairs(model, loss, len(rows), settings, self.seed, self.name)

    def encode(self, data: RegionData) -> dict[str, NDArray[np.float32]]:
        """Mean projected image embedding of each region, not normalised."""
        model = self.fitted(self.model)
        return {"satellite": self.encode_view(lambda p: model.pool_image(p)[0], data, "satellite")}


def draw_sentences(captions: Sequence[str], seed: int) -> list[str]:
    """Draw one sentence of each caption, the same for all epochs."""
    generator = np.random.default_rng(seed)
    drawn = []
    for caption in captions:
        sentences = [part.strip() for part in SENTENCE_END.split(caption) if part.strip()]
        drawn.append(str(generator.choice(sentences)) if sentences else caption)
    return drawn


def _differences(settings: Settings) -> tuple[str, ...]:
    differs = [
        "CLIP encoders with a randomly initialised pooler and decoder; the published code starts "
        "from open_clip's CoCa weights.",
        "Texts are pooled at the end token instead of an added class token.",
        "Trained on all images for all epochs, without validation split.",
    ]
    if settings.model_name_or_path is None:
        differs.append(SMALL)
    if settings.text == "full":
        differs.append(
            f"Complete captions of up to {settings.max_length} tokens; the published code uses one "
            "random sentence of each."
        )
    return tuple(differs)


SYSTEM = UrbanCLIP

__all__ = ["SYSTEM", "CoCa", "Settings", "UrbanCLIP", "draw_sentences"]
