"""A contrastive captioner: an image tower that is asked by a pooler, and a decoder of captions.

CoCa (Yu et al. 2022, https://arxiv.org/abs/2205.01917), shaped like open_clip's `coca_ViT-L-14`,
out of the towers of CLIP: the library has no model of the kind.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from transformers import CLIPModel

from .image_text import end_states, info_nce, text_states

IGNORED = -100  # cross-entropy's own mark of a place that does not count


class AttentionalPooler(nn.Module):
    """Learnt queries that attend to an image's tokens.

    Args:
        width: of the result.
        context_width: of the image's tokens.
        heads: of the attention; they divide `width`.
        num_queries: the first one is the image as a whole, the others are for the decoder.
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
    """Of a batch of pairs.

    Attributes:
        image_embeds: `(B, D)`, L2-normalised.
        text_embeds: `(B, D)`, L2-normalised.
        logits: `(B, L, vocabulary)`; place t tells the token at t + 1.
    """

    image_embeds: torch.Tensor
    text_embeds: torch.Tensor
    logits: torch.Tensor


class CoCa(nn.Module):
    """Two towers, a pooler over the image's tokens, and a decoder that looks at them.

    Args:
        clip: its towers are used, and trained.
        num_queries: of the pooler.
        pooler_heads: of the pooler.
        decoder_layers: over the text tower's states; each looks back in the text, then at the
            image.
        decoder_heads: of the decoder.
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
        config: Any = clip.config  # the library types the towers' as optional
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
        """The projected image, `(B, D)`, and what the decoder looks at, `(B, queries - 1, W)`."""
        tokens = self.clip.vision_model(pixel_values=pixel_values).last_hidden_state
        pooled = self.pooler(tokens)
        return self.image_projection(pooled[:, 0]), pooled[:, 1:]

    def decode(self, states: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
        """Logits of the next token at every place, `(B, L, vocabulary)`."""
        length = states.shape[1]
        later = torch.ones(length, length, dtype=torch.bool, device=states.device).triu(1)
        decoded = self.decoder(states, image, tgt_mask=later, tgt_is_causal=True)
        return self.to_vocabulary(decoded)

    def forward(
        self, pixel_values: torch.Tensor, ids: torch.Tensor, mask: torch.Tensor
    ) -> CoCaOutput:
        """See [`CoCaOutput`]; `ids` and `mask` as in [`Tokens`]."""
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
        """`contrastive_loss` and `caption_loss`, the mean over all tokens but the first."""
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
