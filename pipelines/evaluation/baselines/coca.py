"""Contrastive captioner (CoCa, Yu et al. 2022, https://arxiv.org/abs/2205.01917).

Built on transformers' CLIP encoders, with the architecture of open_clip's `coca_ViT-L-14`.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from transformers import CLIPModel

from .image_text import end_states, info_nce, text_states

IGNORED = -100  # ignore_index of cross-entropy


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


@dataclass(frozen=True)
class CoCaOutput:
    """Output of [`CoCa`] for a batch of pairs.

    Attributes:
        image_embeds: L2-normalised image embeddings, `(B, D)`.
        text_embeds: L2-normalised text embeddings, `(B, D)`.
        logits: Next-token logits, `(B, L, vocabulary)`.
    """

    image_embeds: torch.Tensor
    text_embeds: torch.Tensor
    logits: torch.Tensor


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
    ) -> CoCaOutput:
        """Compute [`CoCaOutput`]; `ids` and `mask` as in [`Tokens`]."""
        image_embeds, image = self.pool_image(pixel_values)
        states = text_states(self.clip, ids)
        text_embeds = self.clip.text_projection(end_states(states, mask))
        return CoCaOutput(
            F.normalize(image_embeds, dim=-1),
            F.normalize(text_embeds, dim=-1),
            self.decode(states, image),
        )

    def losses(
        self, pixel_values: torch.Tensor, ids: torch.Tensor, mask: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        """Compute `contrastive_loss` and `caption_loss` (mean over all tokens but the first)."""
        output = self(pixel_values, ids, mask)
        following = ids[:, 1:].masked_fill(~mask[:, 1:], IGNORED)
        return {
            "contrastive_loss": info_nce(
                output.image_embeds, output.text_embeds, self.clip.logit_scale.exp()
            ),
            "caption_loss": F.cross_entropy(
                output.logits[:, :-1].flatten(0, 1), following.flatten(), ignore_index=IGNORED
            ),
        }


__all__ = ["AttentionalPooler", "CoCa", "CoCaOutput"]
